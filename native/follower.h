// Which points have to be worked out again: those whose messages changed enough to change their marginals, equation (18), and
// those that are undecided, equation (36).
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>
#include <vector>

#include "chunks.h"
#include "exchange.h"

namespace crfrnn {

// Follows the points in runs of run_size. Each run remembers the marginals that it sent last, and how far its scores can have
// moved since it was last worked out. Runs of different tiles may be used in parallel.
template <class T>
class Follower {
 public:
  // step: the most by which marginals may differ from those that were sent, and from those last worked out. Of the difference
  // of two marginals (log_odds.h), it is twice as much, and so is what compare() computes with.
  // decided: what the largest marginal, or that difference, has to reach at all points of a run that may be left out.
  Follower(Exchange<T>& exchange, double step, double decided, TileTeam& points)
      : exchange_(exchange), channels_(exchange.channels()), step_(step), decided_(decided), points_(points),
        sent_((points.chunks.total + tile_size) * channels_), changes_(num_runs()), bounds_(num_runs()), moved_(num_runs()),
        slack_(num_runs()) {
    std::fill(changes_.begin(), changes_.end(), T(0));
  }

  // Comes after all tiles start(), if their runs are to be followed. Whether the exchange can be followed.
  bool follow() { return exchange_.follow(points_.team, reach_); }

  // The marginals of a tile, which it sends. `spare` is memory for its rows.
  void start(const Tile& tile, const T* q, T* spare) {
    std::copy_n(q, tile.n * channels_, sent(tile.begin));
    for_runs(tile, [&](const Tile& run, int64_t i) { compare(run, q + i * channels_, spare); });
  }

  // How far the scores of each run can have moved. Comes after each propagate().
  void bound_moves() {
    for (std::size_t k = 0; k < reach_.size(); ++k) {
      exchange_.bound_changes(k, points_.team, changes_, bounds_.get());
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
    for_runs(part, [&](const Tile& run, int64_t i) {
      const T* const rows = q + i * channels_;
      const auto [largest, total] = compare(run, rows, spare);
      if (largest <= (is_decided(run.begin / run_size) ? T(step_) : rounding)) return;
      changes_[run.begin / run_size] = total;
      std::copy_n(rows, run.n * channels_, sent(run.begin));
      exchange_.send_changes(run, spare);
    });
  }

  // Comes after the parts of a tile.
  void finish_tile(const Tile& tile) { exchange_.send_unchanged(tile, sent(tile.begin)); }

  // Following changes costs about as much as an eighth of the points does, less where points and vertices fill no cache. Where
  // more of them are active, dense iterations are faster.
  double share_that_pays() const { return points_.chunks.total < (1 << 20) ? 0.12 : 0.4; }
  // The share of runs that have to be worked out again if scores move by so much.
  double share_within(T move) const {
    return double(std::count_if(slack_.get(), slack_.get() + num_runs(), [=](T slack) { return slack < move; })) / num_runs();
  }
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

  template <class F>
  static void for_runs(const Tile& part, F work) {
    for (int64_t i = 0; i < part.n; i += run_size)
      work(Tile{part.chunk, part.begin + i, std::min<int64_t>(run_size, part.n - i), false}, i);
  }

  // The largest change since the run sent last, and the sum of the changes of its points. If no score moves by more than δ, no
  // marginal moves by more than η (exp(2 δ) − 1), where η is what the likeliest class leaves to the others.
  std::pair<T, T> compare(const Tile& run, const T* q, T* difference) {
    T found[3];
    loops<T>().compare_run(q, sent(run.begin), difference, found, channels_, run.n);
    moved_[run.begin / run_size] = 0;
    slack_[run.begin / run_size] = found[2] < T(decided_) ? T(-1) : std::log1p(T(step_) / std::max(1 - found[2], T(1e-7))) / 2;
    return {found[0], found[1]};
  }
  // Whether an iteration at least halves errors at the points of a run, equation (36).
  bool is_decided(int64_t run) const { return slack_[run] >= 0; }

  Exchange<T>& exchange_;
  const int channels_;
  static constexpr T rounding = 8 * std::numeric_limits<T>::epsilon();  // of marginals: a smaller change is none
  const double step_, decided_;
  TileTeam& points_;
  std::vector<std::vector<T>> reach_;  // of each kernel and run: how far a change of 1 moves a score
  Buffer<T> sent_;                     // rows of points
  Buffer<T> changes_;                  // of each run: what it sent has changed by, summed over its points
  Buffer<T> bounds_;                   // of each run: of what it receives from one kernel
  Buffer<T> moved_, slack_;  // of each run: how far its scores can have moved, and how far they may; −1 if it is undecided
};

}  // namespace crfrnn
