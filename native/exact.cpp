#include "exact.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <optional>
#include <stdexcept>

namespace crfrnn {

namespace {

// Orders points so that those of a block lie close together. It halves them along the widest feature, at the border of two
// blocks, and then each half likewise.
template <class T>
void order_by_nearness(const T* features, int d, int32_t* begin, int32_t* end) {
  while (end - begin > block_size) {
    int widest = 0;
    T width = -1;
    for (int f = 0; f < d; ++f) {
      T low = std::numeric_limits<T>::max(), high = std::numeric_limits<T>::lowest();
      for (const int32_t* i = begin; i != end; ++i) {
        const T x = features[int64_t(*i) * d + f];
        low = std::min(low, x), high = std::max(high, x);
      }
      if (high - low > width) width = high - low, widest = f;
    }
    int32_t* middle = begin + ((end - begin + block_size - 1) / block_size + 1) / 2 * block_size;
    std::nth_element(begin, middle, end, [&](int32_t a, int32_t b) {
      const T x = features[int64_t(a) * d + widest], y = features[int64_t(b) * d + widest];
      return x < y || (x == y && a < b);
    });
    order_by_nearness(features, d, middle, end);
    end = middle;
  }
}

// N weights below ε/N sum to less than ε.
template <class T>
T squared_reach(int64_t n) {
  return T(-2 * std::log(unit_roundoff<T> / static_cast<double>(n)));
}

int64_t checked_points(int64_t n, int d) {
  if (n < 1 || n > std::numeric_limits<int32_t>::max() - block_size || d < 1 || d > most_exact_features)
    throw std::invalid_argument("ExactGaussian needs 1 to 2^31 points of 1 to 2^24 features");
  return n;
}

}  // namespace

template <class T>
ExactGaussian<T>::ExactGaussian(const T* features, int64_t n, int d)
    : n_(checked_points(n, d)), d_(d), blocks_((n + block_size - 1) / block_size), reach_(squared_reach<T>(n)), place_(n),
      features_(product_of({blocks_, d, block_size})), boxes_(blocks_ * 2 * d) {
  Buffer<int32_t> order(blocks_ * block_size);
  std::iota(order.begin(), order.begin() + n, 0);
  order_by_nearness(features, d, order.begin(), order.begin() + n);
  for (int64_t k = 0; k < n; ++k) place_[order[k]] = static_cast<int32_t>(k);
  std::fill(order.begin() + n, order.end(), order[n - 1]);  // padding lies where the last point is, and sends zeros
  for (int64_t block = 0; block < blocks_; ++block)
    for (int f = 0; f < d; ++f) {
      T* row = &features_[(block * d + f) * block_size];
      for (int k = 0; k < block_size; ++k) row[k] = features[int64_t(order[block * block_size + k]) * d + f];
      const auto [low, high] = std::minmax_element(row, row + block_size);
      boxes_[block * 2 * d + f] = *low;
      boxes_[(block * 2 + 1) * d + f] = *high;
    }
}

template <class T>
bool ExactGaussian<T>::apart(int64_t a, int64_t b) const {
  const T *first = box(a), *second = box(b);
  T square = 0;
  for (int f = 0; f < d_; ++f) {
    const T gap = std::max({first[f] - second[d_ + f], second[f] - first[d_ + f], T(0)});
    square += gap * gap;
  }
  return square > reach_;
}

// Rows are sent and received in the order of the points and kept in the order of the blocks.
template <class T>
class ExactMessage final : public Message<T> {
 public:
  ExactMessage(const ExactGaussian<T>& kernel, int channels)
      : kernel_(kernel), channels_(channels), sent_(kernel.blocks_ * block_size * channels),
        received_(kernel.blocks_ * block_size * channels) {
    std::fill(sent_.begin() + kernel.n_ * channels, sent_.end(), T(0));
  }

  void open(int64_t) override {}

  void send(int64_t begin, int64_t n, const T* rows, const T* scale) override {
    for (int64_t i = 0; i < n; ++i) {
      T* to = &sent_[int64_t(kernel_.place_[begin + i]) * channels_];
      const T factor = scale ? scale[i] : T(1);
      for (int c = 0; c < channels_; ++c) to[c] = factor * rows[i * channels_ + c];
    }
  }

  // The kernel is symmetric, so its transpose is itself.
  void propagate(Team& team, bool) override {
    const int64_t size = int64_t(block_size) * kernel_.d_, rows = int64_t(block_size) * channels_;
    team.run(kernel_.blocks_, [&](int64_t to) {
      Buffer<T> weights(block_size * block_size);
      Buffer<double> sums(rows);
      std::fill(sums.begin(), sums.end(), 0.0);
      for (int64_t from = 0; from < kernel_.blocks_; ++from) {
        if (kernel_.apart(to, from)) continue;
        loops<T>().gaussian_weights(&kernel_.features_[to * size], &kernel_.features_[from * size], kernel_.d_, weights.get());
        loops<T>().add_weighted(weights.get(), &sent_[from * rows], sums.get(), channels_);
      }
      std::copy(sums.begin(), sums.end(), &received_[to * rows]);
    });
  }

  void stop_sending() override { sent_ = {}; }

  void receive(int64_t begin, int64_t n, T* rows, const T* scale, const T* coupling, const T* from) const override {
    for (int64_t i = 0; i < n; ++i) {
      const T* message = &received_[int64_t(kernel_.place_[begin + i]) * channels_];
      const T factor = scale ? scale[i] : T(1);
      const int64_t at = i * channels_;
      if (coupling) {
        for (int c = 0; c < channels_; ++c) rows[at + c] = from[at + c] - coupling[c] * (factor * message[c]);
      } else {
        for (int c = 0; c < channels_; ++c) rows[at + c] = factor * message[c];
      }
    }
  }

 private:
  template <class U>
  friend class ExactGradient;
  const ExactGaussian<T>& kernel_;
  const int channels_;
  Buffer<T> sent_, received_;
};

// −Σ_j K_ij (f_i − f_j) (⟨g_i, v_j⟩ + ⟨v_i, g_j⟩), equation (24), with scaled rows, for the pairs of blocks of the message.
template <class T>
class ExactGradient final : public KernelGradient<T> {
 public:
  ExactGradient(const ExactGaussian<T>& kernel, Message<T>& transposed, int channels, PointFactors<T> factors)
      : kernel_(kernel), pre_(factors.pre), sums_(kernel.blocks_ * kernel.d_ * block_size), post_(kernel.n_) {
    std::fill(sums_.begin(), sums_.end(), 0.0);
    std::fill(post_.begin(), post_.end(), T(0));
    use(transposed, channels);
  }

  void use(Message<T>& transposed, int channels) override {
    transposed_ = &static_cast<const ExactMessage<T>&>(transposed);
    channels_ = channels;
    values_.emplace(kernel_, channels);
    columns_ = Buffer<T>(kernel_.blocks_ * 2 * channels * block_size);
  }

  void propagate(TileTeam& points, const RowsOf<T>& values, const T* cotangents) override {
    points.team.run(points.chunks.count(), [&](int64_t chunk) {
      Buffer<T> memory(values.memory_size);
      for_each_tile(points.chunks, chunk, [&](const Tile& tile) {
        values_->send(tile.begin, tile.n, values.rows(tile.begin, tile.n, memory.get()), pre_ ? pre_ + tile.begin : nullptr);
      });
    });
    Team& team = points.team;
    const int64_t blocks = kernel_.blocks_, size = int64_t(block_size) * kernel_.d_, rows = int64_t(block_size) * channels_;
    team.run(blocks, [&](int64_t block) {
      for (int64_t i = 0; i < block_size; ++i)
        for (int64_t c = 0; c < channels_; ++c) {
          T* const to = &columns_[2 * block * rows + c * block_size + i];
          to[0] = values_->sent_[block * rows + i * channels_ + c];
          to[rows] = transposed_->sent_[block * rows + i * channels_ + c];
        }
    });
    team.run(blocks, [&](int64_t to) {
      Buffer<T> weights(block_size * block_size);
      Buffer<double> received(rows);
      std::fill(received.begin(), received.end(), 0.0);
      const T* const features = &kernel_.features_[to * size];
      for (int64_t from = 0; from < blocks; ++from) {
        if (kernel_.apart(to, from)) continue;
        const T* const others = &kernel_.features_[from * size];
        loops<T>().gaussian_weights(features, others, kernel_.d_, weights.get());
        loops<T>().add_weighted(weights.get(), &values_->sent_[from * rows], received.get(), channels_);
        loops<T>().multiply_by_products(&columns_[2 * to * rows], &columns_[2 * from * rows], channels_, weights.get());
        loops<T>().add_differences(features, others, kernel_.d_, weights.get(), &sums_[to * size]);
      }
      std::copy(received.begin(), received.end(), &values_->received_[to * rows]);
    });
    for (int64_t i = 0; i < kernel_.n_; ++i)
      loops<T>().row_products(&values_->received_[int64_t(kernel_.place_[i]) * channels_], cotangents + i * channels_,
                              &post_[i], channels_, 1);
  }

  void receive(int64_t begin, int64_t n, const T*, const T*, T* rows) override {
    transposed_->receive(begin, n, rows, nullptr, nullptr, nullptr);
  }

  void write(Team&, T* gradient, T* post_gradient) const override {
    for (int64_t i = 0; i < kernel_.n_; ++i) {
      const int64_t place = kernel_.place_[i], block = place / block_size;
      for (int64_t f = 0; f < kernel_.d_; ++f)
        gradient[i * kernel_.d_ + f] = T(sums_[(block * kernel_.d_ + f) * block_size + place % block_size]);
    }
    if (post_gradient) std::copy_n(post_.get(), kernel_.n_, post_gradient);
  }

 private:
  const ExactGaussian<T>& kernel_;
  const T* const pre_;
  const ExactMessage<T>* transposed_;
  int channels_;
  std::optional<ExactMessage<T>> values_;
  Buffer<T> columns_;    // of each block, a row for each channel of the values and then of the cotangents
  Buffer<double> sums_;  // in the layout of the kernel's features
  Buffer<T> post_;
};

template <class T>
std::unique_ptr<Message<T>> ExactGaussian<T>::message(int channels) const {
  return std::make_unique<ExactMessage<T>>(*this, channels);
}

template <class T>
std::unique_ptr<KernelGradient<T>> ExactGaussian<T>::gradient(Message<T>& transposed, int channels,
                                                              PointFactors<T> factors) const {
  return std::make_unique<ExactGradient<T>>(*this, transposed, channels, factors);
}

template class ExactGaussian<float>;
template class ExactGaussian<double>;

}  // namespace crfrnn
