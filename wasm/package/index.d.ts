/** The numbers of a CRF, under the names of `CRFParameters` in Python: its parameters files fit. */
export interface Parameters {
  /** Deviation of the bilateral kernel in pixels, or [x, y]. */
  theta_alpha?: number | Numbers;
  /** Deviation of the bilateral kernel in levels of the image, or one for each channel. */
  theta_beta?: number | Numbers;
  /** Deviation of the spatial kernel in pixels, or [x, y]. */
  theta_gamma?: number | Numbers;
  /** Weight of the spatial kernel: a number, one for each class, or classes × classes. 0 leaves the kernel out. */
  spatial_weight?: Weight;
  /** Weight of the bilateral kernel, likewise. */
  bilateral_weight?: Weight;
  /** null is the Potts model, which rewards agreement; anything else is a penalty. */
  compatibility?: Weight | null;
  normalization?: "none" | "before" | "after" | "symmetric";
  /** Of the mean field; 0 returns what was given. */
  iterations?: number;
  /** How the spatial kernel is filtered: exactly, or as other tools do. */
  spatial?: "grid" | "lattice";
  /** How the bilateral kernel is filtered. "exact" takes time with the square of the pixels. */
  filter?: "lattice" | "exact";
  neighbour_rounds?: number;
  /** Share of the previous logits kept in each iteration, at least 0 and below 1. */
  damping?: number;
  class_threshold?: number;
  /** How far a marginal may be off in an iteration because of work left out; 0 works everything out. */
  tolerance?: number;
  /** [low, high] of the levels of the image: theta_beta is then in 255ths of it. */
  image_range?: [number, number] | null;
  /** These have to be at their default: there is mean field alone. */
  solver?: "mean-field";
  gradient?: "unrolled";
  regularization?: "entropic";
  strength?: number;
  step?: "line-search";
  /** Of a parameters file; not read. */
  notes?: unknown;
}
export type Numbers = readonly number[] | Float32Array | Float64Array;
export type Weight = number | Numbers | readonly Numbers[];

/** ImageData of a canvas (its alpha is ignored), or data of the same order with any number of channels. */
export interface Image {
  data: Uint8ClampedArray | Uint8Array | Float32Array;
  width: number;
  height: number;
}

export interface Refined<Values> {
  /** Logits or probabilities (classes, height, width); or labels (height, width). */
  values: Values;
  /** How many iterations ran: fewer than asked for if nothing moved any more. */
  iterations: number;
  /** Of the bilateral kernel's lattice; 0 if it has none. */
  vertices: number;
  /** kernels: 0 or nearly so if they were there from an earlier call. */
  milliseconds: { kernels: number; meanField: number };
}
export type Output = "probabilities" | "logits" | "labels";
export type Labels = Uint8Array | Uint16Array | Int32Array;

/** One iteration about one class (docs/algorithm.md, eq. 4): each (height, width). */
export interface Iteration {
  /** Marginals that are sent. */
  before: Float32Array;
  /** What the lattice's vertex nearest to each pixel holds, over what it holds if all send 1; null without a lattice. */
  splat: Float32Array | null;
  /** The same after the blur. */
  blur: Float32Array | null;
  /** What pixels receive from each kernel, normalised. */
  messages: { spatial?: Float32Array; bilateral?: Float32Array };
  /** Their sum by the weights. */
  weighted: Float32Array;
  /** What that costs the class, by the compatibility. */
  coupled: Float32Array;
  /** The scores that were given. */
  unary: Float32Array;
  /** unary - coupled, or with damping a mean of that and the logits before. */
  logits: Float32Array;
  /** Marginals after the iteration: the softmax of all classes' logits. */
  after: Float32Array;
}

export interface Photo {
  readonly width: number;
  readonly height: number;
  /**
   * Refine class scores. Kernels are kept for the next call, and built anew where their θ changed.
   * @param scores Logits (classes, height, width), class after class; of one class, log-odds of a foreground.
   * @param parameters Those left out are those of PRESETS[DEFAULT_PRESET].
   * @throws TypeError, RangeError: if scores or parameters are not as described, or memory does not suffice.
   */
  refine(
    scores: Float32Array | Float64Array,
    parameters: Parameters | undefined,
    output: "labels",
  ): Promise<Refined<Labels>>;
  refine(
    scores: Float32Array | Float64Array,
    parameters?: Parameters,
    output?: "probabilities" | "logits",
  ): Promise<Refined<Float32Array>>;
  refine(
    scores: Float32Array | Float64Array,
    parameters: Parameters | undefined,
    output: Output,
  ): Promise<Refined<Float32Array | Labels>>;
  /** Filter (channels, height, width) values with a normalised kernel. */
  message(values: Float32Array, kernel: "spatial" | "bilateral", parameters?: Parameters): Promise<Float32Array>;
  /** Iteration number `parameters.iterations` + 1, about the class `label`, without a tolerance. */
  iteration(scores: Float32Array | Float64Array, parameters: Parameters | undefined, label: number): Promise<Iteration>;
  /** Give the memory of the photo and its kernels back. */
  free(): Promise<void>;
}

export interface Crf {
  /** How many threads there are: 1 unless the page is cross-origin isolated. */
  readonly threads: number;
  /** Keep an image, to refine scores of it several times. */
  photo(image: Image): Promise<Photo>;
  /** Refine scores of an image once. */
  refine(
    scores: Float32Array | Float64Array,
    image: Image,
    parameters: Parameters | undefined,
    output: "labels",
  ): Promise<Refined<Labels>>;
  refine(
    scores: Float32Array | Float64Array,
    image: Image,
    parameters?: Parameters,
    output?: "probabilities" | "logits",
  ): Promise<Refined<Float32Array>>;
  refine(
    scores: Float32Array | Float64Array,
    image: Image,
    parameters: Parameters | undefined,
    output: Output,
  ): Promise<Refined<Float32Array | Labels>>;
  /** End the worker; calls that still run fail. */
  close(): void;
}

/**
 * Load the native core, in a worker where there are any.
 * @param options.threads Default: as many as the device has, up to 8, where the page is cross-origin isolated, otherwise 1.
 */
export function createCrf(options?: { threads?: number }): Promise<Crf>;

/**
 * Logits (classes, *) of labels that are each right with a given probability.
 * @param labels Class c has label c; negative labels are unknown, and so is 255 if no class has it.
 * @param probability Above 0 and below 1; 0.7 as in Python.
 */
export function unaryFromLabels(
  labels: Uint8Array | Uint8ClampedArray | Int8Array | Uint16Array | Int16Array | Uint32Array | Int32Array,
  classes: number,
  probability?: number,
): Float32Array;

/** The fields of `CRFParameters` as published (CRF-RNN). */
export const DEFAULTS: Readonly<Required<Omit<Parameters, "notes">>>;
/** Numbers in common use, by name; see docs/choosing-parameters.md. */
export const PRESETS: Readonly<Record<string, Readonly<Required<Omit<Parameters, "notes">>>>>;
/** The preset of parameters that are left out. */
export const DEFAULT_PRESET: string;
