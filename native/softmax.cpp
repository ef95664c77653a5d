// Softmax over the classes of a row.
#include "loops.h"
#include "simd.h"

namespace crfrnn::CRFRNN_TARGET {

// Rows are read in pieces (simd.h): a vector holds one piece of each of as many points as fit. Rows narrower than a piece lie
// side by side in a vector as they are.
template <class T>
CRFRNN_INLINE Vec<T, lanes<T>> load_pieces(const T* p, int channels) {
  using V = Vec<T, lanes<T>>;
  if constexpr (lanes<T> == piece<T>) {
    return load<V>(p);
  } else {
    static_assert(lanes<T> == 2 * piece<T>);
    Vec<T, piece<T>> halves[2] = {load<Vec<T, piece<T>>>(p), load<Vec<T, piece<T>>>(p + channels)};
    return joined<T, piece<T>>(halves[0], halves[1]);
  }
}

template <class T>
CRFRNN_INLINE void store_pieces(Vec<T, lanes<T>> v, T* p, int channels) {
  if constexpr (lanes<T> == piece<T>) {
    std::memcpy(p, &v, sizeof v);
  } else {
    const auto low = half<0, T, piece<T>>(v), high = half<1, T, piece<T>>(v);
    std::memcpy(p, &low, sizeof low);
    std::memcpy(p + channels, &high, sizeof high);
  }
}

// Calls f(i, count) for the vectors of n numbers, `count` of them in each.
template <class T, class F>
CRFRNN_INLINE void for_vectors(int64_t n, F f) {
  int64_t i = 0;
  for (; i + lanes<T> <= n; i += lanes<T>) f(i, std::integral_constant<int, lanes<T>>{});
  if (i < n) f(i, static_cast<int>(n - i));
}
template <class T, class N>
CRFRNN_INLINE Vec<T, lanes<T>> load_part(const T* p, N count) {
  Vec<T, lanes<T>> v{};
  std::memcpy(&v, p, count * sizeof(T));
  return v;
}

// What rows have beside their classes in the softmax: nothing. Their largest score is subtracted.
template <class T>
struct NoRest {
  using V = Vec<T, lanes<T>>;
  static CRFRNN_INLINE V terms(V scores, V largest) { return exponential<T, lanes<T>>(scores - largest); }
  template <int G>
  CRFRNN_INLINE V inverse(V total, int64_t) {
    return (V{} + T(1)) / total;
  }
};

// One more class, of score log(sum) for each row. The scores are near 0, so their exponentials are taken as they are; that of a
// single channel may be anything, since beyond `most` it has all.
template <class T>
struct Rest {
  using V = Vec<T, lanes<T>>;
  static constexpr T most = 80;
  static CRFRNN_INLINE V terms(V scores, V) { return exponential<T, lanes<T>>(Min{}(scores, V{} + most)); }
  // For a vector with every G lanes of one row: 1 / total, given the sum of the terms of each row. Sees the shares of the rest.
  template <int G>
  CRFRNN_INLINE V inverse(V total, int64_t row) {
    const V term = spread<G, T, lanes<T>>(sum + row), result = (V{} + T(1)) / (total + term), share = term * result;
    if ((n - row) * G >= lanes<T>) {
      largest_share = Max{}(largest_share, share);
    } else {
      T numbers[lanes<T>];
      std::memcpy(numbers, &share, sizeof share);
      largest_share = Max{}(largest_share, load_part(numbers, (n - row) * G));
    }
    return result;
  }
  const T* sum;
  int64_t n;
  V largest_share{};
};

// Rows of G numbers, narrower than a piece.
template <class T, int G, class R>
void softmax_narrow(const T* scores, T* q, int64_t n, R& shared) {
  constexpr int L = lanes<T>;
  constexpr bool has_rest = std::is_same_v<R, Rest<T>>;
  using V = Vec<T, L>;
  R rest = shared;
  for (int64_t i = 0; i < n * G; i += L) {
    const V a = load<V>(scores + i);
    V largest{};
    if constexpr (!has_rest) largest = reduce_groups<G, T, L>(a, Max{});
    const V e = R::terms(a, largest), total = reduce_groups<G, T, L>(e, Sum{});
    V result;
    if constexpr (has_rest) {
      result = e * rest.template inverse<G>(total, i / G);
    } else {
      result = e / total;
    }
    std::memcpy(q + i, &result, sizeof result);
  }
  shared = rest;
}

template <class T, int G>
void softmax_vjp_narrow(const T* q, T* v, const T* from, T* to, int64_t n) {
  constexpr int L = lanes<T>;
  using V = Vec<T, L>;
  for (int64_t i = 0; i < n * G; i += L) {
    const V x = load<V>(q + i), y = load<V>(v + i), result = x * (y - reduce_groups<G, T, L>(x * y, Sum{}));
    std::memcpy(v + i, &result, sizeof result);
    if (from) {
      const V sum = load<V>(from + i) + result;
      std::memcpy(to + i, &sum, sizeof sum);
    }
  }
}

// Rows of any whole number of pieces. Where it is known at compile time (Pieces > 0) the row stays in registers.
template <class T, int Pieces, class R>
void softmax_wide(const T* scores, T* q, int channels, int64_t n, R& shared) {
  constexpr int S = piece<T>, L = lanes<T>;
  constexpr bool has_rest = std::is_same_v<R, Rest<T>>;
  using V = Vec<T, L>;
  const int pieces = Pieces ? Pieces : channels / S;
  V row[Pieces ? Pieces : 1];
  R rest = shared;
  for (int64_t i = 0; i < n; i += L / S, scores += L / S * channels, q += L / S * channels) {
    V largest{};
    if constexpr (!has_rest) {
      largest = load_pieces(scores, channels);
      for (int k = 1; k < pieces; ++k) largest = Max{}(largest, load_pieces(scores + k * S, channels));
      largest = reduce_groups<S, T, L>(largest, Max{});
    }
    V total{};
    for (int k = 0; k < pieces; ++k) {
      const V e = R::terms(load_pieces(scores + k * S, channels), largest);
      total = total + e;
      if constexpr (Pieces > 0) {
        row[k] = e;
      } else {
        store_pieces<T>(e, q + k * S, channels);
      }
    }
    total = reduce_groups<S, T, L>(total, Sum{});
    const V inverse = rest.template inverse<S>(total, i);
    for (int k = 0; k < pieces; ++k)
      store_pieces<T>((Pieces > 0 ? row[k % (Pieces ? Pieces : 1)] : load_pieces(q + k * S, channels)) * inverse, q + k * S,
                      channels);
  }
  shared = rest;
}

template <class T>
void softmax_vjp_wide(const T* q, T* v, const T* from, T* to, int channels, int64_t n) {
  constexpr int S = piece<T>, L = lanes<T>;
  using V = Vec<T, L>;
  for (int64_t i = 0; i < n * channels; i += L / S * channels) {
    for (int64_t j = i; from && j < i + L / S * channels; j += line<T>) prefetch(from + tile_size * channels + j);
    V product{};
    for (int k = 0; k < channels; k += S)
      product = product + load_pieces(q + i + k, channels) * load_pieces(v + i + k, channels);
    product = reduce_groups<S, T, L>(product, Sum{});
    for (int k = 0; k < channels; k += S) {
      const V result = load_pieces(q + i + k, channels) * (load_pieces(v + i + k, channels) - product);
      store_pieces<T>(result, v + i + k, channels);
      if (from) store_pieces<T>(load_pieces(from + i + k, channels) + result, to + i + k, channels);
    }
  }
}

// Calls f(G) with the width of a row narrower than a piece, or returns false.
template <class T, class F>
CRFRNN_INLINE bool if_narrow(int channels, F f) {
  if (channels >= piece<T>) return false;
  if (channels == 1) f(std::integral_constant<int, 1>{});
  if constexpr (piece<T> > 2)
    if (channels == 2) f(std::integral_constant<int, 2>{});
  if constexpr (piece<T> > 4)
    if (channels == 4) f(std::integral_constant<int, 4>{});
  return true;
}

template <class T, class R>
void softmax_of(const T* scores, T* q, int channels, int64_t n, R& rest) {
  if (if_narrow<T>(channels, [&](auto width) { softmax_narrow<T, width()>(scores, q, n, rest); })) return;
  switch (channels / piece<T>) {
    case 1:
      return softmax_wide<T, 1>(scores, q, channels, n, rest);
    case 2:
      return softmax_wide<T, 2>(scores, q, channels, n, rest);
    case 3:
      return softmax_wide<T, 3>(scores, q, channels, n, rest);
    case 4:
      return softmax_wide<T, 4>(scores, q, channels, n, rest);
    default:
      return softmax_wide<T, 0>(scores, q, channels, n, rest);
  }
}

template <class T>
void softmax(const T* scores, T* q, int channels, int64_t n) {
  NoRest<T> rest;
  softmax_of(scores, q, channels, n, rest);
}

template <class T>
T softmax_with_rest(const T* scores, const T* sum, T* q, int channels, int64_t n) {
  Rest<T> rest{sum, n};
  softmax_of(scores, q, channels, n, rest);
  return first_lane<T, lanes<T>>(reduce_groups<lanes<T>, T, lanes<T>>(rest.largest_share, Max{}));
}

// Between 0 and the score, (1 − e)/(1 + e) with e = exp(−2 |score|).
template <class T>
void tanh(const T* scores, T* to, int64_t n) {
  using V = Vec<T, lanes<T>>;
  for_vectors<T>(n, [&](int64_t i, auto count) CRFRNN_INLINE_LAMBDA {
    const V a = load_part(scores + i, count), negative = V{} - Max{}(a, V{} - a);
    const V e = exponential<T, lanes<T>>(negative + negative), minus = (e - T(1)) / (e + T(1));
    const V result = Max{}(minus, V{} - Max{}(V{} - a, minus));
    std::memcpy(to + i, &result, count * sizeof(T));
  });
}

template <class T>
void raise(const T* scores, T* to, int64_t n) {
  for_vectors<T>(n, [&](int64_t i, auto count) CRFRNN_INLINE_LAMBDA {
    const auto higher = Max{}(load_part(to + i, count), load_part(scores + i, count));
    std::memcpy(to + i, &higher, count * sizeof(T));
  });
}

template <class T>
void add_exponentials(const T* scores, const T* top, T* terms, T* sum, int64_t n) {
  for_vectors<T>(n, [&](int64_t i, auto count) CRFRNN_INLINE_LAMBDA {
    const auto e = exponential<T, lanes<T>>(load_part(scores + i, count) - load_part(top + i, count));
    const auto total = load_part(sum + i, count) + e;
    std::memcpy(terms + i, &e, count * sizeof(T));
    std::memcpy(sum + i, &total, count * sizeof(T));
  });
}

template <class T>
T largest_product(const T* terms, const T* factor, int64_t n) {
  Vec<T, lanes<T>> largest{};
  for_vectors<T>(n, [&](int64_t i, auto count) CRFRNN_INLINE_LAMBDA {
    largest = Max{}(largest, load_part(terms + i, count) * load_part(factor + i, count));
  });
  return reduce_groups<lanes<T>, T, lanes<T>>(largest, Max{})[0];
}

template <class T>
void softmax_vjp(const T* q, T* v, const T* from, T* to, int channels, int64_t n) {
  if (!if_narrow<T>(channels, [&](auto width) { softmax_vjp_narrow<T, width()>(q, v, from, to, n); }))
    softmax_vjp_wide(q, v, from, to, channels, n);
}

#define CRFRNN_INSTANTIATE(T)                                             \
  template void softmax<T>(const T*, T*, int, int64_t);                   \
  template T softmax_with_rest<T>(const T*, const T*, T*, int, int64_t);  \
  template void tanh<T>(const T*, T*, int64_t);                           \
  template void raise<T>(const T*, T*, int64_t);                          \
  template void add_exponentials<T>(const T*, const T*, T*, T*, int64_t); \
  template T largest_product<T>(const T*, const T*, int64_t);             \
  template void softmax_vjp<T>(const T*, T*, const T*, T*, int, int64_t);
CRFRNN_INSTANTIATE(float)
CRFRNN_INSTANTIATE(double)
#undef CRFRNN_INSTANTIATE

}  // namespace crfrnn::CRFRNN_TARGET
