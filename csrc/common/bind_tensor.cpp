// blip3v._C.Tensor and blip3v._sim.Tensor: one source, a type of its own in each module.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "common/tensor.h"

namespace py = pybind11;

namespace blip3v {

void register_tensor(py::module_& m) {
  py::class_<Tensor>(
      m, "Tensor", py::module_local(),
      "A view of somebody else's array; that somebody keeps it alive until the launch is over.")
      .def(py::init([](std::uintptr_t data_ptr, std::string dtype, std::string device, int device_index,
                       std::vector<std::int64_t> sizes, std::vector<std::int64_t> strides) {
             return Tensor{data_ptr,     std::move(dtype), std::move(device),
                           device_index, std::move(sizes), std::move(strides)};
           }),
           py::arg("data_ptr"), py::arg("dtype"), py::arg("device"), py::arg("device_index"),
           py::arg("sizes"), py::arg("strides"));
}

}  // namespace blip3v
