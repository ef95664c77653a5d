// Which points have to be worked out again: those whose messages changed enough to change their marginals, equation (18).
#pragma once

#include <algorithm>
#include <cmath>
#include <vector>

#include "chunks.h"
#include "exchange.h"

namespace crfrnn {

// Follows the points in runs of run_size. Each run remembers the marginals that it sent last, and how far its scores can have
// moved since it was last worked out. Runs of different tiles may be used in parallel.
template <class T>
class Follower {
 public:
  // step: the most by which marginals may differ from those that were sent, and from those last worked out.
  Follower(Exchange<T>& exchange, double step, TileTeam& points)
      : exchange_(exchange), channels_(exchange.channels()), step_(step), points_(points),
        sent_((points.chunks.total + tile_size) * channels_), changes_(num_runs()), bounds_(num_runs()), moved_(num_runs()),
        slack_(num_runs()) {
    std::fill(changes_.begin(), changes_.end(), T(0));
  }

  // Comes after a propagate(), and before all tiles start(). Whether the exchange can be followed.
  bool follow() { return exchange_.follow(points_.team, reach_); }

  // The marginals of a tile, which it sends.
  void start(const Tile& tile, const T* q) {
    std::copy_n(q, tile.n * channels_, sent(tile.begin));
    settle(tile, q);
  }

  // How far the scores of each run can have moved. Comes after each propagate().
  void bound_moves() {
    for (std::size_t k = 0; k < reach_.size(); ++k) {
      exchange_.bound_changes(k, points_.team, changes_.get(), bounds_.get());
      for (int64_t run = 0; run < num_runs(); ++run) moved_[run] += reach_[k][run] * bounds_[run];
    }
    std::fill(changes_.begin(), changes_.end(), T(0));
  }

  // Calls work(part) for the parts of a tile that have to be worked out again.
  template <class F>
  void for_active_parts(const Tile& tile, F work) {
    int64_t begin = 0;
    for (int64_t i = 0; i < tile.n; i += run_size) {
      const bool active = is_active((tile.begin + i) / run_size);
      const int64_t end = std::min<int64_t>(tile.n, i + run_size);
      if (!active && i > begin) work(Tile{tile.chunk, tile.begin + begin, i - begin, false});
      if (!active) begin = end;
      if (active && end == tile.n) work(Tile{tile.chunk, tile.begin + begin, end - begin, false});
    }
  }

  // The new marginals of a part, and what it sends of them. `spare` is memory for its rows.
  void revise(const Tile& part, const T* q, T* spare) {
    settle(part, q);
    for (int64_t i = 0; i < part.n; i += run_size) {
      const Tile run{part.chunk, part.begin + i, std::min<int64_t>(run_size, part.n - i), false};
      send_run(run, q + i * channels_, spare);
    }
  }

  // Comes after the parts of a tile.
  void finish_tile(const Tile& tile) { exchange_.send_unchanged(tile, sent(tile.begin)); }

  bool is_active(int64_t run) const { return moved_[run] > slack_[run]; }
  // The share of runs that have to be worked out after bound_moves(), and whether any run has sent since.
  double active_share() const {
    int64_t count = 0;
    for (int64_t run = 0; run < num_runs(); ++run) count += is_active(run);
    return double(count) / double(num_runs());
  }
  bool any_sent() const {
    return std::any_of(changes_.get(), changes_.get() + num_runs(), [](T change) { return change > 0; });
  }

 private:
  int64_t num_runs() const { return (points_.chunks.total + run_size - 1) / run_size; }
  T* sent(int64_t point) { return &sent_[point * channels_]; }

  // If no score moves by more than δ, no marginal moves by more than η (exp(2 δ) − 1), where η is what the likeliest class
  // leaves to the others.
  void settle(const Tile& part, const T* q) {
    for (int64_t i = 0; i < part.n; i += run_size) {
      T least = 1;
      for (int64_t p = i; p < std::min<int64_t>(i + run_size, part.n); ++p)
        least = std::min(least, *std::max_element(q + p * channels_, q + (p + 1) * channels_));
      const int64_t run = (part.begin + i) / run_size;
      moved_[run] = 0;
      slack_[run] = T(0.5 * std::log1p(step_ / std::max(1 - double(least), 1e-7)));
    }
  }

  void send_run(const Tile& run, const T* q, T* difference) {
    T* const before = sent(run.begin);
    T largest = 0, total = 0;
    for (int64_t i = 0; i < run.n; ++i) {
      T of_point = 0;
      for (int c = 0; c < channels_; ++c) {
        const int64_t at = i * channels_ + c;
        difference[at] = q[at] - before[at];
        of_point = std::max(of_point, std::abs(difference[at]));
      }
      largest = std::max(largest, of_point), total += of_point;
    }
    if (largest <= T(step_)) return;
    changes_[run.begin / run_size] = total;
    std::copy_n(q, run.n * channels_, before);
    exchange_.send_changes(run, difference);
  }

  Exchange<T>& exchange_;
  const int channels_;
  const double step_;
  TileTeam& points_;
  std::vector<std::vector<T>> reach_;  // of each kernel and run: how far a change of 1 moves a score
  Buffer<T> sent_;                     // rows of points
  Buffer<T> changes_;                  // of each run: what it sent has changed by, summed over its points
  Buffer<T> bounds_;                   // of each run: of what it receives from one kernel
  Buffer<T> moved_, slack_;            // of each run: how far its scores can have moved, and how far they may
};

}  // namespace crfrnn
