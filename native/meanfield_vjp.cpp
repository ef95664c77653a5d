// The backward pass of the mean field, equation (8).
#include <algorithm>

#include "buffer.h"
#include "meanfield.h"

namespace crfrnn {
namespace {

// Σ h_k qᵀ over all points and iterations. Each chunk adds to sums of its own, which are added in the order of the chunks at
// last: the same bits for any number of threads.
template <class T>
class CouplingGradients {
 public:
  CouplingGradients(const std::vector<Pairwise<T>>& pairwise, const ScoreLayout& layout, const Chunks& chunks)
      : pairwise_(pairwise), classes_(layout.classes), channels_(padded_channels(layout.classes)), chunks_(chunks.count()),
        products_(chunks_ * static_cast<int64_t>(pairwise.size()) * channels_ * channels_) {
    std::fill(products_.begin(), products_.end(), T(0));
  }

  void add(std::size_t k, const Tile& tile, const T* h, const T* q) {
    T* sums = products(tile.chunk, k);
    if (pairwise_[k].kind == Coupling::matrix) {
      loops<T>().outer_products(h, q, sums, classes_, channels_, tile.n);
    } else {
      loops<T>().diagonal_products(h, q, sums, channels_, tile.n);
    }
  }

  // −factor · Σ h_k qᵀ in the shape of the coupling: a diagonal takes the diagonal of it, a number the trace.
  void write(std::size_t k, T factor, T* gradient) {
    auto entry = [&](int64_t at) {
      T value = 0;
      for (int64_t chunk = 0; chunk < chunks_; ++chunk) value -= factor * products(chunk, k)[at];
      return value;
    };
    if (pairwise_[k].kind == Coupling::matrix) {
      for (int r = 0; r < classes_; ++r)
        for (int c = 0; c < classes_; ++c) gradient[r * classes_ + c] = entry(c * channels_ + r);
    } else if (pairwise_[k].kind == Coupling::per_class) {
      for (int c = 0; c < classes_; ++c) gradient[c] = entry(c);
    } else {
      gradient[0] = 0;
      for (int c = 0; c < classes_; ++c) gradient[0] += entry(c);
    }
  }

 private:
  using Coupling = typename Pairwise<T>::Coupling;
  T* products(int64_t chunk, std::size_t k) { return &products_[(chunk * pairwise_.size() + k) * channels_ * channels_]; }

  const std::vector<Pairwise<T>>& pairwise_;
  const int classes_;
  const int64_t channels_, chunks_;
  Buffer<T> products_;  // chunks × kernels × channels²; of a diagonal or a number only the first row is used
};

// The iterations in reverse. g is ∂L/∂a_t; `mean_field_vjp` below shows the order of the steps.
template <class T>
class MeanFieldVjp {
 public:
  MeanFieldVjp(const MeanFieldSettings& settings, const KeptMarginals<T>& marginals, const std::vector<Pairwise<T>>& pairwise,
               T* unary_gradient)
      : layout_(settings.scores), marginals_(marginals), num_kernels_(pairwise.size()), unary_gradient_(unary_gradient),
        damping_(T(settings.damping)), undamped_(1 - damping_), points_(layout_.points, settings.threads),
        exchange_(pairwise, layout_.classes, all_classes(layout_.classes), T(1 - settings.damping), true),
        channels_(exchange_.channels()), gradient_rows_(damping_ > 0 ? layout_.points * channels_ : 0),
        unary_rows_((layout_.points + tile_size) * channels_), couplings_(pairwise, layout_, points_.chunks) {}

  // g = ∂L/∂a_T.
  void start(const T* cotangent, bool is_last) {
    points_.over_tiles<T>(channels_, [&](const Tile& tile, T*, T*, T*) {
      T* g = unary_row(tile);
      read_scores(layout_, cotangent, tile, exchange_.classes(), T(0), g);
      pass_on(tile, g, g, is_last);
      if (damping_ > 0 && !is_last) loops<T>().linear_combination(0, g, undamped_, g, g, channels_, tile.n);
    });
  }

  // From ∂L/∂a_{t+1} to ∂L/∂a_t.
  void step(int t) {
    const bool is_last = t == 0;
    exchange_.propagate(points_.team);
    points_.over_tiles<T>(channels_, [&](const Tile& tile, T* g, T* h, T* spare) {
      const T* q = marginals_.read(t, tile, spare);
      receive(tile, q, g, h);
      const T* sum = unary_row(tile);
      T* next_sum = is_last ? h : unary_row(tile);
      if (damping_ > 0) {
        loops<T>().softmax_vjp(q, g, nullptr, nullptr, channels_, tile.n);
        loops<T>().linear_combination(1, g, damping_, &gradient_rows_[tile.begin * channels_], g, channels_, tile.n);
        loops<T>().linear_combination(1, sum, is_last ? T(1) : undamped_, g, next_sum, channels_, tile.n);
      } else {
        loops<T>().softmax_vjp(q, g, sum, next_sum, channels_, tile.n);
      }
      pass_on(tile, g, next_sum, is_last);
    });
  }

  void write_couplings(const std::vector<T*>& gradients) {
    for (std::size_t k = 0; k < num_kernels_; ++k) couplings_.write(k, undamped_, gradients[k]);
  }

 private:
  T* unary_row(const Tile& tile) { return &unary_rows_[tile.begin * channels_]; }

  // v = −Σ_k E_kᵀ h_k, and ∂E_k from h_k = N_kᵀ r and q. The exchange has the factor 1 − λ of r in its couplings.
  void receive(const Tile& tile, const T* q, T* v, T* h) {
    if (num_kernels_ == 0) std::fill_n(v, tile.n * channels_, T(0));
    for (std::size_t k = 0; k < num_kernels_; ++k) {
      exchange_.receive_one(k, tile, h);
      couplings_.add(k, tile, h, q);
      exchange_.couple(k, tile, h, k == 0 ? nullptr : v, v);
    }
  }

  // g is sent to the iteration before. At the last step `sum`, ∂L/∂U, is complete.
  void pass_on(const Tile& tile, const T* g, const T* sum, bool is_last) {
    if (is_last) return write_scores(layout_, sum, tile, unary_gradient_);
    if (damping_ > 0) std::copy_n(g, tile.n * channels_, &gradient_rows_[tile.begin * channels_]);
    exchange_.send(tile, g);
  }

  const ScoreLayout& layout_;
  const KeptMarginals<T>& marginals_;
  const std::size_t num_kernels_;
  T* const unary_gradient_;
  const T damping_, undamped_;
  TileTeam points_;
  Exchange<T> exchange_;
  const int channels_;
  Buffer<T> gradient_rows_;  // g, which damping needs in the next step
  Buffer<T> unary_rows_;     // ∂L/∂U so far
  CouplingGradients<T> couplings_;
};

}  // namespace

template <class T>
void mean_field_vjp(const MeanFieldSettings& settings, const T* cotangent, const KeptMarginals<T>& marginals,
                    const std::vector<Pairwise<T>>& pairwise, T* unary_gradient, const std::vector<T*>& coupling_gradients) {
  MeanFieldVjp<T> backward(settings, marginals, pairwise, unary_gradient);
  backward.start(cotangent, settings.iterations == 0);
  for (int t = settings.iterations - 1; t >= 0; --t) backward.step(t);
  backward.write_couplings(coupling_gradients);
}

template void mean_field_vjp<float>(const MeanFieldSettings&, const float*, const KeptMarginals<float>&,
                                    const std::vector<Pairwise<float>>&, float*, const std::vector<float*>&);
template void mean_field_vjp<double>(const MeanFieldSettings&, const double*, const KeptMarginals<double>&,
                                     const std::vector<Pairwise<double>>&, double*, const std::vector<double*>&);

}  // namespace crfrnn
