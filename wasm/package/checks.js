// What users give is checked here, once: every error says what was given and what was expected.
import { DEFAULTS, DEFAULT_PRESET, MOST_NEIGHBOUR_ROUNDS, PRESETS, WORDS } from "./parameters.js";

export const OUTPUTS = ["logits", "probabilities", "labels"]; // in the order of their numbers in face.cpp
const LARGEST_INTEGER = 2 ** 31 - 1;
const NOTES = "notes"; // of a parameters file: where the numbers come from

/** An image as {data, width, height, channels, stride}: `channels` of the `stride` numbers of a pixel count. */
export function checkedImage(image) {
  if (image === null || typeof image !== "object" || !("data" in image)) {
    throw new TypeError(`image is ${described(image)}; expected ImageData, or { data, width, height }`);
  }
  const { data, width, height } = image;
  for (const [name, value] of Object.entries({ width, height })) checkWhole(value, `image.${name}`, 1);
  if (!(data instanceof Uint8Array || data instanceof Uint8ClampedArray || data instanceof Float32Array)) {
    throw new TypeError(
      `image.data is ${described(data)}; expected a Uint8ClampedArray (RGBA of a canvas), a Uint8Array or a Float32Array`,
    );
  }
  const stride = data.length / (width * height);
  if (!Number.isInteger(stride) || stride < 1) {
    throw new RangeError(
      `image.data holds ${data.length} numbers, but ${width}×${height} pixels are ${width * height}; ` +
        "expected height × width × channels, the channels of a pixel side by side",
    );
  }
  checkFinite(data, "image.data");
  const isCanvas = data instanceof Uint8ClampedArray && stride === 4;
  return { data, width, height, stride, channels: isCanvas ? 3 : stride };
}

/** Scores as a Float32Array, and of how many classes. */
export function checkedScores(scores, { width, height }, name) {
  if (!(scores instanceof Float32Array || scores instanceof Float64Array)) {
    throw new TypeError(
      `${name} are ${described(scores)}; expected a Float32Array of classes × height × width numbers`,
    );
  }
  const classes = scores.length / (width * height);
  if (!Number.isInteger(classes) || classes < 1) {
    throw new RangeError(
      `${name} hold ${scores.length} numbers, which is no whole number of classes on an image of ${width}×${height} = ` +
        `${width * height} pixels; expected classes × height × width, class after class`,
    );
  }
  const values = scores instanceof Float32Array ? scores : Float32Array.from(scores);
  checkFinite(values, name);
  return { values, classes };
}

/** All parameters; those not given are those of the default preset. classes: those of the weights, 0 where none count. */
export function checkedParameters(given, { channels }, classes) {
  if (given === undefined) return PRESETS[DEFAULT_PRESET];
  if (given === null || typeof given !== "object" || Symbol.iterator in given) {
    const presets = Object.keys(PRESETS).map((name) => `PRESETS.${name}`);
    throw new TypeError(
      `parameters are ${described(given)}; expected an object such as { theta_beta: 10 }, or ${presets[0]}`,
    );
  }
  for (const name of Object.keys(given)) {
    if (!Object.hasOwn(DEFAULTS, name) && name !== NOTES) {
      throw new TypeError(`there is no parameter ${name}; there are ${Object.keys(DEFAULTS).join(", ")}`);
    }
  }
  const values = {
    ...PRESETS[DEFAULT_PRESET],
    ...Object.fromEntries(Object.entries(given).filter(([, v]) => v !== undefined)),
  };
  delete values[NOTES];
  for (const name of Object.keys(values)) values[name] = plain(values[name]);
  for (const [name, value] of Object.entries(values)) checkParameter(name, value, channels, classes, values);
  return values;
}

/** Typed arrays, also within an array, as plain ones. */
function plain(value) {
  if (ArrayBuffer.isView(value) && !(value instanceof DataView)) return Array.from(value);
  return Array.isArray(value) ? value.map(plain) : value;
}

function checkParameter(name, value, channels, classes, values) {
  if (name === "theta_alpha" || name === "theta_gamma") return checkDeviations(name, value, 2, "axes, [x, y]");
  if (name === "theta_beta") return checkDeviations(name, value, channels, "channels of the image");
  if (name.endsWith("_weight")) return checkWeight(name, value, classes);
  if (name === "compatibility") return value === null || checkWeight(name, value, classes);
  if (name in WORDS) checkWord(name, value, WORDS[name]);
  if (name === "filter") return checkFilter(value, values);
  if (name === "iterations") return checkWhole(value, name, 0);
  if (name === "neighbour_rounds") return checkWhole(value, name, 0, MOST_NEIGHBOUR_ROUNDS);
  if (name === "damping" || name === "class_threshold" || name === "tolerance") return checkFraction(name, value);
  if (name === "image_range") return checkRange(name, value);
  if (!(name in WORDS) && value !== DEFAULTS[name]) {
    throw new RangeError(
      `${name}=${shown(value)}, but in JavaScript there is mean field alone: set it to ${shown(DEFAULTS[name])}`,
    );
  }
}

function checkDeviations(name, value, count, what) {
  const all = Array.isArray(value) ? value : [value];
  if (!all.every((each) => Number.isFinite(each) && Math.fround(each) > 0) || all.length === 0) {
    throw new RangeError(
      `${name}=${shown(value)} must be a finite number above 0, or one for each of ${count} ${what}`,
    );
  }
  if (all.length !== 1 && all.length !== count) {
    throw new RangeError(
      `${name}=${shown(value)} has ${all.length} numbers; expected one, or one for each of ${count} ${what}`,
    );
  }
}

function checkWeight(name, value, classes) {
  if (classes === 0) return;
  const isRow = (row) => Array.isArray(row) && row.length === classes && row.every(Number.isFinite);
  if (Number.isFinite(value) || isRow(value)) return;
  if (Array.isArray(value) && value.length === classes && value.every(isRow)) return;
  throw new RangeError(
    `${name}=${shown(value)} must be a finite number, or an array of ${classes}, one for each class, or of ${classes} such arrays`,
  );
}

function checkFilter(value, { spatial, neighbour_rounds }) {
  if (value === "exact" && (spatial !== "grid" || neighbour_rounds !== 0)) {
    throw new RangeError('filter="exact" has no lattice: set spatial to "grid" and neighbour_rounds to 0');
  }
}

function checkFraction(name, value) {
  if (!(Number.isFinite(value) && value >= 0 && value < 1)) {
    throw new RangeError(`${name}=${shown(value)} must be a number of at least 0 and below 1`);
  }
}

function checkRange(name, value) {
  if (value === null) return;
  if (!(Array.isArray(value) && value.length === 2 && value.every(Number.isFinite) && value[0] < value[1])) {
    throw new RangeError(`${name}=${shown(value)} must be null, or two numbers [low, high] such as [0, 1]`);
  }
}

export function checkOptions(options, names) {
  if (options === null || typeof options !== "object") {
    throw new TypeError(`options are ${described(options)}; expected an object with ${names.join(", ")}, or nothing`);
  }
  const unknown = Object.keys(options).find((name) => !names.includes(name));
  if (unknown !== undefined) throw new TypeError(`there is no option ${unknown}; there is ${names.join(", ")}`);
}

export function checkWord(name, value, words) {
  if (!words.includes(value))
    throw new RangeError(`${name}=${shown(value)} is unknown; use ${words.map(shown).join(", ")}`);
}

export function checkWhole(value, name, least, most = LARGEST_INTEGER) {
  if (!Number.isInteger(value) || value < least || value > most) {
    throw new RangeError(`${name}=${shown(value)} must be a whole number from ${least} to ${most}`);
  }
}

function checkFinite(numbers, name) {
  if (!(numbers instanceof Float32Array)) return;
  const place = numbers.findIndex((number) => !Number.isFinite(number));
  if (place >= 0)
    throw new RangeError(
      `${name}[${place}] is ${numbers[place]}; expected finite numbers, within the range of float32`,
    );
}

export function described(value) {
  if (value === null || value === undefined) return String(value);
  if (Array.isArray(value)) return `an Array of ${value.length}`;
  if (typeof value !== "object") return `the ${typeof value} ${shown(value)}`;
  return `a ${value.constructor?.name ?? "object"}`;
}

export function shown(value) {
  const text = typeof value === "string" || Array.isArray(value) ? JSON.stringify(value) : String(value);
  return text.length > 60 ? `${text.slice(0, 60)}…` : text;
}
