// Table of contents of blip3v._sim: the ops of blip3v._C on CPU tensors, the simulator's settings and
// counters, and its own test kernels.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "sim/selftest/selftest.h"

namespace py = pybind11;

namespace blip3v {

void register_simulator(py::module_& m);
void register_tensor(py::module_& m);
void register_resampler_attention(py::module_& m);
void register_token_learner(py::module_& m);
void register_feed_forward(py::module_& m);
void register_grouped_attention(py::module_& m);
void register_ttm_read(py::module_& m);
void register_ttm_write(py::module_& m);

namespace {

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
  m.def("ldmatrix", [](Address x, Address out) { ldmatrix(at<std::uint16_t>(x), at<std::uint16_t>(out)); });
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
  m.doc() = "The kernels of blip3v._C on the CPU, for tests; see csrc/sim/README.md.";
  m.attr("version") = BLIP3V_VERSION;
  register_simulator(m);
  register_selftest(m.def_submodule("selftest"));
  register_tensor(m);
  register_resampler_attention(m);
  register_token_learner(m);
  register_feed_forward(m);
  register_grouped_attention(m);
  register_ttm_read(m);
  register_ttm_write(m);
}
