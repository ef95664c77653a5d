// The inner loops over rows of channels: everything that is worth vectorising, and nothing else.
//
// A row holds the `channels` numbers of one point or vertex, padded as padded_channels says. Loops work on the n rows that they
// are given and know nothing of threads. They are compiled once for each instruction set; loops<T>() is the table of the best
// one that this processor runs.
#pragma once

#include <cstdint>

namespace crfrnn {

constexpr int tile_size = 64;        // points worked on together: their rows stay in the first-level cache
constexpr int run_size = 16;         // points that are worked out anew together, or not: a part of a tile
constexpr int block_size = 64;       // points of a block of the exact kernel
constexpr int embedding_lanes = 32;  // points embedded together
constexpr int far = 4096;      // in coordinates on the hyperplane: from here on float32 is not exact enough (embedding.cpp)
constexpr int tap_margin = 8;  // zeros on both sides of the taps of a convolution

// 1, 2, 4, 8, 16, 24, …: rows stay aligned, and no loop has a remainder.
constexpr int padded_channels(int channels) { return channels <= 2 ? channels : channels <= 4 ? 4 : (channels + 7) / 8 * 8; }

// The sums of a point, one for each corner and one more, are read and written in whole vectors.
constexpr int padded_sums(int corners) { return (corners + 8) / 8 * 8; }

template <class T>
struct Loops {
  // Adams, Baek & Davis 2010, section 3: nearest remainder-0 lattice point divided by d + 1 (`cell`, d rows), the order
  // of the coordinates by rank (`order`, d + 1 rows) and barycentric weights (d + 1 rows), for n ≤ embedding_lanes points.
  // exact_scale: the scale of points with a coordinate of `far` or more, or null if there are none.
  void (*embed)(const T* features, int64_t n, int d, const T* scale, const double* exact_scale, int32_t* cell, int32_t* order,
                T* weights);
  // sums[p] = start + Σ_j numbers[j][p] · factors[j] modulo 2⁶⁴, for `count` rows of embedding_lanes numbers.
  void (*weighted_sums)(const int32_t* numbers, int count, const uint64_t* factors, uint64_t start, uint64_t* sums);
  // The rows of vertices, and the rows of sums that they are made of, are kept in planes (simd.h), `count` rows each.
  // sums[r] += weight · scale · row, over the `corners` rows r of each point. scale may be null.
  void (*splat)(T* sums, int64_t count, const int32_t* sum_rows, const T* weights, int corners, const T* rows, const T* scale,
                int channels, int64_t n);
  // message = scale · factor · Σ weight · values[vertex]; row = message, or with a coupling, from − coupling ⊙ message.
  void (*slice)(const T* values, int64_t count, const int32_t* vertices, const T* weights, int corners, T factor,
                const T* scale, const T* coupling, const T* from, T* rows, int channels, int64_t n);
  // row = factor · Σ weight · sent[vertex], as slice without a scale. And with values of the vertices from another message: for
  // the corners k of each point, sums[k] += post · ⟨received[vertex k], g⟩ + pre · ⟨sent[vertex k], v⟩, and
  // sums[corners] += Σ weight · ⟨received[vertex k], g⟩. A point has padded_sums(corners). pre and post may be null.
  void (*slice_with_products)(const T* received, const T* sent, int64_t count, const int32_t* vertices, const T* weights,
                              int corners, T factor, const T* g, const T* v, const T* pre, const T* post, T* rows, T* sums,
                              int channels, int64_t n);
  // values[v] = Σ sums[r] for vertices from `vertex` on. Their rows of sums are listed in order, the last one r of each as ~r.
  void (*gather)(T* values, int64_t count, const T* sums, int64_t sums_count, const int32_t* rows, int64_t length,
                 int64_t vertex, int channels);
  // [½ 1 ½] in place along chains of neighbours. The last vertex v of each chain is listed as ~v.
  void (*blur)(T* values, int64_t count, const int32_t* chain, int64_t length, int channels);
  // change[v] = the largest |values[v] − before[v]| of a row, for vertices [begin, end); before[v] = values[v].
  void (*follow)(const T* values, T* before, int64_t count, T* change, int channels, int64_t begin, int64_t end);
  // Convolves the columns of n rows of `width` numbers, `stride` apart, with zero outside. taps: 2·radius + 1, between
  // tap_margin zeros on both sides.
  void (*convolve_columns)(const T* in, T* out, int64_t n, int64_t stride, int width, const T* taps, int radius);
  // message[i] = scale[i] · Σ_k taps[k] · in[i + k], k = 0 … 2·radius; rows as in slice.
  void (*convolve_rows)(const T* in, const T* taps, int radius, const T* scale, const T* coupling, const T* from, T* rows,
                        int channels, int64_t n);
  // `width` numbers of a convolution with symmetric taps, given from the one in the middle on, and of one with slopes in their
  // place: Σ_k taps[|k|] · in[k · stride], k = −before … after. The first one is written, and Σ others ⊙ the second returned.
  // Fetches the numbers at `next` and next_others early.
  T (*convolve_with_slopes)(const T* in, int64_t stride, int64_t before, int64_t after, const T* taps, const T* slopes,
                            const T* others, T* out, int64_t width, const T* next, const T* next_others);
  // weights[i][k] = exp(−½ |row_i − column_k|²) between the points of two blocks of block_size, given as d rows of features.
  void (*gaussian_weights)(const T* rows, const T* columns, int d, T* weights);
  // sums[i] += Σ_k weights[i][k] · values[k] for rows of values of two such blocks.
  void (*add_weighted)(const T* weights, const T* values, double* sums, int channels);
  // weights[i][k] *= ⟨a_i, b_k⟩ + ⟨b_i, a_k⟩ between the points of two such blocks, given as rows of a and then rows of b, one
  // for each channel.
  void (*multiply_by_products)(const T* rows, const T* columns, int channels, T* weights);
  // sums[f][i] += Σ_k weights[i][k] (column_k − row_i)[f] for d features, blocks as in gaussian_weights.
  void (*add_differences)(const T* rows, const T* columns, int d, const T* weights, double* sums);
  // to = from − coupling · message, with a number per channel or a transposed matrix (channels × channels). from may be null
  // for zeros.
  void (*couple_diagonal)(const T* coupling, const T* message, const T* from, T* to, int channels, int64_t n);
  void (*couple_matrix)(const T* coupling_transposed, const T* message, const T* from, T* to, int channels, int64_t n);
  // products[c'][c] += Σ rows q[c'] · h[c] for the first c', of rows of `channels` and `h_channels`;
  // diagonal: products[c] += Σ rows q[c] · h[c].
  void (*outer_products)(const T* h, int h_channels, const T* q, int channels, T* products, int classes, int64_t n);
  void (*diagonal_products)(const T* h, const T* q, T* products, int channels, int64_t n);
  // sums[i] += ⟨a_i, b_i⟩ of n rows.
  void (*row_products)(const T* a, const T* b, T* sums, int channels, int64_t n);
  // Rows are read and written in whole vectors, also beyond the last one.
  void (*softmax)(const T* scores, T* q, int channels, int64_t n);
  // The same with one more class, of score log(sum) for each row; returns its largest probability. Without looking for maxima:
  // each row wants a score of at least -80 or a sum of at least exp(-80), and none above 80 but that of a single channel.
  T (*softmax_with_rest)(const T* scores, const T* sum, T* q, int channels, int64_t n);
  // to = row - number, with a number for each row.
  void (*lower_rows)(const T* rows, const T* numbers, T* to, int channels, int64_t n);
  // to = tanh(score) of n scores.
  void (*tanh)(const T* scores, T* to, int64_t n);
  // Over columns, the scores of one class at n points: to = max(to, score); term = exp(score − top) and sum += term; and the
  // largest term · factor.
  void (*raise)(const T* scores, T* to, int64_t n);
  void (*add_exponentials)(const T* scores, const T* top, T* terms, T* sum, int64_t n);
  T (*largest_product)(const T* terms, const T* factor, int64_t n);
  // v = q ⊙ (v − ⟨v, q⟩), the vector-Jacobian product of softmax; and to = from + v unless from is null.
  void (*softmax_vjp)(const T* q, T* v, const T* from, T* to, int channels, int64_t n);
  // Numbers from 0 to 1 as float16 or bfloat16, rounded to the nearest, and back.
  void (*to_float16)(const T* from, uint16_t* to, int64_t n);
  void (*from_float16)(const uint16_t* from, T* to, int64_t n);
  void (*to_bfloat16)(const T* from, uint16_t* to, int64_t n);
  void (*from_bfloat16)(const uint16_t* from, T* to, int64_t n);
  // to = scale · row.
  void (*scale_rows)(const T* rows, const T* scale, T* to, int channels, int64_t n);
  // to = a·x + b·y over whole rows.
  void (*linear_combination)(T a, const T* x, T b, const T* y, T* to, int channels, int64_t n);
  // Σ x − x over the first `classes` numbers of each row: 0 if all of them are finite, otherwise NaN.
  T (*doubt)(const T* rows, int channels, int classes, int64_t n);
  // maxima[c] = max(maxima[c], q[c]) over the rows.
  void (*update_maxima)(const T* q, T* maxima, int channels, int64_t n);
  // Number k of a row becomes number which[k] of the given one, or `pad` if that is negative. which must rise. Rows that become
  // wider can stay in their memory. They are read in whole vectors, also beyond the last one.
  void (*rearrange)(const T* rows, int channels, const int32_t* which, T pad, T* to, int to_channels, int64_t n);
  // difference = q − sent, of n ≤ run_size rows. found: the largest |difference|, the sum over rows of the largest of each, and
  // of the largest q of each row the smallest.
  void (*compare_run)(const T* q, const T* sent, T* difference, T* found, int channels, int64_t n);
  // Between rows and scores that are class-major: those of a class lie side by side, `stride` after those of the class before.
  // Channel k has the scores of class which[k]; padding channels are set to `pad`.
  void (*rows_from_class_major)(const T* scores, int64_t stride, const int* which, int classes, T pad, T* rows, int channels,
                                int64_t n);
  void (*class_major_from_rows)(const T* rows, int channels, T* scores, int64_t stride, int classes, int64_t n);
};

template <class T>
const Loops<T>& loops();

const char* instruction_set();

#define CRFRNN_DECLARE_TARGET(target)      \
  namespace target {                       \
  extern const Loops<float> loops_float;   \
  extern const Loops<double> loops_double; \
  }
CRFRNN_DECLARE_TARGET(baseline)
CRFRNN_DECLARE_TARGET(avx2)
CRFRNN_DECLARE_TARGET(avx512)
#undef CRFRNN_DECLARE_TARGET

// The loops of one instruction set, each in the file that it belongs to.
#if defined(CRFRNN_TARGET)
namespace CRFRNN_TARGET {
template <class T>
void embed(const T* features, int64_t n, int d, const T* scale, const double* exact_scale, int32_t* cell, int32_t* order,
           T* weights);
void weighted_sums(const int32_t* numbers, int count, const uint64_t* factors, uint64_t start, uint64_t* sums);
template <class T>
void splat(T* sums, int64_t count, const int32_t* sum_rows, const T* weights, int corners, const T* rows, const T* scale,
           int channels, int64_t n);
template <class T>
void slice(const T* values, int64_t count, const int32_t* vertices, const T* weights, int corners, T factor, const T* scale,
           const T* coupling, const T* from, T* rows, int channels, int64_t n);
template <class T>
void slice_with_products(const T* received, const T* sent, int64_t count, const int32_t* vertices, const T* weights,
                         int corners, T factor, const T* g, const T* v, const T* pre, const T* post, T* rows, T* sums,
                         int channels, int64_t n);
template <class T>
void gather(T* values, int64_t count, const T* sums, int64_t sums_count, const int32_t* rows, int64_t length, int64_t vertex,
            int channels);
template <class T>
void blur(T* values, int64_t count, const int32_t* chain, int64_t length, int channels);
template <class T>
void follow(const T* values, T* before, int64_t count, T* change, int channels, int64_t begin, int64_t end);
template <class T>
void convolve_columns(const T* in, T* out, int64_t n, int64_t stride, int width, const T* taps, int radius);
template <class T>
void convolve_rows(const T* in, const T* taps, int radius, const T* scale, const T* coupling, const T* from, T* rows,
                   int channels, int64_t n);
template <class T>
T convolve_with_slopes(const T* in, int64_t stride, int64_t before, int64_t after, const T* taps, const T* slopes,
                       const T* others, T* out, int64_t width, const T* next, const T* next_others);
template <class T>
void gaussian_weights(const T* rows, const T* columns, int d, T* weights);
template <class T>
void add_weighted(const T* weights, const T* values, double* sums, int channels);
template <class T>
void multiply_by_products(const T* rows, const T* columns, int channels, T* weights);
template <class T>
void add_differences(const T* rows, const T* columns, int d, const T* weights, double* sums);
template <class T>
void couple_diagonal(const T* coupling, const T* message, const T* from, T* to, int channels, int64_t n);
template <class T>
void couple_matrix(const T* coupling_transposed, const T* message, const T* from, T* to, int channels, int64_t n);
template <class T>
void outer_products(const T* h, int h_channels, const T* q, int channels, T* products, int classes, int64_t n);
template <class T>
void diagonal_products(const T* h, const T* q, T* products, int channels, int64_t n);
template <class T>
void row_products(const T* a, const T* b, T* sums, int channels, int64_t n);
template <class T>
void softmax(const T* scores, T* q, int channels, int64_t n);
template <class T>
T softmax_with_rest(const T* scores, const T* sum, T* q, int channels, int64_t n);
template <class T>
void lower_rows(const T* rows, const T* numbers, T* to, int channels, int64_t n);
template <class T>
void tanh(const T* scores, T* to, int64_t n);
template <class T>
void raise(const T* scores, T* to, int64_t n);
template <class T>
void add_exponentials(const T* scores, const T* top, T* terms, T* sum, int64_t n);
template <class T>
T largest_product(const T* terms, const T* factor, int64_t n);
template <class T>
void softmax_vjp(const T* q, T* v, const T* from, T* to, int channels, int64_t n);
template <class T>
void to_float16(const T* from, uint16_t* to, int64_t n);
template <class T>
void from_float16(const uint16_t* from, T* to, int64_t n);
template <class T>
void to_bfloat16(const T* from, uint16_t* to, int64_t n);
template <class T>
void from_bfloat16(const uint16_t* from, T* to, int64_t n);
template <class T>
void scale_rows(const T* rows, const T* scale, T* to, int channels, int64_t n);
template <class T>
void linear_combination(T a, const T* x, T b, const T* y, T* to, int channels, int64_t n);
template <class T>
T doubt(const T* rows, int channels, int classes, int64_t n);
template <class T>
void update_maxima(const T* q, T* maxima, int channels, int64_t n);
template <class T>
void rearrange(const T* rows, int channels, const int32_t* which, T pad, T* to, int to_channels, int64_t n);
template <class T>
void compare_run(const T* q, const T* sent, T* difference, T* found, int channels, int64_t n);
template <class T>
void rows_from_class_major(const T* scores, int64_t stride, const int* which, int classes, T pad, T* rows, int channels,
                           int64_t n);
template <class T>
void class_major_from_rows(const T* rows, int channels, T* scores, int64_t stride, int classes, int64_t n);
}  // namespace CRFRNN_TARGET
#endif

}  // namespace crfrnn
