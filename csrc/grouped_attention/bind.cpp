// grouped_attention for Python: checks every argument, fills the parameters, launches on the given stream.
// The shapes stand in params.h.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cmath>
#include <limits>
#include <optional>

#include "common/device_scope.h"
#include "common/tensor.h"
#include "grouped_attention/params.h"
#include "grouped_attention/tiles.h"

namespace py = pybind11;

namespace blip3v {
namespace grouped_attention {
namespace {

constexpr const char* kOp = "grouped_attention";
#ifdef BLIP3V_SIM
constexpr const char* kDevice = "cpu";
#else
constexpr const char* kDevice = "cuda";
#endif
constexpr std::int64_t kMost = std::numeric_limits<int>::max();
constexpr int kMostTokensOfGroup = 64;

// Collects tensors, checking each one against the shape of qkv.
class Arguments {
 public:
  explicit Arguments(const Tensor& qkv) : check_(kOp, kDevice), dtype_(qkv.dtype) {
    if (dtype_ != "bfloat16" && dtype_ != "float32") check_.refuse("dtype", dtype_, "bfloat16 or float32");
    if (qkv.sizes.size() != 5) {
      check_.refuse("qkv has the wrong number of dimensions", std::to_string(qkv.sizes.size()),
                    "5: groups, tokens, 3, heads, channels");
    }
    check_.range("groups", qkv.sizes[0], 1, kMost / kMostTokensOfGroup);
    check_.range("tokens of a group", qkv.sizes[1], 1, kMostTokensOfGroup);
    check_.range("heads", qkv.sizes[3], 1, kMostWidth);
    check_.range("channels per head", qkv.sizes[4], 1, kMostHeadDim);
    check_.range("channels", qkv.sizes[3] * qkv.sizes[4], 1, kMostWidth);
    if (qkv.sizes[4] % 2) {
      check_.refuse("channels per head", std::to_string(qkv.sizes[4]), "an even number");
    }
    check_.range("groups x tokens x heads", qkv.sizes[0] * qkv.sizes[1] * qkv.sizes[3], 1, kMost - kThreads);
    sizes = {int(qkv.sizes[0]), int(qkv.sizes[1]), int(qkv.sizes[3]), int(qkv.sizes[4])};
  }

  Dtype dtype() const { return dtype_ == "bfloat16" ? Dtype::kBfloat16 : Dtype::kFloat32; }
  int device_index() const { return check_.device_index(); }

  // [R,n,D] with any even strides of groups and tokens.
  View tokens(const char* name, const Tensor& t) {
    check_.tensor(name, t, dtype_, {sizes.groups, sizes.tokens, sizes.width()});
    return view(name, t);
  }
  // [R,n,3,H,d], each token contiguous.
  View projection(const char* name, const Tensor& t) {
    check_.tensor(name, t, dtype_, {sizes.groups, sizes.tokens, 3, sizes.heads, sizes.head_dim});
    Tensor inner = t;
    inner.sizes.erase(inner.sizes.begin(), inner.sizes.begin() + 2);
    inner.strides.erase(inner.strides.begin(), inner.strides.begin() + 2);
    check_.contiguous(std::string("each token of ") + name, inner);
    return view(name, t);
  }
  void* rows(const char* name, const Tensor& t) {
    tokens(name, t);
    check_.contiguous(name, t);
    return reinterpret_cast<void*>(t.data);
  }
  void* projection_rows(const char* name, const Tensor& t) {
    projection(name, t);
    check_.contiguous(name, t);
    return reinterpret_cast<void*>(t.data);
  }
  float* floats(const char* name, const Tensor& t, const std::vector<std::int64_t>& shape) {
    check_.tensor(name, t, "float32", shape);
    check_.contiguous(name, t);
    aligned(name, t, 2 * sizeof(float));
    return reinterpret_cast<float*>(t.data);
  }
  float* statistics(const char* name, const Tensor& t) {
    check_.tensor(name, t, "float32", {sizes.groups, sizes.tokens});
    check_.contiguous(name, t);
    return reinterpret_cast<float*>(t.data);
  }
  void range(const char* what, std::int64_t got, std::int64_t low, std::int64_t high) {
    check_.range(what, got, low, high);
  }
  void eps(double value) {
    if (!(value > 0) || !std::isfinite(value)) {
      check_.refuse("eps", std::to_string(value), "a finite number above 0");
    }
  }

  Sizes sizes{};

 private:
  int element_bytes() const { return dtype() == Dtype::kBfloat16 ? 2 : 4; }
  void aligned(const std::string& name, const Tensor& t, std::size_t bytes) {
    if (t.data % bytes) {
      check_.refuse(name + " starts at an unaligned address",
                    std::to_string(t.data % bytes) + " bytes past " + std::to_string(bytes),
                    "an address divisible by " + std::to_string(bytes));
    }
  }
  // Channels are read two at a time.
  View view(const std::string& name, const Tensor& t) {
    aligned(name, t, 2 * element_bytes());
    if (t.sizes.back() > 1 && t.strides.back() != 1) {
      check_.refuse(name + " has a strided last dimension", std::to_string(t.strides.back()),
                    "1: call .contiguous()");
    }
    // Dimensions of size one keep no meaningful stride.
    auto const stride = [&](int i) { return t.sizes[i] == 1 ? 0 : t.strides[i]; };
    for (int i : {0, 1}) {
      if (stride(i) % 2) {
        check_.refuse(name + " has an odd stride", std::to_string(t.strides[i]),
                      "even ones: call .contiguous()");
      }
    }
    check_.range(name + ": stride of the tokens", stride(1), 0, kMost);
    return {reinterpret_cast<void*>(t.data), int(stride(1)), stride(0)};
  }

  TensorCheck check_;
  std::string dtype_;
};

void bind_forward(const Tensor& x, const Tensor& qkv, const Tensor& norm_weight, const Tensor& norm_bias,
                  const Tensor& y, const Tensor& z, const Tensor& mean, const Tensor& rstd, double eps,
                  std::uintptr_t stream) {
  Arguments args(qkv);
  args.eps(eps);
  Sizes const& sizes = args.sizes;
  Forward const call{sizes,
                     args.tokens("x", x),
                     args.projection("qkv", qkv),
                     args.floats("norm_weight", norm_weight, {sizes.width()}),
                     args.floats("norm_bias", norm_bias, {sizes.width()}),
                     float(eps),
                     args.rows("y", y),
                     args.rows("z", z),
                     args.statistics("mean", mean),
                     args.statistics("rstd", rstd)};
  py::gil_scoped_release unlocked;
#ifndef BLIP3V_SIM
  DeviceScope scope(kOp, args.device_index());
#endif
  forward(call, args.dtype(), reinterpret_cast<cudaStream_t>(stream));
}

void bind_backward(const Tensor& dy, const Tensor& dz, const Tensor& qkv, const Tensor& norm_weight,
                   const Tensor& y, const Tensor& mean, const Tensor& rstd, const Tensor& dx,
                   const Tensor& dqkv, const Tensor& partials, const std::optional<Tensor>& row_sums,
                   std::uintptr_t stream) {
  Arguments args(qkv);
  Sizes const& sizes = args.sizes;
  std::int64_t const blocks = partials.sizes.empty() ? 0 : partials.sizes[0];
  args.range("blocks, the rows of partials,", blocks, 1, sizes.groups);
  if (!row_sums && !holds_group(sizes)) {
    TensorCheck(kOp, kDevice).refuse("row_sums", "none", "[2, R, H, n]: the group is not held in registers");
  }
  Backward const call{
      sizes,
      args.tokens("dy", dy),
      args.tokens("dz", dz),
      args.projection("qkv", qkv),
      args.floats("norm_weight", norm_weight, {sizes.width()}),
      args.rows("y", y),
      args.statistics("mean", mean),
      args.statistics("rstd", rstd),
      args.rows("dx", dx),
      args.projection_rows("dqkv", dqkv),
      args.floats("partials", partials, {blocks, 2, sizes.width()}),
      int(blocks),
      row_sums ? args.floats("row_sums", *row_sums, {2, sizes.groups, sizes.heads, sizes.tokens}) : nullptr};
  py::gil_scoped_release unlocked;
#ifndef BLIP3V_SIM
  DeviceScope scope(kOp, args.device_index());
#endif
  backward(call, args.dtype(), reinterpret_cast<cudaStream_t>(stream));
}

bool holds(int tokens, int heads, int head_dim) {
  return holds_group({1, tokens, heads, head_dim});
}

}  // namespace
}  // namespace grouped_attention

void register_grouped_attention(py::module_& m) {
  using namespace grouped_attention;
  using py::arg;
  m.def("grouped_attention_forward", &bind_forward, arg("x"), arg("qkv"), arg("norm_weight"),
        arg("norm_bias"), arg("y"), arg("z"), arg("mean"), arg("rstd"), arg("eps"), arg("stream"),
        "Writes y, z, mean and rstd; shapes in csrc/grouped_attention/params.h.");
  m.def("grouped_attention_backward", &bind_backward, arg("dy"), arg("dz"), arg("qkv"), arg("norm_weight"),
        arg("y"), arg("mean"), arg("rstd"), arg("dx"), arg("dqkv"), arg("partials"), arg("row_sums"),
        arg("stream"), "Writes dx, dqkv and partials; shapes in csrc/grouped_attention/params.h.");
  m.def("grouped_attention_holds_group", &holds, arg("tokens"), arg("heads"), arg("head_dim"),
        "Whether a block holds such a group in registers, so that row_sums may be None.");
  m.def(
      "grouped_attention_backward_blocks", [] { return kBackwardBlocks * multiprocessors(); },
      "Blocks of the backward, rows of partials, that fill the current device.");
  m.attr("grouped_attention_most_head_dim") = kMostHeadDim;
  m.attr("grouped_attention_most_width") = kMostWidth;
}

}  // namespace blip3v
