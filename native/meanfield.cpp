#include "meanfield.h"

#include <algorithm>
#include <memory>

#include "recurrence.h"

namespace crfrnn {
namespace {

// Which classes are at least as likely as the threshold at some point, equation (13). Tiles of different chunks may be seen
// in parallel.
template <class T>
class LikelyClasses {
 public:
  LikelyClasses(double threshold, const Chunks& chunks, int channels)
      : threshold_(T(threshold)), channels_(channels), maxima_(chunks.count() * channels, T(0)) {}

  void see(const Tile& tile, const T* q) { loops<T>().update_maxima(q, &maxima_[tile.chunk * channels_], channels_, tile.n); }

  // Of the classes that the rows are of; never none, as the likeliest stays.
  Classes among(const Classes& classes) const {
    std::vector<T> most(channels_, T(0));
    for (std::size_t i = 0; i < maxima_.size(); ++i) most[i % channels_] = std::max(most[i % channels_], maxima_[i]);
    const T threshold = std::min(threshold_, *std::max_element(most.begin(), most.end()));
    Classes likely;
    for (std::size_t k = 0; k < classes.size(); ++k)
      if (most[k] >= threshold) likely.push_back(classes[k]);
    return likely;
  }

 private:
  const T threshold_;
  const int channels_;
  std::vector<T> maxima_;
};

// The loop (4), with classes left out as in (13). `mean_field` below shows the order of the steps.
template <class T>
class MeanField {
 public:
  MeanField(const MeanFieldSettings& settings, const T* unary, const std::vector<Pairwise<T>>& pairwise,
            const MeanFieldResult<T>& result, T* marginals)
      : settings_(settings), layout_(settings.scores), unary_(unary), pairwise_(pairwise), result_(result),
        marginals_(marginals), points_(layout_.points, settings.threads), all_(all_classes(layout_.classes)),
        all_channels_(padded_channels(layout_.classes)) {}

  // a_0 = U is the result.
  void return_unary() {
    open_result();
    points_.over_tiles<T>(all_channels_, [&](const Tile& tile, T* a, T*, T*) {
      read_scores(layout_, unary_, tile, all_, T(padding_score), a);
      write_result(tile, a);
    });
  }

  // Sends q_0 = softmax(U).
  void start() {
    likely_ = settings_.class_threshold > 0 ? classes_likely_at_start() : all_;
    state_ = state_of_likely();
    points_.over_tiles<T>(state_->channels(), [&](const Tile& tile, T* q, T*, T*) {
      state_->send_marginals(tile, state_->read_unary(tile), q);
      keep_marginals(0, tile, q);
    });
  }

  // Receives the messages of q_{t-1} and sends q_t = softmax(a_t).
  void iterate(int t) {
    state_->propagate(points_.team);
    std::unique_ptr<Recurrence<T>> fewer;
    if (likely_.size() < state_->classes().size()) {
      fewer = state_of_likely();
      state_->stop_sending();
    }
    Recurrence<T>& next = fewer ? *fewer : *state_;
    const bool lets_go = settings_.class_threshold > 0 && t + 1 < settings_.iterations;
    LikelyClasses<T> likely(settings_.class_threshold, points_.chunks, next.channels());
    points_.over_tiles<T>(state_->channels(), [&](const Tile& tile, T* a, T* q, T* spare) {
      state_->receive_scores(tile, a, q);
      if (fewer) {
        select_classes(a, state_->classes(), next.classes(), spare, tile.n);
        next.read_unary(tile);
        a = spare;
      }
      next.send_marginals(tile, a, q);
      keep_marginals(t, tile, q);
      if (lets_go) likely.see(tile, q);
    });
    if (fewer) state_ = std::move(fewer);
    if (lets_go) likely_ = likely.among(likely_);
  }

  // Receives the last messages and returns a_T.
  void finish() {
    state_->propagate(points_.team);
    state_->stop_sending();
    open_result();
    const bool complete = state_->classes().size() == all_.size();
    std::vector<PaddedCoupling<T>> to_all;
    for (const auto& term : pairwise_) to_all.emplace_back(term, layout_.classes, all_, T(1), false);
    points_.over_tiles<T>(all_channels_, [&](const Tile& tile, T* a, T* in_play, T* spare) {
      if (complete) {
        state_->receive_scores(tile, a, spare);
      } else {
        receive_left_out(to_all, tile, a, in_play, spare);
        state_->receive_scores(tile, in_play, spare);
        scatter_classes(in_play, state_->classes(), a, all_channels_, tile.n);
      }
      write_result(tile, a);
    });
  }

 private:
  // S_0 of equation (13).
  Classes classes_likely_at_start() {
    LikelyClasses<T> likely(settings_.class_threshold, points_.chunks, all_channels_);
    points_.over_tiles<T>(all_channels_, [&](const Tile& tile, T* rows, T*, T*) {
      read_scores(layout_, unary_, tile, all_, T(padding_score), rows);
      loops<T>().softmax(rows, rows, all_channels_, tile.n);
      likely.see(tile, rows);
    });
    return likely.among(all_);
  }

  std::unique_ptr<Recurrence<T>> state_of_likely() const {
    return std::make_unique<Recurrence<T>>(settings_, unary_, pairwise_, likely_);
  }

  void keep_marginals(int t, const Tile& tile, const T* q) {
    const int64_t channels = state_->channels();
    if (marginals_) std::copy_n(q, tile.n * channels, marginals_ + (t * layout_.points + tile.begin) * channels);
  }

  // Rows of all classes with the scores of those that were left out. They sent nothing, but full matrices couple them to the
  // classes in play: they have U less the last messages of these. Rows of the classes in play are overwritten later.
  void receive_left_out(const std::vector<PaddedCoupling<T>>& to_all, const Tile& tile, T* a, T* in_play, T* message) const {
    read_scores(layout_, unary_, tile, all_, T(padding_score), a);
    for (std::size_t k = 0; k < pairwise_.size(); ++k) {
      if (to_all[k].is_diagonal()) continue;
      state_->receive_message(k, tile, in_play);
      std::fill_n(message, tile.n * all_channels_, T(0));
      scatter_classes(in_play, state_->classes(), message, all_channels_, tile.n);
      to_all[k].apply(message, a, a, all_channels_, tile.n);
    }
  }

  void open_result() {
    if (result_.form != Form::labels) scores_ = result_.new_scores();
  }

  void write_result(const Tile& tile, T* a) {
    if (result_.form == Form::labels) return likeliest_classes(a, layout_.classes, tile.n, result_.labels + tile.begin);
    if (result_.form == Form::probabilities) loops<T>().softmax(a, a, all_channels_, tile.n);
    write_scores(layout_, a, tile, scores_);
  }

  using Form = typename MeanFieldResult<T>::Form;
  const MeanFieldSettings& settings_;
  const ScoreLayout& layout_;
  const T* const unary_;
  const std::vector<Pairwise<T>>& pairwise_;
  const MeanFieldResult<T>& result_;
  T* const marginals_;
  TileTeam points_;
  const Classes all_;
  const int all_channels_;
  Classes likely_;  // S_t: the classes that send from the next iteration on
  std::unique_ptr<Recurrence<T>> state_;
  T* scores_ = nullptr;  // the result, unless that is labels
};

}  // namespace

template <class T>
void mean_field(const MeanFieldSettings& settings, const T* unary, const std::vector<Pairwise<T>>& pairwise,
                const MeanFieldResult<T>& result, T* marginals) {
  MeanField<T> field(settings, unary, pairwise, result, marginals);
  if (settings.iterations == 0) return field.return_unary();
  field.start();
  for (int t = 1; t < settings.iterations; ++t) field.iterate(t);
  field.finish();
}

template void mean_field<float>(const MeanFieldSettings&, const float*, const std::vector<Pairwise<float>>&,
                                const MeanFieldResult<float>&, float*);
template void mean_field<double>(const MeanFieldSettings&, const double*, const std::vector<Pairwise<double>>&,
                                 const MeanFieldResult<double>&, double*);

}  // namespace crfrnn
