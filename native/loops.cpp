// The table of the loops of one instruction set.
#include "loops.h"

namespace crfrnn::CRFRNN_TARGET {
namespace {

template <class T>
constexpr Loops<T> table() {
  return {
      .embed = embed<T>,
      .weighted_sums = weighted_sums,
      .splat = splat<T>,
      .slice = slice<T>,
      .slice_with_products = slice_with_products<T>,
      .gather = gather<T>,
      .blur = blur<T>,
      .follow = follow<T>,
      .convolve_columns = convolve_columns<T>,
      .convolve_rows = convolve_rows<T>,
      .convolve_with_slopes = convolve_with_slopes<T>,
      .gaussian_weights = gaussian_weights<T>,
      .add_weighted = add_weighted<T>,
      .multiply_by_products = multiply_by_products<T>,
      .add_differences = add_differences<T>,
      .couple_diagonal = couple_diagonal<T>,
      .couple_matrix = couple_matrix<T>,
      .outer_products = outer_products<T>,
      .diagonal_products = diagonal_products<T>,
      .row_products = row_products<T>,
      .softmax = softmax<T>,
      .softmax_with_rest = softmax_with_rest<T>,
      .lower_rows = lower_rows<T>,
      .tanh = tanh<T>,
      .raise = raise<T>,
      .add_exponentials = add_exponentials<T>,
      .largest_product = largest_product<T>,
      .softmax_vjp = softmax_vjp<T>,
      .to_float16 = to_float16<T>,
      .from_float16 = from_float16<T>,
      .to_bfloat16 = to_bfloat16<T>,
      .from_bfloat16 = from_bfloat16<T>,
      .scale_rows = scale_rows<T>,
      .linear_combination = linear_combination<T>,
      .doubt = doubt<T>,
      .update_maxima = update_maxima<T>,
      .rearrange = rearrange<T>,
      .compare_run = compare_run<T>,
      .rows_from_class_major = rows_from_class_major<T>,
      .class_major_from_rows = class_major_from_rows<T>,
  };
}

}  // namespace

extern const Loops<float> loops_float = table<float>();
extern const Loops<double> loops_double = table<double>();

}  // namespace crfrnn::CRFRNN_TARGET
