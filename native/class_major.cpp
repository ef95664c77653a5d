// Rows of points from class-major scores, and back: transposing in small squares.
#include <algorithm>

#include "loops.h"
#include "simd.h"

namespace crfrnn::CRFRNN_TARGET {

// How many tiles ahead scores are fetched: a tile has a short run of each class, too short for the processor to foresee the
// next.
constexpr int64_t ahead = 2;

// Transposes a square of S × S numbers: swaps its off-diagonal quarters, then those of the quarters, and so on.
template <class T, int S>
CRFRNN_INLINE void transpose_square(Vec<T, S> (&square)[S]) {
  auto swap_quarters = [&](auto step) {
    for (int r = 0; r < S; ++r)
      if (!(r & step())) {
        const auto upper = square[r], lower = square[r + step()];
        square[r] = interleaved<step(), false, T, S>(upper, lower);
        square[r + step()] = interleaved<step(), true, T, S>(upper, lower);
      }
  };
  if constexpr (S > 4) swap_quarters(std::integral_constant<int, 4>{});
  if constexpr (S > 2) swap_quarters(std::integral_constant<int, 2>{});
  swap_quarters(std::integral_constant<int, 1>{});
}

// Calls f(S), S a constant, for squares of S × S numbers that cover rows of so many channels.
template <class T, class F>
CRFRNN_INLINE void with_squares(int channels, F f) {
  if (channels == 2) return f(std::integral_constant<int, 2>{});
  if (channels == 4) return f(std::integral_constant<int, std::min(4, piece<T>)>{});
  f(std::integral_constant<int, piece<T>>{});
}

template <class T>
void rows_from_class_major(const T* scores, int64_t stride, const int* which, int classes, T pad, T* rows, int channels,
                           int64_t n) {
  if (channels == 1) return std::copy_n(scores + which[0] * stride, n, rows), void();
  with_squares<T>(channels, [&](auto size) CRFRNN_INLINE_LAMBDA {
    constexpr int S = size();
    using V = Vec<T, S>;
    const int64_t whole = n / S * S;
    for (int64_t i = 0; i < whole; i += S)
      for (int c = 0; c < channels; c += S) {
        V square[S];
        for (int k = 0; k < S; ++k) {
          const T* const from = c + k < classes ? scores + which[c + k] * stride + i : nullptr;
          if (from) prefetch(from + ahead * n);
          square[k] = from ? load<V>(from) : V{} + pad;
        }
        transpose_square<T, S>(square);
        for (int k = 0; k < S; ++k) std::memcpy(rows + (i + k) * channels + c, &square[k], sizeof(V));
      }
    for (int c = 0; c < channels; ++c)
      for (int64_t i = whole; i < n; ++i) rows[i * channels + c] = c < classes ? scores[which[c] * stride + i] : pad;
  });
}

template <class T>
void class_major_from_rows(const T* rows, int channels, T* scores, int64_t stride, int classes, int64_t n) {
  if (channels == 1) return std::copy_n(rows, n, scores), void();
  with_squares<T>(channels, [&](auto size) CRFRNN_INLINE_LAMBDA {
    constexpr int S = size();
    using V = Vec<T, S>;
    const int64_t whole = n / S * S;
    for (int64_t i = 0; i < whole; i += S)
      for (int c = 0; c < classes; c += S) {
        V square[S];
        for (int k = 0; k < S; ++k) square[k] = load<V>(rows + (i + k) * channels + c);
        transpose_square<T, S>(square);
        for (int k = 0; k < S && c + k < classes; ++k) std::memcpy(scores + (c + k) * stride + i, &square[k], sizeof(V));
      }
    for (int c = 0; c < classes; ++c)
      for (int64_t i = whole; i < n; ++i) scores[c * stride + i] = rows[i * channels + c];
  });
}

#define CRFRNN_INSTANTIATE(T)                                                                      \
  template void rows_from_class_major<T>(const T*, int64_t, const int*, int, T, T*, int, int64_t); \
  template void class_major_from_rows<T>(const T*, int, T*, int64_t, int, int64_t);
CRFRNN_INSTANTIATE(float)
CRFRNN_INSTANTIATE(double)
#undef CRFRNN_INSTANTIATE

}  // namespace crfrnn::CRFRNN_TARGET
