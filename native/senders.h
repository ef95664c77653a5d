// Which classes send messages: those that are likely somewhere, equations (13) and (16).
#pragma once

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "chunks.h"
#include "exchange.h"
#include "rows.h"

namespace crfrnn {

// The largest marginal of each class at any point. Tiles of different chunks may be seen in parallel.
template <class T>
class ClassMaxima {
 public:
  ClassMaxima(const Chunks& chunks, int channels) : channels_(channels), maxima_(chunks.count() * channels, T(0)) {}

  void see(const Tile& tile, const T* q) { loops<T>().update_maxima(q, &maxima_[tile.chunk * channels_], channels_, tile.n); }

  // A number for each channel.
  std::vector<T> maxima() const {
    std::vector<T> most(channels_, T(0));
    for (std::size_t i = 0; i < maxima_.size(); ++i) most[i % channels_] = std::max(most[i % channels_], maxima_[i]);
    return most;
  }

 private:
  const int channels_;
  std::vector<T> maxima_;
};

// Equation (13): of the classes, those that reach the threshold somewhere; never none, as the likeliest stays.
template <class T>
Classes likely_among(const Classes& classes, const std::vector<T>& maxima, double threshold) {
  const T least = std::min(T(threshold), *std::max_element(maxima.begin(), maxima.end()));
  Classes likely;
  for (std::size_t k = 0; k < classes.size(); ++k)
    if (maxima[k] >= least) likely.push_back(classes[k]);
  return likely;
}

// The largest sum of a row of N_k: what a point receives if all send 1.
template <class T>
double largest_row_sum(const Pairwise<T>& term, TileTeam& points) {
  const auto message = term.kernel->message(1);
  auto of_tile = [](const T* factors, const Tile& tile) { return factors ? factors + tile.begin : nullptr; };
  points.over_tiles<T>(1, [&](const Tile& tile, T* ones, T*, T*) {
    if (tile.opens_chunk) message->open(tile.chunk);
    std::fill_n(ones, tile.n, T(1));
    message->send(tile.begin, tile.n, ones, of_tile(term.pre, tile));
  });
  message->propagate(points.team, false);
  std::vector<T> most(points.chunks.count(), T(0));
  points.over_tiles<T>(1, [&](const Tile& tile, T* sums, T*, T*) {
    message->receive(tile.begin, tile.n, sums, of_tile(term.post, tile), nullptr, nullptr);
    most[tile.chunk] = std::max(most[tile.chunk], *std::max_element(sums, sums + tile.n));
  });
  return *std::max_element(most.begin(), most.end());
}

// The classes that are silent: they neither send nor receive, but keep their share of the probability, equation (16).
template <class T>
class Silence {
 public:
  // No class may be silent if messages about a class change the scores of others.
  Silence(double tolerance, int classes, const std::vector<Pairwise<T>>& pairwise, TileTeam& points)
      : most_now_(points.chunks.count(), T(0)) {
    double weight = 0;
    for (const auto& term : pairwise) {
      const PaddedCoupling<T> coupling(term, classes, all_classes(classes), T(1), false);
      if (!coupling.is_diagonal()) return;
      double most = 0;
      for (int c = 0; c < classes; ++c) most = std::max(most, std::abs(double(coupling.numbers()[c])));
      weight += most * largest_row_sum(term, points);
    }
    limit_ = largest_share(tolerance, weight);
  }

  bool allowed() const { return limit_ > 0; }

  // Of the classes, those that have to send. The unlikeliest can be silent, beside those that are so already: as many as have
  // together, even if each were likeliest at the same point, the share that may be silent. Mostly it is a part of that.
  Classes senders_among(const Classes& classes, const std::vector<T>& maxima) const {
    std::vector<int> order(classes.size());
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return maxima[a] < maxima[b]; });
    Classes senders;
    double share = most_now();
    for (const int k : order)
      if ((share += double(maxima[k])) > limit_ || k == order.back()) senders.push_back(classes[k]);
    std::sort(senders.begin(), senders.end());
    return senders;
  }

  // Comes before an iteration sees its tiles.
  void begin_iteration() { std::fill(most_now_.begin(), most_now_.end(), T(0)); }

  // Sees what q leaves to the silent classes. `spare` is memory for a number for each row.
  void see(const Tile& tile, const T* q, int channels, T* spare) {
    loops<T>().missing_shares(q, spare, channels, tile.n);
    T& most = most_now_[tile.chunk];
    most = std::max(most, *std::max_element(spare, spare + tile.n));
  }

  // Whether the silent classes have more than (17) allows.
  bool is_broken() const { return most_now() > limit_; }

 private:
  // Equation (17).
  static double largest_share(double tolerance, double weight) {
    double low = 0, high = 0.25;
    for (int i = 0; i < 60; ++i) {
      const double middle = (low + high) / 2;
      (middle * std::expm1(weight * middle) <= tolerance ? low : high) = middle;
    }
    return low;
  }

  double most_now() const { return *std::max_element(most_now_.begin(), most_now_.end()); }

  double limit_ = 0;         // the largest share of the probability that may be silent at a point
  std::vector<T> most_now_;  // of each chunk: the largest share that is, in this iteration
};

}  // namespace crfrnn
