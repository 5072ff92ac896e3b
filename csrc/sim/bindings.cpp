// Table of contents of blip3v._sim: the ops of blip3v._C on CPU tensors, the simulator's settings and
// counters, and its own test kernels.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "common/errors.h"
#include "sim/selftest/selftest.h"
#include "sim/sim.h"

namespace py = pybind11;

namespace blip3v {

void register_tensor(py::module_& m);
void register_resampler_attention(py::module_& m);

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

template <typename T>
T* at(std::uintptr_t address) {
  return reinterpret_cast<T*>(address);
}

void register_selftest(py::module_ m) {
  using namespace selftest;
  using Address = std::uintptr_t;
  m.doc() =
      "Test kernels of the simulator; arrays are addresses of contiguous memory, see csrc/sim/selftest.";
  m.def("gemm", [](bool fp16, int swizzle, bool a_mn_major, bool b_mn_major, bool a_in_registers, Address a,
                   Address b, Address d, int rows, int columns, int depth) {
    gemm({fp16, swizzle, a_mn_major, b_mn_major, a_in_registers}, at<void>(a), at<void>(b), at<float>(d),
         rows, columns, depth);
  });
#ifdef BLIP3V_SIM_COLLECTIVE
  m.def("collective_gemm",
        [](Address a, Address b, Address d, int rows, int columns, int depth, int multiprocessors) {
          collective_gemm(at<void>(a), at<void>(b), at<void>(d), rows, columns, depth, multiprocessors);
        });
#endif
  m.def("multicast_sum",
        [](Address x, Address out, int rounds) { multicast_sum(at<float>(x), at<float>(out), rounds); });
  m.def("rotate_blocks",
        [](Address x, Address out, int blocks) { rotate_blocks(at<float>(x), at<float>(out), blocks); });
  m.def("ping_pong",
        [](Address x, Address out, int rounds) { ping_pong(at<float>(x), at<float>(out), rounds); });
  m.def("shuffles", [](Address x, Address out) { shuffles(at<std::uint32_t>(x), at<std::uint32_t>(out)); });
  m.def("stmatrix", [](Address x, Address out) { stmatrix(at<std::uint16_t>(x), at<std::uint16_t>(out)); });
  m.def("staged_store",
        [](Address x, Address out, int fence) { staged_store(at<float>(x), at<float>(out), Fence(fence)); });
  m.def("strided_stores", &strided_stores, py::arg("bytes"), py::arg("stride"), py::arg("repeats"));
  m.def("faults", &faults);
  m.def("run_fault", [](const std::string& name, Address memory) { run_fault(name, at<void>(memory)); });
}

}  // namespace
}  // namespace blip3v

PYBIND11_MODULE(_sim, m) {
  using namespace blip3v;
  __builtin_cpu_init();
  if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma")) {
    throw py::import_error("blip3v._sim needs a CPU with AVX2 and FMA");
  }
  m.doc() = "The kernels of blip3v._C on the CPU, for tests; see csrc/sim/README.md.";
  m.attr("version") = BLIP3V_VERSION;
  m.def("configure", &configure, py::arg("schedule"), py::arg("seed") = 1, py::arg("check_proxy") = true,
        "How the next launches run: schedule is forward, reverse or random.");
  m.def("stats", &stats, "Counters of all launches since reset_stats().");
  m.def("reset_stats", &sim::reset_stats);
  m.def("declare_buffers", &declare_buffers, py::arg("buffers"),
        "(address, bytes) of the memory that kernels may touch; without any, all of it.");
  m.def("forget_buffers", &sim::forget_buffers);
  register_selftest(m.def_submodule("selftest"));
  register_tensor(m);
  register_resampler_attention(m);
}
