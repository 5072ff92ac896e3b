// One direction of resampler_attention at 96 channels, for a probe that calls it without pybind11.
#include <exception>
#include <string>

#include "sim/sim.h"
#ifdef BACKWARD
#include "resampler_attention/backward.cuh"
#else
#include "resampler_attention/forward.cuh"
#endif

namespace {
std::string report;
}

extern "C" {

void configure(int schedule, std::uint64_t seed, bool check_proxy) {
  blip3v::sim::configure({blip3v::sim::Schedule(schedule), seed, check_proxy});
}

// The sizes of the structs that the probe spells in Python.
void sizes(int* forward, int* backward) {
  *forward = sizeof(blip3v::resampler_attention::Forward);
  *backward = sizeof(blip3v::resampler_attention::Backward);
}

// Null, or what went wrong.
const char* run(const void* call) {
  using namespace blip3v::resampler_attention;
  try {
#ifdef BACKWARD
    backward<96>(*static_cast<const Backward*>(call), nullptr);
#else
    forward<96>(*static_cast<const Forward*>(call), nullptr);
#endif
    return nullptr;
  } catch (const std::exception& error) {
    report = error.what();
    return report.c_str();
  }
}
}
