// The package under Node.js: the numbers of the Python package, and errors. `make wasm` builds it and writes the cases.
import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { after, test } from "node:test";
import { createCrf, DEFAULT_PRESET, DEFAULTS, PRESETS, unaryFromLabels } from "../../build/wasm/crfrnn/index.js";
import { difference, readCase, readCases } from "./cases.js";

const folder = new URL("../../build/wasm/expected/", import.meta.url);
const read = async (name) => Uint8Array.from(await readFile(new URL(name, folder))).buffer;
const cases = await readCases(read);
const crf = await createCrf();
after(() => crf.close());

const MOST = 2e-5; // of float32, as in tests/support/tolerances.py
const MOST_LABELS = 1e-4; // of pixels where two classes are equally likely to rounding

test("there are cases of every kind", () => assert.ok(cases.length >= 20));

for (const each of cases) {
  test(`the numbers of Python: ${each.name}`, async () => {
    const { image, scores, expected } = await readCase(read, each);
    const { values } = await crf.refine(scores, image, each.parameters, each.output);
    assert.equal(values.constructor, expected.constructor);
    const { largest, share } = difference(values, expected);
    if (each.output === "labels") assert.ok(share <= MOST_LABELS, `${share} of the labels differ`);
    else assert.ok(largest <= MOST, `the largest difference is ${largest} of the largest number`);
  });
}

const size = { width: 24, height: 16 };
const points = size.width * size.height;
const numbers = (count, scale = 1) =>
  Float32Array.from({ length: count }, (_, i) => scale * Math.sin(1 + i * i * 0.37));
const image = { ...size, data: Uint8Array.from(numbers(3 * points), (number) => 128 + 100 * number) };
const canvas = { ...size, data: new Uint8ClampedArray(4 * points) };
for (let i = 0; i < points; ++i) canvas.data.set([...image.data.subarray(3 * i, 3 * i + 3), i % 256], 4 * i);
const scores = numbers(3 * points, 2);

test("the alpha of a canvas does not count", async () => {
  const [ofCanvas, ofColours] = await Promise.all([crf.refine(scores, canvas), crf.refine(scores, image)]);
  assert.deepEqual(ofCanvas.values, ofColours.values);
});

test("a photo is refined again as if it were for the first time, and what is given stays as it is", async () => {
  const photo = await crf.photo(image);
  const given = scores.slice();
  const settings = [
    {},
    { theta_beta: 20 },
    { theta_gamma: 1 },
    { normalization: "symmetric" },
    { spatial_weight: 0 },
    {},
  ];
  for (const values of settings) {
    const alone = await crf.refine(scores, image, values);
    assert.deepEqual((await photo.refine(scores, values)).values, alone.values);
  }
  assert.deepEqual(scores, given);
  await photo.free();
  await assert.rejects(photo.refine(scores), /has been freed/);
});

test("what is given may change as soon as a call was made, and a photo as soon as it is there", async () => {
  const [given, data] = [scores.slice(), image.data.slice()];
  const photo = await crf.photo({ ...size, data });
  data.fill(0);
  const result = photo.refine(given);
  given.fill(0);
  assert.deepEqual((await result).values, (await crf.refine(scores, image)).values);
  await photo.free();
});

test("probabilities sum to 1, and labels are the likeliest classes", async () => {
  const { values } = await crf.refine(scores, image);
  const { values: labels } = await crf.refine(scores, image, {}, "labels");
  for (let i = 0; i < points; ++i) {
    const [a, b, c] = [0, 1, 2].map((label) => values[label * points + i]);
    assert.ok(Math.abs(a + b + c - 1) < 1e-5);
    assert.equal(Math.max(a, b, c), values[labels[i] * points + i]);
  }
});

test("the steps of an iteration lead from one to the next", async () => {
  const photo = await crf.photo(image);
  const parameters = {
    iterations: 2,
    tolerance: 0,
    compatibility: [
      [0, 1, 2],
      [1, 0, 1],
      [2, 1, 0],
    ],
  };
  const label = 1;
  const steps = await photo.iteration(scores, parameters, label);
  const { values } = await photo.refine(scores, { ...parameters, iterations: 3 });
  const spatial = await photo.message(steps.before, "spatial", parameters);
  assert.ok(difference(steps.messages.spatial, spatial).largest < MOST);
  assert.ok(difference(steps.after, values.slice(points, 2 * points)).largest < MOST);
  const sum = steps.unary.map((number, i) => number - steps.coupled[i]);
  assert.ok(difference(steps.logits, sum).largest < MOST);
  const potts = await photo.iteration(scores, { iterations: 2 }, label);
  const { spatial_weight, bilateral_weight } = PRESETS[DEFAULT_PRESET];
  const weighted = potts.messages.spatial.map(
    (m, i) => spatial_weight * m + bilateral_weight * potts.messages.bilateral[i],
  );
  assert.ok(difference(potts.weighted, weighted).largest < MOST);
  assert.ok(
    difference(
      potts.coupled,
      weighted.map((number) => -number),
    ).largest < MOST,
  );
  for (const array of [potts.splat, potts.blur]) assert.ok(array.every((number) => number >= 0 && number <= 1.0001));
  await photo.free();
});

test("one number everywhere stays that number through every step of the lattice", async () => {
  const photo = await crf.photo(image);
  const certain = new Float32Array(2 * points).fill(0);
  const { splat, blur, messages } = await photo.iteration(certain, { iterations: 0 }, 0);
  for (const array of [splat, blur, messages.bilateral])
    assert.ok(array.every((number) => Math.abs(number - 0.5) < 1e-5));
  await photo.free();
});

test("labels as scores", () => {
  const unary = unaryFromLabels(Uint8Array.of(0, 1, 255), 2);
  const expected = [0.7, 0.3, 0.5, 0.3, 0.7, 0.5].map(Math.log);
  assert.ok(difference(unary, Float32Array.from(expected)).largest < 1e-6);
  assert.throws(() => unaryFromLabels(Uint8Array.of(0, 2), 2), /labels\[1\] is 2, but 2 classes have labels 0 to 1/);
  assert.throws(() => unaryFromLabels([0, 1], 2), /labels are an Array of 2; expected a typed array/);
  assert.throws(() => unaryFromLabels(Uint8Array.of(0), 2, "0.9"), /probability="0.9" must be a number above 0/);
  assert.throws(() => unaryFromLabels(new DataView(new ArrayBuffer(4)), 2), /labels are a DataView; expected a typed/);
});

test("typed arrays are parameters, too", async () => {
  const plain = {
    theta_beta: [9, 12, 15],
    spatial_weight: [1, 2, 3],
    compatibility: [
      [0, 1, 2],
      [1, 0, 1],
      [2, 1, 0],
    ],
  };
  const typed = {
    theta_beta: Float32Array.from(plain.theta_beta),
    spatial_weight: Float64Array.from(plain.spatial_weight),
    compatibility: plain.compatibility.map((row) => Float32Array.from(row)),
  };
  const [one, other] = [await crf.refine(scores, image, plain), await crf.refine(scores, image, typed)];
  assert.deepEqual(one.values, other.values);
});

test("vertices are those of the kernel that took part", async () => {
  const photo = await crf.photo(image);
  assert.ok((await photo.refine(scores)).vertices > 0);
  assert.equal((await photo.refine(scores, { bilateral_weight: 0 })).vertices, 0);
  assert.ok((await photo.refine(scores)).vertices > 0);
  await photo.free();
});

test("presets stay as they are", () => {
  const { theta_alpha } = PRESETS[DEFAULT_PRESET];
  for (const change of [
    () => (PRESETS[DEFAULT_PRESET].theta_alpha = 1),
    () => (PRESETS.mine = {}),
    () => (DEFAULTS.iterations = 1),
  ])
    assert.throws(change, TypeError);
  assert.equal(PRESETS[DEFAULT_PRESET].theta_alpha, theta_alpha);
});

test("the examples of the README run", async () => {
  const text = await readFile(new URL("../package/README.md", import.meta.url), "utf8");
  const examples = [...text.matchAll(/^```js\n(.*?)^```/gms)].map(([, code]) => code);
  assert.equal(examples.length, 2);
  const index = new URL("../../build/wasm/crfrnn/index.js", import.meta.url);
  const getImageData = () => canvas;
  Object.assign(globalThis, { scores, image, canvas: { ...size, getContext: () => ({ getImageData }) } });
  for (const code of examples) {
    const given = `${code.replace('"crfrnn"', `"${index}"`)}\nexport { labels };`;
    const { labels } = await import(`data:text/javascript,${encodeURIComponent(given)}`);
    assert.equal(labels.length, points);
  }
});

test("parameters are those of Python", () => {
  assert.equal(DEFAULTS.theta_alpha, 160);
  assert.equal(PRESETS[DEFAULT_PRESET].theta_beta, 10);
});

const holding = (array, place, value) =>
  array.with?.(place, value) ?? array.map((number, i) => (i === place ? value : number));
const wrong = [
  ["no image", [scores, undefined], TypeError, /image is undefined; expected ImageData/],
  [
    "an array as image",
    [scores, image.data],
    TypeError,
    /image is a Uint8Array; expected ImageData, or \{ data, width, height \}/,
  ],
  ["plain numbers as image", [scores, { ...size, data: [1, 2, 3] }], TypeError, /image.data is an Array of 3/],
  ["another size", [scores, { ...image, width: 25 }], RangeError, /holds 1152 numbers, but 25×16 pixels are 400/],
  [
    "no width",
    [scores, { data: image.data, height: 16 }],
    RangeError,
    /image.width=undefined must be a whole number from 1/,
  ],
  ["no pixels", [scores, { data: new Uint8Array(), width: 0, height: 0 }], RangeError, /image.width=0 must be/],
  [
    "NaN in the image",
    [scores, { ...size, data: holding(numbers(points), 7, NaN) }],
    RangeError,
    /image.data\[7\] is NaN/,
  ],
  ["plain scores", [Array.from(scores), image], TypeError, /scores are an Array of 1152; expected a Float32Array/],
  ["no scores", [undefined, image], TypeError, /scores are undefined/],
  [
    "scores of another size",
    [scores.slice(1), image],
    RangeError,
    /1151 numbers, .* on an image of 24×16 = 384 pixels/,
  ],
  ["empty scores", [new Float32Array(), image], RangeError, /scores hold 0 numbers/],
  ["NaN in scores", [holding(scores, 9, NaN), image], RangeError, /scores\[9\] is NaN; expected finite numbers/],
  ["infinite scores", [holding(scores, 9, -Infinity), image], RangeError, /scores\[9\] is -Infinity/],
  ["more than float32", [Float64Array.from(scores).fill(1e39), image], RangeError, /within the range of float32/],
  [
    "a preset's name",
    [scores, image, "photos"],
    TypeError,
    /parameters are the string "photos"; expected an object .*PRESETS.photos/,
  ],
  ["a Map", [scores, image, new Map([["theta_beta", 3]])], TypeError, /parameters are a Map; expected an object/],
  [
    "an unknown parameter",
    [scores, image, { thetaBeta: 3 }],
    TypeError,
    /there is no parameter thetaBeta; there are theta_alpha/,
  ],
  ["a name of all objects", [scores, image, { toString: 1 }], TypeError, /there is no parameter toString/],
  ["θ = 0", [scores, image, { theta_beta: 0 }], RangeError, /theta_beta=0 must be a finite number above 0/],
  ["θ < 0", [scores, image, { theta_gamma: -1 }], RangeError, /theta_gamma=-1 must be/],
  ["θ = NaN", [scores, image, { theta_alpha: NaN }], RangeError, /theta_alpha=NaN must be/],
  ["θ = ∞", [scores, image, { theta_alpha: [1, Infinity] }], RangeError, /theta_alpha=\[1,null\] must be/],
  ["θ as text", [scores, image, { theta_alpha: "50" }], RangeError, /theta_alpha="50" must be/],
  [
    "θ for other channels",
    [scores, image, { theta_beta: [1, 2] }],
    RangeError,
    /has 2 numbers; expected one, or .* 3 channels/,
  ],
  [
    "weights of other classes",
    [scores, image, { spatial_weight: [1, 2] }],
    RangeError,
    /or an array of 3, one for each class/,
  ],
  [
    "a weight of NaN",
    [scores, image, { bilateral_weight: NaN }],
    RangeError,
    /bilateral_weight=NaN must be a finite number/,
  ],
  ["iterations < 0", [scores, image, { iterations: -1 }], RangeError, /iterations=-1 must be a whole number from 0/],
  ["half an iteration", [scores, image, { iterations: 2.5 }], RangeError, /iterations=2.5/],
  ["damping of 1", [scores, image, { damping: 1 }], RangeError, /damping=1 must be a number of at least 0 and below 1/],
  [
    "an unknown normalisation",
    [scores, image, { normalization: "both" }],
    RangeError,
    /normalization="both" is unknown; use "none"/,
  ],
  ["another solver", [scores, image, { solver: "frank-wolfe" }], RangeError, /solver="frank-wolfe".*mean field alone/],
  [
    "exact with rounds",
    [scores, image, { filter: "exact", neighbour_rounds: 1 }],
    RangeError,
    /filter="exact" has no lattice/,
  ],
  [
    "a range backwards",
    [scores, image, { image_range: [1, 0] }],
    RangeError,
    /image_range=\[1,0\] must be null, or two/,
  ],
  [
    "an unknown output",
    [scores, image, {}, "mask"],
    RangeError,
    /output="mask" is unknown; use "logits", "probabilities"/,
  ],
  [
    "too many channels",
    [scores, { ...size, data: new Uint8Array(20 * points) }],
    RangeError,
    /1 to 16 features, not 22/,
  ],
  [
    "overflow",
    [scores.map(() => 3e38), image, { bilateral_weight: 3e38 }],
    RangeError,
    /scores grow beyond what float32 can hold/,
  ],
];
for (const [name, values, type, message] of wrong) {
  test(`an error says what was given: ${name}`, () =>
    assert.rejects(crf.refine(...values), (error) => {
      assert.ok(error instanceof type, String(error));
      assert.match(error.message, message);
      return true;
    }));
}

test("a limit of memory in words, and work goes on", async () => {
  const [width, height] = [6000, 6000];
  const huge = { width, height, data: new Uint8Array(width * height) };
  const photo = await crf.photo(huge);
  await assert.rejects(
    photo.refine(new Float32Array(width * height)),
    /6000×6000 pixels needs more than the 2 GB of memory that WebAssembly may have here.*work on a smaller image/,
  );
  await photo.free();
  await crf.refine(scores, image);
});

test("threads are where a page is cross-origin isolated", async () => {
  assert.equal(crf.threads, 1);
  await assert.rejects(
    createCrf({ threads: 2 }),
    /threads=2, but this page is not cross-origin isolated; serve it with/,
  );
  await assert.rejects(createCrf({ threads: 0 }), /threads=0 must be a whole number from 1/);
  await assert.rejects(createCrf({ thread: 1 }), /TypeError: there is no option thread; there is threads/);
  await assert.rejects(createCrf(2), /TypeError: options are the number 2; expected an object with threads/);
});

test("a CRF that was closed says so", async () => {
  const other = await createCrf();
  other.close();
  await assert.rejects(other.refine(scores, image), /has been closed/);
});
