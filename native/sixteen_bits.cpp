// Numbers from 0 to 1 in 16 bits and back, rounded to the nearest, ties to even. The loops have no branches, so that the
// compiler vectorises them.
#include <bit>

#include "loops.h"

namespace crfrnn::CRFRNN_TARGET {
namespace {

constexpr uint32_t exponents = 127 - 15;          // between the exponents of a float and those of a float16
constexpr uint32_t smallest_normal = 0x38800000;  // 2⁻¹⁴ as a float. Below it, numbers of a float16 are 2⁻²⁴ apart,
constexpr float step_is_last_bit = 0.5f;          // as are floats from here on

}  // namespace

template <class T>
void to_float16(const T* from, uint16_t* to, int64_t n) {
  for (int64_t i = 0; i < n; ++i) {
    const float number = static_cast<float>(from[i]);
    const uint32_t bits = std::bit_cast<uint32_t>(number);
    const uint32_t normal = (bits - (exponents << 23) + 0xfff + (bits >> 13 & 1)) >> 13;
    const uint32_t small = std::bit_cast<uint32_t>(number + step_is_last_bit) - std::bit_cast<uint32_t>(step_is_last_bit);
    to[i] = static_cast<uint16_t>(bits < smallest_normal ? small : normal);
  }
}

template <class T>
void from_float16(const uint16_t* from, T* to, int64_t n) {
  for (int64_t i = 0; i < n; ++i) {
    const uint32_t bits = from[i];
    const float normal = std::bit_cast<float>((bits << 13) + (exponents << 23));
    const float small = std::bit_cast<float>(bits + std::bit_cast<uint32_t>(step_is_last_bit)) - step_is_last_bit;
    to[i] = bits < 0x400 ? small : normal;
  }
}

template <class T>
void to_bfloat16(const T* from, uint16_t* to, int64_t n) {
  for (int64_t i = 0; i < n; ++i) {
    const uint32_t bits = std::bit_cast<uint32_t>(static_cast<float>(from[i]));
    to[i] = static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
  }
}

template <class T>
void from_bfloat16(const uint16_t* from, T* to, int64_t n) {
  for (int64_t i = 0; i < n; ++i) to[i] = std::bit_cast<float>(uint32_t{from[i]} << 16);
}

#define CRFRNN_INSTANTIATE(T)                                  \
  template void to_float16<T>(const T*, uint16_t*, int64_t);   \
  template void from_float16<T>(const uint16_t*, T*, int64_t); \
  template void to_bfloat16<T>(const T*, uint16_t*, int64_t);  \
  template void from_bfloat16<T>(const uint16_t*, T*, int64_t);
CRFRNN_INSTANTIATE(float)
CRFRNN_INSTANTIATE(double)
#undef CRFRNN_INSTANTIATE

}  // namespace crfrnn::CRFRNN_TARGET
