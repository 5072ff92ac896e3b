// ttm_write for Python: checks every argument, fills the parameters, launches on the given stream. The shapes
// stand in params.h.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <optional>

#include "common/device_scope.h"
#include "ttm_read/views.h"
#include "ttm_write/params.h"
#include "ttm_write/tiles.h"

namespace cutlass {
struct bfloat16_t;
}

namespace py = pybind11;

namespace blip3v {
namespace ttm_write {
namespace {

using ttm_read::dense;
using ttm_read::kDevice;
using ttm_read::view;

constexpr const char* kOp = "ttm_write";
constexpr int kMostShared = 227 * 1024;  // bytes that a block may have on Hopper

// Runs `call<T, slots>()` for the element type and the number of slots.
template <class Call>
auto dispatch(const std::string& dtype, std::int64_t slots, const Call& call) {
  bool const narrow = dtype == "bfloat16";
  switch (slots) {
#define BLIP3V_CASE(g)                                                                                 \
  case g:                                                                                              \
    return narrow ? call(static_cast<cutlass::bfloat16_t*>(nullptr), std::integral_constant<int, g>{}) \
                  : call(static_cast<float*>(nullptr), std::integral_constant<int, g>{});
    BLIP3V_TTM_SLOTS(BLIP3V_CASE)
#undef BLIP3V_CASE
  }
  TensorCheck(kOp, kDevice).refuse("memory slots", std::to_string(slots), "1, 2, 4 or 8");
}

struct SharedBytes {
  int forward, backward;
};

SharedBytes shared_bytes(const std::string& dtype, std::int64_t slots, int processed, int width) {
  return dispatch(dtype, slots, [&](auto* element, auto g) {
    using T = std::remove_pointer_t<decltype(element)>;
    return SharedBytes{int(forward_shared_bytes<T, g>(processed, width)),
                       int(backward_shared_bytes<T, g>(processed, width))};
  });
}

// What forward and backward are both given.
class Arguments {
 public:
  Arguments(const Tensor& memory, const Tensor& processed, const Tensor& gamma1, const Tensor& beta1,
            const Tensor& gamma2, const Tensor& beta2, const Tensor& w1, const Tensor& w2, double eps)
      : check(kOp, kDevice), type(memory.dtype) {
    slots = memory.sizes.size() == 4 ? memory.sizes[2] : 0;
    auto const own = ttm_read::sizes_of(check, "memory", memory, most_width(int(slots)));
    if (processed.sizes.size() != 4) {
      check.refuse("processed has the wrong number of dimensions", std::to_string(processed.sizes.size()),
                   "4: videos, positions, rows, channels");
    }
    check.range("processed rows", processed.sizes[2], 1, kMostProcessed);
    b = own.videos, s = own.positions, n = processed.sizes[2], d = own.width;
    in = {{own.videos, own.positions, own.width, int(n)},
          view(check, "memory", memory, type, {b, s, slots, d}),
          view(check, "processed", processed, type, {b, s, n, d}),
          dense<float>(check, "norm1_weight", gamma1, "float32", {d}),
          dense<float>(check, "norm1_bias", beta1, "float32", {d}),
          dense<float>(check, "norm2_weight", gamma2, "float32", {d}),
          dense<float>(check, "norm2_bias", beta2, "float32", {d}),
          dense<float>(check, "w1", w1, "float32", {2 * slots, d}),
          dense<float>(check, "w2", w2, "float32", {slots, 2 * slots}),
          float(eps)};
  }

  void fits(int bytes) const { check.range("bytes of shared memory", bytes, 0, kMostShared); }

  TensorCheck check;
  std::string type;
  std::int64_t slots, b, s, n, d;
  Inputs in;
};

void bind_forward(const Tensor& memory, const Tensor& processed, const Tensor& gamma1, const Tensor& beta1,
                  const Tensor& gamma2, const Tensor& beta2, const Tensor& w1, const Tensor& w2,
                  const std::optional<Tensor>& frame, const std::optional<Tensor>& stamp,
                  const std::optional<Tensor>& gamma, const std::optional<Tensor>& beta, const Tensor& group,
                  const std::optional<Tensor>& normed, const std::optional<Tensor>& mean,
                  const std::optional<Tensor>& rstd, double eps, std::uintptr_t stream) {
  Arguments args(memory, processed, gamma1, beta1, gamma2, beta2, w1, w2, eps);
  auto& [check, type, slots, b, s, n, d, in] = args;
  Forward call{};
  call.in = in;
  std::int64_t rows = slots;
  if (frame) {
    rows += 1;
    if (!gamma || !beta || !normed || !mean || !rstd) {
      check.refuse("a frame comes without norm_weight, norm_bias, normed, mean or rstd", "none", "all");
    }
    call.frame = view(check, "frame", *frame, type, {b, s, d});
    call.stamp = stamp ? dense(check, "stamp", *stamp, type, {d}) : nullptr;
    call.gamma = dense<float>(check, "norm_weight", *gamma, "float32", {d});
    call.beta = dense<float>(check, "norm_bias", *beta, "float32", {d});
    call.normed = dense(check, "normed", *normed, type, {b, s, rows, d});
    call.mean = dense<float>(check, "mean", *mean, "float32", {b, s, rows});
    call.rstd = dense<float>(check, "rstd", *rstd, "float32", {b, s, rows});
  }
  call.group = dense(check, "group", group, type, {b, s, rows, d});
  args.fits(shared_bytes(type, slots, int(n), int(d)).forward);
  py::gil_scoped_release unlocked;
#ifndef BLIP3V_SIM
  DeviceScope scope(kOp, check.device_index());
#endif
  dispatch(type, slots, [&](auto* element, auto g) {
    forward<std::remove_pointer_t<decltype(element)>, g>(call, reinterpret_cast<cudaStream_t>(stream));
  });
}

void bind_backward(const Tensor& dgroup, const std::optional<Tensor>& dnormed, const Tensor& memory,
                   const Tensor& processed, const Tensor& gamma1, const Tensor& beta1, const Tensor& gamma2,
                   const Tensor& beta2, const Tensor& w1, const Tensor& w2,
                   const std::optional<Tensor>& gamma, const std::optional<Tensor>& group,
                   const std::optional<Tensor>& mean, const std::optional<Tensor>& rstd,
                   const Tensor& dmemory, const Tensor& dprocessed, const std::optional<Tensor>& dframe,
                   const Tensor& partial, double eps, std::uintptr_t stream) {
  Arguments args(memory, processed, gamma1, beta1, gamma2, beta2, w1, w2, eps);
  auto& [check, type, slots, b, s, n, d, in] = args;
  Backward call{};
  call.in = in;
  std::int64_t rows = slots;
  if (dnormed) {
    rows += 1;
    if (!gamma || !group || !mean || !rstd || !dframe) {
      check.refuse("dnormed comes without norm_weight, group, mean, rstd or dframe", "none", "all");
    }
    call.dnormed = dense(check, "dnormed", *dnormed, type, {b, s, rows, d});
    call.group = dense(check, "group", *group, type, {b, s, rows, d});
    call.gamma = dense<float>(check, "norm_weight", *gamma, "float32", {d});
    call.mean = dense<float>(check, "mean", *mean, "float32", {b, s, rows});
    call.rstd = dense<float>(check, "rstd", *rstd, "float32", {b, s, rows});
    call.dframe = dense(check, "dframe", *dframe, type, {b, s, d});
  }
  call.dgroup = dense(check, "dgroup", dgroup, type, {b, s, rows, d});
  call.dmemory = dense(check, "dmemory", dmemory, type, {b, s, slots, d});
  call.dprocessed = dense(check, "dprocessed", dprocessed, type, {b, s, n, d});
  call.partial =
      dense<float>(check, "partial", partial, "float32",
                   {blocks(int(b * s), kBackwardBlocks, multiprocessors()), sums(int(slots), int(d))});
  args.fits(shared_bytes(type, slots, int(n), int(d)).backward);
  py::gil_scoped_release unlocked;
#ifndef BLIP3V_SIM
  DeviceScope scope(kOp, check.device_index());
#endif
  dispatch(type, slots, [&](auto* element, auto g) {
    backward<std::remove_pointer_t<decltype(element)>, g>(call, reinterpret_cast<cudaStream_t>(stream));
  });
}

}  // namespace
}  // namespace ttm_write

void register_ttm_write(py::module_& m) {
  using namespace ttm_write;
  using py::arg;
  m.def("ttm_write_forward", &bind_forward, arg("memory"), arg("processed"), arg("norm1_weight"),
        arg("norm1_bias"), arg("norm2_weight"), arg("norm2_bias"), arg("w1"), arg("w2"), arg("frame"),
        arg("stamp"), arg("norm_weight"), arg("norm_bias"), arg("group"), arg("normed"), arg("mean"),
        arg("rstd"), arg("eps"), arg("stream"),
        "Writes group, and with a frame normed, mean and rstd; shapes in csrc/ttm_write/params.h.");
  m.def("ttm_write_backward", &bind_backward, arg("dgroup"), arg("dnormed"), arg("memory"), arg("processed"),
        arg("norm1_weight"), arg("norm1_bias"), arg("norm2_weight"), arg("norm2_bias"), arg("w1"), arg("w2"),
        arg("norm_weight"), arg("group"), arg("mean"), arg("rstd"), arg("dmemory"), arg("dprocessed"),
        arg("dframe"), arg("partial"), arg("eps"), arg("stream"),
        "Writes dmemory, dprocessed, partial and, with dnormed, dframe; shapes in csrc/ttm_write/params.h.");
  m.def(
      "ttm_write_blocks", [](int positions) { return blocks(positions, kBackwardBlocks, multiprocessors()); },
      arg("positions"), "Rows of `partial` for so many positions of all videos, on the current device.");
  m.def(
      "ttm_write_shared_bytes",
      [](const std::string& dtype, int slots, int processed, int width) {
        SharedBytes const bytes = shared_bytes(dtype, slots, processed, width);
        return py::make_tuple(bytes.forward, bytes.backward);
      },
      arg("dtype"), arg("slots"), arg("processed"), arg("width"),
      "Shared memory of a block: (forward, backward).");
#define BLIP3V_WIDTH(g) widths[py::int_(g)] = most_width(g);
  py::dict widths;
  BLIP3V_TTM_SLOTS(BLIP3V_WIDTH)
#undef BLIP3V_WIDTH
  m.attr("ttm_write_widths") = widths;  // memory slots -> most channels
  m.attr("ttm_write_most_processed") = kMostProcessed;
  m.attr("ttm_write_most_shared_bytes") = kMostShared;
}

}  // namespace blip3v
