// Which classes send messages: those that are likely somewhere, equations (13) and (16).
#pragma once

#include <algorithm>
#include <cmath>
#include <iterator>
#include <limits>
#include <numeric>
#include <vector>

#include "chunks.h"
#include "exchange.h"
#include "meanfield.h"
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

// Of the classes, those that are left when as many as possible are taken away whose numbers sum to no more than a limit; never
// none. Of equals the last go first, as the first of equally likely classes is the label.
template <class T>
Classes classes_above(const Classes& classes, const std::vector<T>& numbers, double limit) {
  std::vector<int> order(classes.size());
  std::iota(order.begin(), order.end(), 0);
  std::sort(order.begin(), order.end(),
            [&](int a, int b) { return numbers[a] < numbers[b] || (numbers[a] == numbers[b] && a > b); });
  Classes left;
  double sum = 0;
  for (const int k : order) {
    sum += double(numbers[k]);
    if (sum > limit || k == order.back()) left.push_back(classes[k]);
  }
  std::sort(left.begin(), left.end());
  return left;
}

// The classes that send at the start with a class_threshold.
template <class T>
Classes likely_at_start(const MeanFieldSettings& settings, const T* unary, TileTeam& points) {
  const Classes all = all_classes(settings.scores.classes);
  const int channels = padded_channels(settings.scores.classes);
  ClassMaxima<T> seen(points.chunks, channels);
  points.over_tiles<T>(channels, [&](const Tile& tile, T* rows, T*, T*) {
    read_scores(settings.scores, unary, tile, all, T(padding_score), rows);
    loops<T>().softmax(rows, rows, channels, tile.n);
    seen.see(tile, rows);
  });
  return likely_among(all, seen.maxima(), settings.class_threshold);
}

// Whether messages about a class change the scores of that class alone.
template <class T>
bool classes_are_apart(int classes, const std::vector<Pairwise<T>>& pairwise) {
  return std::all_of(pairwise.begin(), pairwise.end(), [&](const Pairwise<T>& term) {
    return PaddedCoupling<T>(term, classes, all_classes(classes), T(1), false).is_diagonal();
  });
}

// The classes that are silent: they neither send nor receive, but keep their share of the probability, equation (16).
template <class T>
class Silence {
 public:
  // With no more, the exponentials of lowered scores do not overflow, and not all of a point are 0.
  static constexpr double most_weight = 60;
  // weight: how far a score can move if all marginals move by 1; at most most_weight.
  Silence(const MeanFieldSettings& settings, const T* unary, double weight, int64_t chunks)
      : layout_(settings.scores), unary_(unary), limit_(largest_share(settings.tolerance, weight)),
        threshold_(settings.class_threshold), top_(layout_.points + tile_size), sum_(layout_.points + tile_size),
        most_now_(chunks, T(0)) {}

  // The largest q_0 of each class. Comes first.
  std::vector<T> maxima_at_start(TileTeam& points) {
    std::vector<T> maxima(layout_.classes, T(0)), of_chunks(points.chunks.count() * layout_.classes, T(0));
    points.over_tiles<T>(layout_.classes, [&](const Tile& tile, T* terms, T* column, T* factor) {
      T* const top = &top_[tile.begin];
      std::fill_n(top, tile.n, std::numeric_limits<T>::lowest());
      std::fill_n(&sum_[tile.begin], tile.n, T(0));
      std::fill_n(factor, tile.n, T(0));
      for_classes(tile, column, [&](int, const T* scores) { loops<T>().raise(scores, top, tile.n); });
      for_classes(tile, column, [&](int c, const T* scores) {
        loops<T>().add_exponentials(scores, top, terms + c * tile_size, factor, tile.n);
      });
      for (int64_t i = 0; i < tile.n; ++i) factor[i] = 1 / factor[i];
      for (int c = 0; c < layout_.classes; ++c) {
        T& most = of_chunks[tile.chunk * layout_.classes + c];
        most = std::max(most, loops<T>().largest_product(terms + c * tile_size, factor, tile.n));
      }
    });
    for (std::size_t i = 0; i < of_chunks.size(); ++i) {
      T& most = maxima[i % layout_.classes];
      most = std::max(most, of_chunks[i]);
    }
    return maxima;
  }

  // Of the classes, those that have to send. The unlikeliest fall silent, beside those that are so already: as many as have
  // together, even if each were likeliest at the same point, the share that may be silent. Mostly it is a part of that. With a
  // class_threshold, all that are below it everywhere fall silent, too.
  Classes senders_among(const Classes& classes, const std::vector<T>& maxima) {
    const Classes loud = classes_above(classes, maxima, limit_ - most_now()),
                  likely = likely_among(classes, maxima, threshold_);
    Classes senders;
    std::set_intersection(loud.begin(), loud.end(), likely.begin(), likely.end(), std::back_inserter(senders));
    falling_silent_.clear();
    std::set_difference(classes.begin(), classes.end(), senders.begin(), senders.end(), std::back_inserter(falling_silent_));
    return senders;
  }

  // Comes before an iteration sees its tiles.
  void begin_iteration() { std::fill(most_now_.begin(), most_now_.end(), T(0)); }

  // The share of the classes that have just been found silent. `spare` is memory for a number for each point.
  void add_silent(const Tile& tile, T* spare) {
    for (const int c : falling_silent_)
      loops<T>().add_exponentials(score_column(layout_, unary_, tile, c, spare), &top_[tile.begin], spare, &sum_[tile.begin],
                                  tile.n);
  }

  // Scores less the largest U of each point. They move by no more than the weight from there.
  void lower(const Tile& tile, const T* scores, T* lowered, int channels) const {
    loops<T>().lower_rows(scores, &top_[tile.begin], lowered, channels, tile.n);
  }

  // q = softmax over the classes that send and the silent ones, of lowered scores. Sees what it leaves to the silent ones.
  void marginals(const Tile& tile, const T* scores, T* q, int channels) {
    T& most = most_now_[tile.chunk];
    most = std::max(most, loops<T>().softmax_with_rest(scores, &sum_[tile.begin], q, channels, tile.n));
  }

  // Whether the silent classes have more than (17) allows. A class_threshold asks for more silence than that.
  bool is_broken() const { return threshold_ == 0 && most_now() > limit_; }

 private:
  template <class F>
  void for_classes(const Tile& tile, T* spare, F f) const {
    for (int c = 0; c < layout_.classes; ++c) f(c, score_column(layout_, unary_, tile, c, spare));
  }

  // Equation (17).
  static double largest_share(double tolerance, double weight) {
    double low = 0, high = 0.25 / std::max(weight, 1.0);
    for (int i = 0; i < 60; ++i) {
      const double middle = (low + high) / 2;
      (middle * std::expm1(weight * middle) <= tolerance ? low : high) = middle;
    }
    return low;
  }

  double most_now() const { return *std::max_element(most_now_.begin(), most_now_.end()); }

  const ScoreLayout& layout_;
  const T* const unary_;
  const double limit_;  // the largest share of the probability that may be silent at a point
  const double threshold_;
  Classes falling_silent_;
  Buffer<T> top_, sum_;      // of each point: the largest U, and Σ exp(U − top) of the silent classes
  std::vector<T> most_now_;  // of each chunk: the largest share that is, in this iteration
};

}  // namespace crfrnn
