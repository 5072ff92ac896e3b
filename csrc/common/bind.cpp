#include <pybind11/pybind11.h>

#include <string>

#include "common/device.h"
#include "common/self_test.h"

#ifdef BLIP3V_WITH_CUDA
#include <cuda_runtime_api.h>
#include <cutlass/version.h>
#endif

namespace py = pybind11;

namespace blip3v {
namespace {

std::string dotted(int cuda_version) {
  return std::to_string(cuda_version / 1000) + "." + std::to_string(cuda_version % 1000 / 10);
}

std::string compiler() {
#if defined(__clang__)
  return "clang " __clang_version__;
#elif defined(__GNUC__)
  return "gcc " __VERSION__;
#else
  return "unknown";
#endif
}

py::dict build_info() {
  py::dict info;
  info["version"] = BLIP3V_VERSION;
  info["compiler"] = compiler();
#ifdef BLIP3V_WITH_CUDA
  info["with_cuda"] = true;
  info["cuda_version"] = dotted(CUDART_VERSION);
  info["cuda_archs"] = py::make_tuple(BLIP3V_CUDA_ARCHS);
  info["cutlass_version"] = std::to_string(CUTLASS_MAJOR) + "." + std::to_string(CUTLASS_MINOR) + "." +
                            std::to_string(CUTLASS_PATCH);
#else
  info["with_cuda"] = false;
  info["cuda_version"] = py::none();
  info["cuda_archs"] = py::tuple();
  info["cutlass_version"] = py::none();
#endif
  return info;
}

py::list device_list() {
  py::list list;
  for (const Device& device : devices()) {
    py::dict entry;
    entry["index"] = device.index;
    entry["name"] = device.name;
    entry["compute_capability"] = py::make_tuple(device.major, device.minor);
    entry["memory_bytes"] = device.memory_bytes;
    entry["multiprocessors"] = device.multiprocessors;
    list.append(entry);
  }
  return list;
}

}  // namespace

void register_common(py::module_& m) {
  m.def("build_info", &build_info, "How this module was built.");
  m.def("driver_version", [] { return dotted(driver_version()); }, "Newest CUDA version the driver takes.");
  m.def("device_count", &device_count, "CUDA devices that this process sees.");
  m.def("devices", &device_list, "One dict per CUDA device.");
  m.def("self_test", &self_test, py::arg("device") = 0, py::call_guard<py::gil_scoped_release>(),
        "Runs one sm_90a kernel and checks what it wrote.");
}

}  // namespace blip3v
