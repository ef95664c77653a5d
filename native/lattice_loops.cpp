// Splat, gather, blur and slice: the loops of the lattice.
#include <algorithm>

#include "epilogue.h"
#include "loops.h"
#include "simd.h"

namespace crfrnn::CRFRNN_TARGET {

// How many points or vertices ahead rows are fetched. Their places are known, but scattered.
constexpr int ahead = 8;

// Calls f(corners), with a constant for the 5 features of a colour photo.
template <class F>
CRFRNN_INLINE void with_corners(int corners, F f) {
  if (corners == 6) return f(std::integral_constant<int, 6>{});
  f(corners);
}

template <class T>
void splat(T* sums, int64_t count, const int32_t* sum_rows, const T* weights, int corners_given, const T* rows, const T* scale,
           int channels, int64_t n) {
  with_corners(corners_given, [&](auto corners) CRFRNN_INLINE_LAMBDA {
    for_widths(channels, [&](auto width, int first) CRFRNN_INLINE_LAMBDA {
      const Planes<T, width()> planes(sums, count, first);
      for (int64_t i = 0; i < n; ++i) {
        prefetch_next_tile(sum_rows + i * corners, corners, corners);
        prefetch_next_tile(weights + i * corners, corners, corners);
        if (planes.beyond(16 << 20) && i + ahead < n)
          for (int k = 0; k < corners; ++k) planes.fetch(sum_rows[(i + ahead) * corners + k]);
        auto row = Row<T, width()>::read(rows + i * channels + first);
        if (scale) row.scale(scale[i]);
        for (int k = 0; k < corners; ++k) {
          const int32_t r = sum_rows[i * corners + k];
          auto sum = planes.read(r);
          sum.add(row, weights[i * corners + k]);
          planes.write(r, sum);
        }
      }
    });
  });
}

template <class T>
void slice(const T* values, int64_t count, const int32_t* vertices, const T* weights, int corners_given, T factor,
           const T* scale, const T* coupling, const T* from, T* rows, int channels, int64_t n) {
  with_corners(corners_given, [&](auto corners) CRFRNN_INLINE_LAMBDA {
    for_widths(channels, [&](auto width, int first) CRFRNN_INLINE_LAMBDA {
      using R = Row<T, width()>;
      const Planes<T, width()> planes(const_cast<T*>(values), count, first);
      const Epilogue<T, width()> finish{scale, coupling, from, rows, channels, first};
      for (int64_t i = 0; i < n; ++i) {
        prefetch_next_tile(vertices + i * corners, corners, corners);
        prefetch_next_tile(weights + i * corners, corners, corners);
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
void slice_with_products(const T* received, const T* sent, int64_t count, const int32_t* vertices, const T* weights,
                         int corners_given, T factor, const T* g, const T* v, const T* pre, const T* post, T* rows, T* sums,
                         int channels, int64_t n) {
  const int padded = padded_sums(corners_given);
  with_corners(corners_given, [&](auto corners) CRFRNN_INLINE_LAMBDA {
    for_widths(channels, [&](auto width, int first) CRFRNN_INLINE_LAMBDA {
      constexpr int W = width(), S = W < piece<T> ? W : piece<T>;
      using R = Row<T, W>;
      const Planes<T, W> to_point(const_cast<T*>(received), count, first), from_point(const_cast<T*>(sent), count, first);
      for (int64_t i = 0; i < n; ++i) {
        const int32_t* const vertex = vertices + i * corners;
        const T* const weight = weights + i * corners;
        const int64_t at = i * channels + first;
        prefetch_next_tile(vertex, corners, corners);
        prefetch_next_tile(weight, corners, corners);
        prefetch_next_tile(g + at, channels, W);
        prefetch_next_tile(sums + i * padded, padded, padded);
        if (to_point.beyond(1 << 20) && i + ahead < n)
          for (int k = 0; k < corners; ++k)
            to_point.fetch(vertex[ahead * corners + k]), from_point.fetch(vertex[ahead * corners + k]);
        R from = R::read(v + at), row = R::zero(), message = R::zero();
        const R to = R::read(g + at);
        const T post_factor = post ? post[i] : T(1), pre_factor = pre ? pre[i] : T(1);
        R scaled_to = to;
        scaled_to.scale(post_factor), from.scale(pre_factor);
        for (int k = 0; k <= corners; k += S) {
          Vec<T, S> products[S];
          CRFRNN_UNROLL for (int j = 0; j < S; ++j) {
            products[j] = Vec<T, S>{};
            if (k + j == corners) products[j] = message.template folded_products<S>(to);
            if (k + j >= corners) continue;
            const R arriving = to_point.read(vertex[k + j]), leaving = from_point.read(vertex[k + j]);
            message.add(arriving, weight[k + j]), row.add(leaving, weight[k + j]);
            R both = R::zero();
            both.add_product(arriving, scaled_to), both.add_product(leaving, from);
            products[j] = both.template folded_lanes<S>();
          }
          T* const sum = sums + i * padded + k;
          const Vec<T, S> total = load<Vec<T, S>>(sum) + lane_sums<T, S>(products);
          std::memcpy(sum, &total, sizeof total);
        }
        row.scale(factor);
        row.write(rows + at);
      }
    });
  });
}

template <class T>
void gather(T* values, int64_t count, const T* sums, int64_t sums_count, const int32_t* rows, int64_t length, int64_t vertex,
            int channels) {
  for_widths(channels, [&](auto width, int first) {
    using R = Row<T, width()>;
    const Planes<T, width()> from(const_cast<T*>(sums), sums_count, first), to(values, count, first);
    int64_t v = vertex;
    R sum = R::zero();
    T kept = 0;                             // 0 where a vertex begins, else 1
    for (int64_t i = 0; i < length; ++i) {  // where a vertex ends cannot be predicted, so there is no branch on it
      const int32_t row = rows[i], last = row >> 31;
      if (from.beyond(1 << 20) && i + 2 * ahead < length) from.fetch(rows[i + 2 * ahead] ^ (rows[i + 2 * ahead] >> 31));
      R next = from.read(row ^ last);
      next.add(sum, kept);
      to.write(v, next);
      v -= last;
      sum = next, kept = T(1 + last);
    }
  });
}

template <class T>
void blur(T* values, int64_t count, const int32_t* chain, int64_t length, int channels) {
  if (length == 0) return;
  for_widths(channels, [&](auto width, int first) {
    using R = Row<T, width()>;
    const Planes<T, width()> planes(values, count, first);
    static constexpr T links[2] = {T(0.5), T(0)};  // no branch on where a chain ends: a link that is not there weighs 0
    R before = R::zero(), here = planes.read(chain[0]);
    int64_t place = chain[0];
    uint32_t ends = 0;  // whether a chain ends here
    for (int64_t i = 1; i < length; ++i) {
      if (planes.beyond(1 << 20) && i + 2 * ahead < length) planes.fetch(chain[i + 2 * ahead] ^ (chain[i + 2 * ahead] >> 31));
      const int64_t next_place = chain[i] ^ (chain[i] >> 31);
      const R next = planes.read(next_place);
      const T link = links[ends];
      before.add(here), before.add(next, link);
      planes.write(place, before);
      before = here, before.scale(link);
      here = next, place = next_place, ends = static_cast<uint32_t>(chain[i]) >> 31;
    }
    before.add(here);
    planes.write(place, before);
  });
}

template <class T>
void follow(const T* values, T* before, int64_t count, T* change, int channels, int64_t begin, int64_t end) {
  std::fill(change + begin, change + end, T(0));
  for_widths(channels, [&](auto width, int first) {
    using R = Row<T, width()>;
    const Planes<T, width()> now(const_cast<T*>(values), count, first), then(before, count, first);
    for (int64_t v = begin; v < end; ++v) {
      const R row = now.read(v);
      R difference = then.read(v);
      difference.add(row, T(-1));
      then.write(v, row);
      const T largest = difference.largest_magnitude();
      change[v] = largest > change[v] ? largest : change[v];
    }
  });
}

#define CRFRNN_INSTANTIATE(T)                                                                                                  \
  template void follow<T>(const T*, T*, int64_t, T*, int, int64_t, int64_t);                                                   \
  template void splat<T>(T*, int64_t, const int32_t*, const T*, int, const T*, const T*, int, int64_t);                        \
  template void slice<T>(const T*, int64_t, const int32_t*, const T*, int, T, const T*, const T*, const T*, T*, int, int64_t); \
  template void slice_with_products<T>(const T*, const T*, int64_t, const int32_t*, const T*, int, T, const T*, const T*,      \
                                       const T*, const T*, T*, T*, int, int64_t);                                              \
  template void gather<T>(T*, int64_t, const T*, int64_t, const int32_t*, int64_t, int64_t, int);                              \
  template void blur<T>(T*, int64_t, const int32_t*, int64_t, int);
CRFRNN_INSTANTIATE(float)
CRFRNN_INSTANTIATE(double)
#undef CRFRNN_INSTANTIATE

}  // namespace crfrnn::CRFRNN_TARGET
