// ttm_read for Python: checks every argument, fills the parameters, launches on the given stream. The shapes
// stand in params.h.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <optional>

#include "common/device_scope.h"
#include "ttm_read/tiles.h"
#include "ttm_read/views.h"

namespace cutlass {
struct bfloat16_t;
}

namespace py = pybind11;

namespace blip3v {
namespace ttm_read {
namespace {

constexpr const char* kOp = "ttm_read";

// Runs `call<T, slots>(stream)` for the element type and the number of slots.
template <class Call>
void dispatch(const TensorCheck& check, const std::string& dtype, std::int64_t slots, std::uintptr_t stream,
              const Call& call) {
#ifndef BLIP3V_SIM
  DeviceScope scope(kOp, check.device_index());
#endif
  auto const cuda_stream = reinterpret_cast<cudaStream_t>(stream);
  bool const narrow = dtype == "bfloat16";
  switch (slots) {
#define BLIP3V_CASE(g)                                                                                 \
  case g:                                                                                              \
    return narrow ? call(static_cast<cutlass::bfloat16_t*>(nullptr), std::integral_constant<int, g>{}, \
                         cuda_stream)                                                                  \
                  : call(static_cast<float*>(nullptr), std::integral_constant<int, g>{}, cuda_stream);
    BLIP3V_TTM_SLOTS(BLIP3V_CASE)
#undef BLIP3V_CASE
  }
  check.refuse("memory slots", std::to_string(slots), "1, 2, 4 or 8");
}

void bind_forward(const Tensor& memory, const Tensor& frame, const std::optional<Tensor>& stamp,
                  const Tensor& gamma, const Tensor& beta, const Tensor& group, const Tensor& normed,
                  const Tensor& mean, const Tensor& rstd, double eps, std::uintptr_t stream) {
  TensorCheck check(kOp, kDevice);
  std::int64_t const slots = memory.sizes.size() == 4 ? memory.sizes[2] : 0;
  Sizes const sizes = sizes_of(check, "memory", memory, most_width(int(slots)));
  std::int64_t const b = sizes.videos, s = sizes.positions, d = sizes.width;
  std::string const type = memory.dtype;
  Forward const call{sizes,
                     view(check, "memory", memory, type, {b, s, slots, d}),
                     view(check, "frame", frame, type, {b, s, d}),
                     stamp ? dense(check, "stamp", *stamp, type, {d}) : nullptr,
                     dense<float>(check, "norm_weight", gamma, "float32", {d}),
                     dense<float>(check, "norm_bias", beta, "float32", {d}),
                     dense(check, "group", group, type, {b, s, slots + 1, d}),
                     dense(check, "normed", normed, type, {b, s, slots + 1, d}),
                     dense<float>(check, "mean", mean, "float32", {b, s, slots + 1}),
                     dense<float>(check, "rstd", rstd, "float32", {b, s, slots + 1}),
                     float(eps)};
  py::gil_scoped_release unlocked;
  dispatch(check, type, slots, stream, [&](auto* element, auto g, cudaStream_t at) {
    forward<std::remove_pointer_t<decltype(element)>, g>(call, at);
  });
}

void bind_backward(const Tensor& dgroup, const Tensor& dnormed, const Tensor& group, const Tensor& gamma,
                   const Tensor& mean, const Tensor& rstd, const Tensor& dmemory, const Tensor& dframe,
                   const Tensor& partial, std::uintptr_t stream) {
  TensorCheck check(kOp, kDevice);
  std::int64_t const rows = group.sizes.size() == 4 ? group.sizes[2] : 0;
  Sizes const sizes = sizes_of(check, "group", group, most_width(int(rows - 1)));
  std::int64_t const b = sizes.videos, s = sizes.positions, d = sizes.width;
  std::string const type = group.dtype;
  Backward const call{
      sizes,
      dense(check, "dgroup", dgroup, type, {b, s, rows, d}),
      dense(check, "dnormed", dnormed, type, {b, s, rows, d}),
      dense(check, "group", group, type, {b, s, rows, d}),
      dense<float>(check, "norm_weight", gamma, "float32", {d}),
      dense<float>(check, "mean", mean, "float32", {b, s, rows}),
      dense<float>(check, "rstd", rstd, "float32", {b, s, rows}),
      dense(check, "dmemory", dmemory, type, {b, s, rows - 1, d}),
      dense(check, "dframe", dframe, type, {b, s, d}),
      dense<float>(check, "partial", partial, "float32", {blocks(int(b * s), multiprocessors()), 2, d})};
  py::gil_scoped_release unlocked;
  dispatch(check, type, rows - 1, stream, [&](auto* element, auto g, cudaStream_t at) {
    backward<std::remove_pointer_t<decltype(element)>, g>(call, at);
  });
}

}  // namespace
}  // namespace ttm_read

void register_ttm_read(py::module_& m) {
  using namespace ttm_read;
  using py::arg;
  m.def("ttm_read_forward", &bind_forward, arg("memory"), arg("frame"), arg("stamp"), arg("norm_weight"),
        arg("norm_bias"), arg("group"), arg("normed"), arg("mean"), arg("rstd"), arg("eps"), arg("stream"),
        "Writes group, normed, mean and rstd; shapes in csrc/ttm_read/params.h.");
  m.def("ttm_read_backward", &bind_backward, arg("dgroup"), arg("dnormed"), arg("group"), arg("norm_weight"),
        arg("mean"), arg("rstd"), arg("dmemory"), arg("dframe"), arg("partial"), arg("stream"),
        "Writes dmemory, dframe and partial; shapes in csrc/ttm_read/params.h.");
  m.def(
      "ttm_read_blocks", [](int positions) { return blocks(positions, multiprocessors()); }, arg("positions"),
      "Rows of `partial` for so many positions of all videos, on the current device.");
#define BLIP3V_WIDTH(g) widths[py::int_(g)] = most_width(g);
  py::dict widths;
  BLIP3V_TTM_SLOTS(BLIP3V_WIDTH)
#undef BLIP3V_WIDTH
  m.attr("ttm_read_widths") = widths;  // memory slots -> most channels
}

}  // namespace blip3v
