// The loops of the exact kernel: the Gaussian between the points of two blocks, and the messages from one to the other.
#include "loops.h"
#include "simd.h"

namespace crfrnn::CRFRNN_TARGET {

template <class T>
void gaussian_weights(const T* rows, const T* columns, int d_given, T* weights) {
  constexpr int L = lanes<T>;
  using V = Vec<T, L>;
  auto between = [&](auto d) {
    for (int k = 0; k < block_size; k += L)
      for (int i = 0; i < block_size; ++i) {
        V square{};
        for (int f = 0; f < d; ++f) {
          const V difference = load<V>(columns + f * block_size + k) - rows[f * block_size + i];
          square = square + difference * difference;
        }
        const V weight = exponential<T, L>(square * T(-0.5));
        std::memcpy(weights + i * block_size + k, &weight, sizeof weight);
      }
  };
  if (d_given == 5) return between(std::integral_constant<int, 5>{});  // a colour photo
  between(d_given);
}

// How many rows of sums fit the registers beside a row of values and a weight. AVX-512 has 32 registers, the others have 16.
template <class T, int W>
constexpr int rows_together = vector_bytes == 64                  ? 8
                              : W * sizeof(T) <= 3 * vector_bytes ? 4
                                                                  : 2;

template <class T>
void add_weighted(const T* weights, const T* values, double* sums, int channels) {
  for_widths(channels, [&](auto width, int first) {
    constexpr int W = width(), R = rows_together<T, W>;
    using Sums = Row<T, W>;
    for (int i = 0; i < block_size; i += R) {
      Sums partial[R];
      for (Sums& sum : partial) sum = Sums::zero();
      for (int k = 0; k < block_size; ++k) {
        const auto row = Sums::read(values + k * channels + first);
        for (int r = 0; r < R; ++r) partial[r].add(row, weights[(i + r) * block_size + k]);
      }
      for (int r = 0; r < R; ++r) {
        alignas(64) T numbers[W];
        partial[r].write(numbers);
        for (int c = 0; c < W; ++c) sums[(i + r) * channels + first + c] += numbers[c];
      }
    }
  });
}

template <class T>
void multiply_by_products(const T* rows, const T* columns, int channels, T* weights) {
  constexpr int W = 2 * lanes<T>, R = 4;
  const T *const row_b = rows + channels * block_size, *const column_b = columns + channels * block_size;
  for (int i = 0; i < block_size; i += R)
    for (int k = 0; k < block_size; k += W) {
      Row<T, W> sums[R];
      for (auto& sum : sums) sum = Row<T, W>::zero();
      for (int c = 0; c < channels * block_size; c += block_size) {
        const auto a = Row<T, W>::read(columns + c + k), b = Row<T, W>::read(column_b + c + k);
        for (int r = 0; r < R; ++r) sums[r].add(b, rows[c + i + r]), sums[r].add(a, row_b[c + i + r]);
      }
      for (int r = 0; r < R; ++r) {
        T* const to = weights + (i + r) * block_size + k;
        auto product = Row<T, W>::zero();
        product.add_product(sums[r], Row<T, W>::read(to));
        product.write(to);
      }
    }
}

template <class T>
void add_differences(const T* rows, const T* columns, int d, const T* weights, double* sums) {
  constexpr int L = lanes<T>;
  using V = Vec<T, L>;
  for (int f = 0; f < d * block_size; f += block_size)
    for (int i = 0; i < block_size; ++i) {
      V sum{};
      for (int k = 0; k < block_size; k += L)
        sum = sum + load<V>(weights + i * block_size + k) * (load<V>(columns + f + k) - rows[f + i]);
      sums[f + i] += first_lane<T, L>(reduce_groups<L, T, L>(sum, Sum{}));
    }
}

template void multiply_by_products<float>(const float*, const float*, int, float*);
template void multiply_by_products<double>(const double*, const double*, int, double*);
template void add_differences<float>(const float*, const float*, int, const float*, double*);
template void add_differences<double>(const double*, const double*, int, const double*, double*);
template void gaussian_weights<float>(const float*, const float*, int, float*);
template void gaussian_weights<double>(const double*, const double*, int, double*);
template void add_weighted<float>(const float*, const float*, double*, int);
template void add_weighted<double>(const double*, const double*, double*, int);

}  // namespace crfrnn::CRFRNN_TARGET
