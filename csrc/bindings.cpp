// Table of contents of blip3v._C: one line per folder of csrc/.
#include <pybind11/pybind11.h>

namespace blip3v {
void register_common(pybind11::module_& m);  // build_info, driver_version, device_count, devices, self_test
void register_tensor(pybind11::module_& m);  // Tensor: what the ops below are called with
void register_resampler_attention(pybind11::module_& m);
void register_token_learner(pybind11::module_& m);
void register_feed_forward(pybind11::module_& m);
void register_grouped_attention(pybind11::module_& m);
void register_ttm_read(pybind11::module_& m);
void register_ttm_write(pybind11::module_& m);
}  // namespace blip3v

PYBIND11_MODULE(_C, m) {
  m.doc() = "Native code of blip3v. It knows nothing of torch: kernels take pointers, sizes and a stream.";
  blip3v::register_common(m);
#ifdef BLIP3V_WITH_CUDA
  blip3v::register_tensor(m);
  blip3v::register_resampler_attention(m);
  blip3v::register_token_learner(m);
  blip3v::register_feed_forward(m);
  blip3v::register_grouped_attention(m);
  blip3v::register_ttm_read(m);
  blip3v::register_ttm_write(m);
#endif
}
