// The state of the mean field between two iterations.
#pragma once

#include <algorithm>
#include <limits>
#include <vector>

#include "buffer.h"
#include "exchange.h"
#include "meanfield.h"
#include "rows.h"

namespace crfrnn {

// The state among the classes now in play: their logits U, the exchange of messages, and, where damping needs them, their
// scores a_t. The steps take one tile each, except propagate() and stop_sending().
template <class T>
class Recurrence {
 public:
  Recurrence(const MeanFieldSettings& settings, const T* unary, const std::vector<Pairwise<T>>& pairwise,
             const Classes& classes)
      : layout_(settings.scores), given_(unary), damping_(T(settings.damping)),
        exchange_(pairwise, settings.scores.classes, classes, T(1 - settings.damping), false),
        unary_rows_((settings.scores.points + tile_size) * channels()),  // loops read whole vectors beyond the last row
        scores_(damping_ > 0 ? settings.scores.points * channels() : 0),
        may_overflow_(largest_message(pairwise, settings.scores.classes) > double(std::numeric_limits<T>::max()) / 4) {}

  const Classes& classes() const { return exchange_.classes(); }
  int channels() const { return exchange_.channels(); }

  // Reads U of a tile, and returns its rows.
  const T* read_unary(const Tile& tile) {
    T* rows = unary_rows(tile);
    read_scores(layout_, given_, tile, classes(), T(padding_score), rows);
    return rows;
  }

  // q = softmax(a).
  void marginals(const Tile& tile, const T* a, T* q) {
    if (damping_ > 0) std::copy_n(a, tile.n * channels(), &scores_[tile.begin * channels()]);
    loops<T>().softmax(a, q, channels(), tile.n);
  }

  void send(const Tile& tile, const T* q) { exchange_.send(tile, q); }
  void propagate(Team& team) { exchange_.propagate(team); }
  void stop_sending() { exchange_.stop_sending(); }

  // a = (1 − λ) (U − Σ_k E_k (N_k q_t)) + λ a_t, equation (4). `spare` is memory for the rows of a tile.
  void receive_scores(const Tile& tile, T* a, T* spare) const {
    const T* from = &unary_rows_[tile.begin * channels()];
    if (damping_ > 0) {
      loops<T>().linear_combination(1 - damping_, from, damping_, &scores_[tile.begin * channels()], a, channels(), tile.n);
      from = a;
    }
    exchange_.receive(tile, from, a, spare);
    // Scores that are not finite may leave no trace in the result.
    if (may_overflow_) require_finite(a, static_cast<int>(classes().size()), tile.n);
  }

  // Σ_j N_k[i, j] q_t[j] of kernel k, before its coupling.
  void receive_message(std::size_t k, const Tile& tile, T* rows) const { exchange_.receive_one(k, tile, rows); }

  Exchange<T>& exchange() { return exchange_; }

  // The rows of U of a tile. They may be overwritten once the tile has received for the last time.
  T* unary_rows(const Tile& tile) { return &unary_rows_[tile.begin * channels()]; }

 private:
  const ScoreLayout layout_;
  const T* const given_;
  const T damping_;
  Exchange<T> exchange_;
  Buffer<T> unary_rows_;
  Buffer<T> scores_;
  const bool may_overflow_;
};

}  // namespace crfrnn
