// The simulator's settings and counters for Python.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "common/errors.h"
#include "sim/sim.h"

namespace py = pybind11;

namespace blip3v {
namespace {

constexpr const char* kSchedules[] = {"forward", "reverse", "random"};

void configure(const std::string& schedule, std::uint64_t seed, bool check_proxy) {
  for (int i = 0; i < 3; ++i) {
    if (schedule == kSchedules[i]) return sim::configure({sim::Schedule(i), seed, check_proxy});
  }
  fail("simulator: the schedule is forward, reverse or random (got " + schedule + ")");
}

py::dict stats() {
  const sim::Stats s = sim::stats();
  py::dict d;
  d["launches"] = s.launches;
  d["blocks"] = s.blocks;
  d["switches"] = s.switches;
  d["schedule_points"] = s.schedule_points;
  d["tma_loads"] = s.tma_loads;
  d["tma_stores"] = s.tma_stores;
  d["tma_load_bytes"] = s.tma_load_bytes;
  d["tma_store_bytes"] = s.tma_store_bytes;
  d["global_load_bytes"] = s.global_load_bytes;
  d["global_store_bytes"] = s.global_store_bytes;
  d["wgmma_flops"] = s.wgmma_flops;
  d["mbarrier_waits"] = s.mbarrier_waits;
  d["barrier_waits"] = s.barrier_waits;
  d["shared_accesses"] = s.shared_accesses;
  d["shared_conflicts"] = s.shared_conflicts;
  d["remote_shared_bytes"] = s.remote_shared_bytes;
  d["seconds"] = s.seconds;
  return d;
}

void declare_buffers(const std::vector<std::pair<std::uintptr_t, std::size_t>>& buffers) {
  for (const auto& [base, bytes] : buffers) sim::declare_buffer(reinterpret_cast<const void*>(base), bytes);
}

}  // namespace

void register_simulator(py::module_& m) {
  __builtin_cpu_init();
  if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma")) {
    throw py::import_error("blip3v._sim needs a CPU with AVX2 and FMA");
  }
  m.def("configure", &configure, py::arg("schedule"), py::arg("seed") = 1, py::arg("check_proxy") = true,
        "How the next launches run: schedule is forward, reverse or random.");
  m.def("stats", &stats, "Counters of all launches since reset_stats().");
  m.def("reset_stats", &sim::reset_stats);
  m.def("declare_buffers", &declare_buffers, py::arg("buffers"),
        "(address, bytes) of the memory that kernels may touch; without any, all of it.");
  m.def("forget_buffers", &sim::forget_buffers);
}

}  // namespace blip3v
