#include "loops.h"

#include "simd.h"

namespace crfrnn::CRFRNN_TARGET {
namespace {

// How many points or vertices ahead rows at known but scattered places are fetched.
constexpr int ahead = 8;

// A row of a long stream that will be worked on a tile later: the hardware's own prefetching does not keep up.
template <class T>
CRFRNN_INLINE void prefetch_next_tile(const T* row, int channels, int width) {
  row += int64_t(tile) * channels;
  prefetch(row);
  if (width * sizeof(T) > 32) prefetch(row + width - 1);
}

// What becomes of the message of a point: scaled and written, or weighted by class and taken from the scores `from`.
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

// Calls f(corners), as a constant for the features of a colour photo.
template <class F>
CRFRNN_INLINE void with_corners(int corners, F f) {
  if (corners == 6) return f(std::integral_constant<int, 6>{});
  f(corners);
}

template <class T>
void splat(T* sums, int64_t count, const int32_t* vertices, const T* weights, int corners_given, const T* rows, const T* scale,
           int channels, int64_t n) {
  with_corners(corners_given, [&](auto corners) {
    for_blocks(channels, [&](auto width, int first) {
      const Planes<T, width()> planes(sums, count, first);
      for (int64_t i = 0; i < n; ++i) {
        if (planes.beyond(16 << 20) && i + ahead < n)
          for (int k = 0; k < corners; ++k) planes.fetch(vertices[(i + ahead) * corners + k]);
        auto row = Row<T, width()>::read(rows + i * channels + first);
        if (scale) row.scale(scale[i]);
        for (int k = 0; k < corners; ++k) {
          const int32_t v = vertices[i * corners + k];
          auto sum = planes.read(v);
          sum.add(row, weights[i * corners + k]);
          planes.write(v, sum);
        }
      }
    });
  });
}

template <class T>
void slice(const T* values, int64_t count, const int32_t* vertices, const T* weights, int corners_given, T factor, const T* scale,
           const T* coupling, const T* from, T* rows, int channels, int64_t n) {
  with_corners(corners_given, [&](auto corners) {
    for_blocks(channels, [&](auto width, int first) {
      using R = Row<T, width()>;
      const Planes<T, width()> planes(const_cast<T*>(values), count, first);
      const Epilogue<T, width()> finish{scale, coupling, from, rows, channels, first};
      for (int64_t i = 0; i < n; ++i) {
        if (planes.beyond(1 << 20) && i + ahead < n)
          for (int k = 0; k < corners; ++k) planes.fetch(vertices[(i + ahead) * corners + k]);
        R sum = R::zero();
        for (int k = 0; k < corners; ++k) sum.add(planes.read(vertices[i * corners + k]), weights[i * corners + k]);
        finish(i, sum, factor);
      }
    });
  });
}

template <class T>
void gather(T* values, int64_t count, const T* sums, int64_t sums_count, const int32_t* rows, int64_t length, int64_t vertex,
            int channels) {
  for_blocks(channels, [&](auto width, int first) {
    using R = Row<T, width()>;
    const Planes<T, width()> from(const_cast<T*>(sums), sums_count, first), to(values, count, first);
    int64_t v = vertex;
    R sum = R::zero();
    for (int64_t i = 0; i < length; ++i) {  // no branch on where a vertex ends: that is anybody's guess
      const int32_t row = rows[i], last = row >> 31;
      if (from.beyond(1 << 20) && i + 2 * ahead < length) from.fetch(rows[i + 2 * ahead] ^ (rows[i + 2 * ahead] >> 31));
      sum.add(from.read(row ^ last));
      to.write(v, sum);
      v -= last;
      sum.scale(T(1 + last));
    }
  });
}

template <class T>
void blur(T* values, int64_t count, const int32_t* chain, int64_t length, int channels) {
  if (length == 0) return;
  for_blocks(channels, [&](auto width, int first) {
    using R = Row<T, width()>;
    const Planes<T, width()> planes(values, count, first);
    R before = R::zero(), here = planes.read(chain[0]);
    for (int64_t i = 0; i + 1 < length; ++i) {  // nor here on where a chain ends: a link that is not there weighs nothing
      const int32_t v = chain[i], last = v >> 31, following = chain[i + 1];
      if (planes.beyond(1 << 20) && i + 2 * ahead < length) planes.fetch(chain[i + 2 * ahead] ^ (chain[i + 2 * ahead] >> 31));
      const R next = planes.read(following ^ (following >> 31));
      const T link = T(0.5) * T(1 + last);
      before.add(here), before.add(next, link);
      planes.write(v ^ last, before);
      before = here, before.scale(link);
      here = next;
    }
    before.add(here);
    planes.write(~chain[length - 1], before);
  });
}

// Four outputs share every row of input that is read: their taps lie `spacing` apart, in zeros on both sides.
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
    auto block = [&](auto size, int x) {
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
    for (; x + 2 * L <= width; x += 2 * L) block(std::integral_constant<int, 2 * L>{}, x);
    for (; x < width; ++x) block(std::integral_constant<int, 1>{}, x);
  }
}

constexpr int common_divisor(int a, int b) { return b == 0 ? a : common_divisor(b, a % b); }

template <class T>
void convolve_rows(const T* in, const T* taps, int radius, const T* scale, const T* coupling, const T* from, T* rows, int channels,
                   int64_t n) {
  for_blocks(channels, [&](auto width, int first) {
    // Points are taken together until their channels fill whole vectors; only rows without gaps between them can be.
    constexpr int W = width(), together = lanes<T> / common_divisor(lanes<T>, W);
    const Epilogue<T, W> finish{scale, coupling, from, rows, channels, first};
    const int inputs = 2 * radius + 1;
    int64_t i = 0;
    alignas(64) T points[4 * together * W];
    auto block = [&](auto group, auto outputs) {
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
    if constexpr (together == 1) block(one, four);
    if constexpr (together > 1) {
      if (channels == W) {
        if constexpr (together == 2) block(std::integral_constant<int, 2>{}, four);
        block(std::integral_constant<int, together>{}, one);
      }
    }
    block(one, one);
  });
}

template <class T>
void couple_diagonal(const T* coupling, const T* message, const T* from, T* to, int channels, int64_t n) {
  for_blocks(channels, [&](auto width, int first) {
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
  for_blocks(channels, [&](auto width, int first) {
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
  for_blocks(channels, [&](auto width, int first) {
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
  for_blocks(channels, [&](auto width, int first) {
    using R = Row<T, width()>;
    R sum = R::read(products + first);
    for (int64_t i = 0; i < n; ++i) sum.add_product(R::read(h + i * channels + first), R::read(q + i * channels + first));
    sum.write(products + first);
  });
}

template <class T>
void mix(T a, const T* x, T b, const T* y, T* to, int channels, int64_t n) {
  for (int64_t i = 0; i < n * channels; ++i) to[i] = a * x[i] + b * y[i];
}

template <class T>
void raise(const T* q, T* largest, int channels, int64_t n) {
  for_blocks(channels, [&](auto width, int first) {
    using R = Row<T, width()>;
    R top = R::read(largest + first);
    for (int64_t i = 0; i < n; ++i) top.raise(R::read(q + i * channels + first));
    top.write(largest + first);
  });
}

template <class T>
constexpr Loops<T> table() {
  return {embed<T>,         splat<T>,         slice<T>,          gather<T>,  blur<T>,
          convolve_columns<T>, convolve_rows<T>, gaussian_weights<T>, add_weighted<T>, couple_diagonal<T>, couple_matrix<T>,
          outer_products<T>, diagonal_products<T>,
          softmax<T>,       softmax_vjp<T>,   mix<T>,            raise<T>, rows_from_planes<T>, planes_from_rows<T>};
}

}  // namespace

extern const Loops<float> loops_float = table<float>();
extern const Loops<double> loops_double = table<double>();

}  // namespace crfrnn::CRFRNN_TARGET
