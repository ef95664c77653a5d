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

template void gaussian_weights<float>(const float*, const float*, int, float*);
template void gaussian_weights<double>(const double*, const double*, int, double*);
template void add_weighted<float>(const float*, const float*, double*, int);
template void add_weighted<double>(const double*, const double*, double*, int);

}  // namespace crfrnn::CRFRNN_TARGET
