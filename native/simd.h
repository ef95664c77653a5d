// Vectors of W lanes, and rows of any number of lanes made of them. Included by the files of loops, which are compiled once for
// each instruction set. CRFRNN_TARGET is the namespace, so that no two compilations share a symbol.
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>

// Vector types of GCC from 12 on and of Clang; any other compiler (or -DCRFRNN_PLAIN) gets plain loops over arrays.
#if defined(__GNUC__) && defined(__has_builtin) && !defined(CRFRNN_PLAIN)
#if __has_builtin(__builtin_shufflevector)
#define CRFRNN_VECTORS
#endif
#endif

namespace crfrnn::CRFRNN_TARGET {

#if defined(__AVX512F__)
constexpr int vector_bytes = 64;
#elif defined(__AVX2__)
constexpr int vector_bytes = 32;
#else
constexpr int vector_bytes = 16;
#endif

#if defined(CRFRNN_VECTORS)
#define CRFRNN_INLINE inline __attribute__((always_inline))
// For a lambda that is called with several widths. If it were not inlined, its loop would read what it captures from memory.
#define CRFRNN_INLINE_LAMBDA __attribute__((always_inline))
#define CRFRNN_UNROLL _Pragma("GCC unroll 8")  // loops whose bodies keep vectors in registers
template <class T, int W>
struct VecOf {
  typedef T type __attribute__((vector_size(W * sizeof(T))));
};
template <class T>
struct VecOf<T, 1> {
  typedef T type;
};
template <class T, int W>
using Vec = typename VecOf<T, W>::type;
template <int K, class V, int... I>
CRFRNN_INLINE V exchange_lanes(V v, std::integer_sequence<int, I...>) {
  return __builtin_shufflevector(v, v, (I ^ K)...);
}
// Lane i of the result is lane i ^ K of v.
template <int K, class T, int W>
CRFRNN_INLINE Vec<T, W> exchanged(Vec<T, W> v) {
  return exchange_lanes<K>(v, std::make_integer_sequence<int, W>{});
}
template <class T, int W, int... I>
CRFRNN_INLINE Vec<T, 2 * W> join_lanes(Vec<T, W> a, Vec<T, W> b, std::integer_sequence<int, I...>) {
  return __builtin_shufflevector(a, b, I...);
}
template <int H, class T, int W, int... I>
CRFRNN_INLINE Vec<T, W> half_lanes(Vec<T, 2 * W> v, std::integer_sequence<int, I...>) {
  return __builtin_shufflevector(v, v, (H * W + I)...);
}
// Two vectors of W lanes as one, and back.
template <class T, int W>
CRFRNN_INLINE Vec<T, 2 * W> joined(Vec<T, W> a, Vec<T, W> b) {
  return join_lanes<T, W>(a, b, std::make_integer_sequence<int, 2 * W>{});
}
template <int H, class T, int W>
CRFRNN_INLINE Vec<T, W> half(Vec<T, 2 * W> v) {
  return half_lanes<H, T, W>(v, std::make_integer_sequence<int, W>{});
}
template <int K, bool Second, class T, int W, int... I>
CRFRNN_INLINE Vec<T, W> interleave_lanes(Vec<T, W> a, Vec<T, W> b, std::integer_sequence<int, I...>) {
  return __builtin_shufflevector(a, b, (Second ? (I & K ? W + I : I + K) : (I & K ? W + I - K : I))...);
}
// Takes a and b as runs of K lanes. The result has the even runs of a and b in turn, or the odd ones.
template <int K, bool Second, class T, int W>
CRFRNN_INLINE Vec<T, W> interleaved(Vec<T, W> a, Vec<T, W> b) {
  return interleave_lanes<K, Second, T, W>(a, b, std::make_integer_sequence<int, W>{});
}
// W numbers, of which every G neighbours are one of those at p.
template <int G, class T, int W>
CRFRNN_INLINE Vec<T, W> spread(const T* p) {
  if constexpr (G == 1) {
    Vec<T, W> v;
    std::memcpy(&v, p, sizeof v);
    return v;
  } else if constexpr (G == W) {
    return Vec<T, W>{} + p[0];
  } else {
    return joined<T, W / 2>(spread<G, T, W / 2>(p), spread<G, T, W / 2>(p + W / 2 / G));
  }
}
template <int Times, class T, int W, int... I>
CRFRNN_INLINE Vec<T, 2 * W> repeat_lanes(Vec<T, W> v, std::integer_sequence<int, I...>) {
  return __builtin_shufflevector(v, v, (I / Times)...);
}
// The first lanes of v, each several times: a a b b c c … They are as many as fill Lanes. GCC turns a shuffle to more than
// twice as many lanes into stores, so v grows first.
template <int Times, int Lanes, class T, int W>
CRFRNN_INLINE Vec<T, Lanes> repeated(Vec<T, W> v) {
  if constexpr (Times == 1) {
    return v;
  } else if constexpr (2 * W == Lanes) {
    return repeat_lanes<Times, T, W>(v, std::make_integer_sequence<int, Lanes>{});
  } else {
    return repeated<Times, Lanes, T, 2 * W>(joined<T, W>(v, v));
  }
}
CRFRNN_INLINE void prefetch(const void* address) { __builtin_prefetch(address); }
CRFRNN_INLINE void prefetch_to_write(const void* address) { __builtin_prefetch(address, 1); }
#else
#define CRFRNN_INLINE inline
#define CRFRNN_INLINE_LAMBDA
#define CRFRNN_UNROLL
template <class T, int W>
struct Vec {
  T lane[W];
  T& operator[](int i) { return lane[i]; }
  T operator[](int i) const { return lane[i]; }
#define CRFRNN_OPERATOR(op)                                            \
  friend Vec operator op(Vec a, Vec b) {                               \
    for (int i = 0; i < W; ++i) a.lane[i] = T(a.lane[i] op b.lane[i]); \
    return a;                                                          \
  }                                                                    \
  friend Vec operator op(Vec a, T b) {                                 \
    for (int i = 0; i < W; ++i) a.lane[i] = T(a.lane[i] op b);         \
    return a;                                                          \
  }
  CRFRNN_OPERATOR(+) CRFRNN_OPERATOR(-) CRFRNN_OPERATOR(*) CRFRNN_OPERATOR(/)
#undef CRFRNN_OPERATOR
};
template <int K, class T, int W>
CRFRNN_INLINE Vec<T, W> exchanged(Vec<T, W> v) {
  Vec<T, W> r;
  for (int i = 0; i < W; ++i) r.lane[i] = v.lane[i ^ K];
  return r;
}
template <class T, int W>
CRFRNN_INLINE Vec<T, 2 * W> joined(Vec<T, W> a, Vec<T, W> b) {
  Vec<T, 2 * W> r;
  for (int i = 0; i < W; ++i) r.lane[i] = a.lane[i], r.lane[W + i] = b.lane[i];
  return r;
}
template <int H, class T, int W>
CRFRNN_INLINE Vec<T, W> half(Vec<T, 2 * W> v) {
  Vec<T, W> r;
  for (int i = 0; i < W; ++i) r.lane[i] = v.lane[H * W + i];
  return r;
}
template <int K, bool Second, class T, int W>
CRFRNN_INLINE Vec<T, W> interleaved(Vec<T, W> a, Vec<T, W> b) {
  Vec<T, W> r;
  for (int i = 0; i < W; ++i) r.lane[i] = Second ? (i & K ? b.lane[i] : a.lane[i + K]) : (i & K ? b.lane[i - K] : a.lane[i]);
  return r;
}
template <int G, class T, int W>
CRFRNN_INLINE Vec<T, W> spread(const T* p) {
  Vec<T, W> r;
  for (int i = 0; i < W; ++i) r.lane[i] = p[i / G];
  return r;
}
template <int Times, int Lanes, class T, int W>
CRFRNN_INLINE Vec<T, Lanes> repeated(Vec<T, W> v) {
  Vec<T, Lanes> r;
  for (int i = 0; i < Lanes; ++i) r.lane[i] = v.lane[i / Times];
  return r;
}
CRFRNN_INLINE void prefetch(const void*) {}
CRFRNN_INLINE void prefetch_to_write(const void*) {}
#endif

template <class V, class T>
CRFRNN_INLINE V load(const T* p) {
  V v;
  std::memcpy(&v, p, sizeof v);
  return v;
}

template <class T>
constexpr int line = 64 / static_cast<int>(sizeof(T));

template <class T>
constexpr int lanes = vector_bytes / static_cast<int>(sizeof(T));

// A piece of a row: 8 numbers, or as many as a vector holds if that is less.
template <class T>
constexpr int piece = lanes<T> < 8 ? lanes<T> : 8;

constexpr int power_of_two_below(int n) {
  int p = 1;
  while (2 * p <= n) p *= 2;
  return p;
}

// The place of number `First` of row v, where `count` rows of `Width` numbers are kept in planes (see Planes below).
template <class T, int First, int Width>
CRFRNN_INLINE int64_t in_planes(int64_t count, int64_t v) {
  constexpr int plane = First / line<T>, left = Width - plane * line<T>;
  return plane * line<T> * count + v * (left < line<T> ? left : line<T>)+First % line<T>;
}

struct Max {
  template <class V>
  CRFRNN_INLINE V operator()(V a, V b) const {
#if defined(CRFRNN_VECTORS)
    return a > b ? a : b;
#else
    for (int i = 0; i < int(sizeof a.lane / sizeof a.lane[0]); ++i) a.lane[i] = a.lane[i] > b.lane[i] ? a.lane[i] : b.lane[i];
    return a;
#endif
  }
};

struct Min {
  template <class V>
  CRFRNN_INLINE V operator()(V a, V b) const {
#if defined(CRFRNN_VECTORS)
    return a < b ? a : b;
#else
    for (int i = 0; i < int(sizeof a.lane / sizeof a.lane[0]); ++i) a.lane[i] = a.lane[i] < b.lane[i] ? a.lane[i] : b.lane[i];
    return a;
#endif
  }
};

struct Sum {
  template <class V>
  CRFRNN_INLINE V operator()(V a, V b) const {
    return a + b;
  }
};
// The sum or the maximum of every G neighbouring lanes, in all of these lanes.
template <int G, class T, int W, class Op>
CRFRNN_INLINE Vec<T, W> reduce_groups(Vec<T, W> v, Op op) {
  if constexpr (G > 16) v = op(v, exchanged<16, T, W>(v));
  if constexpr (G > 8) v = op(v, exchanged<8, T, W>(v));
  if constexpr (G > 4) v = op(v, exchanged<4, T, W>(v));
  if constexpr (G > 2) v = op(v, exchanged<2, T, W>(v));
  if constexpr (G > 1) v = op(v, exchanged<1, T, W>(v));
  return v;
}

template <class T, int W>
CRFRNN_INLINE T first_lane(Vec<T, W> v) {
  if constexpr (W == 1 && std::is_same_v<Vec<T, W>, T>) {
    return v;
  } else {
    return v[0];
  }
}

// The sum of lanes that lie S apart, for each of the first S.
template <int S, class T, int W>
CRFRNN_INLINE Vec<T, S> folded(Vec<T, W> v) {
  if constexpr (S == W) {
    return v;
  } else {
    return folded<S, T, W / 2>(half<0, T, W / 2>(v) + half<1, T, W / 2>(v));
  }
}

// Lane k of the result is the sum of the lanes of vector k.
template <class T, int S>
CRFRNN_INLINE Vec<T, S> lane_sums(Vec<T, S> (&v)[S]) {
  auto add_runs = [&](auto step) CRFRNN_INLINE_LAMBDA {
    for (int k = 0; k < S; ++k)
      if (!(k & step()) && k < 2 * step())
        v[k] = interleaved<step(), false, T, S>(v[k], v[k + step()]) + interleaved<step(), true, T, S>(v[k], v[k + step()]);
  };
  if constexpr (S > 4) add_runs(std::integral_constant<int, 4>{});
  if constexpr (S > 2) add_runs(std::integral_constant<int, 2>{});
  if constexpr (S > 1) add_runs(std::integral_constant<int, 1>{});
  return v[0];
}

// W numbers kept in as few vector registers as they fit: 24 floats are one vector of 16 and one of 8.
template <class T, int W>
struct Row {
  static constexpr int P = power_of_two_below(W < lanes<T> ? W : lanes<T>);
  using Tail = Row<T, W - P>;
  Vec<T, P> head;
  Tail tail;

  static CRFRNN_INLINE Row read(const T* p) { return {load<Vec<T, P>>(p), Tail::read(p + P)}; }
  static CRFRNN_INLINE Row zero() { return {Vec<T, P>{}, Tail::zero()}; }
  // The lanes from `First` on of a row of `Width` numbers that is kept in planes.
  template <int First, int Width>
  static CRFRNN_INLINE Row read_planes(const T* planes, int64_t count, int64_t v) {
    return {load<Vec<T, P>>(planes + in_planes<T, First, Width>(count, v)),
            Tail::template read_planes<First + P, Width>(planes, count, v)};
  }
  template <int First, int Width>
  CRFRNN_INLINE void write_planes(T* planes, int64_t count, int64_t v) const {
    std::memcpy(planes + in_planes<T, First, Width>(count, v), &head, sizeof head);
    tail.template write_planes<First + P, Width>(planes, count, v);
  }
  CRFRNN_INLINE void write(T* p) const {
    std::memcpy(p, &head, sizeof head);
    tail.write(p + P);
  }
  CRFRNN_INLINE void add(const Row& r) { head = head + r.head, tail.add(r.tail); }
  CRFRNN_INLINE void add(const Row& r, T weight) { head = head + r.head * weight, tail.add(r.tail, weight); }
  CRFRNN_INLINE void subtract(const Row& r, T weight) { head = head - r.head * weight, tail.subtract(r.tail, weight); }
  CRFRNN_INLINE void add_product(const Row& r, const Row& s) {
    head = head + r.head * s.head, tail.add_product(r.tail, s.tail);
  }
  CRFRNN_INLINE void subtract_product(const Row& r, const Row& s) {
    head = head - r.head * s.head, tail.subtract_product(r.tail, s.tail);
  }
  // The products of lanes, summed up for lanes that lie S apart.
  template <int S>
  CRFRNN_INLINE Vec<T, S> folded_products(const Row& r) const {
    const Vec<T, S> sums = folded<S, T, P>(head * r.head);
    if constexpr (W == P) {
      return sums;
    } else {
      return sums + tail.template folded_products<S>(r.tail);
    }
  }
  // The sums of lanes that lie S apart.
  template <int S>
  CRFRNN_INLINE Vec<T, S> folded_lanes() const {
    const Vec<T, S> sums = folded<S, T, P>(head);
    if constexpr (W == P) {
      return sums;
    } else {
      return sums + tail.template folded_lanes<S>();
    }
  }
  CRFRNN_INLINE void scale(T factor) { head = head * factor, tail.scale(factor); }
  CRFRNN_INLINE void subtract(T number) { head = head - (Vec<T, P>{} + number), tail.subtract(number); }
  CRFRNN_INLINE void keep_larger(const Row& r) { head = Max{}(head, r.head), tail.keep_larger(r.tail); }
  CRFRNN_INLINE T largest_magnitude() const {
    const T head_largest = first_lane<T, P>(reduce_groups<P, T, P>(Max{}(head, Vec<T, P>{} - head), Max{}));
    const T tail_largest = tail.largest_magnitude();
    return head_largest > tail_largest ? head_largest : tail_largest;
  }
};

template <class T>
struct Row<T, 0> {
  static CRFRNN_INLINE Row read(const T*) { return {}; }
  template <int First, int Width>
  static CRFRNN_INLINE Row read_planes(const T*, int64_t, int64_t) {
    return {};
  }
  template <int First, int Width>
  CRFRNN_INLINE void write_planes(T*, int64_t, int64_t) const {}
  static CRFRNN_INLINE Row zero() { return {}; }
  CRFRNN_INLINE void write(T*) const {}
  CRFRNN_INLINE void add(const Row&) {}
  CRFRNN_INLINE void add(const Row&, T) {}
  CRFRNN_INLINE void subtract(const Row&, T) {}
  CRFRNN_INLINE void add_product(const Row&, const Row&) {}
  CRFRNN_INLINE void subtract_product(const Row&, const Row&) {}
  CRFRNN_INLINE void scale(T) {}
  CRFRNN_INLINE void subtract(T) {}
  CRFRNN_INLINE void keep_larger(const Row&) {}
  CRFRNN_INLINE T largest_magnitude() const { return 0; }
};

// Calls f(W, first) for channels [first, first + W) until they cover a row. W is a constant. Rows of up to 32 channels, which
// fit the registers, take one call.
template <class F>
CRFRNN_INLINE void for_widths(int channels, F f) {
  int first = 0;
  for (; channels - first > 32; first += 32) f(std::integral_constant<int, 32>{}, first);
  switch (channels - first) {
    case 1:
      return f(std::integral_constant<int, 1>{}, first);
    case 2:
      return f(std::integral_constant<int, 2>{}, first);
    case 4:
      return f(std::integral_constant<int, 4>{}, first);
    case 8:
      return f(std::integral_constant<int, 8>{}, first);
    case 16:
      return f(std::integral_constant<int, 16>{}, first);
    case 24:
      return f(std::integral_constant<int, 24>{}, first);
    default:
      return f(std::integral_constant<int, 32>{}, first);
  }
}

// W channels, from the first one on, of `count` rows. The rows of vertices are read in no order, so they are kept in planes:
// the first cache line of all rows, then the second, and so on; the last plane has what is left of a row. So no access to a row
// crosses a cache line.
template <class T, int W>
struct Planes {
  Planes(T* values, int64_t count, int first_channel) : start(values + count * first_channel), count(count) {}
  CRFRNN_INLINE Row<T, W> read(int64_t v) const { return Row<T, W>::template read_planes<0, W>(start, count, v); }
  CRFRNN_INLINE void write(int64_t v, const Row<T, W>& row) const { row.template write_planes<0, W>(start, count, v); }
  CRFRNN_INLINE void fetch(int64_t v) const {
    prefetch(start + in_planes<T, 0, W>(count, v));
    if constexpr (W > line<T>) prefetch(start + in_planes<T, line<T>, W>(count, v));
    if constexpr (W > 2 * line<T>) prefetch(start + in_planes<T, 2 * line<T>, W>(count, v));
    if constexpr (W > 3 * line<T>) prefetch(start + in_planes<T, 3 * line<T>, W>(count, v));
  }
  // Whether the rows take more than so many bytes. If they take less, the nearer caches hold them, and fetching them early
  // costs more than it saves.
  CRFRNN_INLINE bool beyond(int64_t bytes) const { return count * W * static_cast<int64_t>(sizeof(T)) > bytes; }
  T* start;
  int64_t count;
};

// exp to the last bit or two, for x up to 88, and 0 where x < log(smallest normal number). Multiplying by 2^n adds n to the
// exponent.
template <class T>
struct ExpConstants;
template <>
struct ExpConstants<float> {
  using Bits = int32_t;
  static constexpr float magic = 12582912.f, lowest = -87.f, ln2_high = 0.693359375f, ln2_low = -2.12194440e-4f;
  static constexpr int degree = 7, mantissa = 23;
};
template <>
struct ExpConstants<double> {
  using Bits = int64_t;
  static constexpr double magic = 6755399441055744.0, lowest = -708.0, ln2_high = 6.93147180369123816490e-01,
                          ln2_low = 1.90821492927058770002e-10;
  static constexpr int degree = 13, mantissa = 52;
};
template <class T>
struct Factorials {
  T inverse[16];
  constexpr Factorials() : inverse{} {
    double f = 1;
    for (int i = 0; i < 16; ++i) {
      if (i) f *= i;
      inverse[i] = T(1 / f);
    }
  }
};
template <class T, int W>
CRFRNN_INLINE Vec<T, W> exponential(Vec<T, W> x) {
  using C = ExpConstants<T>;
  constexpr Factorials<T> factorials;
#if defined(CRFRNN_VECTORS)
  const auto keep = x > C::lowest;
  x = keep ? x : Vec<T, W>{} + C::lowest;
  const Vec<T, W> t = x * T(1.4426950408889634) + C::magic;
  const Vec<T, W> n = t - C::magic;
  const Vec<T, W> r = (x - n * C::ln2_high) - n * C::ln2_low;
  Vec<T, W> p = Vec<T, W>{} + factorials.inverse[C::degree];
  for (int i = C::degree - 1; i >= 0; --i) p = p * r + factorials.inverse[i];
  using B = Vec<typename C::Bits, W>;
  constexpr typename C::Bits one = 1;
  const B scaled = (B)p + ((B)t << (C::mantissa + 0 * one));
  return keep ? (Vec<T, W>)scaled : Vec<T, W>{};
#else
  for (int i = 0; i < W; ++i) {
    const T v = x.lane[i];
    if (!(v > C::lowest)) {
      x.lane[i] = 0;
      continue;
    }
    const T t = v * T(1.4426950408889634) + C::magic, n = t - C::magic, r = (v - n * C::ln2_high) - n * C::ln2_low;
    T p = factorials.inverse[C::degree];
    for (int j = C::degree - 1; j >= 0; --j) p = p * r + factorials.inverse[j];
    typename C::Bits a, b;
    std::memcpy(&a, &p, sizeof a), std::memcpy(&b, &t, sizeof b);
    a += static_cast<typename C::Bits>(static_cast<std::make_unsigned_t<typename C::Bits>>(b) << C::mantissa);
    std::memcpy(&x.lane[i], &a, sizeof a);
  }
  return x;
#endif
}

}  // namespace crfrnn::CRFRNN_TARGET
