// Couplings and other loops over the classes of rows.
#include <algorithm>
#include <numeric>

#include "epilogue.h"
#include "loops.h"
#include "simd.h"

namespace crfrnn::CRFRNN_TARGET {

template <class T>
void couple_diagonal(const T* coupling, const T* message, const T* from, T* to, int channels, int64_t n) {
  for_widths(channels, [&](auto width, int first) {
    using R = Row<T, width()>;
    const R factors = R::read(coupling + first);
    for (int64_t i = 0; i < n; ++i) {
      R sum = R::read(from + i * channels + first);
      sum.subtract_product(factors, R::read(message + i * channels + first));
      sum.write(to + i * channels + first);
    }
  });
}

template <class T>
void couple_matrix(const T* coupling_transposed, const T* message, const T* from, T* to, int channels, int64_t n) {
  for_widths(channels, [&](auto width, int first) {
    using R = Row<T, width()>;
    for (int64_t i = 0; i < n; i += 2) {
      const bool pair = i + 1 < n;
      const T* m = message + i * channels;
      prefetch_next_tile(from + i * channels + first, channels, width());
      prefetch_next_tile(from + (i + 1) * channels + first, channels, width());
      const T* next = pair ? m + channels : m;
      R a = R::zero(), b = R::zero();
      for (int c = 0; c < channels; ++c) {
        const R column = R::read(coupling_transposed + c * channels + first);
        a.add(column, -m[c]), b.add(column, -next[c]);
      }
      const int64_t at = i * channels + first;
      a.add(R::read(from + at)), a.write(to + at);
      if (pair) b.add(R::read(from + at + channels)), b.write(to + at + channels);
    }
  });
}

template <class T>
void outer_products(const T* h, const T* q, T* products, int channels, int64_t n) {
  for_widths(channels, [&](auto width, int first) {
    using R = Row<T, width()>;
    for (int c = 0; c < channels; c += 4) {
      const int rows = channels - c < 4 ? channels - c : 4;
      R sums[4] = {R::zero(), R::zero(), R::zero(), R::zero()};
      for (int64_t i = 0; i < n; ++i) {
        const R row = R::read(h + i * channels + first);
        const T* weight = q + i * channels + c;
        if (rows == 4) {
          for (int k = 0; k < 4; ++k) sums[k].add(row, weight[k]);
        } else {
          for (int k = 0; k < rows; ++k) sums[k].add(row, weight[k]);
        }
      }
      for (int k = 0; k < rows; ++k) {
        T* to = products + (c + k) * channels + first;
        sums[k].add(R::read(to)), sums[k].write(to);
      }
    }
  });
}

template <class T>
void diagonal_products(const T* h, const T* q, T* products, int channels, int64_t n) {
  for_widths(channels, [&](auto width, int first) {
    using R = Row<T, width()>;
    R sum = R::read(products + first);
    for (int64_t i = 0; i < n; ++i) sum.add_product(R::read(h + i * channels + first), R::read(q + i * channels + first));
    sum.write(products + first);
  });
}

template <class T>
void linear_combination(T a, const T* x, T b, const T* y, T* to, int channels, int64_t n) {
  for (int64_t i = 0; i < n * channels; ++i) to[i] = a * x[i] + b * y[i];
}

template <class T>
void update_maxima(const T* q, T* maxima, int channels, int64_t n) {
  for_widths(channels, [&](auto width, int first) {
    using R = Row<T, width()>;
    R top = R::read(maxima + first);
    for (int64_t i = 0; i < n; ++i) top.keep_larger(R::read(q + i * channels + first));
    top.write(maxima + first);
  });
}

template <class T>
void compare_run(const T* q, const T* sent, T* difference, T* found, int channels, int64_t n) {
  T changes[run_size] = {}, tops[run_size] = {};
  for_widths(channels, [&](auto width, int first) {
    using R = Row<T, width()>;
    for (int64_t i = 0; i < n; ++i) {
      const int64_t at = i * channels + first;
      R row = R::read(q + at);
      tops[i] = std::max(tops[i], row.largest_magnitude());
      row.add(R::read(sent + at), T(-1));
      row.write(difference + at);
      changes[i] = std::max(changes[i], row.largest_magnitude());
    }
  });
  found[0] = *std::max_element(changes, changes + n);
  found[1] = std::accumulate(changes, changes + n, T(0));
  found[2] = *std::min_element(tops, tops + n);
}

template <class T>
void missing_shares(const T* q, T* share, int channels, int64_t n) {
  std::fill_n(share, n, T(1));
  for_widths(channels, [&](auto width, int first) {
    for (int64_t i = 0; i < n; ++i) {
      T sum = 0;
      for (int c = 0; c < width(); ++c) sum += q[i * channels + first + c];
      share[i] -= sum;
    }
  });
}

#define CRFRNN_INSTANTIATE(T)                                                       \
  template void couple_diagonal<T>(const T*, const T*, const T*, T*, int, int64_t); \
  template void couple_matrix<T>(const T*, const T*, const T*, T*, int, int64_t);   \
  template void outer_products<T>(const T*, const T*, T*, int, int64_t);            \
  template void diagonal_products<T>(const T*, const T*, T*, int, int64_t);         \
  template void linear_combination<T>(T, const T*, T, const T*, T*, int, int64_t);  \
  template void update_maxima<T>(const T*, T*, int, int64_t);                       \
  template void compare_run<T>(const T*, const T*, T*, T*, int, int64_t);           \
  template void missing_shares<T>(const T*, T*, int, int64_t);
CRFRNN_INSTANTIATE(float)
CRFRNN_INSTANTIATE(double)
#undef CRFRNN_INSTANTIATE

}  // namespace crfrnn::CRFRNN_TARGET
