#include "grid.h"

#include <algorithm>
#include <cmath>
#include <stdexcept>

#include "grid_message.h"

namespace crfrnn {

template <class T>
GridGaussian<T>::GridGaussian(std::vector<int64_t> shape, const std::vector<double>& sigmas)
    : shape_(std::move(shape)), sigmas_(sigmas) {
  if (shape_.empty() || shape_.size() > most_axes || shape_.size() != sigmas.size())
    throw std::invalid_argument("GridGaussian needs 1 to 4 axes and one sigma for each");
  for (std::size_t axis = 0; axis < shape_.size(); ++axis) {
    if (shape_[axis] < 1) throw std::invalid_argument("GridGaussian needs at least one point along every axis");
    if (shape_[axis] > longest_axis) throw std::invalid_argument("GridGaussian takes at most 2^28 points along an axis");
    if (!(sigmas[axis] >= 0) || !std::isfinite(sigmas[axis]))
      throw std::invalid_argument("GridGaussian needs finite sigmas >= 0");
    points_ = product_of({points_, shape_[axis]});
    // No tap reaches further than the grid.
    const int radius = static_cast<int>(std::min<double>(std::ceil(grid_cutoff * sigmas[axis]), double(shape_[axis] - 1)));
    std::vector<T> taps(2 * radius + 1 + 2 * tap_margin, T(0));
    for (int k = -radius; k <= radius; ++k)
      taps[tap_margin + radius + k] = k == 0 ? T(1) : T(std::exp(-0.5 * k * k / (sigmas[axis] * sigmas[axis])));
    radii_.push_back(radius);
    taps_.push_back(std::move(taps));
  }
}

template <class T>
std::unique_ptr<Message<T>> GridGaussian<T>::message(int channels) const {
  return std::make_unique<GridMessage<T>>(*this, channels);
}

template class GridGaussian<float>;
template class GridGaussian<double>;

}  // namespace crfrnn
