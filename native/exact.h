// The Gaussian exp(-½ |f_i − f_j|²) between any points, every pair of them: O(N² (d + channels)) time, O(N) memory.
#pragma once

#include <limits>

#include "buffer.h"
#include "kernel.h"

namespace crfrnn {

constexpr int most_exact_features = 1 << 24;  // so that an int counts the numbers of a block

// ε in docs/algorithm.md, section 4: 2⁻²⁴ for float and 2⁻⁵³ for double.
template <class T>
constexpr double unit_roundoff = 0.5 * std::numeric_limits<T>::epsilon();

// Points are kept in blocks of `block_size` that lie close together. Pairs of blocks that are far apart are left out: together
// they change a filtered value by less than ε times the largest value sent.
template <class T>
class ExactGaussian final : public Kernel<T> {
 public:
  // features: N × d, row-major, finite. Throws std::invalid_argument, std::bad_alloc.
  ExactGaussian(const T* features, int64_t n, int d);
  int64_t num_points() const override { return n_; }
  std::unique_ptr<Message<T>> message(int channels) const override;
  std::vector<std::size_t> gradient_shape() const override {
    return {static_cast<std::size_t>(n_), static_cast<std::size_t>(d_)};
  }
  std::unique_ptr<KernelGradient<T>> gradient(Message<T>& transposed, int channels, PointFactors<T> factors) const override;

 private:
  template <class U>
  friend class ExactMessage;
  template <class U>
  friend class ExactGradient;
  const T* box(int64_t block) const { return &boxes_[block * 2 * d_]; }
  bool apart(int64_t a, int64_t b) const;

  const int64_t n_;
  const int d_;
  const int64_t blocks_;
  const T reach_;          // squared distance beyond which blocks are left out
  Buffer<int32_t> place_;  // N: where each point is in the order of the blocks
  Buffer<T> features_;     // blocks × d × block_size
  Buffer<T> boxes_;        // blocks × 2 × d: smallest and largest value of each feature
};

}  // namespace crfrnn
