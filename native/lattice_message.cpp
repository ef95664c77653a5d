// Messages through a lattice: splat, blur and slice, equation (9), their transpose, and the gradient to features, equation
// (23).
#include <algorithm>
#include <array>
#include <cmath>
#include <type_traits>
#include <utility>

#include "keys.h"
#include "lattice.h"

namespace crfrnn {
namespace {

template <class T>
class LatticeMessage final : public Message<T> {
 public:
  LatticeMessage(const LatticeArrays<T>& lattice, int channels)
      : lattice_(lattice), channels_(channels), rows_(lattice.chunk_sums.back() + 1), sums_(rows_ * channels),
        values_(lattice.num_vertices * channels) {
    clear(rows_ - 1, rows_);  // the row of the vertices that no point touches
  }

  void open(int64_t chunk) override { clear(lattice_.chunk_sums[chunk], lattice_.chunk_sums[chunk + 1]); }

  void send(int64_t begin, int64_t n, const T* rows, const T* scale) override {
    const int64_t at = begin * lattice_.corners;
    loops<T>().splat(sums_.get(), rows_, &lattice_.corner_sum[at], &lattice_.corner_weight[at], lattice_.corners, rows, scale,
                     channels_, n);
  }

  void stop_sending() override { sums_ = {}; }

  Buffer<T> release_values() override { return std::exchange(values_, Buffer<T>(values_.size())); }

  bool adds_up() const override { return true; }

  bool follow(Team&) override {
    before_ = Buffer<T>(values_.size());
    std::copy(values_.begin(), values_.end(), before_.begin());
    changes_ = Buffer<T>(lattice_.num_vertices);
    return true;
  }

  // A point receives a mean of the values of its vertices, so no number of it changes by more than one of theirs.
  void bound_changes(Team& team, const T*, T* bounds) override {
    team.run(num_slabs(), [&](int64_t slab) {
      loops<T>().follow(values_.get(), before_.get(), lattice_.num_vertices, changes_.get(), channels_, lattice_.slabs[slab],
                        lattice_.slabs[slab + 1]);
    });
    if (touched_.empty()) find_touched(team);
    team.run(lattice_.chunks.count(), [&](int64_t chunk) {
      T* bound = bounds + lattice_.chunks.begin(chunk) / run_size;
      T largest = 0;
      const T* const end = bounds + (lattice_.chunks.end(chunk) + run_size - 1) / run_size;
      for (const int32_t* vertex = touched_[chunk].get(); bound < end; ++vertex) {
        const int32_t last = *vertex >> 31;
        largest = std::max(largest, changes_[*vertex ^ last]);
        if (last) *bound++ = factor() * largest, largest = 0;
      }
    });
  }

  // Each direction's blur is symmetric, so the transpose of all of them is the reverse order.
  void propagate(Team& team, bool transpose) override {
    if (transpose) {
      blur_transposed(team);
    } else {
      blur_forward(team);
    }
  }

  void receive(int64_t begin, int64_t n, T* rows, const T* scale, const T* coupling, const T* from) const override {
    const int64_t at = begin * lattice_.corners;
    loops<T>().slice(values_.get(), lattice_.num_vertices, &lattice_.corner_vertex[at], &lattice_.corner_weight[at],
                     lattice_.corners, factor(), scale, coupling, from, rows, channels_, n);
  }

  const Buffer<T>& values() const { return values_; }

  // Another message of what points have sent, to other values of the vertices.
  void propagate_to(Buffer<T>& values, Team& team, bool transpose) {
    values_.swap(values);
    propagate(team, transpose);
    values_.swap(values);
  }

  T factor() const { return T(1) / (T(1) + std::ldexp(T(1), -lattice_.d)); }

 private:
  // Lists the vertices that each run of points touches, each once; the last vertex v of a run is listed as ~v.
  void find_touched(Team& team) {
    touched_.resize(lattice_.chunks.count());
    team.run(lattice_.chunks.count(), [&](int64_t chunk) {
      const int64_t first = lattice_.chunk_sums[chunk], begin_points = lattice_.chunks.begin(chunk);
      const int64_t end = lattice_.chunks.end(chunk);
      Buffer<int32_t> list((end - begin_points) * lattice_.corners + 1);
      int64_t size = 0;
      std::vector<int32_t> run_of(lattice_.chunk_sums[chunk + 1] - first, -1);  // of each row of sums: the last that touched it
      for (int64_t begin = begin_points; begin < end; begin += run_size) {
        const auto run = static_cast<int32_t>(begin / run_size);
        for (int64_t i = begin * lattice_.corners; i < std::min(begin + run_size, end) * lattice_.corners; ++i)
          list[size] = lattice_.corner_vertex[i], size += std::exchange(run_of[lattice_.corner_sum[i] - first], run) != run;
        list[size - 1] = ~list[size - 1];
      }
      touched_[chunk] = std::move(list);
    });
  }

  void blur_forward(Team& team) {
    const int d = lattice_.d;
    team.run(num_slabs(), [&](int64_t slab) {  // all that stays inside a slab, while the slab is in the cache
      gather(slab);
      for (int j = 0; j < d - 1; ++j) blur(j, slab);
    });
    team.run(num_slabs(), [&](int64_t slab) { blur(d - 1, slab); });
    team.run(num_slabs(), [&](int64_t slab) { blur(d, slab); });
  }

  void blur_transposed(Team& team) {
    const int d = lattice_.d;
    team.run(num_slabs(), [&](int64_t slab) { gather(slab); });
    team.run(num_slabs(), [&](int64_t slab) { blur(d, slab); });
    team.run(num_slabs(), [&](int64_t slab) { blur(d - 1, slab); });
    team.run(num_slabs(), [&](int64_t slab) {
      for (int j = d - 2; j >= 0; --j) blur(j, slab);
    });
  }

  int64_t num_slabs() const { return static_cast<int64_t>(lattice_.slabs.size()) - 1; }

  // The values of the vertices of a slab from the sums of the chunks.
  void gather(int64_t slab) {
    const int64_t begin = lattice_.slab_sums[slab], end = lattice_.slab_sums[slab + 1];
    loops<T>().gather(values_.get(), lattice_.num_vertices, sums_.get(), rows_, lattice_.vertex_sums.get() + begin, end - begin,
                      lattice_.slabs[slab], channels_);
  }

  void blur(int direction, int64_t slab) {
    const auto& [list, slab_begins] = lattice_.chains[direction];
    const int64_t begin = slab_begins[slab], end = slab_begins[slab + 1];
    loops<T>().blur(values_.get(), lattice_.num_vertices, list.get() + begin, end - begin, channels_);
  }

  // Sets rows [begin, end) of the sums to zero. They are kept in planes (simd.h).
  void clear(int64_t begin, int64_t end) {
    constexpr int line = 64 / sizeof(T);
    for (int first = 0; first < channels_; first += line) {
      const int width = std::min(line, channels_ - first);
      std::fill(&sums_[first * rows_ + begin * width], &sums_[first * rows_ + end * width], T(0));
    }
  }

  const LatticeArrays<T>& lattice_;
  const int channels_;
  const int64_t rows_;  // of sums
  Buffer<T> sums_, values_;
  std::vector<Buffer<int32_t>> touched_;  // by the runs of each chunk
  Buffer<T> before_, changes_;            // of vertices: the values one propagate() ago, and how much they changed since
};

// Only the weights of corners depend on features. They multiply what points receive from vertices, and what points send to
// them: the gradient to a weight is a product with the value of its vertex in either message. Values are sent into the sums of
// the transposed message, which has gathered them.
template <class T>
class LatticeGradient final : public KernelGradient<T> {
 public:
  LatticeGradient(const LatticeArrays<T>& lattice, Message<T>& transposed, int channels, PointFactors<T> factors)
      : lattice_(lattice), padded_(padded_sums(lattice.corners)), factors_(factors), sums_(lattice.chunks.total * padded_) {
    std::fill(sums_.begin(), sums_.end(), T(0));
    use(transposed, channels);
  }

  void use(Message<T>& transposed, int channels) override {
    transposed_ = &static_cast<LatticeMessage<T>&>(transposed);
    channels_ = channels;
    values_ = {};
  }

  void propagate(TileTeam& points, const RowsOf<T>& values, const T*) override {
    allocate_values();
    points.team.run(lattice_.chunks.count(), [&](int64_t chunk) {
      Buffer<T> memory(values.memory_size);
      for_each_tile(lattice_.chunks, chunk, [&](const Tile& tile) {
        if (tile.opens_chunk) transposed_->open(chunk);
        transposed_->send(tile.begin, tile.n, values.rows(tile.begin, tile.n, memory.get()),
                          of_points(factors_.pre, tile.begin));
      });
    });
    transposed_->propagate_to(values_, points.team, false);
    arrived_ = values_.get();
  }

  void take(TileTeam& points, const Buffer<T>& released, int channels, const std::vector<int32_t>& places) override {
    arrived_ = released.get();
    if (channels == channels_) return;
    allocate_values();
    arrived_ = values_.get();
    std::vector<Column<T>> here;
    std::vector<Column<const T>> there;
    for (int to = 0; to < channels_; ++to) {
      here.emplace_back(values_.get(), lattice_.num_vertices, channels_, to);
      there.emplace_back(released.get(), lattice_.num_vertices, channels, std::max(places[to], 0));
    }
    points.team.run(static_cast<int64_t>(lattice_.slabs.size()) - 1, [&](int64_t slab) {
      for (int64_t v = lattice_.slabs[slab]; v < lattice_.slabs[slab + 1]; ++v)
        for (int to = 0; to < channels_; ++to) here[to].at(v) = places[to] < 0 ? T(0) : there[to].at(v);
    });
  }

  bool needs_values() const override { return true; }

  void receive(int64_t begin, int64_t n, const T* values, const T* cotangents, T* rows) override {
    const int64_t at = begin * lattice_.corners;
    loops<T>().slice_with_products(arrived_, transposed_->values().get(), lattice_.num_vertices, &lattice_.corner_vertex[at],
                                   &lattice_.corner_weight[at], lattice_.corners, transposed_->factor(), cotangents, values,
                                   of_points(factors_.pre, begin), of_points(factors_.post, begin), rows,
                                   &sums_[begin * padded_], channels_, n);
  }

  void write(Team& team, T* gradient, T* post_gradient) const override {
    const auto scale = feature_scales<T>(lattice_.d);
    const T factor = transposed_->factor();
    team.run(lattice_.chunks.count(), [&](int64_t chunk) {
      for (int64_t i = lattice_.chunks.begin(chunk); i < lattice_.chunks.end(chunk); ++i) {
        if (post_gradient) post_gradient[i] = factor * sums_[i * padded_ + lattice_.corners];
        if (lattice_.d == 5) {  // a colour photo
          to_features(i, std::integral_constant<int, 5>{}, factor, scale.data(), gradient);
        } else {
          to_features(i, lattice_.d, factor, scale.data(), gradient);
        }
      }
    });
  }

 private:
  static const T* of_points(const T* factors, int64_t begin) { return factors ? factors + begin : nullptr; }

  void allocate_values() {
    if (values_.size() == 0) values_ = Buffer<T>(lattice_.num_vertices * channels_);
  }

  // A channel of the vertices, whose rows are kept in planes (simd.h).
  template <class Number>
  struct Column {
    Column(Number* values, int64_t rows, int channels, int channel) {
      constexpr int line = 64 / sizeof(T);
      const int first = channel / line * line;
      width = std::min(line, channels - first), begin = values + first * rows + channel - first;
    }
    Number& at(int64_t vertex) const { return begin[vertex * width]; }
    Number* begin;
    int64_t width;
  };

  // The weight of corner k > 0 is the coordinate of rank d − k less that of rank d + 1 − k, divided by d + 1, and that of
  // corner 0 the rest to 1 (embedding.cpp).
  template <class D>
  void to_features(int64_t i, D d, T factor, const T* scale, T* gradients) const {
    const int corners = d + 1;
    const T* const to_weight = &sums_[i * padded_];
    const int64_t group = i / embedding_lanes * embedding_lanes;
    const uint8_t* const order = &lattice_.coordinate_order[group * corners + i % embedding_lanes];
    std::array<T, most_features + 1> to_coordinate;
    for (int r = 0; r <= d; ++r)
      to_coordinate[order[r * embedding_lanes]] =
          (to_weight[d - r] - to_weight[r == 0 ? 0 : corners - r]) * (factor / T(corners));
    T* const gradient = gradients + i * d;
    T sum = to_coordinate[0];
    for (int j = 1; j <= d; ++j) {
      gradient[j - 1] = scale[j - 1] * (sum - T(j) * to_coordinate[j]);
      sum += to_coordinate[j];
    }
  }

  const LatticeArrays<T>& lattice_;
  const int padded_;
  const PointFactors<T> factors_;
  LatticeMessage<T>* transposed_;
  int channels_;
  Buffer<T> values_;            // of the vertices, unless they were taken as they are
  const T* arrived_ = nullptr;  // these, or those
  Buffer<T> sums_;              // before the factor: the gradients to the weights of each point's corners, and to `post`
};

}  // namespace

template <class T>
std::unique_ptr<KernelGradient<T>> Lattice<T>::gradient(Message<T>& transposed, int channels, PointFactors<T> factors) const {
  return std::make_unique<LatticeGradient<T>>(arrays_, transposed, channels, factors);
}

template <class T>
std::unique_ptr<Message<T>> Lattice<T>::message(int channels) const {
  return std::make_unique<LatticeMessage<T>>(arrays_, channels);
}

template std::unique_ptr<Message<float>> Lattice<float>::message(int) const;
template std::unique_ptr<Message<double>> Lattice<double>::message(int) const;
template std::unique_ptr<KernelGradient<float>> Lattice<float>::gradient(Message<float>&, int, PointFactors<float>) const;
template std::unique_ptr<KernelGradient<double>> Lattice<double>::gradient(Message<double>&, int, PointFactors<double>) const;

}  // namespace crfrnn
