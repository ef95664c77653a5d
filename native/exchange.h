// The exchange of messages between points: the sum over kernels of coupling × normalised filter that every solver of the CRF
// needs, forward or transposed.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <memory>
#include <utility>
#include <vector>

#include "kernel.h"
#include "rows.h"

namespace crfrnn {

// One Gaussian kernel of the CRF. Its messages are coupling · diag(post) K diag(pre) q.
template <class T>
struct Pairwise {
  enum class Coupling { scalar, per_class, matrix };
  const Kernel<T>* kernel;
  const T* pre;   // N factors, or null for ones
  const T* post;  // N factors, or null for ones
  Coupling kind;
  const T* coupling;  // 1, C or C × C numbers: what the scores lose per unit of message
  // What no row of the normalised kernel sums to more than, or 0 if that is not known. Without `pre`, all rows sum to it.
  double row_sum = 0;

  // What the scores of class `row` lose per unit of message about class `column`.
  T entry(int row, int column, int classes) const {
    if (kind == Coupling::matrix) return coupling[int64_t{row} * classes + column];
    return row == column ? coupling[kind == Coupling::scalar ? 0 : row] : T(0);
  }
};

// A coupling between some of the classes, multiplied by a factor and laid out for the loops: a number for each channel, or a
// transposed matrix if an entry off the diagonal is not zero. So only those matrices cost a matrix product.
template <class T>
class PaddedCoupling {
 public:
  PaddedCoupling(const Pairwise<T>& term, int num_classes, const Classes& classes, T factor, bool transpose) {
    const int count = static_cast<int>(classes.size());
    const int64_t channels = padded_channels(count);
    auto entry = [&](int row, int column) {
      const int r = classes[row], c = classes[column];
      return factor * (transpose ? term.entry(c, r, num_classes) : term.entry(r, c, num_classes));
    };
    const int off_diagonal = term.kind == Pairwise<T>::Coupling::matrix ? count : 0;
    for (int r = 0; r < off_diagonal; ++r)
      for (int c = 0; c < count; ++c) is_diagonal_ &= r == c || entry(r, c) == T(0);
    numbers_.assign(is_diagonal_ ? channels : channels * channels, T(0));
    for (int r = 0; r < count; ++r) {
      if (is_diagonal_) {
        numbers_[r] = entry(r, r);
      } else {
        for (int c = 0; c < count; ++c) numbers_[c * channels + r] = entry(r, c);
      }
    }
  }

  bool is_diagonal() const { return is_diagonal_; }
  const T* numbers() const { return numbers_.data(); }

  // Σ |entries| of the row where that is largest.
  T largest_row_sum(int channels) const {
    std::vector<T> sums(channels, T(0));
    for (std::size_t i = 0; i < numbers_.size(); ++i) sums[i % channels] += std::abs(numbers_[i]);
    return *std::max_element(sums.begin(), sums.end());
  }

  // to = from − coupling · message, n rows.
  void apply(const T* message, const T* from, T* to, int channels, int64_t n) const {
    const auto couple = is_diagonal_ ? loops<T>().couple_diagonal : loops<T>().couple_matrix;
    couple(numbers_.data(), message, from, to, channels, n);
  }

 private:
  bool is_diagonal_ = true;
  std::vector<T> numbers_;
};

template <class T>
T largest_of(const T* factors, int64_t n) {
  constexpr int together = 16;  // several maxima side by side are faster than one
  std::array<T, together> largest{};
  for (int64_t i = 0; i + together <= n; i += together)
    for (int k = 0; k < together; ++k) largest[k] = std::max(largest[k], factors[i + k]);
  for (int64_t i = n / together * together; i < n; ++i) largest[0] = std::max(largest[0], factors[i]);
  return *std::max_element(largest.begin(), largest.end());
}

// More than any number reaches, on the way or at last, when the messages of marginals are sent through all kernels. No kernel
// sums to more than `spread` times its points, whatever a lattice makes of them between its blurs.
template <class T>
double largest_message(const std::vector<Pairwise<T>>& pairwise, int num_classes) {
  constexpr double spread = 1 << 20;
  double total = 0;
  for (const auto& term : pairwise) {
    const int64_t points = term.kernel->num_points();
    double factors = std::max(term.row_sum, 1.0);  // what is sent is no larger than what rows sum to
    if (term.row_sum == 0) {
      const double pre = term.pre ? largest_of(term.pre, points) : 1, post = term.post ? largest_of(term.post, points) : 1;
      factors = std::max(pre, 1.0) * std::max(post, 1.0);
    }
    const PaddedCoupling<T> coupling(term, num_classes, all_classes(num_classes), T(1), false);
    total += factors * double(points) * spread * std::max(1.0, double(coupling.largest_row_sum(padded_channels(num_classes))));
  }
  return total;
}

// Messages between the points about some of the classes. Tiles of points send rows to every kernel, the kernels propagate
// them, and each tile receives what arrived. The couplings are multiplied by `factor`.
template <class T>
class Exchange {
 public:
  Exchange(const std::vector<Pairwise<T>>& pairwise, int num_classes, Classes classes, T factor, bool transpose)
      : pairwise_(pairwise), transpose_(transpose), classes_(std::move(classes)),
        channels_(padded_channels(static_cast<int>(classes_.size()))) {
    for (const auto& term : pairwise) {
      messages_.push_back(term.kernel->message(channels_));
      couplings_.emplace_back(term, num_classes, classes_, factor, transpose);
    }
  }

  const Classes& classes() const { return classes_; }
  int channels() const { return channels_; }
  Message<T>& message(std::size_t k) { return *messages_[k]; }

  // The tiles of a chunk send in order, from the one that opens the chunk.
  void send(const Tile& tile, const T* rows) {
    for (std::size_t k = 0; k < messages_.size(); ++k) send_one(k, tile, rows);
  }

  void propagate(Team& team) {
    for (const auto& message : messages_) message->propagate(team, transpose_);
  }

  void stop_sending() {
    for (const auto& message : messages_) message->stop_sending();
  }

  // Following changes (kernel.h). Whether all messages can be followed. reach[k][r]: how far a score of run r moves if what it
  // receives from kernel k, before its scale, changes by 1.
  bool follow(Team& team, std::vector<std::vector<T>>& reach) {
    reach.clear();
    largest_sent_scales_.clear();
    for (std::size_t k = 0; k < messages_.size(); ++k) {
      if (!messages_[k]->follow(team)) return false;
      const T* const pre = pairwise_[k].pre;
      largest_sent_scales_.push_back(pre ? *std::max_element(pre, pre + pairwise_[k].kernel->num_points()) : T(1));
      reach.push_back(reach_of(k));
    }
    return true;
  }
  // changes: of each run, of the rows that it sent, before their scale.
  void bound_changes(std::size_t k, Team& team, const Buffer<T>& changes, T* bounds) {
    std::vector<T> scaled(changes.get(), changes.get() + changes.size());
    for (T& change : scaled) change *= largest_sent_scales_[k];
    messages_[k]->bound_changes(team, scaled.data(), bounds);
  }

  // The difference to what the points of a part of a tile sent last, to the messages that add it up. The others want
  // send_unchanged() with the rows that the tile has sent by now.
  void send_changes(const Tile& part, const T* difference) {
    for (std::size_t k = 0; k < messages_.size(); ++k)
      if (messages_[k]->adds_up()) messages_[k]->send(part.begin, part.n, difference, sent_scale(k, part));
  }
  void send_unchanged(const Tile& tile, const T* rows) {
    for (std::size_t k = 0; k < messages_.size(); ++k)
      if (!messages_[k]->adds_up()) send_one(k, tile, rows);
  }

  // to = from − Σ_k coupling_k · message_k. `spare` is memory for the rows of a tile.
  void receive(const Tile& tile, const T* from, T* to, T* spare) const {
    if (messages_.empty()) std::copy_n(from, tile.n * channels_, to);
    for (std::size_t k = 0; k < messages_.size(); ++k, from = to) {
      if (couplings_[k].is_diagonal()) {
        messages_[k]->receive(tile.begin, tile.n, to, received_scale(k, tile), couplings_[k].numbers(), from);
      } else {
        receive_one(k, tile, spare);
        couple(k, tile, spare, from, to);
      }
    }
  }

  // rows = message_k, before its coupling.
  void receive_one(std::size_t k, const Tile& tile, T* rows) const {
    messages_[k]->receive(tile.begin, tile.n, rows, received_scale(k, tile), nullptr, nullptr);
  }
  // What is left to do for one that was received without its scale.
  void scale_received(std::size_t k, const Tile& tile, T* rows) const {
    const T* const scale = received_scale(k, tile);
    if (scale) loops<T>().scale_rows(rows, scale, rows, channels_, tile.n);
  }

  // to = from − coupling_k · message.
  void couple(std::size_t k, const Tile& tile, const T* message, const T* from, T* to) const {
    couplings_[k].apply(message, from, to, channels_, tile.n);
  }

 private:
  void send_one(std::size_t k, const Tile& tile, const T* rows) {
    if (tile.opens_chunk) messages_[k]->open(tile.chunk);
    messages_[k]->send(tile.begin, tile.n, rows, sent_scale(k, tile));
  }

  std::vector<T> reach_of(std::size_t k) const {
    const Pairwise<T>& term = pairwise_[k];
    const int64_t points = term.kernel->num_points();
    std::vector<T> reach;
    for (int64_t begin = 0; begin < points; begin += run_size) {
      const int64_t end = std::min<int64_t>(begin + run_size, points);
      const T received = term.post ? *std::max_element(term.post + begin, term.post + end) : T(1);
      reach.push_back(received * couplings_[k].largest_row_sum(channels_));
    }
    return reach;
  }

  static const T* of_tile(const T* factors, const Tile& tile) { return factors ? factors + tile.begin : nullptr; }
  const T* sent_scale(std::size_t k, const Tile& tile) const {
    return of_tile(transpose_ ? pairwise_[k].post : pairwise_[k].pre, tile);
  }
  const T* received_scale(std::size_t k, const Tile& tile) const {
    return of_tile(transpose_ ? pairwise_[k].pre : pairwise_[k].post, tile);
  }

  const std::vector<Pairwise<T>>& pairwise_;
  const bool transpose_;
  const Classes classes_;
  const int channels_;
  std::vector<std::unique_ptr<Message<T>>> messages_;
  std::vector<PaddedCoupling<T>> couplings_;
  std::vector<T> largest_sent_scales_;
};

}  // namespace crfrnn
