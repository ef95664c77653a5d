#include "meanfield.h"

#include <algorithm>
#include <iterator>
#include <memory>
#include <optional>

#include "follower.h"
#include "log_odds.h"
#include "recurrence.h"
#include "row_sums.h"
#include "senders.h"

namespace crfrnn {
namespace {

// The loop (4), with classes left out as in (13), silent as in (16), or two as one channel (20). `mean_field` below shows the
// order of the steps.
template <class T>
class MeanField {
 public:
  MeanField(const MeanFieldSettings& settings, const T* unary, const std::vector<Pairwise<T>>& pairwise,
            const MeanFieldResult<T>& result, const KeptMarginals<T>& marginals)
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

  // Work may be left out from here on, as far as the tolerance goes. Gradients and damping need all of it.
  void allow_leaving_out() {
    if (settings_.tolerance == 0 || settings_.damping > 0 || marginals_) return;
    const bool as_one = all_.size() == 2 && settings_.class_threshold == 0;
    std::vector<RowSums<T>> sums;
    for (const auto& term : pairwise_)
      sums.push_back(row_sums(term, as_one && LogOdds<T>::needs_sums(term, result_.form), points_));
    const double weight = message_weight(layout_.classes, pairwise_, sums);
    step_ = settings_.tolerance / std::max(weight, 1.0);
    decided_ = decided_marginal(weight);
    if (as_one) log_odds_.emplace(settings_, unary_, pairwise_, std::move(sums));
    if (all_.size() > 2 && weight <= Silence<T>::most_weight && classes_are_apart(layout_.classes, pairwise_))
      silence_.emplace(settings_, unary_, weight, points_.chunks.count());
  }
  // Whether the silent classes became likelier than they may be: the result is then not to be trusted.
  bool was_too_silent() const { return silence_ && silence_->is_broken(); }
  // Whether no point sent anything new in the last iteration, so that nothing changes any more.
  bool is_still() const { return is_still_; }

  // Sends q_0 = softmax(U).
  void start() {
    senders_ = senders_at_start();
    state_ = std::make_unique<Recurrence<T>>(settings_, unary_, log_odds_ ? log_odds_->pairwise() : pairwise_, senders_);
    points_.over_tiles<T>(all_channels_, [&](const Tile& tile, T* q, T* spare, T* y) {
      const T* a = log_odds_ ? log_odds_->read_unary(tile, state_->unary_rows(tile), y, spare) : read_unary(*state_, tile);
      if (silence_) silence_->add_silent(tile, spare);
      q = marginals_.place(0, tile, q);
      marginals(tile, a, q);
      marginals_.keep(0, tile, q);
      state_->send(tile, q);
    });
    note_activity(0);
    note_evaluated(0, {0, 0, layout_.points, true});
  }

  // Receives the messages of q_{t-1} and sends q_t = softmax(a_t).
  void iterate(int t) {
    state_->propagate(points_.team);
    note_evaluated(t, {0, 0, layout_.points, true}, follower_ ? 0 : 1);
    if (silence_ && t == 1) {
      choose_senders();
    } else if (follower_) {
      send_what_changed(t);
    } else if (settings_.class_threshold > 0 && !silence_) {
      leave_out_and_send(t);
    } else {
      send_all(t);
    }
    marginals_.keep_messages(state_->exchange(), pairwise_.size());
    note_activity(t);
  }

  // Receives the last messages and returns a_T, which is not to be trusted either if the field was_too_silent().
  void finish() {
    state_->propagate(points_.team);
    state_->stop_sending();
    open_result();
    const bool complete = state_->classes().size() == all_.size();
    if (silence_) silence_->begin_iteration();
    std::vector<PaddedCoupling<T>> to_all;
    for (const auto& term : pairwise_) to_all.emplace_back(term, layout_.classes, all_, T(1), false);
    points_.over_tiles<T>(all_channels_, [&](const Tile& tile, T* a, T* in_play, T* spare) {
      if (silence_) state_->read_unary(tile);  // the result is not lowered
      if (log_odds_) {
        log_odds_->receive_scores(*state_, tile, result_.form, a, in_play, spare);
      } else if (complete) {
        state_->receive_scores(tile, a, spare);
      } else {
        receive_left_out(to_all, tile, a, in_play, spare);
        state_->receive_scores(tile, in_play, spare);
        if (silence_) see_silence(tile, in_play, spare);
        scatter_classes(in_play, state_->classes(), a, all_channels_, tile.n);
      }
      write_result(tile, a);
    });
    marginals_.keep_messages(state_->exchange(), pairwise_.size());
  }

 private:
  Classes senders_at_start() {
    if (silence_) return silence_->senders_among(all_, silence_->maxima_at_start(points_));
    if (log_odds_) return {0};
    return settings_.class_threshold > 0 ? likely_at_start(settings_, unary_, points_) : all_;
  }

  // Equation (13): the classes in play are those that were likely enough in the iteration before.
  void leave_out_and_send(int t) {
    std::unique_ptr<Recurrence<T>> fewer;
    if (senders_.size() < state_->classes().size()) {
      fewer = std::make_unique<Recurrence<T>>(settings_, unary_, pairwise_, senders_);
      state_->stop_sending();
    }
    Recurrence<T>& next = fewer ? *fewer : *state_;
    const bool lets_go = settings_.class_threshold > 0 && t + 1 < settings_.iterations;
    ClassMaxima<T> seen(points_.chunks, next.channels());
    points_.over_tiles<T>(state_->channels(), [&](const Tile& tile, T* a, T* q, T* spare) {
      state_->receive_scores(tile, a, q);
      if (fewer) {
        change_classes(a, state_->classes(), next.classes(), T(padding_score), spare, tile.n);
        next.read_unary(tile);
        a = spare;
      }
      q = marginals_.place(t, tile, q);
      next.marginals(tile, a, q);
      next.send(tile, q);
      marginals_.keep(t, tile, q);
      if (lets_go) seen.see(tile, q);
    });
    if (fewer) state_ = std::move(fewer);
    if (lets_go) senders_ = likely_among(senders_, seen.maxima(), settings_.class_threshold);
  }

  // Equation (16) at t = 1: the classes that send are chosen when q_1 of all of them is known. It waits in the rows of U.
  void choose_senders() {
    ClassMaxima<T> seen(points_.chunks, state_->channels());
    silence_->begin_iteration();
    points_.over_tiles<T>(state_->channels(), [&](const Tile& tile, T* a, T* spare, T*) {
      T* const q = state_->unary_rows(tile);
      state_->receive_scores(tile, a, spare);
      marginals(tile, a, q);
      seen.see(tile, q);
    });
    state_->stop_sending();
    senders_ = silence_->senders_among(senders_, seen.maxima());
    auto next = std::make_unique<Recurrence<T>>(settings_, unary_, pairwise_, senders_);
    points_.over_tiles<T>(all_channels_, [&](const Tile& tile, T* q, T* spare, T*) {
      silence_->add_silent(tile, spare);
      read_unary(*next, tile);
      change_classes(state_->unary_rows(tile), state_->classes(), next->classes(), T(0), q, tile.n);
      next->send(tile, q);
    });
    state_ = std::move(next);
  }

  void send_all(int t) {
    if (step_ > 0 && t >= next_trial_ && settings_.iterations - t > 2)
      follower_.emplace(state_->exchange(), log_odds_ ? 2 * step_ : step_, log_odds_ ? 2 * decided_ - 1 : decided_, points_);
    over_received(t, [&](const Tile& tile, const T* q, T* spare) {
      state_->send(tile, q);
      marginals_.keep(t, tile, q);
      if (follower_) follower_->start(tile, q, spare);
    });
    if (!follower_) return;
    // Later than at first, scores move less than usual. How far shows in the next iteration.
    if (next_trial_ == 0 && follower_->share_within(usual_move) > follower_->share_that_pays()) return work_densely(t);
    if (!follower_->follow()) work_densely(settings_.iterations);
  }

  // Only points whose messages changed are worked out, and only points whose marginals changed send.
  void send_what_changed(int t) {
    follower_->bound_moves();
    const double share = follower_->active_share();
    if (silence_) silence_->begin_iteration();
    points_.over_tiles<T>(state_->channels(), [&](const Tile& tile, T* a, T* q, T*) {
      follower_->for_active_parts(tile, [&](const Tile& part) {
        receive_marginals(part, a, q);
        follower_->revise(part, q, a);
        note_evaluated(t, part);
      });
      follower_->finish_tile(tile);
    });
    is_still_ = !follower_->any_sent();
    if (share > 1.5 * follower_->share_that_pays()) work_densely(t);
  }

  // From iteration t on, until it is tried once more to follow.
  void work_densely(int t) { follower_.reset(), next_trial_ = t + trial_interval; }

  // Calls use(tile, q, spare) for the marginals of all tiles.
  template <class F>
  void over_received(int t, F use) {
    if (silence_) silence_->begin_iteration();
    points_.over_tiles<T>(state_->channels(), [&](const Tile& tile, T* a, T* q, T*) {
      q = marginals_.place(t, tile, q);
      receive_marginals(tile, a, q);
      use(tile, q, a);
    });
  }

  // q of a tile or a part of one.
  void receive_marginals(const Tile& tile, T* a, T* q) {
    state_->receive_scores(tile, a, q);
    marginals(tile, a, q);
  }
  // Sees what scores that are not lowered leave to the silent classes. `spare` is memory for rows.
  void see_silence(const Tile& tile, const T* a, T* spare) {
    silence_->lower(tile, a, spare, state_->channels());
    marginals(tile, spare, spare);
  }

  // U, lowered where that is expected of scores.
  const T* read_unary(Recurrence<T>& state, const Tile& tile) const {
    state.read_unary(tile);
    if (silence_) silence_->lower(tile, state.unary_rows(tile), state.unary_rows(tile), state.channels());
    return state.unary_rows(tile);
  }

  void marginals(const Tile& tile, const T* a, T* q) {
    if (silence_) {
      silence_->marginals(tile, a, q, state_->channels());
    } else if (log_odds_) {
      loops<T>().tanh(a, q, tile.n);
    } else {
      state_->marginals(tile, a, q);
    }
  }

  void note_evaluated(int t, const Tile& part, uint8_t evaluated = 1) {
    if (settings_.activity && settings_.activity->evaluated.size() > 0)
      std::fill_n(&settings_.activity->evaluated[t * layout_.points + part.begin], part.n, evaluated);
  }

  void note_activity(int t) {
    if (!settings_.activity) return;
    settings_.activity->iterations = t + 1;
    settings_.activity->classes.push_back(static_cast<int>(log_odds_ ? all_.size() : state_->classes().size()));
  }

  // Rows of all classes with the scores of those that did not send. Full matrices couple them to the classes in play: they have
  // U less the last messages of these. Rows of the classes in play are overwritten later.
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
    require_finite(a, layout_.classes, tile.n);
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
  const KeptMarginals<T>& marginals_;
  TileTeam points_;
  const Classes all_;
  const int all_channels_;
  static constexpr T usual_move = T(0.1);  // of scores in an early iteration
  static constexpr int trial_interval = 16;
  double step_ = 0;     // by how much marginals may differ from those sent; 0 if all are sent
  double decided_ = 0;  // what the largest marginal of points has to reach that may be left out
  int next_trial_ = 0;  // the first iteration after which it may be tried to follow
  bool is_still_ = false;
  std::optional<Silence<T>> silence_;
  std::optional<LogOdds<T>> log_odds_;
  std::optional<Follower<T>> follower_;
  Classes senders_;  // the classes that send from the next iteration on
  std::unique_ptr<Recurrence<T>> state_;
  T* scores_ = nullptr;  // the result, unless that is labels
};

}  // namespace

template <class T>
void mean_field(const MeanFieldSettings& settings, const T* unary, const std::vector<Pairwise<T>>& pairwise,
                const MeanFieldResult<T>& result, const KeptMarginals<T>& marginals) {
  for (const bool silently : {true, false}) {
    MeanField<T> field(settings, unary, pairwise, result, marginals);
    if (settings.iterations == 0) return field.return_unary();
    if (settings.activity) settings.activity->classes.clear();
    if (silently) field.allow_leaving_out();
    field.start();
    for (int t = 1; t < settings.iterations && !field.was_too_silent() && !field.is_still(); ++t) field.iterate(t);
    if (!field.was_too_silent()) field.finish();
    if (!field.was_too_silent()) return;
  }
}

template void mean_field<float>(const MeanFieldSettings&, const float*, const std::vector<Pairwise<float>>&,
                                const MeanFieldResult<float>&, const KeptMarginals<float>&);
template void mean_field<double>(const MeanFieldSettings&, const double*, const std::vector<Pairwise<double>>&,
                                 const MeanFieldResult<double>&, const KeptMarginals<double>&);

}  // namespace crfrnn
