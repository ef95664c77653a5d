// The Gaussian between the points of two blocks, and what it carries from one to the other.
#include "loops.h"
#include "simd.h"

namespace crfrnn::CRFRNN_TARGET {

template <class T>
void gaussian_weights(const T* rows, const T* columns, int d_given, T* weights) {
  constexpr int L = lanes<T>;
  using V = Vec<T, L>;
  auto between = [&](auto d) {
    for (int k = 0; k < tile; k += L)
      for (int i = 0; i < tile; ++i) {
        V square{};
        for (int f = 0; f < d; ++f) {
          const V difference = load<V>(columns + f * tile + k) - rows[f * tile + i];
          square = square + difference * difference;
        }
        const V weight = exp_nonpositive<T, L>(square * T(-0.5));
        std::memcpy(weights + i * tile + k, &weight, sizeof weight);
      }
  };
  if (d_given == 5) return between(std::integral_constant<int, 5>{});  // a colour photo
  between(d_given);
}

// Sums that are kept in registers, beside a row of values and a weight: 32 of them, or 16 before AVX-512.
template <class T, int W>
constexpr int rows_together = vector_bytes == 64 ? 8 : W * sizeof(T) <= 3 * vector_bytes ? 4 : 2;

template <class T>
void add_weighted(const T* weights, const T* values, double* sums, int channels) {
  for_blocks(channels, [&](auto width, int first) {
    constexpr int W = width(), R = rows_together<T, W>;
    using Sums = Row<T, W>;
    for (int i = 0; i < tile; i += R) {
      Sums parts[R];
      for (Sums& part : parts) part = Sums::zero();
      for (int k = 0; k < tile; ++k) {
        const auto row = Sums::read(values + k * channels + first);
        for (int r = 0; r < R; ++r) parts[r].add(row, weights[(i + r) * tile + k]);
      }
      for (int r = 0; r < R; ++r) {
        alignas(64) T part[W];
        parts[r].write(part);
        for (int c = 0; c < W; ++c) sums[(i + r) * channels + first + c] += part[c];
      }
    }
  });
}

template void gaussian_weights<float>(const float*, const float*, int, float*);
template void gaussian_weights<double>(const double*, const double*, int, double*);
template void add_weighted<float>(const float*, const float*, double*, int);
template void add_weighted<double>(const double*, const double*, double*, int);

}  // namespace crfrnn::CRFRNN_TARGET
