// Photos, their kernels and mean fields in the native module. It runs in a worker, or where it was made; what it is given has
// been checked.
import { coupled, coupling } from "./couplings.js";
import { OUTPUTS } from "./checks.js";
import { Memory, MOST_GIGABYTES } from "./memory.js";
import { EPSILON, PHOTO_LEVELS } from "./parameters.js";

const SPATIAL = "spatial";
const BILATERAL = "bilateral";
const TERMS = [SPATIAL, BILATERAL];
const WORDS_OF_TERM = 6; // of 32 bits, as in face.cpp
const PAGE = 65536; // bytes

export class Engine {
  /** threads: how many; above 1 they have to be allowed here. */
  static async load(threads) {
    const name = threads > 1 ? "native-threads" : "native";
    // Written out, so that bundlers see what belongs to the package.
    const { default: start } = threads > 1 ? await import("./native-threads.js") : await import("./native.js");
    const wasmMemory = new WebAssembly.Memory({
      initial: (16 << 20) / PAGE,
      maximum: (MOST_GIGABYTES * 2 ** 30) / PAGE,
      shared: threads > 1,
    });
    const options = { wasmMemory, threads: threads - 1 };
    if (typeof process === "object" && process.versions?.node) {
      const files = "node:fs/promises"; // bundlers for the browser are to leave it alone
      const { readFile } = await import(/* webpackIgnore: true */ /* @vite-ignore */ files);
      options.wasmBinary = await readFile(new URL(`./${name}.wasm`, import.meta.url));
    }
    const native = await start(options);
    native.wasmMemory = wasmMemory;
    return new Engine(native, threads);
  }

  constructor(native, threads) {
    this.native = native;
    this.threads = threads;
    this.photos = new Map();
    this.lastCall = Promise.resolve();
  }

  /** Runs one of the methods below, after those called before. */
  call(method, ...values) {
    const result = this.lastCall.then(() => this[method](...values));
    this.lastCall = result.catch(() => {});
    return result;
  }

  add(id, image) {
    this.photos.set(id, { ...image, points: image.width * image.height, kernels: {} });
  }

  remove(id) {
    for (const name of TERMS) this.drop(this.photos.get(id), name);
    this.photos.delete(id);
    this.native._crfrnn_release_memory();
  }

  async refine(id, { values, classes }, parameters, output) {
    const photo = this.photos.get(id);
    const start = performance.now();
    const terms = await this.terms(photo, parameters);
    const built = performance.now();
    const result = await this.meanField(photo, values, classes, terms, parameters, output);
    const milliseconds = { kernels: built - start, meanField: performance.now() - built };
    const bilateral = terms.find(({ name }) => name === BILATERAL); // one that is kept may take no part
    return { ...result, vertices: bilateral?.kernel.vertices ?? 0, milliseconds };
  }

  /** What a normalised kernel makes of (channels, height, width) values. */
  async message(id, values, name, parameters) {
    const photo = this.photos.get(id);
    return this.filtered(photo, await this.kernel(photo, name, parameters), values);
  }

  /** One iteration about class c, as pictures of all points: docs/algorithm.md, eq. 4 and 9. */
  async iteration(id, { values, classes }, parameters, c) {
    const photo = this.photos.get(id);
    const { points } = photo;
    const all = { ...parameters, tolerance: 0 };
    const terms = await this.terms(photo, all);
    const field = (iterations, output) => this.meanField(photo, values, classes, terms, { ...all, iterations }, output);
    const ofClass = (array) => array.slice(c * points, (c + 1) * points);
    const before = (await field(parameters.iterations, "probabilities")).values;
    const logits = (await field(parameters.iterations + 1, "logits")).values;
    const after = (await field(parameters.iterations + 1, "probabilities")).values;
    const weighted = new Float32Array(classes * points);
    const steps = { before: ofClass(before), messages: {}, splat: null, blur: null };
    for (const { name, kernel, weight } of terms) {
      const message = await this.filtered(photo, kernel, before);
      steps.messages[name] = ofClass(message);
      for (let to = 0; to < classes; ++to) {
        const votes = coupled(weight, message, classes, to, points);
        for (let i = 0; i < points; ++i) weighted[to * points + i] += votes[i];
      }
      if (kernel.vertices > 0) Object.assign(steps, await this.latticeSteps(photo, kernel, steps.before));
    }
    return {
      ...steps,
      weighted: ofClass(weighted),
      coupled: coupled(parameters.compatibility ?? -1, weighted, classes, c, points),
      unary: ofClass(values),
      logits: ofClass(logits),
      after: ofClass(after),
    };
  }

  // Kernels are kept as long as what they are built from stays the same.
  async terms(photo, parameters) {
    const terms = [];
    for (const name of TERMS) {
      const weight = parameters[`${name}_weight`];
      if ([weight].flat(2).every((number) => number === 0)) continue;
      terms.push({ name, weight, kernel: await this.kernel(photo, name, parameters) });
    }
    return terms;
  }

  async kernel(photo, name, parameters) {
    const key = JSON.stringify(keyOf(name, parameters));
    if (photo.kernels[name]?.key !== key) {
      this.drop(photo, name);
      const { width, height } = photo;
      const rounds = parameters.neighbour_rounds;
      photo.kernels[name] = await Memory.within(
        this.native,
        `a kernel over ${width}×${height} pixels`,
        async (memory) => {
          if (name === SPATIAL && parameters.spatial === "grid")
            return this.grid(memory, photo, parameters.theta_gamma);
          const rows = name === SPATIAL ? positions(photo, parameters.theta_gamma, 2) : features(photo, parameters);
          return this.ofRows(memory, rows, photo.points, parameters.filter === "exact" ? null : rounds);
        },
      );
      photo.kernels[name].key = key;
    }
    const kernel = photo.kernels[name];
    kernel.factors = factorsOf(kernel.norm, parameters.normalization);
    return kernel;
  }

  drop(photo, name) {
    if (photo.kernels[name]) this.native._crfrnn_free_kernel(photo.kernels[name].pointer);
    delete photo.kernels[name];
  }

  // The sum of a product over axes is the product of the sums.
  grid(memory, { width, height }, theta) {
    const [sigmaX, sigmaY] = each(theta, 2);
    const build = (...shape) => memory.checked(this.native._crfrnn_grid(...shape), 0);
    const sums = (length, sigma) => {
      const axis = build(1, length, 0, sigma);
      const result = memory.room(length);
      const ones = memory.copy(new Float32Array(length).fill(1));
      const done = this.native._crfrnn_filter(axis, ones, 1, 1, result);
      this.native._crfrnn_free_kernel(axis);
      memory.checked(done, 0);
      return memory.read(Float32Array, result, length);
    };
    const [rows, columns] = [sums(height, sigmaY), sums(width, sigmaX)];
    const norm = new Float32Array(height * width);
    for (let i = 0; i < norm.length; ++i) norm[i] = rows[Math.floor(i / width)] * columns[i % width];
    return { pointer: build(height, width, sigmaY, sigmaX), vertices: 0, norm };
  }

  // neighbourRounds: of a lattice; null builds an exact kernel.
  async ofRows(memory, rows, points, neighbourRounds) {
    const dimensions = rows.length / points;
    const given = memory.copy(rows);
    await this.rest();
    const pointer = memory.checked(
      neighbourRounds === null
        ? this.native._crfrnn_exact(given, points, dimensions)
        : this.native._crfrnn_lattice(
            given,
            points,
            dimensions,
            neighbourRounds,
            this.threads,
            MOST_GIGABYTES * 2 ** 30,
          ),
      0,
    );
    const kernel = { pointer, vertices: neighbourRounds === null ? 0 : this.native._crfrnn_num_vertices(pointer) };
    try {
      kernel.norm = await this.raw(memory, kernel, new Float32Array(points).fill(1), 1);
    } catch (error) {
      this.native._crfrnn_free_kernel(pointer);
      throw error;
    }
    return kernel;
  }

  /** K · rows (points, channels). */
  async raw(memory, kernel, rows, channels) {
    await this.rest();
    const result = memory.room(rows.length);
    memory.checked(this.native._crfrnn_filter(kernel.pointer, memory.copy(rows), channels, this.threads, result), 0);
    return memory.read(Float32Array, result, rows.length);
  }

  /** diag(post) K diag(pre) values (channels, points). */
  filtered({ points }, kernel, values) {
    const channels = values.length / points;
    const { pre, post } = kernel.factors;
    return Memory.within(this.native, `filtering ${channels} channels of ${points} pixels`, async (memory) => {
      const rows = new Float32Array(values.length);
      for (let c = 0; c < channels; ++c) {
        for (let i = 0; i < points; ++i) rows[i * channels + c] = values[c * points + i] * (pre ? pre[i] : 1);
      }
      const received = await this.raw(memory, kernel, rows, channels);
      for (let c = 0; c < channels; ++c) {
        for (let i = 0; i < points; ++i) rows[c * points + i] = received[i * channels + c] * (post ? post[i] : 1);
      }
      return rows;
    });
  }

  latticeSteps({ points }, kernel, values) {
    return Memory.within(this.native, `a picture of ${points} pixels`, async (memory) => {
      await this.rest();
      const [splat, blur] = [memory.room(points), memory.room(points)];
      const given = memory.copy(values);
      memory.checked(this.native._crfrnn_lattice_steps(kernel.pointer, given, this.threads, splat, blur), 0);
      return { splat: memory.read(Float32Array, splat, points), blur: memory.read(Float32Array, blur, points) };
    });
  }

  meanField({ width, height, points }, unary, classes, terms, parameters, output) {
    return Memory.within(this.native, `refining ${classes} classes on ${width}×${height} pixels`, async (memory) => {
      const words = terms.flatMap(({ kernel, weight }) => {
        const { axes, numbers } = coupling(parameters.compatibility, weight, classes);
        const { pre, post } = kernel.factors;
        const rowSum = new Int32Array(Float32Array.of(parameters.normalization === "after" ? 1 : 0).buffer)[0];
        return [
          kernel.pointer,
          pre ? memory.copy(pre) : 0,
          post ? memory.copy(post) : 0,
          axes,
          memory.copy(numbers),
          rowSum,
        ];
      });
      const given = memory.copy(unary);
      const listed = memory.copy(Int32Array.from(words));
      const count = output === "labels" ? points : classes * points;
      const result = memory.room(count);
      await this.rest();
      const { iterations, damping, class_threshold, tolerance } = parameters;
      const numbers = [iterations, damping, class_threshold, tolerance, OUTPUTS.indexOf(output), this.threads];
      const ran = memory.checked(
        this.native._crfrnn_mean_field(
          given,
          classes,
          points,
          listed,
          words.length / WORDS_OF_TERM,
          ...numbers,
          result,
        ),
        -1,
      );
      const values =
        output === "labels"
          ? labelArray(memory.view(Int32Array, result, count), classes)
          : memory.read(Float32Array, result, count);
      return { values, iterations: ran };
    });
  }

  // Threads of the last call are there for the next one only when their messages have been heard.
  async rest() {
    while (this.native.PThread?.runningWorkers.length > 0) await new Promise((resolve) => setTimeout(resolve));
  }
}

/** What a kernel is built from, besides the photo. */
function keyOf(name, { theta_alpha, theta_beta, theta_gamma, spatial, filter, neighbour_rounds, image_range }) {
  const ofLattice = [filter, neighbour_rounds];
  return name === SPATIAL ? [theta_gamma, spatial, ...ofLattice] : [theta_alpha, theta_beta, image_range, ...ofLattice];
}

/** Factors of points, eq. 5; null for ones. */
function factorsOf(norm, normalization) {
  if (normalization === "none") return { pre: null, post: null };
  const root = normalization === "symmetric" ? Math.sqrt : (number) => number;
  const factors = norm.map((number) => 1 / Math.fround(root(number + EPSILON)));
  return { pre: normalization === "after" ? null : factors, post: normalization === "before" ? null : factors };
}

/** Rows of `length` numbers a point that begin with its position, eq. 3. */
function positions({ width, height, points }, theta, length) {
  const [thetaX, thetaY] = each(theta, 2).map(Math.fround);
  const rows = new Float32Array(points * length);
  for (let y = 0, at = 0; y < height; ++y) {
    for (let x = 0; x < width; ++x, at += length) {
      rows[at] = x / thetaX;
      rows[at + 1] = y / thetaY;
    }
  }
  return rows;
}

function features(photo, { theta_alpha, theta_beta, image_range }) {
  const { data, stride, channels, points } = photo;
  const level = image_range === null ? 1 : (image_range[1] - image_range[0]) / PHOTO_LEVELS;
  const thetas = each(theta_beta, channels).map((theta) => Math.fround(theta * level));
  const length = 2 + channels;
  const rows = positions(photo, theta_alpha, length);
  for (let i = 0; i < points; ++i) {
    for (let c = 0; c < channels; ++c) rows[i * length + 2 + c] = data[i * stride + c] / thetas[c];
  }
  return rows;
}

/** One number for each axis or channel. */
function each(value, count) {
  const all = [value].flat();
  return all.length === 1 ? Array(count).fill(all[0]) : all;
}

function labelArray(labels, classes) {
  return (classes <= 256 ? Uint8Array : classes <= 65536 ? Uint16Array : Int32Array).from(labels);
}
