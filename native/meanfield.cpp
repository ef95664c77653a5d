#include "meanfield.h"

#include <algorithm>
#include <memory>

#include "buffer.h"
#include "rows.h"

namespace crfrnn {
namespace {

// A coupling among some of the classes laid out for the loops: one number per (padded) channel, or a transposed matrix
// when some entry off the diagonal is not zero. Scalars and diagonals never pay for a matrix product.
template <class T>
struct PaddedCoupling {
  PaddedCoupling(const Pairwise<T>& term, int num_classes, const Classes& classes, T factor, bool transpose) {
    using Coupling = typename Pairwise<T>::Coupling;
    const int count = static_cast<int>(classes.size()), channels = padded_channels(count);
    auto entry = [&](int row, int column) {
      const int r = classes[row], c = classes[column];
      if (term.kind == Coupling::matrix) return factor * term.coupling[transpose ? c * num_classes + r : r * num_classes + c];
      return r == c ? factor * term.coupling[term.kind == Coupling::scalar ? 0 : r] : T(0);
    };
    for (int r = 0; r < count; ++r)
      for (int c = 0; c < count; ++c) diagonal &= r == c || entry(r, c) == T(0);
    numbers.assign(diagonal ? channels : channels * channels, T(0));
    for (int r = 0; r < count; ++r) {
      if (diagonal) {
        numbers[r] = entry(r, r);
      } else {
        for (int c = 0; c < count; ++c) numbers[c * channels + r] = entry(r, c);
      }
    }
  }
  // to = from − coupling · message, n rows.
  void apply(const T* message, const T* from, T* to, int channels, int64_t n) const {
    (diagonal ? loops<T>().couple_diagonal : loops<T>().couple_matrix)(numbers.data(), message, from, to, channels, n);
  }
  bool diagonal = true;
  std::vector<T> numbers;
};

// Tiles of points, walked by the threads of a call.
struct Walk {
  explicit Walk(const MeanFieldSettings& settings) : chunks(settings.points), team(chunks.useful_threads(settings.threads)) {}

  // work(chunk, begin, n, scratch): scratch holds three tiles of rows.
  template <class T, class F>
  void over_tiles(int channels, F work) {
    team.run(chunks.count(), [&](int64_t chunk) {
      Buffer<T> scratch(3 * tile * channels);
      std::fill(scratch.begin(), scratch.end(), T(0));
      for (int64_t begin = chunks.begin(chunk); begin < chunks.end(chunk); begin += tile)
        work(chunk, begin, std::min<int64_t>(tile, chunks.end(chunk) - begin), scratch.get());
    });
  }

  const Chunks chunks;
  Team team;
};

// What both directions of the recurrence share: tiles of points send rows to every kernel, the kernels propagate, and each
// tile receives what arrived.
template <class T>
class Exchange {
 public:
  Exchange(const MeanFieldSettings& settings, const std::vector<Pairwise<T>>& pairwise, Classes of, bool transpose)
      : pairwise_(pairwise), transpose_(transpose), classes_(std::move(of)), channels_(padded_channels(count())) {
    for (const auto& term : pairwise) {
      messages_.push_back(term.kernel->message(channels_));
      couplings_.emplace_back(term, settings.classes, classes_, T(1 - settings.damping), transpose);
    }
  }

  const Classes& classes() const { return classes_; }
  int count() const { return static_cast<int>(classes_.size()); }
  int channels() const { return channels_; }

  // Tiles of a chunk are sent from its begin on.
  void send(const Chunks& chunks, int64_t chunk, int64_t begin, int64_t n, const T* rows) {
    for (std::size_t k = 0; k < messages_.size(); ++k) {
      if (begin == chunks.begin(chunk)) messages_[k]->open(chunk);
      const T* scale = transpose_ ? pairwise_[k].post : pairwise_[k].pre;
      messages_[k]->send(begin, n, rows, scale ? scale + begin : nullptr);
    }
  }

  void propagate(Team& team) {
    for (const auto& message : messages_) message->propagate(team, transpose_);
  }

  void stop_sending() {
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
    couplings_[k].apply(message, from, to, channels_, n);
  }

 private:
  const T* scale(std::size_t k, int64_t begin) const {
    const T* factors = transpose_ ? pairwise_[k].pre : pairwise_[k].post;
    return factors ? factors + begin : nullptr;
  }

  const std::vector<Pairwise<T>>& pairwise_;
  const bool transpose_;
  const Classes classes_;
  const int channels_;
  std::vector<std::unique_ptr<Message<T>>> messages_;
  std::vector<PaddedCoupling<T>> couplings_;
};

// Which classes are somewhere at least as likely as the threshold, from rows of marginals seen tile by tile.
template <class T>
class Likely {
 public:
  Likely(double threshold, const Chunks& chunks, int channels)
      : threshold_(T(threshold)), channels_(channels), largest_(chunks.count() * channels, T(0)) {}

  void see(int64_t chunk, const T* q, int64_t n) { loops<T>().raise(q, &largest_[chunk * channels_], channels_, n); }

  // Never none.
  Classes of(const Classes& classes) const {
    std::vector<T> most(channels_, T(0));
    for (std::size_t i = 0; i < largest_.size(); ++i) most[i % channels_] = std::max(most[i % channels_], largest_[i]);
    const T threshold = std::min(threshold_, *std::max_element(most.begin(), most.end()));
    Classes likely;
    for (std::size_t k = 0; k < classes.size(); ++k)
      if (most[k] >= threshold) likely.push_back(classes[k]);
    return likely;
  }

 private:
  const T threshold_;
  const int channels_;
  std::vector<T> largest_;
};

}  // namespace

template <class T>
void mean_field(const MeanFieldSettings& settings, const T* unary, const std::vector<Pairwise<T>>& pairwise, bool probabilities,
                const std::function<T*()>& new_result, T* marginals, int32_t* labels) {
  const int64_t points = settings.points;
  const int last = settings.iterations;
  const auto& row_loops = loops<T>();
  const T damping = T(settings.damping);
  const bool selective = settings.class_threshold > 0;
  const Classes all = all_classes(settings.classes);
  const int all_channels = padded_channels(settings.classes);
  Walk walk(settings);

  auto read_unary = [&](int64_t begin, int64_t n, const Classes& classes, T* rows) {
    read_scores(settings, unary, begin, n, classes, T(padding_score), rows);
  };
  T* result = nullptr;
  auto write_result = [&](int64_t begin, int64_t n, T* rows) {
    if (labels) return likeliest(rows, settings.classes, n, labels + begin);
    if (probabilities) row_loops.softmax(rows, rows, all_channels, n);
    write_scores(settings, rows, begin, n, result);
  };
  if (last == 0) {
    if (!labels) result = new_result();
    walk.over_tiles<T>(all_channels, [&](int64_t, int64_t begin, int64_t n, T* rows) {
      read_unary(begin, n, all, rows);
      write_result(begin, n, rows);
    });
    return;
  }

  Classes classes = all;
  if (selective) {
    Likely<T> likely(settings.class_threshold, walk.chunks, all_channels);
    walk.over_tiles<T>(all_channels, [&](int64_t chunk, int64_t begin, int64_t n, T* rows) {
      read_unary(begin, n, all, rows);
      row_loops.softmax(rows, rows, all_channels, n);
      likely.see(chunk, rows, n);
    });
    classes = likely.of(all);
  }

  auto exchange = std::make_unique<Exchange<T>>(settings, pairwise, classes, false);
  Buffer<T> unary_rows((points + tile) * exchange->channels());  // loops read whole vectors past the last row
  Buffer<T> scores(damping > 0 ? points * exchange->channels() : 0);  // a_t, which damping needs
  walk.over_tiles<T>(exchange->channels(), [&](int64_t chunk, int64_t begin, int64_t n, T* q) {
    const int channels = exchange->channels();
    T* u = &unary_rows[begin * channels];
    read_unary(begin, n, exchange->classes(), u);
    if (damping > 0) std::copy_n(u, n * channels, &scores[begin * channels]);
    row_loops.softmax(u, q, channels, n);
    if (marginals) std::copy_n(q, n * channels, marginals + begin * channels);
    exchange->send(walk.chunks, chunk, begin, n, q);
  });

  for (int iteration = 1; iteration < last; ++iteration) {
    exchange->propagate(walk.team);
    std::unique_ptr<Exchange<T>> smaller;
    if (classes.size() < exchange->classes().size()) smaller = std::make_unique<Exchange<T>>(settings, pairwise, classes, false);
    Exchange<T>& next = smaller ? *smaller : *exchange;
    const int channels = exchange->channels(), next_channels = next.channels();
    Buffer<T> next_unary_rows(smaller ? (points + tile) * next_channels : 0);
    Buffer<T> next_scores(smaller && damping > 0 ? points * next_channels : 0);
    if (smaller) exchange->stop_sending();
    Likely<T> likely(settings.class_threshold, walk.chunks, next_channels);
    walk.over_tiles<T>(channels, [&](int64_t chunk, int64_t begin, int64_t n, T* a) {
      const T* u = &unary_rows[begin * channels];
      T* q = a + tile * channels;
      if (damping > 0) row_loops.mix(1 - damping, u, damping, &scores[begin * channels], a, channels, n);
      exchange->receive(begin, n, damping > 0 ? a : u, a, q);
      if (smaller) {
        T* fewer = a + 2 * tile * channels;
        take(a, exchange->classes(), channels, classes, fewer, next_channels, n);
        a = fewer;
        read_unary(begin, n, classes, &next_unary_rows[begin * next_channels]);
      }
      if (damping > 0) std::copy_n(a, n * next_channels, &(smaller ? next_scores : scores)[begin * next_channels]);
      row_loops.softmax(a, q, next_channels, n);
      if (marginals) std::copy_n(q, n * next_channels, marginals + (iteration * points + begin) * next_channels);
      if (selective && iteration + 1 < last) likely.see(chunk, q, n);
      next.send(walk.chunks, chunk, begin, n, q);
    });
    if (smaller) {
      exchange = std::move(smaller);
      unary_rows = std::move(next_unary_rows);
      scores = std::move(next_scores);
    }
    if (selective && iteration + 1 < last) classes = likely.of(classes);
  }

  // Classes left out have sent nothing, but hear the others once.
  exchange->propagate(walk.team);
  exchange->stop_sending();
  if (!labels) result = new_result();
  const int channels = exchange->channels();
  const bool complete = exchange->classes().size() == all.size();
  std::vector<PaddedCoupling<T>> to_all;
  for (const auto& term : pairwise) to_all.emplace_back(term, settings.classes, all, T(1), false);
  walk.over_tiles<T>(all_channels, [&](int64_t, int64_t begin, int64_t n, T* a) {
    T* kept = complete ? a : a + tile * all_channels;
    T* message = a + 2 * tile * all_channels;
    const T* u = &unary_rows[begin * channels];
    if (!complete) {
      read_unary(begin, n, all, a);
      for (std::size_t k = 0; k < pairwise.size(); ++k) {
        if (to_all[k].diagonal) continue;
        exchange->receive_one(k, begin, n, kept);
        std::fill_n(message, n * all_channels, T(0));
        put(kept, exchange->classes(), channels, message, all_channels, n);
        to_all[k].apply(message, a, a, all_channels, n);
      }
    }
    if (damping > 0) row_loops.mix(1 - damping, u, damping, &scores[begin * channels], kept, channels, n);
    exchange->receive(begin, n, damping > 0 ? kept : u, kept, message);
    if (!complete) put(kept, exchange->classes(), channels, a, all_channels, n);
    write_result(begin, n, a);
  });
}

template <class T>
void mean_field_vjp(const MeanFieldSettings& settings, const T* cotangent, const T* marginals,
                    const std::vector<Pairwise<T>>& pairwise, T* unary_gradient, const std::vector<T*>& coupling_gradients) {
  using Coupling = typename Pairwise<T>::Coupling;
  const int classes = settings.classes;
  const int64_t points = settings.points;
  Walk walk(settings);
  const Classes all = all_classes(classes);
  Exchange<T> exchange(settings, pairwise, all, true);
  const int channels = exchange.channels();
  const auto& row_loops = loops<T>();
  const T damping = T(settings.damping), kept = 1 - damping;
  Buffer<T> g_rows(damping > 0 ? points * channels : 0);  // ∂L/∂a_t, which damping needs
  Buffer<T> total(points * channels);                     // ∂L/∂U so far

  // Σ h qᵀ of each chunk apart, added up in order: the same bits for any number of threads.
  const int64_t square = int64_t(channels) * channels;
  Buffer<T> products(walk.chunks.count() * static_cast<int64_t>(pairwise.size()) * square);
  std::fill(products.begin(), products.end(), T(0));
  auto product_of = [&](int64_t chunk, std::size_t k) { return &products[(chunk * pairwise.size() + k) * square]; };

  // ∂L/∂a at iteration t enters U through all but its damped part, and the messages.
  auto pass_on = [&](int64_t chunk, int64_t begin, int64_t n, const T* g, bool first, bool last) {
    T* sum = &total[begin * channels];
    const T share = last ? T(1) : kept;
    row_loops.mix(first ? T(0) : T(1), first ? g : sum, share, g, sum, channels, n);
    if (damping > 0) std::copy_n(g, n * channels, &g_rows[begin * channels]);
    if (last) {
      write_scores(settings, sum, begin, n, unary_gradient);
    } else {
      exchange.send(walk.chunks, chunk, begin, n, g);
    }
  };

  walk.over_tiles<T>(channels, [&](int64_t chunk, int64_t begin, int64_t n, T* g) {
    read_scores(settings, cotangent, begin, n, all, T(0), g);
    pass_on(chunk, begin, n, g, true, settings.iterations == 0);
  });
  for (int iteration = settings.iterations - 1; iteration >= 0; --iteration) {
    exchange.propagate(walk.team);
    walk.over_tiles<T>(channels, [&](int64_t chunk, int64_t begin, int64_t n, T* g) {
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
      pass_on(chunk, begin, n, g, false, iteration == 0);
    });
  }

  for (std::size_t k = 0; k < pairwise.size(); ++k) {
    T* gradient = coupling_gradients[k];
    auto sum = [&](int64_t entry) {
      T value = 0;
      for (int64_t chunk = 0; chunk < walk.chunks.count(); ++chunk) value -= kept * product_of(chunk, k)[entry];
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
  template void mean_field<T>(const MeanFieldSettings&, const T*, const std::vector<Pairwise<T>>&, bool, const std::function<T*()>&, T*, int32_t*); \
  template void mean_field_vjp<T>(const MeanFieldSettings&, const T*, const T*, const std::vector<Pairwise<T>>&, T*,      \
                                  const std::vector<T*>&);
CRFRNN_INSTANTIATE(float)
CRFRNN_INSTANTIATE(double)
#undef CRFRNN_INSTANTIATE

}  // namespace crfrnn
