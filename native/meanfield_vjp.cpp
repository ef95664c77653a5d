// The backward pass of the mean field, equation (8), with classes left out as in (21), and to the terms (22).
#include <algorithm>
#include <memory>
#include <optional>

#include "buffer.h"
#include "meanfield.h"
#include "row_sums.h"
#include "senders.h"

namespace crfrnn {
namespace {

// −factor · Σ h_k qᵀ over all points and iterations, in the shape of the coupling: a diagonal takes the diagonal of it, a
// number the trace. Each chunk adds to sums of its own, which are added in the order of the chunks at last: the same bits for
// any number of threads.
template <class T>
class CouplingGradients {
 public:
  CouplingGradients(const std::vector<Pairwise<T>>& pairwise, const ScoreLayout& layout, const Chunks& chunks, T factor)
      : pairwise_(pairwise), classes_(layout.classes), channels_(padded_channels(layout.classes)), chunks_(chunks.count()),
        factor_(factor), received_(all_classes(layout.classes)), has_matrix_(any_is_matrix(pairwise)),
        totals_(pairwise.size() * totals_size(), T(0)),
        products_(product_of({chunks_, static_cast<int64_t>(pairwise.size()), products_size()})) {
    clear();
  }

  // The classes whose rows h are given from now on.
  void receive_only(const Classes& classes) {
    add_up();
    received_ = classes;
    clear();
  }

  // h has rows of the classes received.
  void add_outer(std::size_t k, const Tile& tile, const T* h, const T* q) {
    if (!is_matrix(k)) return;
    loops<T>().outer_products(h, received_channels(), q, channels_, products(tile.chunk, k), classes_, tile.n);
  }
  // h has rows of all classes.
  void add_diagonal(std::size_t k, const Tile& tile, const T* h, const T* q) {
    if (!is_matrix(k)) loops<T>().diagonal_products(h, q, products(tile.chunk, k), channels_, tile.n);
  }

  void write(const std::vector<T*>& gradients) {
    add_up();
    for (std::size_t k = 0; k < gradients.size(); ++k) {
      const T* const totals = &totals_[k * totals_size()];
      const bool is_number = pairwise_[k].kind == Coupling::scalar;
      std::copy_n(totals, is_number ? 1 : is_matrix(k) ? classes_ * int64_t{classes_} : classes_, gradients[k]);
      for (int c = 1; is_number && c < classes_; ++c) gradients[k][0] += totals[c];
    }
  }

 private:
  using Coupling = typename Pairwise<T>::Coupling;
  bool is_matrix(std::size_t k) const { return pairwise_[k].kind == Coupling::matrix; }
  int received_channels() const { return padded_channels(static_cast<int>(received_.size())); }
  static bool any_is_matrix(const std::vector<Pairwise<T>>& pairwise) {
    return std::any_of(pairwise.begin(), pairwise.end(), [](const auto& term) { return term.kind == Coupling::matrix; });
  }
  int64_t totals_size() const { return has_matrix_ ? classes_ * int64_t{classes_} : classes_; }
  int64_t products_size() const { return has_matrix_ ? channels_ * channels_ : channels_; }
  T* products(int64_t chunk, std::size_t k) { return &products_[(chunk * pairwise_.size() + k) * products_size()]; }
  void clear() { std::fill(products_.begin(), products_.end(), T(0)); }

  void add_up() {
    for (std::size_t k = 0; k < pairwise_.size(); ++k) {
      T* const totals = &totals_[k * totals_size()];
      auto add = [&](int64_t to, int64_t from) {
        for (int64_t chunk = 0; chunk < chunks_; ++chunk) totals[to] -= factor_ * products(chunk, k)[from];
      };
      if (is_matrix(k)) {
        for (int64_t r = 0; r < static_cast<int64_t>(received_.size()); ++r)
          for (int64_t c = 0; c < classes_; ++c) add(int64_t{received_[r]} * classes_ + c, c * received_channels() + r);
      } else {
        for (int c = 0; c < classes_; ++c) add(c, c);
      }
    }
  }

  const std::vector<Pairwise<T>>& pairwise_;
  const int classes_;
  const int64_t channels_, chunks_;
  const T factor_;
  Classes received_;
  const bool has_matrix_;
  std::vector<T> totals_;  // kernels × classes, or classes² where there is a matrix; others then use the first row only
  Buffer<T> products_;     // the same of each chunk, with channels for classes, since the classes changed
};

// The iterations in reverse. g is ∂L/∂a_t; `mean_field_vjp` below shows the order of the steps.
template <class T>
class MeanFieldVjp {
 public:
  MeanFieldVjp(const MeanFieldSettings& settings, const KeptMarginals<T>& marginals, const std::vector<Pairwise<T>>& pairwise,
               T* unary_gradient, bool with_terms)
      : layout_(settings.scores), marginals_(marginals), pairwise_(pairwise), unary_gradient_(unary_gradient),
        damping_(T(settings.damping)), undamped_(1 - damping_), tolerance_(settings.tolerance),
        points_(layout_.points, settings.threads), all_(all_classes(layout_.classes)),
        channels_(padded_channels(layout_.classes)), exchange_(exchange_among(all_)), keeps_rows_(damping_ > 0 || with_terms),
        gradient_rows_(rows_of(*exchange_)), unary_rows_((layout_.points + tile_size) * channels_),
        couplings_(pairwise, layout_, points_.chunks, undamped_) {
    for (const auto& term : pairwise) to_all_.emplace_back(term, layout_.classes, all_, undamped_, true);
    if (with_terms) terms_.emplace(pairwise, layout_.classes, points_.chunks, undamped_, *exchange_);
    if (tolerance_ == 0 || damping_ > 0 || channels_ == 1) return;
    std::vector<RowSums<T>> sums;
    for (const auto& term : pairwise) sums.push_back(row_sums(term, false, points_));
    weight_ = message_weight(layout_.classes, pairwise, sums);
    for (const auto& each : sums) weight_ = std::max(weight_, 2 * each.largest);
    find_maxima(settings.iterations);
  }

  // g = ∂L/∂a_t of the last t.
  void start(const T* cotangent, int t) {
    const bool is_last = t == 0;
    points_.over_tiles<T>(channels_, [&](const Tile& tile, T*, T*, T*) {
      T* g = unary_row(tile);
      read_scores(layout_, cotangent, tile, all_, T(0), g);
      pass_on(is_last, tile, g, g, *exchange_, gradient_rows_, nullptr);
      if (damping_ > 0 && !is_last) loops<T>().linear_combination(0, g, undamped_, g, g, channels_, tile.n);
    });
  }

  // From ∂L/∂a_{t+1} to ∂L/∂a_t.
  void step(int t) {
    const bool is_last = t == 0;
    exchange_->propagate(points_.team);
    if (terms_) send_marginals(t);
    const auto other = is_last ? nullptr : other_exchange(t);
    Exchange<T>& next = other ? *other : *exchange_;
    Buffer<T> other_rows = other ? rows_of(*other) : Buffer<T>();
    Buffer<T>& next_rows = other ? other_rows : gradient_rows_;
    const bool is_in_place = terms_ && damping_ == 0 && exchange_->channels() == channels_ && !other;
    points_.over_tiles<T>(channels_, [&](const Tile& tile, T* g, T* h, T* spare) {
      const T* q = marginals_.read(t, tile, spare);
      g = receive(tile, q, g, h, is_in_place ? gradient_row(tile) : g);
      const T* sum = unary_row(tile);
      T* next_sum = is_last ? h : unary_row(tile);
      if (damping_ > 0) {
        loops<T>().softmax_vjp(q, g, nullptr, nullptr, channels_, tile.n);
        loops<T>().linear_combination(1, g, damping_, gradient_row(tile), g, channels_, tile.n);
        loops<T>().linear_combination(1, sum, is_last ? T(1) : undamped_, g, next_sum, channels_, tile.n);
      } else {
        loops<T>().softmax_vjp(q, g, sum, next_sum, channels_, tile.n);
      }
      pass_on(is_last, tile, g, next_sum, next, next_rows, h);
    });
    if (!other) return;
    exchange_ = other;
    gradient_rows_ = std::move(other_rows);
    couplings_.receive_only(other->classes());
    if (terms_) terms_->use(*other);
  }

  void write_couplings(const std::vector<T*>& gradients) { couplings_.write(gradients); }
  void write_terms(const std::vector<TermGradient<T>>& gradients) {
    if (terms_) terms_->write(points_.team, gradients);
  }

 private:
  T* unary_row(const Tile& tile) { return &unary_rows_[tile.begin * channels_]; }

  std::shared_ptr<Exchange<T>> exchange_among(const Classes& classes) const {
    return std::make_shared<Exchange<T>>(pairwise_, layout_.classes, classes, undamped_, true);
  }
  Buffer<T> rows_of(const Exchange<T>& exchange) const {
    return Buffer<T>(keeps_rows_ ? (layout_.points + tile_size) * exchange.channels() : 0);
  }

  // The largest marginal of each class in each iteration but the first, which sends no gradient.
  void find_maxima(int iterations) {
    std::vector<ClassMaxima<T>> seen(iterations, ClassMaxima<T>(points_.chunks, channels_));
    points_.over_tiles<T>(channels_, [&](const Tile& tile, T* q, T*, T*) {
      for (int t = 1; t < iterations; ++t) seen[t].see(tile, marginals_.read(t, tile, q));
    });
    for (const auto& of_iteration : seen) maxima_.push_back(of_iteration.maxima());
  }

  // Equation (21): the classes that send ∂L/∂a_t. One that is unlikely everywhere has little of it.
  Classes senders_at(int t) const {
    const Classes senders = classes_above(all_, maxima_[t], tolerance_ / weight_);
    return padded_channels(static_cast<int>(senders.size())) < channels_ ? senders : all_;
  }

  // An exchange among the classes that send, if the present one is wider than it or lacks one of them.
  std::shared_ptr<Exchange<T>> other_exchange(int t) {
    if (maxima_.empty()) return nullptr;
    const Classes senders = senders_at(t), &present = exchange_->classes();
    const bool suffices = std::includes(present.begin(), present.end(), senders.begin(), senders.end());
    if (suffices && padded_channels(static_cast<int>(senders.size())) == exchange_->channels()) return nullptr;
    exchange_->stop_sending();
    return exchange_among(senders);
  }

  T* gradient_row(const Tile& tile) { return &gradient_rows_[tile.begin * exchange_->channels()]; }

  // v = −Σ_k E_kᵀ h_k, and ∂E_k from h_k = N_kᵀ r and q. The couplings have the factor 1 − λ of r. The last kernel writes it to
  // `result`, which is returned.
  T* receive(const Tile& tile, const T* q, T* v, T* h, T* result) {
    if (pairwise_.empty()) std::fill_n(result, tile.n * channels_, T(0));
    for (std::size_t k = 0; k < pairwise_.size(); ++k) {
      if (terms_) {
        terms_->receive(k, tile, q, gradient_row(tile), h);
        exchange_->scale_received(k, tile, h);
      } else {
        exchange_->receive_one(k, tile, h);
      }
      couplings_.add_outer(k, tile, h, q);
      if (exchange_->channels() < channels_) change_classes(h, exchange_->classes(), all_, T(0), h, tile.n);
      couplings_.add_diagonal(k, tile, h, q);
      to_all_[k].apply(h, k == 0 ? nullptr : v, k + 1 < pairwise_.size() ? v : result, channels_, tile.n);
    }
    return result;
  }

  // The messages of q_t, for the gradients to the terms.
  void send_marginals(int t) {
    auto rows = [&](int64_t begin, int64_t n, T* memory) { return marginals_.read(t, Tile{0, begin, n, false}, memory); };
    terms_->propagate(points_, {tile_size * channels_, rows}, gradient_rows_.get(), marginals_.messages(t));
  }

  // g is sent to the iteration before. At the last step `sum`, ∂L/∂U, is complete. `spare` is memory for rows.
  void pass_on(bool is_last, const Tile& tile, const T* g, const T* sum, Exchange<T>& next, Buffer<T>& next_rows, T* spare) {
    if (is_last) return write_scores(layout_, sum, tile, unary_gradient_);
    if (next.classes().size() < all_.size()) {
      change_classes(g, all_, next.classes(), T(0), spare, tile.n);
      g = spare;
    }
    T* const kept = next_rows.get() + tile.begin * next.channels();
    if (keeps_rows_ && g != kept) std::copy_n(g, tile.n * next.channels(), kept);
    next.send(tile, g);
  }

  const ScoreLayout& layout_;
  const KeptMarginals<T>& marginals_;
  const std::vector<Pairwise<T>>& pairwise_;
  T* const unary_gradient_;
  const T damping_, undamped_;
  const double tolerance_;
  double weight_ = 0;                   // f of (21)
  std::vector<std::vector<T>> maxima_;  // of each iteration and class; none where all classes send
  TileTeam points_;
  const Classes all_;
  const int channels_;
  std::shared_ptr<Exchange<T>> exchange_;  // among the classes that send
  std::vector<PaddedCoupling<T>> to_all_;
  const bool keeps_rows_;
  Buffer<T> gradient_rows_;  // of g, as it was sent, where the next step needs it
  Buffer<T> unary_rows_;     // ∂L/∂U so far
  CouplingGradients<T> couplings_;
  std::optional<TermGradients<T>> terms_;
};

}  // namespace

template <class T>
void mean_field_vjp(const MeanFieldSettings& settings, const T* cotangent, const KeptMarginals<T>& marginals,
                    const std::vector<Pairwise<T>>& pairwise, T* unary_gradient, const std::vector<T*>& coupling_gradients,
                    const std::vector<TermGradient<T>>& term_gradients) {
  MeanFieldVjp<T> backward(settings, marginals, pairwise, unary_gradient, !term_gradients.empty());
  backward.start(cotangent, settings.iterations);
  for (int t = settings.iterations - 1; t >= 0; --t) backward.step(t);
  backward.write_couplings(coupling_gradients);
  backward.write_terms(term_gradients);
}

template void mean_field_vjp<float>(const MeanFieldSettings&, const float*, const KeptMarginals<float>&,
                                    const std::vector<Pairwise<float>>&, float*, const std::vector<float*>&,
                                    const std::vector<TermGradient<float>>&);
template void mean_field_vjp<double>(const MeanFieldSettings&, const double*, const KeptMarginals<double>&,
                                     const std::vector<Pairwise<double>>&, double*, const std::vector<double*>&,
                                     const std::vector<TermGradient<double>>&);

}  // namespace crfrnn
