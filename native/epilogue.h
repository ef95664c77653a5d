// What slice and convolve_rows do with the message of a point, and how loops along rows fetch them early.
#pragma once

#include "loops.h"
#include "simd.h"

namespace crfrnn::CRFRNN_TARGET {

// Fetches the row that lies a tile after `row`. Rows are read in order, but the hardware's own prefetching does not keep up.
template <class T>
CRFRNN_INLINE void prefetch_next_tile(const T* row, int channels, int width) {
  row += int64_t(tile_size) * channels;
  prefetch(row);
  if (width * sizeof(T) > 32) prefetch(row + width - 1);
}

// The end of a message: it is scaled and written, or multiplied by the coupling and subtracted from the scores `from`. W
// channels from the first one on.
template <class T, int W>
struct Epilogue {
  using R = Row<T, W>;
  CRFRNN_INLINE void operator()(int64_t i, R sum, T factor = T(1)) const {
    sum.scale(scale ? factor * scale[i] : factor);
    const int64_t at = i * channels + first;
    if (coupling) {
      prefetch_next_tile(from + at, channels, W);
      R result = R::read(from + at);
      result.subtract_product(R::read(coupling + first), sum);
      result.write(rows + at);
    } else {
      sum.write(rows + at);
    }
  }
  const T *scale, *coupling, *from;
  T* rows;
  int channels, first;
};

// The same for as many narrow rows as fill a vector. Rows have W channels and no gaps between them.
template <class T, int W>
struct NarrowEpilogue {
  static constexpr int together = lanes<T> / W;
  using V = Vec<T, lanes<T>>;
  NarrowEpilogue(const T* scale, const T* coupling, const T* from, T* rows)
      : scale(scale), from(coupling ? from : nullptr), rows(rows) {
    if (coupling)
      for (int k = 0; k < lanes<T>; ++k) couplings[k] = coupling[k % W];
  }
  CRFRNN_INLINE void operator()(int64_t i, V sum, T factor = T(1)) const {
    sum = scale ? sum * repeated<W, lanes<T>, T, together>(load<Vec<T, together>>(scale + i) * factor) : sum * factor;
    if (from) {
      prefetch_next_tile(from + i * W, W, lanes<T>);
      sum = load<V>(from + i * W) - load<V>(couplings) * sum;
    }
    std::memcpy(rows + i * W, &sum, sizeof sum);
  }
  const T *scale, *from;
  T* rows;
  alignas(64) T couplings[lanes<T>];
};

}  // namespace crfrnn::CRFRNN_TARGET
