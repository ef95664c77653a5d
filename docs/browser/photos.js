// Photos of the reader, and examples with the scores of a network.
const LONGEST_SIDE = 640; // pixels: larger photos are made smaller
const here = (name) => new URL(name, import.meta.url);

export async function readExamples() {
  return (await fetched("examples.json")).json();
}

/** {name, image, scores, classes}: an example at its own size. */
export async function openExample({ name, shape, classes }) {
  const [photo, stored] = await Promise.all([fetched(`${name}.png`), fetched(`${name}.scores`)]);
  const image = await imageData(await photo.blob());
  const coarse = new Float32Array(await stored.arrayBuffer());
  return { name, image, classes, scores: stretched(coarse, shape, image) };
}

/** The same of a file, without scores. Throws an Error in the reader's words. */
export async function openFile(file) {
  try {
    return { name: file.name, image: await imageData(file), scores: null };
  } catch {
    throw new Error(
      `${file.name} is not a photo that this browser can read, such as a JPEG or PNG file; nothing was changed.`,
    );
  }
}

async function fetched(name) {
  const response = await fetch(here(name));
  if (!response.ok) throw new Error(`${name} could not be loaded: ${response.status}`);
  return response;
}

async function imageData(blob) {
  const bitmap = await createImageBitmap(blob);
  const scale = Math.min(1, LONGEST_SIDE / Math.max(bitmap.width, bitmap.height));
  const canvas = document.createElement("canvas");
  canvas.width = Math.max(1, Math.round(scale * bitmap.width));
  canvas.height = Math.max(1, Math.round(scale * bitmap.height));
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.imageSmoothingQuality = "high";
  context.fillStyle = "white"; // below what is transparent
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  bitmap.close();
  return context.getImageData(0, 0, canvas.width, canvas.height);
}

/** Scores (classes, side, side) of a square with the photo at its top left, bilinearly at the photo's size. */
export function stretched(coarse, [classes, side], { width, height }) {
  const step = side / Math.max(width, height);
  const places = (length) =>
    Array.from({ length }, (_, i) => {
      const at = Math.min(Math.max((i + 0.5) * step - 0.5, 0), side - 1);
      const before = Math.floor(at);
      return { before, after: Math.min(before + 1, side - 1), share: at - before };
    });
  const [rows, columns] = [places(height), places(width)];
  const scores = new Float32Array(classes * height * width);
  let to = 0;
  for (let c = 0; c < classes; ++c) {
    const plane = coarse.subarray(c * side * side, (c + 1) * side * side);
    for (const y of rows) {
      for (const x of columns) {
        const across = (row) => plane[row * side + x.before] * (1 - x.share) + plane[row * side + x.after] * x.share;
        scores[to++] = across(y.before) * (1 - y.share) + across(y.after) * y.share;
      }
    }
  }
  return scores;
}
