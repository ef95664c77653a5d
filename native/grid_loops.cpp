// Convolutions: the loops of the grid Gaussian.
#include "epilogue.h"
#include "loops.h"
#include "simd.h"

namespace crfrnn::CRFRNN_TARGET {

// Four outputs share every row of input that is read. Their taps lie `spacing` apart, between zeros on both sides.
template <class R, class T>
CRFRNN_INLINE void convolve4(const T* in, int64_t stride, const T* taps, int spacing, int inputs, R (&sums)[4]) {
  for (R& sum : sums) sum = R::zero();
  for (int k = 0; k < inputs; ++k) {
    const R row = R::read(in + k * stride);
    for (int j = 0; j < 4; ++j) sums[j].add(row, taps[k - j * spacing]);
  }
}

template <class T>
void convolve_columns(const T* in, T* out, int64_t n, int64_t stride, int width, const T* taps, int radius) {
  constexpr int L = lanes<T>;
  for (int64_t y = 0; y < n; y += 4) {
    const int64_t first = y > radius ? y - radius : 0, last = y + 3 + radius < n ? y + 3 + radius : n - 1;
    const T* aligned_taps = taps + (first - (y - radius));
    auto convolve_four = [&](auto size, int x) {
      if (size() == 2 * L && last + 4 < n)
        for (int j = 1; j <= 4; ++j)  // the rows of the next four outputs
          for (int line_start = 0; line_start < 2 * L; line_start += line<T>) {
            prefetch(in + (last + j) * stride + x + line_start);
            prefetch_to_write(out + (y + 3 + j) * stride + x + line_start);
          }
      Row<T, size()> sums[4];
      convolve4(in + first * stride + x, stride, aligned_taps, 1, static_cast<int>(last - first + 1), sums);
      for (int64_t j = 0; j < 4 && y + j < n; ++j) sums[j].write(out + (y + j) * stride + x);
    };
    int x = 0;
    for (; x + 2 * L <= width; x += 2 * L) convolve_four(std::integral_constant<int, 2 * L>{}, x);
    for (; x < width; ++x) convolve_four(std::integral_constant<int, 1>{}, x);
  }
}

constexpr int common_divisor(int a, int b) { return b == 0 ? a : common_divisor(b, a % b); }

// Points are taken together until their channels fill whole vectors. This needs rows without gaps between them.
template <class T, int W>
constexpr int points_together = lanes<T> / common_divisor(lanes<T>, W);

// Rows of W channels that divide a vector: the rows that fill it are convolved as one, and four such vectors at a time.
template <class T, int W>
CRFRNN_INLINE int64_t convolve_narrow_rows(const T* in, const T* taps, int inputs, const NarrowEpilogue<T, W>& finish,
                                           int64_t n) {
  constexpr int G = points_together<T, W>;
  using R = Row<T, G * W>;
  int64_t i = 0;
  auto convolve = [&](auto outputs) CRFRNN_INLINE_LAMBDA {
    for (; i + G * outputs() <= n; i += G * outputs()) {
      const T* start = in + i * W;
      R sums[outputs()];
      for (int j = 0; j < outputs(); ++j) {
        prefetch_next_tile(start + (inputs - 1 + j * G) * W, W, lanes<T>);
        sums[j] = R::zero();
      }
      for (int k = 0; k < inputs; ++k)
        for (int j = 0; j < outputs(); ++j) sums[j].add(R::read(start + (k + j * G) * W), taps[k]);
      for (int j = 0; j < outputs(); ++j) finish(i + j * G, sums[j].head);
    }
  };
  convolve(std::integral_constant<int, 4>{});
  convolve(std::integral_constant<int, 1>{});
  return i;
}

template <class T>
void convolve_rows(const T* in, const T* taps, int radius, const T* scale, const T* coupling, const T* from, T* rows,
                   int channels, int64_t n) {
  for_widths(channels, [&](auto width, int first) {
    constexpr int W = width(), together = points_together<T, W>;
    const Epilogue<T, W> finish{scale, coupling, from, rows, channels, first};
    const int inputs = 2 * radius + 1;
    int64_t i = 0;
    alignas(64) T points[4 * together * W];
    auto convolve = [&](auto group, auto outputs) {
      constexpr int G = group();
      using R = Row<T, G * W>;
      for (; i + G * outputs() <= n; i += G * outputs()) {
        const T* start = in + i * channels + first;
        for (int k = 0; k < G * outputs(); ++k) prefetch_next_tile(start + (2 * radius + k) * channels, channels, W);
        if constexpr (outputs() == 4) {
          R sums[4];
          convolve4(start, channels, taps, G, inputs + 3 * G, sums);
          for (int j = 0; j < 4; ++j) sums[j].write(points + j * G * W);
        } else {
          R sum = R::zero();
          for (int k = 0; k < inputs; ++k) sum.add(R::read(start + k * channels), taps[k]);
          sum.write(points);
        }
        for (int k = 0; k < G * outputs(); ++k) finish(i + k, Row<T, W>::read(points + k * W));
      }
    };
    constexpr std::integral_constant<int, 1> one;
    constexpr std::integral_constant<int, 4> four;
    if constexpr (together == 1) convolve(one, four);
    if constexpr (together > 1) {
      if (channels == W) {
        if constexpr (together * W == lanes<T>) {
          i = convolve_narrow_rows<T, W>(in, taps, inputs, NarrowEpilogue<T, W>(scale, coupling, from, rows), n);
        } else {
          if constexpr (together == 2) convolve(std::integral_constant<int, 2>{}, four);
          convolve(std::integral_constant<int, together>{}, one);
        }
      }
    }
    convolve(one, one);
  });
}

// Both sides that exist are added before they are multiplied: taps and slopes share this.
template <class T>
T convolve_with_slopes(const T* in, int64_t stride, int64_t before, int64_t after, const T* taps, const T* slopes,
                       const T* others, T* out, int64_t width, const T* next, const T* next_others) {
  constexpr int L = lanes<T>;
  const int64_t both = before < after ? before : after, most = before < after ? after : before;
  const int64_t one_side = before < after ? stride : -stride;
  auto convolve = [&](auto size, int64_t x) CRFRNN_INLINE_LAMBDA {
    using R = Row<T, size()>;
    for (int k = 0; k < size(); k += line<T>) prefetch(next + x + k), prefetch(next_others + x + k);
    const T* const middle = in + x;
    R sum = R::read(middle), slope = R::zero();
    sum.scale(taps[0]);
    for (int64_t k = 1; k <= both; ++k) {
      R pair = R::read(middle - k * stride);
      pair.add(R::read(middle + k * stride));
      sum.add(pair, taps[k]), slope.add(pair, slopes[k]);
    }
    for (int64_t k = both + 1; k <= most; ++k) {
      const R row = R::read(middle + k * one_side);
      sum.add(row, taps[k]), slope.add(row, slopes[k]);
    }
    sum.write(out + x);
    constexpr int S = size() < L ? size() : L;
    return slope.template folded_products<S>(R::read(others + x));
  };
  Vec<T, L> total{};
  T rest = 0;
  int64_t x = 0;
  for (; x + 4 * L <= width; x += 4 * L) total = total + convolve(std::integral_constant<int, 4 * L>{}, x);
  for (; x + L <= width; x += L) total = total + convolve(std::integral_constant<int, L>{}, x);
  for (; x < width; ++x) rest += first_lane<T, 1>(convolve(std::integral_constant<int, 1>{}, x));
  return rest + first_lane<T, L>(reduce_groups<L, T, L>(total, Sum{}));
}

#define CRFRNN_INSTANTIATE(T)                                                                                                  \
  template void convolve_columns<T>(const T*, T*, int64_t, int64_t, int, const T*, int);                                       \
  template void convolve_rows<T>(const T*, const T*, int, const T*, const T*, const T*, T*, int, int64_t);                     \
  template T convolve_with_slopes<T>(const T*, int64_t, int64_t, int64_t, const T*, const T*, const T*, T*, int64_t, const T*, \
                                     const T*);
CRFRNN_INSTANTIATE(float)
CRFRNN_INSTANTIATE(double)
#undef CRFRNN_INSTANTIATE

}  // namespace crfrnn::CRFRNN_TARGET
