// Mean-field inference of a dense CRF, unrolled: Zheng et al. 2015, algorithm 1, and its vector-Jacobian product.
#pragma once

#include <functional>
#include <vector>

#include "kernel.h"

namespace crfrnn {

// One Gaussian kernel of the CRF: messages are coupling · diag(post) K diag(pre) q.
template <class T>
struct Pairwise {
  enum class Coupling { scalar, per_class, matrix };
  const Kernel<T>* kernel;
  const T* pre;   // N factors, or null for ones
  const T* post;  // N factors, or null for ones
  Coupling kind;
  const T* coupling;  // 1, C or C × C numbers: what the scores lose per unit of message
};

struct MeanFieldSettings {
  int classes = 1;
  int64_t points = 1;
  bool points_first = false;  // scores in memory: the classes of a point side by side, not the points of a class
  int iterations = 0;
  double damping = 0;
  double class_threshold = 0;
  int threads = 1;
};

// unary and the result, in the memory that new_result returns: classes × points, in the order that settings say. marginals:
// null, or iterations × points × padded_channels(classes) for the vjp, without a class_threshold. new_result is called once,
// when the buffers of the last messages are free again; with labels it is not called, and they get the likeliest class of
// each point.
template <class T>
void mean_field(const MeanFieldSettings& settings, const T* unary, const std::vector<Pairwise<T>>& pairwise, bool probabilities,
                const std::function<T*()>& new_result, T* marginals, int32_t* labels = nullptr);

// From ∂L/∂result (logits) to ∂L/∂unary and, for each kernel, ∂L/∂coupling in the coupling's own shape.
template <class T>
void mean_field_vjp(const MeanFieldSettings& settings, const T* cotangent, const T* marginals,
                    const std::vector<Pairwise<T>>& pairwise, T* unary_gradient, const std::vector<T*>& coupling_gradients);

}  // namespace crfrnn
