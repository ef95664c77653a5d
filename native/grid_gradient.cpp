// The gradient to the deviations of a grid Gaussian, equation (24).
#include <algorithm>
#include <cmath>
#include <numeric>

#include "grid_message.h"

namespace crfrnn {

// ∂K/∂σ of an axis has slopes in place of the taps of that axis, and is as separable as K. So some of the axes can convolve the
// values and the others the cotangents, as the transposed message does anyhow, from the last but one to the first and then
// the last. Here it goes the other way: from the last to the last but one, each axis convolves the values with taps and slopes
// at once. What slopes make of them is multiplied by the cotangents that all axes to come convolve.
template <class T>
class GridGradient final : public KernelGradient<T> {
 public:
  GridGradient(const GridGaussian<T>& grid, GridMessage<T>& transposed, int channels, PointFactors<T> factors)
      : grid_(grid), pre_(factors.pre), transposed_(transposed), values_(grid, channels), totals_(grid.shape_.size(), 0.0),
        post_(grid.points_) {
    std::fill(post_.begin(), post_.end(), T(0));
    for (int axis = 0; axis <= grid.last_axis(); ++axis) slopes_.push_back(slopes_of(axis));
    transposed.inputs_.resize(grid.last_axis());
    for (int axis = 1; axis < grid.last_axis(); ++axis) transposed.inputs_[axis] = Buffer<T>(transposed.sent_.size());
  }

  void open(int64_t) override {}
  void send(int64_t begin, int64_t n, const T* values) override { values_.send(begin, n, values, pre_); }

  void propagate(Team& team) override {
    convolve_last_axis(team);
    for (int axis = 0; axis < grid_.last_axis(); ++axis) convolve_axis(team, axis);
    values_.received_.swap(values_.sent_);
  }

  void add(int64_t begin, int64_t n, const T*, const T* cotangents) override {
    const int channels = values_.channels_;
    values_.for_each_line(begin, n, [&](int64_t line, int64_t x, int64_t count, int64_t done) {
      const int64_t at = (line * values_.padded_line() + values_.margin_ + x) * channels;
      loops<T>().row_products(&values_.received_[at], cotangents + done * channels, &post_[begin + done], channels, count);
    });
  }

  void write(Team&, T* gradient, T* post_gradient) const override {
    std::copy(totals_.begin(), totals_.end(), gradient);
    if (post_gradient) std::copy_n(post_.get(), grid_.points_, post_gradient);
  }

 private:
  // From the one in the middle on.
  const T* taps(int axis) const { return grid_.taps_[axis].data() + tap_margin + grid_.radii_[axis]; }

  std::vector<T> slopes_of(int axis) const {
    std::vector<T> slopes;
    const double cube = std::pow(grid_.sigmas_[axis], 3);
    for (int k = 0; k <= grid_.radii_[axis]; ++k) slopes.push_back(k == 0 ? T(0) : T(taps(axis)[k] * (double(k) * k / cube)));
    return slopes;
  }

  void convolve_last_axis(Team& team) {
    const int last = grid_.last_axis();
    if (grid_.radii_[last] == 0) return;
    const int64_t line = values_.padded_line() * values_.channels_, margin = int64_t(values_.margin_) * values_.channels_;
    std::vector<double> shares(grid_.points_ / values_.line_);
    team.run(static_cast<int64_t>(shares.size()), [&](int64_t i) {
      const int64_t start = i * line + margin;
      shares[i] = loops<T>().convolve_rows_with_slopes(&values_.sent_[start], &values_.received_[start],
                                                       &transposed_.received_[start], taps(last), slopes_[last].data(),
                                                       grid_.radii_[last], values_.channels_, values_.line_);
    });
    totals_[last] += std::accumulate(shares.begin(), shares.end(), 0.0);
    values_.received_.swap(values_.sent_);
  }

  // The transposed message convolves the first axis last, and so still has what that axis convolved.
  void convolve_axis(Team& team, int axis) {
    if (grid_.radii_[axis] == 0) return;
    const T* const others = axis == 0 ? transposed_.sent_.get() : transposed_.inputs_[axis].get();
    std::vector<double> shares(values_.num_strips(axis));
    values_.over_strips(team, axis, [&](int64_t strip, int64_t start, int64_t stride, int width) {
      shares[strip] = loops<T>().convolve_columns_with_slopes(&values_.sent_[start], &values_.received_[start], others + start,
                                                              grid_.shape_[axis], stride, width, taps(axis),
                                                              slopes_[axis].data(), grid_.radii_[axis]);
    });
    totals_[axis] += std::accumulate(shares.begin(), shares.end(), 0.0);
    values_.received_.swap(values_.sent_);
  }

  const GridGaussian<T>& grid_;
  const T* const pre_;
  const GridMessage<T>& transposed_;
  GridMessage<T> values_;
  std::vector<std::vector<T>> slopes_;  // ∂tap/∂σ of each axis, from the one in the middle on
  std::vector<double> totals_;          // of each axis
  Buffer<T> post_;
};

template <class T>
std::unique_ptr<KernelGradient<T>> GridGaussian<T>::gradient(Message<T>& transposed, int channels,
                                                             PointFactors<T> factors) const {
  return std::make_unique<GridGradient<T>>(*this, static_cast<GridMessage<T>&>(transposed), channels, factors);
}

template std::unique_ptr<KernelGradient<float>> GridGaussian<float>::gradient(Message<float>&, int, PointFactors<float>) const;
template std::unique_ptr<KernelGradient<double>> GridGaussian<double>::gradient(Message<double>&, int,
                                                                                PointFactors<double>) const;

}  // namespace crfrnn
