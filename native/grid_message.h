// Messages on a grid. Included by grid.cpp and grid_gradient.cpp.
#pragma once

#include <algorithm>
#include <cstdlib>
#include <memory>
#include <vector>

#include "buffer.h"
#include "grid.h"

namespace crfrnn {

constexpr int64_t strip_size = 256;  // numbers side by side that are one task: the rows in use stay in the cache

// The lines of the last axis are kept with `radius` zero rows on both sides, so that no convolution sees a border.
template <class T>
class GridMessage final : public Message<T> {
 public:
  GridMessage(const GridGaussian<T>& grid, int channels)
      : grid_(grid), channels_(channels), line_(grid.shape_.back()), margin_(grid.radii_.back()), sent_(make_lines()),
        received_(make_lines()) {}

  void open(int64_t) override {}

  void send(int64_t begin, int64_t n, const T* rows, const T* scale) override {
    for_each_line(begin, n, [&](int64_t line, int64_t x, int64_t count, int64_t done) {
      T* to = sent_.get() + (line * padded_line() + margin_ + x) * channels_;
      const T* from = rows + done * channels_;
      if (!scale) {
        std::copy_n(from, count * channels_, to);
      } else {
        loops<T>().scale_rows(from, scale + done, to, channels_, count);
      }
    });
  }

  // All axes but the last, which receive() convolves. The kernel is symmetric, so its transpose is itself.
  void propagate(Team& team, bool) override {
    for (int axis = grid_.last_axis() - 1; axis >= 0; --axis) {
      if (grid_.radii_[axis] == 0) continue;
      over_strips(team, axis, strip_size, [&](int64_t, int64_t line, int64_t x, int64_t width) {
        const int64_t start = place(line, x), stride = lines_along(axis) * padded_line() * channels_;
        loops<T>().convolve_columns(&sent_[start], &received_[start], grid_.shape_[axis], stride, static_cast<int>(width),
                                    grid_.taps_[axis].data() + tap_margin, grid_.radii_[axis]);
      });
      if (axis < static_cast<int>(inputs_.size())) inputs_[axis].swap(sent_);
      received_.swap(sent_);
    }
    received_.swap(sent_);
  }

  void stop_sending() override { sent_ = {}; }

  bool follow(Team&) override {
    before_ = Buffer<T>(received_.size());
    std::copy(received_.begin(), received_.end(), before_.begin());
    return true;
  }

  // Changes are spread as rows are, but along the last axis in bins of run_size points. Between the points of two bins the
  // Gaussian is largest where they are nearest. The first time it is not known what the points have sent before, so rows are
  // compared that lack the last axis only.
  void bound_changes(Team& team, const T* changes, T* bounds) override {
    const int64_t lines = grid_.points_ / line_, count = Parts{line_, run_size}.count();
    const bool is_first = before_.size() > 0;
    std::vector<T> sums(product_of({lines, count}), T(0)), spread(sums.size());
    auto for_bins = [&](int64_t run, auto work) {
      const int64_t begin = run * run_size;
      for_each_line(begin, std::min<int64_t>(run_size, grid_.points_ - begin),
                    [&](int64_t line, int64_t x, int64_t n, int64_t) {
                      for (int64_t bin = x / run_size; bin <= (x + n - 1) / run_size; ++bin) work(line * count + bin);
                    });
    };
    const int64_t runs = (grid_.points_ + run_size - 1) / run_size;
    if (is_first) {
      sum_changes(team, sums);
      before_ = {};
    }
    for (int64_t run = 0; run < runs && !is_first; ++run)
      if (changes[run] > 0) for_bins(run, [&](int64_t bin) { sums[bin] += changes[run]; });
    auto spread_along = [&](int64_t length, int64_t stride, int radius, auto tap) {
      std::fill(spread.begin(), spread.end(), T(0));
      for (int64_t from = 0; from < lines * count; ++from) {
        if (sums[from] == 0) continue;
        const int64_t at = from / stride % length, low = std::min<int64_t>(radius, at);
        const int64_t high = std::min<int64_t>(radius, length - 1 - at);
        for (int64_t k = -low; k <= high; ++k) spread[from + k * stride] += tap(k) * sums[from];
      }
      sums.swap(spread);
    };
    auto tap = [&](std::size_t axis, int64_t k) { return grid_.taps_[axis][tap_margin + grid_.radii_[axis] + k]; };
    const auto last = grid_.shape_.size() - 1;
    int64_t stride = count;
    for (std::size_t axis = last; axis-- > 0 && !is_first; stride *= grid_.shape_[axis])
      spread_along(grid_.shape_[axis], stride, grid_.radii_[axis], [&](int64_t k) { return tap(axis, k); });
    const int bin_radius = (margin_ + run_size - 1) / run_size;
    spread_along(count, 1, bin_radius, [&](int64_t k) {
      const int64_t nearest = std::max<int64_t>(0, std::abs(k) * run_size - run_size + 1);
      return nearest > margin_ ? T(0) : tap(last, nearest);
    });
    for (int64_t run = 0; run < runs; ++run) {
      bounds[run] = 0;
      for_bins(run, [&](int64_t bin) { bounds[run] = std::max(bounds[run], sums[bin]); });
    }
  }

  void receive(int64_t begin, int64_t n, T* rows, const T* scale, const T* coupling, const T* from) const override {
    for_each_line(begin, n, [&](int64_t line, int64_t x, int64_t count, int64_t done) {
      loops<T>().convolve_rows(received_.get() + (line * padded_line() + x) * channels_, grid_.taps_.back().data() + tap_margin,
                               margin_, scale ? scale + done : nullptr, coupling, from ? from + done * channels_ : nullptr,
                               rows + done * channels_, channels_, count);
    });
  }

 private:
  template <class U>
  friend class GridGradient;
  int64_t padded_line() const { return line_ + 2 * margin_; }

  // Of each bin, the largest changes of its points since follow(), summed up.
  void sum_changes(Team& team, std::vector<T>& sums) const {
    const Parts bins{line_, run_size};
    team.run(grid_.points_ / line_, [&](int64_t line) {
      Buffer<T> difference(run_size * channels_);
      T found[3];
      for (int64_t bin = 0; bin < bins.count(); ++bin) {
        const int64_t at = (line * padded_line() + margin_ + bins.begin(bin)) * channels_;
        loops<T>().compare_run(&received_[at], &before_[at], difference.get(), found, channels_,
                               bins.end(bin) - bins.begin(bin));
        sums[line * bins.count() + bin] = found[1];
      }
    });
  }

  Buffer<T> make_lines() const {
    const int64_t lines = grid_.points_ / line_, margin = int64_t(margin_) * channels_;
    Buffer<T> buffer(product_of({lines, padded_line(), channels_}));
    for (int64_t line = 0; line < lines; ++line) {
      T* start = buffer.get() + line * padded_line() * channels_;
      std::fill_n(start, margin, T(0));
      std::fill_n(start + margin + line_ * channels_, margin, T(0));
    }
    return buffer;
  }

  // Strips of an axis: all lines along it, and of each a few numbers, `width` at most.
  int64_t num_strips(int axis, int64_t width) const {
    return grid_.points_ / (line_ * grid_.shape_[axis]) * Parts{line_ * channels_, width}.count();
  }

  // Calls work(strip, line, x, count) for each of them: its first line, and its first number in a line. Lines along the axis
  // are lines_along(axis) apart.
  template <class F>
  void over_strips(Team& team, int axis, int64_t width, F work) const {
    const int64_t length = grid_.shape_[axis], lines_inside = lines_along(axis);
    const Parts strips{line_ * channels_, width};
    team.run(num_strips(axis, width), [&](int64_t strip) {
      const int64_t lines = strip / strips.count(), part = strip % strips.count();
      const int64_t first = lines / lines_inside * length * lines_inside + lines % lines_inside;
      work(strip, first, strips.begin(part), strips.end(part) - strips.begin(part));
    });
  }

  int64_t lines_along(int axis) const {
    int64_t lines = 1;
    for (int inner = axis + 1; inner < grid_.last_axis(); ++inner) lines *= grid_.shape_[inner];
    return lines;
  }

  // Where number x of a line is in sent_ and received_.
  int64_t place(int64_t line, int64_t x) const { return (line * padded_line() + margin_) * channels_ + x; }

  // Calls work(line, x, count, done) for the points [begin, begin + n) of each line: `count` of them, from x on; `done` are of
  // the lines before.
  template <class F>
  void for_each_line(int64_t begin, int64_t n, F work) const {
    for (int64_t done = 0; done < n;) {
      const int64_t line = (begin + done) / line_, x = (begin + done) % line_, count = std::min(n - done, line_ - x);
      work(line, x, count, done);
      done += count;
    }
  }

  const GridGaussian<T>& grid_;
  const int channels_;
  const int64_t line_;  // points of a line
  const int margin_;
  Buffer<T> sent_, received_;
  std::vector<Buffer<T>> inputs_;  // what each axis but the last convolves, if a gradient needs it
  Buffer<T> before_;  // what had been received when the changes were first to be followed, until the next propagate()
};

}  // namespace crfrnn
