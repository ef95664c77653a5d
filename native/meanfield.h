// Mean-field inference of a dense CRF, unrolled: Zheng et al. 2015, algorithm 1, and its vector-Jacobian product.
#pragma once

#include <functional>
#include <vector>

#include "buffer.h"
#include "exchange.h"
#include "kept_marginals.h"
#include "rows.h"
#include "term_gradients.h"

namespace crfrnn {

// What a mean field did, for those who ask.
struct Activity {
  int iterations = 0;         // that were run: fewer than asked for if nothing moved any more
  std::vector<int> classes;   // of each iteration, how many sent messages
  Buffer<uint8_t> evaluated;  // iterations asked for × points: whether the point was worked out anew in that iteration
};

struct MeanFieldSettings {
  ScoreLayout scores;
  int iterations = 0;
  double damping = 0;
  double class_threshold = 0;
  double tolerance = 0;  // how far a marginal may be off in an iteration because of work left out; 0 leaves nothing out
  int threads = 1;
  Activity* activity = nullptr;
};

// The form in which a mean field returns its last scores a_T, and where.
template <class T>
struct MeanFieldResult {
  enum class Form { logits, probabilities, labels };
  Form form = Form::logits;
  // Returns memory for logits or probabilities, laid out like the unary. It is called when the buffers that only sending
  // needs are free again: the result can take their place. Where the mean field starts over, the last memory counts.
  std::function<T*()> new_scores = nullptr;
  int32_t* labels = nullptr;  // the likeliest class of each point
};

// marginals: those of all iterations for the vector-Jacobian product, of padded_channels(classes) numbers for each point; or
// none. They can be kept without a class_threshold only.
template <class T>
void mean_field(const MeanFieldSettings& settings, const T* unary, const std::vector<Pairwise<T>>& pairwise,
                const MeanFieldResult<T>& result, const KeptMarginals<T>& marginals);

// From ∂L/∂result (logits) to ∂L/∂unary and, for each term, ∂L/∂coupling in the coupling's own shape; and, unless none are
// given, to what the terms consist of besides.
template <class T>
void mean_field_vjp(const MeanFieldSettings& settings, const T* cotangent, const KeptMarginals<T>& marginals,
                    const std::vector<Pairwise<T>>& pairwise, T* unary_gradient, const std::vector<T*>& coupling_gradients,
                    const std::vector<TermGradient<T>>& term_gradients = {});

}  // namespace crfrnn
