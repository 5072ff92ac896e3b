// Table of contents of blip3v._C: one line per folder of csrc/.
#include <pybind11/pybind11.h>

namespace blip3v {
void register_common(pybind11::module_& m);  // build_info, driver_version, device_count, devices, self_test
}  // namespace blip3v

PYBIND11_MODULE(_C, m) {
  m.doc() = "Native code of blip3v. It knows nothing of torch: kernels take pointers, sizes and a stream.";
  blip3v::register_common(m);
}
