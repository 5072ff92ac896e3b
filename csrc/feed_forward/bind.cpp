// feed_forward for Python: checks every argument, fills the parameters, launches on the given stream. The
// shapes stand in params.h.
#include <pybind11/pybind11.h>

#include <limits>

#include "common/device_scope.h"
#include "common/tensor.h"
#include "feed_forward/params.h"
#include "feed_forward/rows.h"

namespace py = pybind11;

namespace blip3v {
namespace feed_forward {
namespace {

constexpr const char* kOp = "feed_forward";
#ifdef BLIP3V_SIM
constexpr const char* kDevice = "cpu";
#else
constexpr const char* kDevice = "cuda";
#endif
constexpr int kElementBytes = 2;
constexpr std::int64_t kMost = std::numeric_limits<int>::max();

// Collects matrices, checking each one against the sizes that the first two define.
class Arguments {
 public:
  // narrow: one of the matrices of `width` columns; wide: one of `hidden` columns.
  Arguments(const char* narrow_name, const Tensor& narrow, const char* wide_name, const Tensor& wide)
      : check_(kOp, kDevice) {
    for (auto [name, t] : {std::pair{narrow_name, &narrow}, {wide_name, &wide}}) {
      if (t->sizes.size() != 2) {
        check_.refuse(std::string(name) + " has the wrong number of dimensions",
                      std::to_string(t->sizes.size()), "2: rows, channels");
      }
    }
    check_.range("rows", narrow.sizes[0], 1, kMost);
    check_.range("width", narrow.sizes[1], kChannels, kMost);
    check_.range("hidden channels", wide.sizes[1], kChannels, kMost);
    for (auto [what, got] : {std::pair{"width", narrow.sizes[1]}, {"hidden channels", wide.sizes[1]}}) {
      if (got % kChannels) check_.refuse(what, std::to_string(got), "a multiple of 8");
    }
    sizes = {int(narrow.sizes[0]), int(narrow.sizes[1]), int(wide.sizes[1])};
  }

  Matrix narrow(const char* name, const Tensor& t) { return matrix(name, t, sizes.rows, sizes.width); }
  Matrix wide(const char* name, const Tensor& t) { return matrix(name, t, sizes.rows, sizes.hidden); }
  Matrix w1(const Tensor& t) { return matrix("w1", t, sizes.hidden, sizes.width); }
  Matrix w2(const Tensor& t) { return matrix("w2", t, sizes.width, sizes.hidden); }

  // Runs `call(rows)` for the kind of tiles that this many rows want.
  template <class Call>
  void dispatch(const Call& call) const {
#ifndef BLIP3V_SIM
    DeviceScope scope(kOp, check_.device_index());
#endif
    py::gil_scoped_release unlocked;
    if (rows_of(sizes) == Rows::kFew) {
      call(std::integral_constant<Rows, Rows::kFew>{});
    } else {
      call(std::integral_constant<Rows, Rows::kMany>{});
    }
  }

  Sizes sizes;

 private:
  static constexpr std::int64_t kChannels = 8;  // 16 bytes: what TMA and the epilogue move at least

  Matrix matrix(const char* name, const Tensor& t, std::int64_t rows, std::int64_t columns) {
    check_.tensor(name, t, "bfloat16", {rows, columns});
    check_.aligned_rows(name, t, kElementBytes);
    // A single row keeps no meaningful stride; TMA still wants a legal one.
    return {reinterpret_cast<void*>(t.data), rows == 1 ? columns : t.strides[0]};
  }

  TensorCheck check_;
};

cudaStream_t cuda(std::uintptr_t stream) {
  return reinterpret_cast<cudaStream_t>(stream);
}

void bind_forward(const Tensor& z, const Tensor& w1, const Tensor& w2, const Tensor& residual,
                  const Tensor& h, const Tensor& a, const Tensor& out, std::uintptr_t stream) {
  Arguments args("z", z, "h", h);
  LinearGelu const widen{args.sizes, args.narrow("z", z), args.w1(w1), args.wide("h", h), args.wide("a", a)};
  LinearResidual const narrow{args.sizes, args.wide("a", a), args.w2(w2), args.narrow("residual", residual),
                              args.narrow("out", out)};
  args.dispatch([&](auto rows) {
    linear_gelu<rows>(widen, cuda(stream));
    linear_residual<rows>(narrow, cuda(stream));
  });
}

void bind_backward(const Tensor& dout, const Tensor& w2, const Tensor& h, const Tensor& dh, const Tensor& a,
                   std::uintptr_t stream) {
  Arguments args("dout", dout, "h", h);
  LinearDgelu const call{args.sizes,        args.narrow("dout", dout), args.w2(w2),
                         args.wide("h", h), args.wide("dh", dh),       args.wide("a", a)};
  args.dispatch([&](auto rows) { linear_dgelu<rows>(call, cuda(stream)); });
}

}  // namespace
}  // namespace feed_forward

void register_feed_forward(py::module_& m) {
  using namespace feed_forward;
  using py::arg;
  m.def("feed_forward_forward", &bind_forward, arg("z"), arg("w1"), arg("w2"), arg("residual"), arg("h"),
        arg("a"), arg("out"), arg("stream"),
        "Writes h = z w1^T, a = gelu(h) and out = residual + a w2^T; shapes in csrc/feed_forward/params.h.");
  m.def("feed_forward_backward", &bind_backward, arg("dout"), arg("w2"), arg("h"), arg("dh"), arg("a"),
        arg("stream"), "Writes dh = (dout w2) * gelu'(h) and a = gelu(h).");
  m.attr("feed_forward_few_rows") = kFewRows;
}

}  // namespace blip3v
