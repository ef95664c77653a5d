// Two classes as one channel, equation (20).
#pragma once

#include <utility>
#include <vector>

#include "exchange.h"
#include "meanfield.h"
#include "recurrence.h"
#include "row_sums.h"
#include "rows.h"

namespace crfrnn {

// The mean field of two classes as one of a single channel: its score is y = (a_0 − a_1)/2, half the log-odds, and what points
// send is the difference of the marginals, u = q_0 − q_1 = tanh(y).
template <class T>
class LogOdds {
 public:
  using Form = typename MeanFieldResult<T>::Form;

  // Whether the sums of all rows of a kernel are needed.
  static bool needs_sums(const Pairwise<T>& term, Form form) { return form == Form::logits || coupling_of_sums(term) != 0; }

  LogOdds(const MeanFieldSettings& settings, const T* unary, const std::vector<Pairwise<T>>& pairwise,
          std::vector<RowSums<T>> sums)
      : layout_(settings.scores), unary_(unary), sums_(std::move(sums)), pairwise_(pairwise) {
    for (const auto& term : pairwise) {
      couplings_.emplace_back(term, 2, both_, T(1), false);
      of_sums_.push_back(coupling_of_sums(term));
      of_messages_.push_back((term.entry(0, 0, 2) - term.entry(0, 1, 2) - term.entry(1, 0, 2) + term.entry(1, 1, 2)) / 4);
    }
    for (std::size_t k = 0; k < pairwise.size(); ++k)
      pairwise_[k].kind = Pairwise<T>::Coupling::scalar, pairwise_[k].coupling = &of_messages_[k];
  }

  // The kernels with the couplings of u to y.
  const std::vector<Pairwise<T>>& pairwise() const { return pairwise_; }

  // y of a_0 = U, and in `rows` what messages are subtracted from. `spare` is memory for the rows of a tile. Halves are
  // subtracted, as they do not overflow.
  const T* read_unary(const Tile& tile, T* rows, T* y, T* spare) const {
    const T* const first = score_column(layout_, unary_, tile, 0, spare);
    const T* const second = score_column(layout_, unary_, tile, 1, spare + tile_size);
    for (int64_t i = 0; i < tile.n; ++i) y[i] = first[i] / 2 - second[i] / 2;
    std::copy_n(y, tile.n, rows);
    for (std::size_t k = 0; k < of_sums_.size(); ++k)
      if (of_sums_[k] != 0)
        for (int64_t i = 0; i < tile.n; ++i) rows[i] -= of_sums_[k] * sums_[k][tile.begin + i];
    return y;
  }

  // The last scores of both classes. They are a_T for logits; otherwise, y and −y have the same softmax. u and `message` are
  // memory for the rows of a tile.
  void receive_scores(const Recurrence<T>& state, const Tile& tile, Form form, T* a, T* u, T* message) const {
    if (form != Form::logits) {
      state.receive_scores(tile, u, message);
      for (int64_t i = 0; i < tile.n; ++i) a[2 * i] = u[i], a[2 * i + 1] = -u[i];
      return;
    }
    read_scores(layout_, unary_, tile, both_, T(padding_score), a);
    for (std::size_t k = 0; k < couplings_.size(); ++k) {
      state.receive_message(k, tile, u);
      for (int64_t i = 0; i < tile.n; ++i) {
        const T sum = sums_[k][tile.begin + i];
        message[2 * i] = (sum + u[i]) / 2, message[2 * i + 1] = (sum - u[i]) / 2;
      }
      couplings_[k].apply(message, a, a, 2, tile.n);
    }
  }

 private:
  static T coupling_of_sums(const Pairwise<T>& term) {
    return (term.entry(0, 0, 2) + term.entry(0, 1, 2) - (term.entry(1, 0, 2) + term.entry(1, 1, 2))) / 4;
  }

  const ScoreLayout& layout_;
  const T* const unary_;
  const Classes both_ = all_classes(2);
  const std::vector<RowSums<T>> sums_;
  std::vector<PaddedCoupling<T>> couplings_;  // of both classes
  std::vector<T> of_sums_, of_messages_;      // of each kernel: what y loses per unit of N 1 and of N u
  std::vector<Pairwise<T>> pairwise_;
};

}  // namespace crfrnn
