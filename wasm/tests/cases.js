// The cases that expected.py wrote, and how far a result is from them.
const ARRAYS = { float32: Float32Array, uint8: Uint8Array };

/** read(name): the bytes of a file, as a promise of an ArrayBuffer. */
export async function readCases(read) {
  return JSON.parse(new TextDecoder().decode(await read("cases.json")));
}

export async function readCase(read, { name, types, width, height }) {
  const array = async (kind) => new ARRAYS[types[kind]](await read(`${name}.${kind}`));
  const [data, scores, expected] = await Promise.all(["image", "scores", "expected"].map(array));
  return { image: { data, width, height }, scores, expected };
}

/** The largest |difference| as a share of the largest |expected|, and the share of numbers that differ; 1 for another shape. */
export function difference(values, expected) {
  if (values.length !== expected.length || values.some((value) => !Number.isFinite(value)))
    return { largest: 1, share: 1 };
  let [largest, scale, differing] = [0, 0, 0];
  for (let i = 0; i < values.length; ++i) {
    largest = Math.max(largest, Math.abs(values[i] - expected[i]));
    scale = Math.max(scale, Math.abs(expected[i]));
    differing += values[i] !== expected[i];
  }
  return { largest: largest / (scale || 1), share: differing / values.length };
}
