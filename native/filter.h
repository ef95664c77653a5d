// Filtering of any values at the points with a kernel.
#pragma once

#include "kernel.h"

namespace crfrnn {

// result = K · values, or Kᵀ · values. Both arrays are num_points × columns, row-major.
template <class T>
void filter(const Kernel<T>& kernel, const T* values, int64_t columns, bool transpose, int threads, T* result);

// The gradient of ⟨cotangent, K · values⟩ to what the kernel was built from, in the shape that it says.
template <class T>
void filter_gradient(const Kernel<T>& kernel, const T* values, const T* cotangent, int64_t columns, int threads, T* result);

}  // namespace crfrnn
