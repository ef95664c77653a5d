// The exact Gaussian exp(-½ (Δ/σ)²) on a regular grid of 1 to 4 axes, separable, cut off at 4σ; zero outside the grid.
#pragma once

#include <vector>

#include "kernel.h"

namespace crfrnn {

template <class T>
class GridGaussian final : public Kernel<T> {
 public:
  // shape and sigmas: one entry per axis, the last axis contiguous; σ = 0 leaves an axis unfiltered.
  GridGaussian(std::vector<int64_t> shape, const std::vector<double>& sigmas);
  int64_t num_points() const override { return points_; }
  std::unique_ptr<Message<T>> message(int channels) const override;

 private:
  template <class U>
  friend class GridMessageOf;
  std::vector<int64_t> shape_;
  std::vector<int> radii_;
  std::vector<std::vector<T>> taps_;  // per axis 2·radius + 1 taps between tap_margin zeros on both sides
  int64_t points_ = 1;
};

}  // namespace crfrnn
