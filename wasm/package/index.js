// What users import: a CRF, in a worker where there are any.
import { checkedImage, checkedParameters, checkedScores, checkOptions, checkWhole, checkWord, OUTPUTS } from "./checks.js";
import { DEFAULT_PRESET, DEFAULTS, PRESETS } from "./parameters.js";

export { unaryFromLabels } from "./unary.js";
export { DEFAULT_PRESET, DEFAULTS, PRESETS };

const MOST_THREADS = 8; // more share no more work: the pixels are divided into about eight parts
const ERRORS = { TypeError, RangeError };

export async function createCrf(options = {}) {
  checkOptions(options, ["threads"]);
  const { threads } = options;
  const inWorker = typeof Worker === "function";
  const isolated = inWorker && globalThis.crossOriginIsolated === true;
  if (threads !== undefined) checkWhole(threads, "threads", 1, 64);
  if (threads > 1 && !isolated) {
    throw new RangeError(
      `threads=${threads}, but this page is not cross-origin isolated; serve it with the headers ` +
        '"Cross-Origin-Opener-Policy: same-origin" and "Cross-Origin-Embedder-Policy: require-corp", or leave threads out',
    );
  }
  const count = threads ?? (isolated ? Math.min(navigator.hardwareConcurrency ?? 1, MOST_THREADS) : 1);
  const backend = inWorker ? new WorkerBackend() : new LocalBackend();
  try {
    await backend.call("load", count);
  } catch (error) {
    backend.close();
    throw error;
  }
  return new Crf(backend, count);
}

class Crf {
  #backend;
  #photos = 0;

  constructor(backend, threads) {
    this.#backend = backend;
    this.threads = threads;
  }

  async photo(image) {
    const checked = checkedImage(image);
    const id = this.#photos++;
    await this.#backend.call("add", id, checked);
    return new Photo(this.#backend, id, checked);
  }

  async refine(scores, image, parameters, output) {
    const photo = await this.photo(image);
    try {
      return await photo.refine(scores, parameters, output);
    } finally {
      await photo.free();
    }
  }

  close() {
    this.#backend.close();
  }
}

class Photo {
  #backend;
  #id;
  #image;

  constructor(backend, id, { width, height, channels }) {
    this.#backend = backend;
    this.#id = id;
    this.#image = { width, height, channels };
    Object.assign(this, { width, height });
  }

  async refine(scores, parameters, output = "probabilities") {
    checkWord("output", output, OUTPUTS);
    const { given, isForeground, values } = this.#checked(scores, parameters);
    const result = await this.#call("refine", given, values, output);
    if (isForeground && output === "probabilities") result.values = result.values.slice(result.values.length / 2);
    if (isForeground && output === "logits") result.values = differences(result.values);
    return result;
  }

  async message(given, kernel, parameters) {
    checkWord("kernel", kernel, ["spatial", "bilateral"]);
    const { values } = checkedScores(given, this.#image, "values");
    return this.#call("message", values, kernel, checkedParameters(parameters, this.#image, 0));
  }

  async iteration(scores, parameters, label) {
    const { given, values } = this.#checked(scores, parameters);
    checkWhole(label, "label", 0, given.classes - 1);
    return this.#call("iteration", given, values, label);
  }

  async free() {
    const id = this.#id;
    this.#id = undefined;
    if (id !== undefined) await this.#backend.call("remove", id);
  }

  #call(method, ...values) {
    if (this.#id === undefined) throw new Error("this photo has been freed: make another one with crf.photo(image)");
    return this.#backend.call(method, this.#id, ...values);
  }

  // Scores of one channel are the log-odds of the foreground of two classes.
  #checked(scores, parameters) {
    const given = checkedScores(scores, this.#image, "scores");
    const isForeground = given.classes === 1;
    if (isForeground) {
      const both = new Float32Array(2 * given.values.length);
      both.set(given.values, given.values.length);
      Object.assign(given, { values: both, classes: 2 });
    }
    return { given, isForeground, values: checkedParameters(parameters, this.#image, given.classes) };
  }
}

function differences(logits) {
  const points = logits.length / 2;
  return Float32Array.from({ length: points }, (_, i) => logits[points + i] - logits[i]);
}

class WorkerBackend {
  #worker = new Worker(new URL("./worker.js", import.meta.url), { type: "module" });
  #waiting = new Map();
  #calls = 0;
  #failure = null;

  constructor() {
    this.#worker.onmessage = ({ data: { id, result, error } }) => {
      const { resolve, reject } = this.#waiting.get(id);
      this.#waiting.delete(id);
      if (error) reject(new (ERRORS[error.name] ?? Error)(error.message));
      else resolve(result);
    };
    this.#worker.onerror = (event) => {
      event.preventDefault?.();
      this.#fail(new Error(`the worker of crfrnn failed: ${event.message ?? "its files could not be loaded"}`));
    };
  }

  call(method, ...values) {
    if (this.#failure) return Promise.reject(this.#failure);
    return new Promise((resolve, reject) => {
      const id = this.#calls++;
      this.#waiting.set(id, { resolve, reject });
      this.#worker.postMessage({ id, method, values });
    });
  }

  close() {
    this.#worker.terminate();
    this.#fail(new Error("this CRF has been closed: make another one with createCrf()"));
  }

  #fail(error) {
    this.#failure ??= error;
    for (const { reject } of this.#waiting.values()) reject(this.#failure);
    this.#waiting.clear();
  }
}

class LocalBackend {
  #engine;
  #isClosed = false;

  async call(method, ...values) {
    if (this.#isClosed) throw new Error("this CRF has been closed: make another one with createCrf()");
    // Copies, as a worker gets them: what is given may change while calls before this one run.
    if (method !== "load") return this.#engine.call(method, ...structuredClone(values));
    const { Engine } = await import("./engine.js");
    this.#engine = await Engine.load(...values);
  }

  close() {
    this.#isClosed = true;
    this.#engine = undefined;
  }
}
