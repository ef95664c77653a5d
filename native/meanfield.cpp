#include "meanfield.h"

#include <algorithm>
#include <memory>

#include "buffer.h"

namespace crfrnn {
namespace {

// A coupling laid out for the loops: one number per (padded) channel, or a transposed matrix when some entry off the
// diagonal is not zero. Scalars and diagonals never pay for a matrix product.
template <class T>
struct PaddedCoupling {
  PaddedCoupling(const Pairwise<T>& term, int classes, T factor, bool transpose) : channels(padded_channels(classes)) {
    using Coupling = typename Pairwise<T>::Coupling;
    auto entry = [&](int row, int column) {
      if (term.kind == Coupling::matrix)
        return factor * (transpose ? term.coupling[column * classes + row] : term.coupling[row * classes + column]);
      return row == column ? factor * term.coupling[term.kind == Coupling::scalar ? 0 : row] : T(0);
    };
    for (int r = 0; r < classes; ++r)
      for (int c = 0; c < classes; ++c) diagonal &= r == c || entry(r, c) == T(0);
    numbers.assign(diagonal ? channels : channels * channels, T(0));
    for (int r = 0; r < classes; ++r) {
      if (diagonal) {
        numbers[r] = entry(r, r);
      } else {
        for (int c = 0; c < classes; ++c) numbers[c * channels + r] = entry(r, c);
      }
    }
  }
  int channels;
  bool diagonal = true;
  std::vector<T> numbers;
};

// The walk both directions of the recurrence share. Tiles of points send rows to every kernel, the kernels propagate, and
// each tile receives what arrived.
template <class T>
class Exchange {
 public:
  Exchange(const MeanFieldSettings& settings, const std::vector<Pairwise<T>>& pairwise, bool transpose)
      : pairwise_(pairwise), transpose_(transpose), channels_(padded_channels(settings.classes)), chunks_(settings.points),
        team_(chunks_.useful_threads(settings.threads)) {
    for (const auto& term : pairwise) {
      messages_.push_back(term.kernel->message(channels_));
      couplings_.emplace_back(term, settings.classes, T(1 - settings.damping), transpose);
    }
  }

  int channels() const { return channels_; }
  const Chunks& chunks() const { return chunks_; }

  // work(chunk, begin, n, scratch): scratch holds three tiles of rows.
  template <class F>
  void over_tiles(F work) {
    team_.run(chunks_.count(), [&](int64_t chunk) {
      Buffer<T> scratch(3 * tile * channels_);
      std::fill(scratch.begin(), scratch.end(), T(0));
      if (sending_)
        for (const auto& message : messages_) message->open(chunk);
      for (int64_t begin = chunks_.begin(chunk); begin < chunks_.end(chunk); begin += tile)
        work(chunk, begin, std::min<int64_t>(tile, chunks_.end(chunk) - begin), scratch.get());
    });
  }

  void send(int64_t begin, int64_t n, const T* rows) {
    for (std::size_t k = 0; k < messages_.size(); ++k) {
      const T* scale = transpose_ ? pairwise_[k].post : pairwise_[k].pre;
      messages_[k]->send(begin, n, rows, scale ? scale + begin : nullptr);
    }
  }

  void propagate() {
    for (const auto& message : messages_) message->propagate(team_, transpose_);
  }

  void stop_sending() {
    sending_ = false;
    for (const auto& message : messages_) message->stop_sending();
  }

  // to = from − Σ_k coupling_k · message_k.
  void receive(int64_t begin, int64_t n, const T* from, T* to, T* row_buffer) const {
    if (messages_.empty()) std::copy_n(from, n * channels_, to);
    for (std::size_t k = 0; k < messages_.size(); ++k, from = to) {
      if (couplings_[k].diagonal) {
        messages_[k]->receive(begin, n, to, scale(k, begin), couplings_[k].numbers.data(), from);
      } else {
        receive_one(k, begin, n, row_buffer);
        couple(k, n, row_buffer, from, to);
      }
    }
  }

  void receive_one(std::size_t k, int64_t begin, int64_t n, T* rows) const {
    messages_[k]->receive(begin, n, rows, scale(k, begin), nullptr, nullptr);
  }

  void couple(std::size_t k, int64_t n, const T* message, const T* from, T* to) const {
    (couplings_[k].diagonal ? loops<T>().couple_diagonal : loops<T>().couple_matrix)(couplings_[k].numbers.data(), message, from, to,
                                                                                    channels_, n);
  }

 private:
  const T* scale(std::size_t k, int64_t begin) const {
    const T* factors = transpose_ ? pairwise_[k].pre : pairwise_[k].post;
    return factors ? factors + begin : nullptr;
  }

  const std::vector<Pairwise<T>>& pairwise_;
  const bool transpose_;
  bool sending_ = true;
  const int channels_;
  const Chunks chunks_;
  Team team_;
  std::vector<std::unique_ptr<Message<T>>> messages_;
  std::vector<PaddedCoupling<T>> couplings_;
};

constexpr double padding_score = -1e30;  // no probability: exp of it is exactly 0

}  // namespace

template <class T>
void mean_field(const MeanFieldSettings& settings, const T* unary, const std::vector<Pairwise<T>>& pairwise, bool probabilities,
                const std::function<T*()>& new_result, T* marginals) {
  const int classes = settings.classes;
  const int64_t points = settings.points;
  Exchange<T> exchange(settings, pairwise, false);
  const int channels = exchange.channels();
  const auto& row_loops = loops<T>();
  const T damping = T(settings.damping);
  Buffer<T> unary_rows((points + tile) * channels);  // loops read whole vectors past the last row
  Buffer<T> scores(damping > 0 ? points * channels : 0);  // a_t, which damping needs

  T* result = nullptr;
  auto prepare_result = [&] {
    exchange.stop_sending();
    result = new_result();
  };
  auto finish = [&](int64_t begin, int64_t n, const T* a, T* q, int iteration) {
    if (iteration == settings.iterations && !probabilities) {
      row_loops.planes_from_rows(a, channels, result + begin, points, classes, n);
      return;
    }
    row_loops.softmax(a, q, channels, n);
    if (iteration == settings.iterations) {
      row_loops.planes_from_rows(q, channels, result + begin, points, classes, n);
      return;
    }
    if (marginals) std::copy_n(q, n * channels, marginals + (iteration * points + begin) * channels);
    exchange.send(begin, n, q);
  };

  if (settings.iterations == 0) prepare_result();
  exchange.over_tiles([&](int64_t, int64_t begin, int64_t n, T* a) {
    T* u = &unary_rows[begin * channels];
    row_loops.rows_from_planes(unary + begin, points, classes, T(padding_score), u, channels, n);
    if (damping > 0) std::copy_n(u, n * channels, &scores[begin * channels]);
    finish(begin, n, u, a + tile * channels, 0);
  });
  for (int iteration = 1; iteration <= settings.iterations; ++iteration) {
    exchange.propagate();
    if (iteration == settings.iterations) prepare_result();
    exchange.over_tiles([&](int64_t, int64_t begin, int64_t n, T* a) {
      const T* u = &unary_rows[begin * channels];
      T* q = a + tile * channels;
      if (damping > 0) row_loops.mix(1 - damping, u, damping, &scores[begin * channels], a, channels, n);
      exchange.receive(begin, n, damping > 0 ? a : u, a, q);
      if (damping > 0) std::copy_n(a, n * channels, &scores[begin * channels]);
      finish(begin, n, a, q, iteration);
    });
  }
}

template <class T>
void mean_field_vjp(const MeanFieldSettings& settings, const T* cotangent, const T* marginals,
                    const std::vector<Pairwise<T>>& pairwise, T* unary_gradient, const std::vector<T*>& coupling_gradients) {
  using Coupling = typename Pairwise<T>::Coupling;
  const int classes = settings.classes;
  const int64_t points = settings.points;
  Exchange<T> exchange(settings, pairwise, true);
  const int channels = exchange.channels();
  const auto& row_loops = loops<T>();
  const T damping = T(settings.damping), kept = 1 - damping;
  Buffer<T> g_rows(damping > 0 ? points * channels : 0);  // ∂L/∂a_t, which damping needs
  Buffer<T> total(points * channels);                     // ∂L/∂U so far

  // Σ h qᵀ of each chunk apart, added up in order: the same bits for any number of threads.
  const int64_t square = int64_t(channels) * channels;
  Buffer<T> products(exchange.chunks().count() * static_cast<int64_t>(pairwise.size()) * square);
  std::fill(products.begin(), products.end(), T(0));
  auto product_of = [&](int64_t chunk, std::size_t k) { return &products[(chunk * pairwise.size() + k) * square]; };

  // ∂L/∂a at iteration t enters U through all but its damped part, and the messages.
  auto pass_on = [&](int64_t begin, int64_t n, const T* g, bool first, bool last) {
    T* sum = &total[begin * channels];
    const T share = last ? T(1) : kept;
    row_loops.mix(first ? T(0) : T(1), first ? g : sum, share, g, sum, channels, n);
    if (damping > 0) std::copy_n(g, n * channels, &g_rows[begin * channels]);
    if (last) {
      row_loops.planes_from_rows(sum, channels, unary_gradient + begin, points, classes, n);
    } else {
      exchange.send(begin, n, g);
    }
  };

  exchange.over_tiles([&](int64_t, int64_t begin, int64_t n, T* g) {
    row_loops.rows_from_planes(cotangent + begin, points, classes, T(0), g, channels, n);
    pass_on(begin, n, g, true, settings.iterations == 0);
  });
  for (int iteration = settings.iterations - 1; iteration >= 0; --iteration) {
    exchange.propagate();
    exchange.over_tiles([&](int64_t chunk, int64_t begin, int64_t n, T* g) {
      T* message = g + tile * channels;
      T* q = g + 2 * tile * channels;
      std::copy_n(marginals + (iteration * points + begin) * channels, n * channels, q);
      std::fill_n(g, n * channels, T(0));
      for (std::size_t k = 0; k < pairwise.size(); ++k) {
        exchange.receive_one(k, begin, n, message);
        (pairwise[k].kind == Coupling::matrix ? row_loops.outer_products : row_loops.diagonal_products)(message, q, product_of(chunk, k),
                                                                                                      channels, n);
        exchange.couple(k, n, message, g, g);
      }
      row_loops.softmax_vjp(q, g, channels, n);
      if (damping > 0) row_loops.mix(1, g, damping, &g_rows[begin * channels], g, channels, n);
      pass_on(begin, n, g, false, iteration == 0);
    });
  }

  for (std::size_t k = 0; k < pairwise.size(); ++k) {
    T* gradient = coupling_gradients[k];
    auto sum = [&](int64_t entry) {
      T value = 0;
      for (int64_t chunk = 0; chunk < exchange.chunks().count(); ++chunk) value -= kept * product_of(chunk, k)[entry];
      return value;
    };
    if (pairwise[k].kind == Coupling::matrix) {
      for (int r = 0; r < classes; ++r)
        for (int c = 0; c < classes; ++c) gradient[r * classes + c] = sum(c * channels + r);
    } else if (pairwise[k].kind == Coupling::per_class) {
      for (int c = 0; c < classes; ++c) gradient[c] = sum(c);
    } else {
      gradient[0] = 0;
      for (int c = 0; c < classes; ++c) gradient[0] += sum(c);
    }
  }
}

#define CRFRNN_INSTANTIATE(T)                                                                                             \
  template void mean_field<T>(const MeanFieldSettings&, const T*, const std::vector<Pairwise<T>>&, bool, const std::function<T*()>&, T*); \
  template void mean_field_vjp<T>(const MeanFieldSettings&, const T*, const T*, const std::vector<Pairwise<T>>&, T*,      \
                                  const std::vector<T*>&);
CRFRNN_INSTANTIATE(float)
CRFRNN_INSTANTIATE(double)
#undef CRFRNN_INSTANTIATE

}  // namespace crfrnn
