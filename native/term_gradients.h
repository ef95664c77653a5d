// The gradients to the kernels of the terms and to their factors, equation (22).
#pragma once

#include <algorithm>
#include <memory>
#include <vector>

#include "buffer.h"
#include "exchange.h"
#include "rows.h"

namespace crfrnn {

// Where the gradients of a term go: to what its kernel was built from, and to its N factors.
template <class T>
struct TermGradient {
  T *kernel, *pre, *post;
};

// Sums them up over the iterations. In each, cotangents g = ∂L/∂a go through a transposed exchange between all classes, and the
// values −E q go through the kernels of their own: so ⟨g, N (−E q)⟩ is what the messages of the iteration add to the loss.
template <class T>
class TermGradients {
 public:
  // The couplings E are multiplied by `factor`.
  TermGradients(const std::vector<Pairwise<T>>& pairwise, int classes, const Chunks& chunks, T factor, Exchange<T>& transposed)
      : pairwise_(pairwise), channels_(transposed.channels()), values_(chunks.count() * tile_size * channels_),
        pre_(pairwise.size() * chunks.total) {
    std::fill(pre_.begin(), pre_.end(), T(0));
    for (std::size_t k = 0; k < pairwise.size(); ++k) {
      const Pairwise<T>& term = pairwise[k];
      couplings_.emplace_back(term, classes, all_classes(classes), factor, false);
      numbers_.push_back(is_number(term) ? -factor * term.coupling[0] : T(1));
      gradients_.push_back(term.kernel->gradient(transposed.message(k), channels_, {term.pre, term.post}));
    }
  }

  // Comes after propagate() of the exchange, and before it sends for the next time. marginals, cotangents: of all points.
  void propagate(TileTeam& points, const RowsOf<T>& marginals, const T* cotangents) {
    for (std::size_t k = 0; k < gradients_.size(); ++k) {
      auto values = [&](int64_t begin, int64_t n, T* spare) {
        return values_of(k, n, marginals(begin, n, spare), spare + tile_size * channels_);
      };
      gradients_[k]->propagate(points, values, cotangents);
    }
  }

  // Adds the share of a tile to the gradients of term k. message = what it receives of the exchange, before its scale.
  void receive(std::size_t k, const Tile& tile, const T* q, const T* cotangents, T* message) {
    const T* const values = values_of(k, tile.n, q, &values_[tile.chunk * tile_size * channels_]);
    gradients_[k]->receive(tile.begin, tile.n, values, cotangents, message);
    loops<T>().row_products(values, message, pre(k) + tile.begin, channels_, tile.n);
  }

  void write(Team& team, const std::vector<TermGradient<T>>& to) {
    for (std::size_t k = 0; k < to.size(); ++k) {
      gradients_[k]->write(team, to[k].kernel, to[k].post);
      std::copy_n(pre(k), points(), to[k].pre);
      if (numbers_[k] == 1) continue;
      int64_t size = 1;
      for (const std::size_t length : pairwise_[k].kernel->gradient_shape()) size *= static_cast<int64_t>(length);
      multiply(to[k].kernel, size, numbers_[k]);
      multiply(to[k].pre, points(), numbers_[k]);
      multiply(to[k].post, points(), numbers_[k]);
    }
  }

 private:
  int64_t points() const { return pre_.size() / static_cast<int64_t>(pairwise_.size()); }
  T* pre(std::size_t k) { return &pre_[static_cast<int64_t>(k) * points()]; }

  static bool is_number(const Pairwise<T>& term) { return term.kind == Pairwise<T>::Coupling::scalar; }
  static void multiply(T* numbers, int64_t size, T factor) {
    std::transform(numbers, numbers + size, numbers, [=](T x) { return factor * x; });
  }

  // −E q, in `rows`; q where all is multiplied by a number −E at last.
  const T* values_of(std::size_t k, int64_t n, const T* q, T* rows) const {
    if (is_number(pairwise_[k])) return q;
    couplings_[k].apply(q, nullptr, rows, channels_, n);
    return rows;
  }

  const std::vector<Pairwise<T>>& pairwise_;
  const int channels_;
  std::vector<PaddedCoupling<T>> couplings_;
  std::vector<T> numbers_;
  std::vector<std::unique_ptr<KernelGradient<T>>> gradients_;
  Buffer<T> values_;  // the rows of a tile for each chunk
  Buffer<T> pre_;     // of each term and point
};

}  // namespace crfrnn
