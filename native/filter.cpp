// Message passing through a lattice: splat, blur and slice, and their transpose.
#include <algorithm>
#include <cmath>

#include "lattice.h"

namespace crfrnn {

template <class T>
class LatticeMessage final : public Message<T> {
 public:
  LatticeMessage(const Lattice<T>& lattice, int channels)
      : lattice_(lattice), channels_(channels), rows_(lattice.chunk_rows_.back() + 1), sums_(rows_ * channels),
        values_(lattice.vertices_ * channels) {
    clear(rows_ - 1, rows_);
  }

  void open(int64_t chunk) override {
    const auto& rows = lattice_.chunk_rows_;
    clear(rows[chunk], rows[chunk + 1]);
  }

  void send(int64_t begin, int64_t n, const T* rows, const T* scale) override {
    const int corners = lattice_.d_ + 1;
    loops<T>().splat(sums_.get(), rows_, &lattice_.row_of_[begin * corners], &lattice_.weight_[begin * corners], corners, rows,
                     scale, channels_, n);
  }

  void stop_sending() override { sums_ = {}; }

  // The blur along one direction is symmetric; the transpose of all is the reverse order.
  void propagate(Team& team, bool transpose) override {
    const int d = lattice_.d_;
    const auto slabs = static_cast<int64_t>(lattice_.slabs_.size()) - 1;
    auto gather = [&](int64_t slab) {
      const auto& starts = lattice_.slab_rows_;
      loops<T>().gather(values_.get(), lattice_.vertices_, sums_.get(), rows_, lattice_.row_.get() + starts[slab],
                        starts[slab + 1] - starts[slab], lattice_.slabs_[slab], channels_);
    };
    auto blur = [&](int direction, int64_t slab) {
      const auto& chains = lattice_.chains_[direction];
      loops<T>().blur(values_.get(), lattice_.vertices_, chains.list.get() + chains.cuts[slab], chains.cuts[slab + 1] - chains.cuts[slab], channels_);
    };
    if (!transpose) {
      team.run(slabs, [&](int64_t slab) {  // all that stays within a slab while it is in the cache
        gather(slab);
        for (int j = 0; j < d - 1; ++j) blur(j, slab);
      });
      team.run(slabs, [&](int64_t slab) { blur(d - 1, slab); });
      team.run(slabs, [&](int64_t slab) { blur(d, slab); });
    } else {
      team.run(slabs, gather);
      team.run(slabs, [&](int64_t slab) { blur(d, slab); });
      team.run(slabs, [&](int64_t slab) { blur(d - 1, slab); });
      team.run(slabs, [&](int64_t slab) {
        for (int j = d - 2; j >= 0; --j) blur(j, slab);
      });
    }
  }

  void receive(int64_t begin, int64_t n, T* rows, const T* scale, const T* coupling, const T* from) const override {
    const int corners = lattice_.d_ + 1;
    const T factor = T(1) / (T(1) + std::ldexp(T(1), -lattice_.d_));
    loops<T>().slice(values_.get(), lattice_.vertices_, &lattice_.vertex_[begin * corners], &lattice_.weight_[begin * corners], corners, factor, scale,
                     coupling, from, rows, channels_, n);
  }

 private:
  // Rows [begin, end) of every plane.
  void clear(int64_t begin, int64_t end) {
    constexpr int line = 64 / sizeof(T);
    for (int first = 0; first < channels_; first += line) {
      const int width = std::min(line, channels_ - first);
      std::fill(&sums_[first * rows_ + begin * width], &sums_[first * rows_ + end * width], T(0));
    }
  }

  const Lattice<T>& lattice_;
  const int channels_;
  const int64_t rows_;
  Buffer<T> sums_, values_;
};

template <class T>
std::unique_ptr<Message<T>> Lattice<T>::message(int channels) const {
  return std::make_unique<LatticeMessage<T>>(*this, channels);
}

template std::unique_ptr<Message<float>> Lattice<float>::message(int) const;
template std::unique_ptr<Message<double>> Lattice<double>::message(int) const;

}  // namespace crfrnn
