// The gradient to the deviations of a grid Gaussian, equation (24).
#include <algorithm>
#include <cmath>
#include <numeric>

#include "grid_message.h"

namespace crfrnn {

// ∂K/∂σ of an axis has slopes in place of the taps of that axis, and is as separable as K. So some axes can convolve the values
// and the others the cotangents. The transposed message convolves cotangents from the last axis but one to the first, and then
// along the last. Here it goes the other way: from the last axis, the first and so on to the last but one, each convolves the
// values with taps and with slopes at once. What slopes make of them is multiplied by what the axes to come make of the
// cotangents. All this is done in the memory of the transposed message, which has convolved what was there.
template <class T>
class GridGradient final : public KernelGradient<T> {
 public:
  GridGradient(const GridGaussian<T>& grid, Message<T>& transposed, int channels, PointFactors<T> factors)
      : grid_(grid), factors_(factors), last_(grid.last_axis()), totals_(grid.shape_.size(), 0.0),
        post_(factors.post ? grid.points_ : 0), divides_(last_ > 0 && grid.radii_[last_ - 1] > 0 && factors.post &&
                                                         *std::min_element(factors.post, factors.post + grid.points_) > 0) {
    std::fill(post_.begin(), post_.end(), T(0));
    for (int axis = 0; axis <= last_; ++axis) slopes_.push_back(slopes_of(axis));
    use(transposed, channels);
  }

  void use(Message<T>& transposed, int channels) override {
    message_ = &static_cast<GridMessage<T>&>(transposed);
    channels_ = channels;
    convolved_ = last_ < 2 ? Buffer<T>() : message_->make_lines();
    for (int axis = 0; axis < last_; ++axis) message_->inputs_.push_back(message_->make_lines());
  }

  void propagate(TileTeam& points, const RowsOf<T>& values, const T* cotangents) override {
    convolve_last_axis(points.team, values, cotangents);
    for (int axis = 0; axis < last_ - 1; ++axis)
      if (grid_.radii_[axis] > 0) convolve_axis(points.team, axis);
    if (last_ > 0) finish(points.team, last_ - 1, cotangents);
  }

  void receive(int64_t begin, int64_t n, const T*, const T*, T* rows) override {
    message_->receive(begin, n, rows, nullptr, nullptr, nullptr);
  }

  void write(Team&, T* gradient, T* post_gradient) const override {
    std::copy(totals_.begin(), totals_.end(), gradient);
    if (!post_gradient) return;
    for (int64_t i = 0; i < grid_.points_; ++i) post_gradient[i] = divides_ ? post_[i] / factors_.post[i] : post_[i];
  }

 private:
  // From the one in the middle on.
  const T* taps(int axis) const { return grid_.taps_[axis].data() + tap_margin + grid_.radii_[axis]; }

  std::vector<T> slopes_of(int axis) const {
    std::vector<T> slopes;
    const double cube = std::pow(grid_.sigmas_[axis], 3);
    for (int k = 0; k <= grid_.radii_[axis]; ++k)  // a tap that is 0 stays so, although the cube may be 0 as well
      slopes.push_back(k == 0 || taps(axis)[k] == 0 ? T(0) : T(taps(axis)[k] * (double(k) * k / cube)));
    return slopes;
  }

  // A line at a time. If there is no other axis, this is the message.
  void convolve_last_axis(Team& team, const RowsOf<T>& values, const T* cotangents) {
    const int64_t line = message_->line_, tile = tile_size * channels_, margin = int64_t(message_->margin_) * channels_;
    std::vector<double> shares(grid_.points_ / line);
    team.run(static_cast<int64_t>(shares.size()), [&](int64_t i) {
      Buffer<T> rows(2 * margin + line * channels_), memory(values.memory_size);
      read_line(values, i * line, rows.get(), memory.get());
      T *const to = &message_->sent_[message_->place(i, 0)], *const others = &message_->received_[message_->place(i, 0)];
      for (int64_t at = 0; at < line * channels_; at += tile) {
        const T* const in = &rows[margin + at];
        shares[i] += loops<T>().convolve_with_slopes(in, channels_, message_->margin_, message_->margin_, taps(last_),
                                                     slopes_[last_].data(), others + at, to + at,
                                                     std::min(tile, line * channels_ - at), in + tile, others + at + tile);
      }
      if (last_ == 0 && factors_.post) loops<T>().row_products(to, cotangents, post_.get(), channels_, line);
    });
    add_up(last_, shares);
  }

  // pre · values of a line, between zeros.
  void read_line(const RowsOf<T>& values, int64_t first, T* rows, T* memory) const {
    const int64_t line = message_->line_, margin = int64_t(message_->margin_) * channels_;
    std::fill_n(rows, margin, T(0));
    std::fill_n(rows + margin + line * channels_, margin, T(0));
    for (int64_t x = 0; x < line; x += tile_size) {
      const int64_t n = std::min<int64_t>(tile_size, line - x);
      const T* const from = values.rows(first + x, n, memory);
      T* const to = rows + margin + x * channels_;
      if (factors_.pre) {
        loops<T>().scale_rows(from, factors_.pre + first + x, to, channels_, n);
      } else {
        std::copy_n(from, n * channels_, to);
      }
    }
  }

  void convolve_axis(Team& team, int axis) {
    const int64_t stride = message_->lines_along(axis) * message_->padded_line() * channels_;
    std::vector<double> shares(message_->num_strips(axis, strip_size));
    message_->over_strips(team, axis, strip_size, [&](int64_t strip, int64_t line, int64_t x, int64_t width) {
      over_lines(axis, [&](int64_t y, int64_t before, int64_t after) {
        const int64_t at = message_->place(line, x) + y * stride;
        const T *const values = &message_->sent_[at], *const others = &message_->inputs_[axis][at];
        shares[strip] +=
            loops<T>().convolve_with_slopes(values, stride, before, after, taps(axis), slopes_[axis].data(), others,
                                            &convolved_[at], width, values + (after + 1) * stride, others + stride);
      });
    });
    add_up(axis, shares);
    message_->sent_.swap(convolved_);
  }

  // The last axis to convolve makes the message, of which only products with the cotangents are needed. The transposed message
  // began with this axis.
  void finish(Team& team, int axis, const T* cotangents) {
    const int64_t lines = message_->lines_along(axis), stride = lines * message_->padded_line() * channels_;
    const int64_t most = std::max<int64_t>(1, strip_size / channels_ / 8) * 8, strip_width = most * channels_;
    std::vector<double> shares(message_->num_strips(axis, strip_width));
    message_->over_strips(team, axis, strip_width, [&](int64_t strip, int64_t line, int64_t x, int64_t width) {
      Buffer<T> message(strip_width);
      over_lines(axis, [&](int64_t y, int64_t before, int64_t after) {
        const int64_t at = message_->place(line, x) + y * stride, point = (line + y * lines) * message_->line_ + x / channels_;
        const T *const values = &message_->sent_[at], *const others = &message_->inputs_[axis][at];
        shares[strip] +=
            loops<T>().convolve_with_slopes(values, stride, before, after, taps(axis), slopes_[axis].data(), others,
                                            message.get(), width, values + (after + 1) * stride, others + stride);
        const T* const g = divides_ ? others : cotangents + point * channels_;
        if (factors_.post) loops<T>().row_products(message.get(), g, &post_[point], channels_, width / channels_);
      });
    });
    if (grid_.radii_[axis] > 0) add_up(axis, shares);
  }

  // Calls work(y, before, after) for the lines along an axis: how many there are before and after each, up to the radius.
  template <class F>
  void over_lines(int axis, F work) const {
    const int64_t length = grid_.shape_[axis], radius = grid_.radii_[axis];
    for (int64_t y = 0; y < length; ++y) work(y, std::min(radius, y), std::min(radius, length - 1 - y));
  }

  // Shares of tasks, in their order: the same bits for any number of threads.
  void add_up(int axis, const std::vector<double>& shares) {
    totals_[axis] += std::accumulate(shares.begin(), shares.end(), 0.0);
  }

  const GridGaussian<T>& grid_;
  const PointFactors<T> factors_;
  const int last_;
  GridMessage<T>* message_;  // the transposed one
  int channels_;
  std::vector<std::vector<T>> slopes_;  // ∂tap/∂σ of each axis, from the one in the middle on
  std::vector<double> totals_;          // of each axis
  Buffer<T> post_;                      // of each point: the products of its cotangents with the message
  const bool divides_;                  // whether these have the factor `post`, as what was sent has, which is at hand
  Buffer<T> convolved_;                 // lines, if there are more than two axes
};

template <class T>
std::unique_ptr<KernelGradient<T>> GridGaussian<T>::gradient(Message<T>& transposed, int channels,
                                                             PointFactors<T> factors) const {
  return std::make_unique<GridGradient<T>>(*this, transposed, channels, factors);
}

template std::unique_ptr<KernelGradient<float>> GridGaussian<float>::gradient(Message<float>&, int, PointFactors<float>) const;
template std::unique_ptr<KernelGradient<double>> GridGaussian<double>::gradient(Message<double>&, int,
                                                                                PointFactors<double>) const;

}  // namespace crfrnn
