// Memory of the native module: arrays go in and come out as copies.
const FLOAT = 4;
export const MOST_GIGABYTES = 2; // what the module may grow to, as CMakeLists.txt says

/** A limit of the memory of a page, in words. */
export class OutOfMemory extends RangeError {
  name = "RangeError";
  constructor(what, reason = "") {
    super(
      `${what} needs more than the ${MOST_GIGABYTES} GB of memory that WebAssembly may have here, or than this device has left; ` +
        `work on a smaller image or on crops, or with fewer classes${reason && ` (${reason})`}`,
    );
  }
}

export class Memory {
  constructor(native, what) {
    this.native = native;
    this.what = what; // takes the memory, in the words of an error
    this.taken = [];
  }

  /** Calls work(memory), and frees what it took. */
  static async within(native, what, work) {
    const memory = new Memory(native, what);
    try {
      return await work(memory);
    } finally {
      for (const pointer of memory.taken) native._free(pointer);
    }
  }

  room(count) {
    // The module counts bytes in 32 bits: it would take 4 GB for nothing.
    const fits = count * FLOAT <= MOST_GIGABYTES * 2 ** 30;
    const pointer = fits ? this.native._malloc(Math.max(count, 1) * FLOAT) >>> 0 : 0;
    if (pointer === 0) throw new OutOfMemory(this.what);
    this.taken.push(pointer);
    return pointer;
  }

  /** Copies numbers in, as float32 or int32 like the array. */
  copy(array) {
    const pointer = this.room(array.length);
    this.view(array.constructor, pointer, array.length).set(array);
    return pointer;
  }

  // A view ends when the memory grows, so it is made anew each time.
  view(Numbers, pointer, count) {
    return new Numbers(this.native.wasmMemory.buffer, pointer, count);
  }

  read(Numbers, pointer, count) {
    return Numbers.from(this.view(Numbers, pointer, count));
  }

  /** The result of a call of the module; an error if it is what failed calls return. */
  checked(result, failed) {
    if (result !== failed) return result;
    const failure = this.native.UTF8ToString(this.native._crfrnn_failure());
    if (this.native._crfrnn_is_out_of_memory())
      throw new OutOfMemory(this.what, failure === "std::bad_alloc" ? "" : failure);
    throw new RangeError(failure);
  }
}
