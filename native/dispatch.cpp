// Which compilation of the loops this processor runs. The environment variable CRFRNN_SIMD (baseline, avx2) asks for a lesser
// one, so that every path can be tested on one machine.
#include <cstdlib>
#include <string>

#include "loops.h"

namespace crfrnn {
namespace {

enum class Target { baseline, avx2, avx512 };

Target best_target() {
#if defined(CRFRNN_X86_TARGETS)
  const char* wish = std::getenv("CRFRNN_SIMD");
  const std::string most = wish ? wish : "";
  if (most == "baseline") return Target::baseline;
  __builtin_cpu_init();
  if (most != "avx2" && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
      __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512cd"))
    return Target::avx512;
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2")) return Target::avx2;
#endif
  return Target::baseline;
}

const Target target = best_target();

}  // namespace

#if defined(CRFRNN_X86_TARGETS)
#define CRFRNN_TABLE(table) target == Target::avx512 ? avx512::table : target == Target::avx2 ? avx2::table : baseline::table
#else
#define CRFRNN_TABLE(table) baseline::table
#endif

template <>
const Loops<float>& loops<float>() {
  return CRFRNN_TABLE(loops_float);
}
template <>
const Loops<double>& loops<double>() {
  return CRFRNN_TABLE(loops_double);
}

const char* instruction_set() { return target == Target::avx512 ? "avx512" : target == Target::avx2 ? "avx2" : "baseline"; }

}  // namespace crfrnn
