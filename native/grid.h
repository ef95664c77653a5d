// The exact Gaussian exp(-½ (Δ/σ)²) on a regular grid, equation (10): one axis after the other, and zero outside the grid.
#pragma once

#include <vector>

#include "kernel.h"

namespace crfrnn {

constexpr double grid_cutoff = 4.0;  // in σ: beyond it lies 6e-5 of the mass of an axis
constexpr int most_axes = 4;
constexpr int64_t longest_axis = int64_t{1} << 28;  // so that an int counts all taps

template <class T>
class GridGaussian final : public Kernel<T> {
 public:
  // shape and sigmas: one entry for each axis, of which the last is contiguous; σ = 0 leaves an axis unfiltered.
  GridGaussian(std::vector<int64_t> shape, const std::vector<double>& sigmas);
  int64_t num_points() const override { return points_; }
  std::unique_ptr<Message<T>> message(int channels) const override;
  std::vector<std::size_t> gradient_shape() const override { return {shape_.size()}; }  // σ of each axis
  std::unique_ptr<KernelGradient<T>> gradient(Message<T>& transposed, int channels, PointFactors<T> factors) const override;

 private:
  template <class U>
  friend class GridMessage;
  template <class U>
  friend class GridGradient;
  int last_axis() const { return static_cast<int>(shape_.size()) - 1; }
  std::vector<int64_t> shape_;
  std::vector<double> sigmas_;
  std::vector<int> radii_;
  std::vector<std::vector<T>> taps_;  // of each axis 2·radius + 1 taps, between tap_margin zeros on both sides
  int64_t points_ = 1;
};

}  // namespace crfrnn
