// From features to lattice coordinates. This file is compiled without fused multiply-adds: many pixels lie exactly on the
// border of two simplices, and every instruction set has to put them on the same side of it.
#include <cmath>
#include <type_traits>

#include "loops.h"

namespace crfrnn::CRFRNN_TARGET {

template <class T>
constexpr T rounder =
    sizeof(T) == 4 ? T(12582912.0) : T(6755399441055744.0);  // x + rounder − rounder is the nearest whole number

// The features of n points, one column for each. Lanes without a point get the first one.
template <class T>
void columns(const T* features, int64_t n, int d, T (*feature)[embedding_lanes]) {
  auto copy = [&](auto d) {
    for (int64_t p = 0; p < embedding_lanes; ++p)
      for (int j = 0; j < d; ++j) feature[j][p] = features[(p < n ? p : 0) * d + j];
  };
  if (d == 5) return copy(std::integral_constant<int, 5>{});  // a colour photo
  copy(d);
}

// The same as below in double precision for the lanes of far points, where the coordinates leave few digits to the differences:
// at 10⁵ an error of 0.03. All further steps compute with differences alone.
template <class T, int L>
void embed_far(const T (*feature)[L], int d, const double* scale, T (*position)[L], T (*difference)[L], T* sum) {
  for (int p = 0; p < L; ++p) {
    bool is_far = false;
    for (int i = 0; i <= d; ++i) is_far |= std::abs(position[i][p]) * (d + 1) >= far;
    if (!is_far) continue;
    double elevated[17], total = 0, cells = 0;
    for (int j = d; j > 0; --j) {
      const double f = feature[j - 1][p] * scale[j - 1];
      elevated[j] = total - j * f, total += f;
    }
    elevated[0] = total;
    for (int i = 0; i <= d; ++i) {
      const double nearest = std::nearbyint(elevated[i] / (d + 1));
      position[i][p] = T(nearest), difference[i][p] = T(elevated[i] - nearest * (d + 1)), cells += nearest;
    }
    sum[p] = T(cells);
  }
}

template <class T>
void embed(const T* features, int64_t n, int d, const T* scale, const double* exact_scale, int32_t* cell, int32_t* order,
           T* weights) {
  constexpr int L = embedding_lanes;
  const T up = T(d + 1), down = T(1) / up;
  alignas(64) T feature[16][L], difference[17][L], rank[17][L], sorted[17][L], position[17][L], sum[L];
  columns(features, n, d, feature);
  for (int p = 0; p < L; ++p) sum[p] = 0;
  for (int j = d; j > 0; --j)
    for (int p = 0; p < L; ++p) {
      const T f = feature[j - 1][p] * scale[j - 1];
      difference[j][p] = sum[p] - T(j) * f;
      sum[p] += f;
    }
  for (int p = 0; p < L; ++p) difference[0][p] = sum[p], sum[p] = 0;
  // The nearest remainder-0 point, divided by d + 1, and the difference to it.
  for (int i = 0; i <= d; ++i)
    for (int p = 0; p < L; ++p) {
      const T elevated = difference[i][p], nearest = elevated * down + rounder<T> - rounder<T>;
      position[i][p] = nearest, difference[i][p] = elevated - nearest * up, sum[p] += nearest;
    }
  if (exact_scale) embed_far<T, L>(feature, d, exact_scale, position, difference, sum);
  for (int i = 0; i <= d; ++i)
    for (int p = 0; p < L; ++p) rank[i][p] = sum[p];
  for (int i = 0; i < d; ++i)
    for (int j = i + 1; j <= d; ++j)
      for (int p = 0; p < L; ++p) {
        const T less = difference[i][p] < difference[j][p] ? T(1) : T(0);
        rank[i][p] += less, rank[j][p] += T(1) - less;
      }
  // Rounding may leave a point off the hyperplane. It moves back along the coordinates of the largest or the smallest rank.
  for (int i = 0; i <= d; ++i)
    for (int p = 0; p < L; ++p) {
      const T shift = rank[i][p] < 0 ? T(1) : rank[i][p] > T(d) ? T(-1) : T(0);
      rank[i][p] += shift * up, position[i][p] += shift, difference[i][p] -= shift * up;
    }
  for (int i = 0; i < d; ++i)
    for (int p = 0; p < L; ++p) cell[i * L + p] = static_cast<int32_t>(position[i][p]);
  for (int r = 0; r <= d; ++r) {
    alignas(64) T value[L], which[L];
    for (int p = 0; p < L; ++p) value[p] = 0, which[p] = 0;
    for (int i = 0; i <= d; ++i)
      for (int p = 0; p < L; ++p) {
        const T here = rank[i][p] == T(r) ? T(1) : T(0);
        value[p] += here * difference[i][p], which[p] += here * T(i);
      }
    for (int p = 0; p < L; ++p) sorted[r][p] = value[p] * down, order[r * L + p] = static_cast<int32_t>(which[p]);
  }
  // Rounding can make a weight negative.
  auto not_negative = [](T w) { return w > 0 ? w : T(0); };
  for (int p = 0; p < L; ++p) weights[p] = not_negative(T(1) + sorted[d][p] - sorted[0][p]);
  for (int k = 1; k <= d; ++k)
    for (int p = 0; p < L; ++p) weights[k * L + p] = not_negative(sorted[d - k][p] - sorted[d + 1 - k][p]);
}

void weighted_sums(const int32_t* numbers, int count, const uint64_t* factors, uint64_t start, uint64_t* sums) {
  constexpr int L = embedding_lanes;
  alignas(64) uint64_t sum[L];
  for (int p = 0; p < L; ++p) sum[p] = start;
  for (int j = 0; j < count; ++j)
    for (int p = 0; p < L; ++p) sum[p] += static_cast<uint64_t>(int64_t{numbers[j * L + p]}) * factors[j];
  for (int p = 0; p < L; ++p) sums[p] = sum[p];
}

template void embed<float>(const float*, int64_t, int, const float*, const double*, int32_t*, int32_t*, float*);
template void embed<double>(const double*, int64_t, int, const double*, const double*, int32_t*, int32_t*, double*);

}  // namespace crfrnn::CRFRNN_TARGET
