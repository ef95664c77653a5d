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
      R sum = from ? R::read(from + i * channels + first) : R::zero();
      sum.subtract_product(factors, R::read(message + i * channels + first));
      sum.write(to + i * channels + first);
    }
  });
}

template <class T>
void couple_matrix(const T* coupling_transposed, const T* message, const T* from, T* to, int channels, int64_t n) {
  for_widths(channels, [&](auto width, int first) {
    using R = Row<T, width()>;
    const T* const read = from ? from : message;
    int64_t i = 0;
    // So many points share the columns of the matrix.
    auto couple = [&](auto points) CRFRNN_INLINE_LAMBDA {
      for (; i + points() <= n; i += points()) {
        R rows[points()];
        for (int p = 0; p < points(); ++p) {
          prefetch_next_tile(read + (i + p) * channels + first, channels, width());
          rows[p] = R::zero();
        }
        for (int c = 0; c < channels; ++c) {
          const R column = R::read(coupling_transposed + c * channels + first);
          for (int p = 0; p < points(); ++p) rows[p].subtract(column, message[(i + p) * channels + c]);
        }
        for (int p = 0; p < points(); ++p) {
          const int64_t at = (i + p) * channels + first;
          rows[p].add(from ? R::read(from + at) : R::zero()), rows[p].write(to + at);
        }
      }
    };
    if constexpr (vector_bytes == 64) couple(std::integral_constant<int, 4>{});
    couple(std::integral_constant<int, 2>{});
    couple(std::integral_constant<int, 1>{});
  });
}

// Calls f(rows, c) for the classes [c, c + rows) of groups that the registers hold: 4 each, and up to 7 in the last. `rows` is
// a constant.
template <class F>
CRFRNN_INLINE void for_groups(int classes, F f) {
  int c = 0;
  for (; classes - c >= 8; c += 4) f(std::integral_constant<int, 4>{}, c);
  switch (classes - c) {
    case 1:
      return f(std::integral_constant<int, 1>{}, c);
    case 2:
      return f(std::integral_constant<int, 2>{}, c);
    case 3:
      return f(std::integral_constant<int, 3>{}, c);
    case 4:
      return f(std::integral_constant<int, 4>{}, c);
    case 5:
      return f(std::integral_constant<int, 5>{}, c);
    case 6:
      return f(std::integral_constant<int, 6>{}, c);
    case 7:
      return f(std::integral_constant<int, 7>{}, c);
  }
}

template <class T>
void outer_products(const T* h, int h_channels, const T* q, int channels, T* products, int classes, int64_t n) {
  for_widths(h_channels, [&](auto width, int first) {
    using R = Row<T, width()>;
    for_groups(classes, [&](auto rows, int c) CRFRNN_INLINE_LAMBDA {
      R sums[rows()];
      for (R& sum : sums) sum = R::zero();
      for (int64_t i = 0; i < n; ++i) {
        const R row = R::read(h + i * h_channels + first);
        if (c == 0 && first < channels) prefetch_next_tile(q + i * channels + first, channels, width());
        for (int k = 0; k < rows(); ++k) sums[k].add(row, q[i * channels + c + k]);
      }
      for (int k = 0; k < rows(); ++k) {
        T* to = products + (c + k) * h_channels + first;
        sums[k].add(R::read(to)), sums[k].write(to);
      }
    });
  });
}

template <class T>
void diagonal_products(const T* h, const T* q, T* products, int channels, int64_t n) {
  for_widths(channels, [&](auto width, int first) {
    using R = Row<T, width()>;
    R sum = R::read(products + first);
    for (int64_t i = 0; i < n; ++i) {
      prefetch_next_tile(q + i * channels + first, channels, width());
      sum.add_product(R::read(h + i * channels + first), R::read(q + i * channels + first));
    }
    sum.write(products + first);
  });
}

template <class T>
void row_products(const T* a, const T* b, T* sums, int channels, int64_t n) {
  for_widths(channels, [&](auto width, int first) {
    constexpr int W = width(), S = W < piece<T> ? W : piece<T>;
    using R = Row<T, W>;
    auto product = [&](int64_t i) CRFRNN_INLINE_LAMBDA {
      const int64_t at = i * channels + first;
      return R::read(a + at).template folded_products<S>(R::read(b + at));
    };
    int64_t i = 0;
    for (; i + S <= n; i += S) {
      Vec<T, S> products[S];
      for (int j = 0; j < S; ++j) products[j] = product(i + j);
      const Vec<T, S> sum = load<Vec<T, S>>(sums + i) + lane_sums<T, S>(products);
      std::memcpy(sums + i, &sum, sizeof sum);
    }
    for (; i < n; ++i) sums[i] += first_lane<T, S>(reduce_groups<S, T, S>(product(i), Sum{}));
  });
}

template <class T>
void scale_rows(const T* rows, const T* scale, T* to, int channels, int64_t n) {
  for_widths(channels, [&](auto width, int first) {
    for (int64_t i = 0; i < n; ++i) {
      auto row = Row<T, width()>::read(rows + i * channels + first);
      row.scale(scale[i]);
      row.write(to + i * channels + first);
    }
  });
}

template <class T>
void linear_combination(T a, const T* x, T b, const T* y, T* to, int channels, int64_t n) {
  for (int64_t i = 0; i < n * channels; ++i) to[i] = a * x[i] + b * y[i];
}

template <class T>
void lower_rows(const T* rows, const T* numbers, T* to, int channels, int64_t n) {
  for_widths(channels, [&](auto width, int first) {
    for (int64_t i = 0; i < n; ++i) {
      auto row = Row<T, width()>::read(rows + i * channels + first);
      row.subtract(numbers[i]);
      row.write(to + i * channels + first);
    }
  });
}

template <class T>
T doubt(const T* rows, int channels, int classes, int64_t n) {
  T doubt = 0;
  for_widths(channels, [&](auto width, int first) {
    using R = Row<T, width()>;
    R sum = R::zero();
    for (int64_t i = 0; i < n; ++i) {
      const R row = R::read(rows + i * channels + first);
      R nothing = row;
      nothing.add(row, T(-1)), sum.add(nothing);
    }
    alignas(64) T numbers[width()];
    sum.write(numbers);
    for (int c = 0; c < width() && first + c < classes; ++c) doubt += numbers[c];
  });
  return doubt;
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

#if defined(CRFRNN_VECTORS) && !defined(__clang__)  // only GCC picks lanes by numbers that are not constants
// Rows that fit two vectors.
template <class T>
void rearrange_vectors(const T* rows, int channels, const int32_t* which, T pad, T* to, int to_channels, int64_t n) {
  constexpr int L = lanes<T>;
  using V = Vec<T, L>;
  using Lanes = Vec<typename ExpConstants<T>::Bits, L>;
  for_widths(to_channels, [&](auto width, int first) {
    constexpr int pieces = (width() + L - 1) / L;
    Lanes lane[pieces];
    for (int k = 0; k < pieces * L; ++k) lane[k / L][k % L] = k < width() ? which[first + k] : -1;
    alignas(64) T row[pieces * L];
    for (int64_t i = n - 1; i >= 0; --i) {
      const V low = load<V>(rows + i * channels), high = channels > L ? load<V>(rows + i * channels + L) : V{};
      for (int j = 0; j < pieces; ++j) {
        const V piece = lane[j] < 0 ? V{} + pad : __builtin_shuffle(low, high, lane[j]);
        std::memcpy(row + j * L, &piece, sizeof piece);
      }
      Row<T, width()>::read(row).write(to + i * to_channels + first);
    }
  });
}
#endif

// From the last row to the first, so that rows can become wider in the same memory.
template <class T>
void rearrange(const T* rows, int channels, const int32_t* which, T pad, T* to, int to_channels, int64_t n) {
#if defined(CRFRNN_VECTORS) && !defined(__clang__)
  if (channels <= 2 * lanes<T> && to_channels <= 32) return rearrange_vectors(rows, channels, which, pad, to, to_channels, n);
#endif
  for (int64_t i = n - 1; i >= 0; --i)
    for (int k = to_channels - 1; k >= 0; --k) to[i * to_channels + k] = which[k] < 0 ? pad : rows[i * channels + which[k]];
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

#define CRFRNN_INSTANTIATE(T)                                                       \
  template void couple_diagonal<T>(const T*, const T*, const T*, T*, int, int64_t); \
  template void couple_matrix<T>(const T*, const T*, const T*, T*, int, int64_t);   \
  template void outer_products<T>(const T*, int, const T*, int, T*, int, int64_t);  \
  template void diagonal_products<T>(const T*, const T*, T*, int, int64_t);         \
  template void row_products<T>(const T*, const T*, T*, int, int64_t);              \
  template void scale_rows<T>(const T*, const T*, T*, int, int64_t);                \
  template void linear_combination<T>(T, const T*, T, const T*, T*, int, int64_t);  \
  template T doubt<T>(const T*, int, int, int64_t);                                 \
  template void update_maxima<T>(const T*, T*, int, int64_t);                       \
  template void rearrange<T>(const T*, int, const int32_t*, T, T*, int, int64_t);   \
  template void lower_rows<T>(const T*, const T*, T*, int, int64_t);                \
  template void compare_run<T>(const T*, const T*, T*, T*, int, int64_t);
CRFRNN_INSTANTIATE(float)
CRFRNN_INSTANTIATE(double)
#undef CRFRNN_INSTANTIATE

}  // namespace crfrnn::CRFRNN_TARGET
