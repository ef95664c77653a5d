// The inner loops over rows of channels: everything that is worth vectorising, and nothing else.
//
// A row holds the `channels` numbers of one point or vertex, padded as padded_channels says. Loops work on the n rows
// they are given and know nothing of lattices, threads or classes. loops.cpp is compiled once for each instruction set;
// loops<T>() is the table of the best one this processor runs.
#pragma once

#include <cstdint>

namespace crfrnn {

constexpr int tile = 64;  // points worked on together; their rows stay in the first-level cache
constexpr int embedding_lanes = 32;
constexpr int tap_margin = 8;

// 1, 2, 4, 8, 16, 24, …: rows stay aligned and no loop has a remainder.
constexpr int padded_channels(int channels) {
  return channels <= 2 ? channels : channels <= 4 ? 4 : (channels + 7) / 8 * 8;
}

template <class T>
struct Loops {
  // Adams, Baek & Davis 2010, section 3: nearest remainder-0 lattice point divided by d + 1 (`cell`, d rows), the order
  // of the coordinates by rank (`order`, d + 1 rows) and barycentric weights (d + 1 rows), for n ≤ embedding_lanes points.
  void (*embed)(const T* features, int64_t n, int d, const T* scale, int32_t* cell, int32_t* order, T* weights);
  // Rows of vertices, and the sums they are made of, are scattered: they are kept in planes (simd.h), `count` rows each.
  // sums[vertex] += weight · scale · row, over the `corners` vertices of each point. scale may be null.
  void (*splat)(T* sums, int64_t count, const int32_t* vertices, const T* weights, int corners, const T* rows, const T* scale,
                int channels, int64_t n);
  // message = scale · factor · Σ weight · values[vertex]; row = message, or with a coupling, from − coupling ⊙ message.
  void (*slice)(const T* values, int64_t count, const int32_t* vertices, const T* weights, int corners, T factor, const T* scale,
                const T* coupling, const T* from, T* rows, int channels, int64_t n);
  // values[v] = Σ sums[r], from `vertex` on, over rows listed by vertex; ~r marks the last row of each.
  void (*gather)(T* values, int64_t count, const T* sums, int64_t sums_count, const int32_t* rows, int64_t length, int64_t vertex,
                 int channels);
  // [½ 1 ½] in place along chains of neighbours; ~v marks the last vertex of a chain.
  void (*blur)(T* values, int64_t count, const int32_t* chain, int64_t length, int channels);
  // Convolves down n rows of `width` numbers, `stride` apart; zero outside. taps: 2·radius + 1 between tap_margin zeros on
  // both sides.
  void (*convolve_columns)(const T* in, T* out, int64_t n, int64_t stride, int width, const T* taps, int radius);
  // message[i] = scale[i] · Σ_k taps[k] · in[i + k], k = 0 … 2·radius; rows as in slice.
  void (*convolve_rows)(const T* in, const T* taps, int radius, const T* scale, const T* coupling, const T* from, T* rows,
                        int channels, int64_t n);
  // weights[i][k] = exp(−½ |row_i − column_k|²) between the points of two blocks of `tile`, given as d rows of features.
  void (*gaussian_weights)(const T* rows, const T* columns, int d, T* weights);
  // sums[i] += Σ_k weights[i][k] · values[k] for rows of values of two such blocks.
  void (*add_weighted)(const T* weights, const T* values, double* sums, int channels);
  // to = from − coupling · message, with a number per channel or a transposed matrix (channels × channels).
  void (*couple_diagonal)(const T* coupling, const T* message, const T* from, T* to, int channels, int64_t n);
  void (*couple_matrix)(const T* coupling_transposed, const T* message, const T* from, T* to, int channels, int64_t n);
  // products[c'][c] += Σ rows q[c'] · h[c];   diagonal: products[c] += Σ rows q[c] · h[c].
  void (*outer_products)(const T* h, const T* q, T* products, int channels, int64_t n);
  void (*diagonal_products)(const T* h, const T* q, T* products, int channels, int64_t n);
  // Rows are read and written up to a multiple of 16.
  void (*softmax)(const T* scores, T* q, int channels, int64_t n);
  // v = q ⊙ (v − ⟨v, q⟩), the vector-Jacobian product of softmax.
  void (*softmax_vjp)(const T* q, T* v, int channels, int64_t n);
  // to = a·x + b·y over whole rows.
  void (*mix)(T a, const T* x, T b, const T* y, T* to, int channels, int64_t n);
  // largest[c] = max(largest[c], q[c]) over the rows.
  void (*raise)(const T* q, T* largest, int channels, int64_t n);
  // Between planes (classes, points), `stride` apart, and rows: channel k is plane which[k], padding is set to `pad`.
  void (*rows_from_planes)(const T* planes, int64_t stride, const int* which, int classes, T pad, T* rows, int channels, int64_t n);
  void (*planes_from_rows)(const T* rows, int channels, T* planes, int64_t stride, int classes, int64_t n);
};

template <class T>
const Loops<T>& loops();

const char* instruction_set();

#define CRFRNN_DECLARE_TARGET(target)    \
  namespace target {                     \
  extern const Loops<float> loops_float; \
  extern const Loops<double> loops_double; \
  }
CRFRNN_DECLARE_TARGET(baseline)
CRFRNN_DECLARE_TARGET(avx2)
CRFRNN_DECLARE_TARGET(avx512)
#undef CRFRNN_DECLARE_TARGET

// The loops that have files of their own, for the others of the same compilation.
#if defined(CRFRNN_TARGET)
namespace CRFRNN_TARGET {
template <class T>
void embed(const T* features, int64_t n, int d, const T* scale, int32_t* cell, int32_t* order, T* weights);
template <class T>
void gaussian_weights(const T* rows, const T* columns, int d, T* weights);
template <class T>
void add_weighted(const T* weights, const T* values, double* sums, int channels);
template <class T>
void softmax(const T* scores, T* q, int channels, int64_t n);
template <class T>
void softmax_vjp(const T* q, T* v, int channels, int64_t n);
template <class T>
void rows_from_planes(const T* planes, int64_t stride, const int* which, int classes, T pad, T* rows, int channels, int64_t n);
template <class T>
void planes_from_rows(const T* rows, int channels, T* planes, int64_t stride, int classes, int64_t n);
}  // namespace CRFRNN_TARGET
#endif

}  // namespace crfrnn
