// The gradients to the kernels of the terms and to their factors, equation (22).
#pragma once

#include <algorithm>
#include <memory>
#include <vector>

#include "buffer.h"
#include "exchange.h"
#include "rows.h"

namespace crfrnn {

// Where the gradients of a term go: to what its kernel was built from, and to its N factors, null where it has none.
template <class T>
struct TermGradient {
  T *kernel, *pre, *post;
};

// Sums them up over the iterations. In each, cotangents g = ∂L/∂a go through a transposed exchange between some classes, and
// the values −E q of these go through kernels of their own: so ⟨g, N (−E q)⟩ is what the messages of the iteration add to the
// loss.
template <class T>
class TermGradients {
 public:
  // The couplings E are multiplied by `factor`. The exchange is between all classes.
  TermGradients(const std::vector<Pairwise<T>>& pairwise, int classes, const Chunks& chunks, T factor, Exchange<T>& transposed)
      : pairwise_(pairwise), points_(chunks.total), all_(all_classes(classes)), all_channels_(padded_channels(classes)),
        factor_(factor), classes_(all_), channels_(all_channels_), taken_(pairwise.size(), false),
        values_(chunks.count() * rows_memory()) {
    for (std::size_t k = 0; k < pairwise.size(); ++k) {
      const Pairwise<T>& term = pairwise[k];
      couplings_.emplace_back(term, classes, all_, factor, false);
      numbers_.push_back(is_number(term) ? -factor * term.coupling[0] : T(1));
      gradients_.push_back(term.kernel->gradient(transposed.message(k), channels_, {term.pre, term.post}));
      pre_.emplace_back(term.pre ? points_ : 0);
      std::fill(pre_[k].begin(), pre_[k].end(), T(0));
    }
    transpose_couplings();
  }

  // The exchange from now on, of fewer channels.
  void use(Exchange<T>& transposed) {
    classes_ = transposed.classes(), channels_ = transposed.channels();
    for (std::size_t k = 0; k < gradients_.size(); ++k) gradients_[k]->use(transposed.message(k), channels_);
    transpose_couplings();
  }

  // Comes after propagate() of the exchange, and before it sends for the next time. marginals: rows of all classes;
  // cotangents: what all points have sent. released: by the messages of the marginals, or null.
  void propagate(TileTeam& points, const RowsOf<T>& marginals, const T* cotangents, const std::vector<Buffer<T>>* released) {
    for (std::size_t k = 0; k < gradients_.size(); ++k) {
      // A matrix couples the classes of the exchange to all others.
      taken_[k] = released && (*released)[k].size() > 0 && (couplings_[k].is_diagonal() || channels_ == all_channels_);
      if (taken_[k]) {
        gradients_[k]->take(points, (*released)[k], all_channels_, places_of(classes_, all_));
        continue;
      }
      auto values = [&](int64_t begin, int64_t n, T* memory) {
        return values_of(k, n, marginals.rows(begin, n, memory), memory + marginals.memory_size);
      };
      gradients_[k]->propagate(points, {marginals.memory_size + rows_memory(), values}, cotangents);
    }
  }

  // Adds the share of a tile to the gradients of term k. q: rows of all classes; cotangents: what the tile has sent; message =
  // what it receives of the exchange, before its scale.
  void receive(std::size_t k, const Tile& tile, const T* q, const T* cotangents, T* message) {
    T* const memory = &values_[tile.chunk * rows_memory()];
    const bool needs_values = gradients_[k]->needs_values() || pairwise_[k].pre;
    const T* const values = needs_values ? values_of(k, tile.n, q, memory) : nullptr;
    if (taken_[k] && !is_number(pairwise_[k])) {
      T* const coupled = memory + 2 * tile_size * all_channels_;
      transposed_[k].apply(cotangents, nullptr, coupled, channels_, tile.n);
      cotangents = coupled;
    }
    gradients_[k]->receive(tile.begin, tile.n, values, cotangents, message);
    if (pairwise_[k].pre) loops<T>().row_products(values, message, &pre_[k][tile.begin], channels_, tile.n);
  }

  void write(Team& team, const std::vector<TermGradient<T>>& to) {
    for (std::size_t k = 0; k < to.size(); ++k) {
      gradients_[k]->write(team, to[k].kernel, to[k].post);
      if (to[k].pre) std::copy_n(pre_[k].get(), points_, to[k].pre);
      if (numbers_[k] == 1) continue;
      int64_t size = 1;
      for (const std::size_t length : pairwise_[k].kernel->gradient_shape()) size *= static_cast<int64_t>(length);
      multiply(to[k].kernel, size, numbers_[k]);
      if (to[k].pre) multiply(to[k].pre, points_, numbers_[k]);
      if (to[k].post) multiply(to[k].post, points_, numbers_[k]);
    }
  }

 private:
  // For the rows of a tile with all classes, and with some of them, and for its cotangents.
  int64_t rows_memory() const { return 3 * tile_size * all_channels_; }

  void transpose_couplings() {
    transposed_.clear();
    for (const auto& term : pairwise_) transposed_.emplace_back(term, static_cast<int>(all_.size()), classes_, factor_, true);
  }

  static bool is_number(const Pairwise<T>& term) { return term.kind == Pairwise<T>::Coupling::scalar; }
  static void multiply(T* numbers, int64_t size, T factor) {
    std::transform(numbers, numbers + size, numbers, [=](T x) { return factor * x; });
  }

  // −E q of the classes of the exchange; q where all is multiplied by a number −E at last.
  const T* values_of(std::size_t k, int64_t n, const T* q, T* memory) const {
    const bool couples = !is_number(pairwise_[k]), is_diagonal = couplings_[k].is_diagonal();
    if (couples && !is_diagonal) {
      couplings_[k].apply(q, nullptr, memory, all_channels_, n);
      q = memory;
    }
    if (channels_ < all_channels_) {
      T* const rows = memory + tile_size * all_channels_;
      change_classes(q, all_, classes_, T(0), rows, n);
      q = rows;
    }
    if (couples && is_diagonal) {
      transposed_[k].apply(q, nullptr, memory, channels_, n);
      q = memory;
    }
    return q;
  }

  const std::vector<Pairwise<T>>& pairwise_;
  const int64_t points_;
  const Classes all_;
  const int all_channels_;
  const T factor_;
  Classes classes_;
  int channels_;
  std::vector<bool> taken_;  // of each term: whether its gradient took what a message of q released
  std::vector<PaddedCoupling<T>> couplings_, transposed_;  // among all classes; among those of the exchange
  std::vector<T> numbers_;
  std::vector<std::unique_ptr<KernelGradient<T>>> gradients_;
  Buffer<T> values_;            // memory for the rows of a tile for each chunk
  std::vector<Buffer<T>> pre_;  // of each term, and of the points if it has such factors
};

}  // namespace crfrnn
