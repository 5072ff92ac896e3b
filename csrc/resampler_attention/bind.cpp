// resampler_attention for Python: checks every argument, fills the parameters, launches on the given stream.
// The shapes stand in params.h.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cmath>
#include <limits>
#include <optional>

#include "common/device_scope.h"
#include "common/tensor.h"
#include "resampler_attention/params.h"
#include "resampler_attention/tiles.h"

namespace py = pybind11;

namespace blip3v {
namespace resampler_attention {
namespace {

constexpr const char* kOp = "resampler_attention";
#ifdef BLIP3V_SIM
constexpr const char* kDevice = "cpu";
#else
constexpr const char* kDevice = "cuda";
#endif
constexpr int kElementBytes = 2;
constexpr std::int64_t kMost = std::numeric_limits<int>::max();

// Dimensions of size one keep no meaningful stride; TMA still wants a legal one.
View view(const Tensor& t) {
  auto stride = [&](int i) { return t.sizes[i] == 1 ? std::int64_t(8) : t.strides[i]; };
  return {reinterpret_cast<void*>(t.data), stride(1), stride(2), stride(0)};
}

template <class T>
T* pointer(const Tensor& t) {
  return reinterpret_cast<T*>(t.data);
}

// Collects tensors, checking each one against the shape that q and the two segments of keys define.
class Arguments {
 public:
  Arguments(const Tensor& q, const Tensor& k_media, const Tensor& k_latents, double scale, int splits)
      : check_(kOp, kDevice) {
    for (auto [name, t] : {std::pair{"q", &q}, {"k_media", &k_media}, {"k_latents", &k_latents}}) {
      if (t->sizes.size() != 4) {
        check_.refuse(std::string(name) + " has the wrong number of dimensions",
                      std::to_string(t->sizes.size()), "4: frames, tokens, heads, channels");
      }
    }
    head_dim_ = q.sizes[3];
    check_.range("frames", q.sizes[0], 1, kMost);
    check_.range("queries", q.sizes[1], 1, kQueries);
    check_.range("heads", q.sizes[2], 1, kMost);
    check_.range("frames x heads", q.sizes[0] * q.sizes[2], 1, kMost / kMaxSplits);
    check_.range("media and latent keys together", k_media.sizes[1] + k_latents.sizes[1], 1,
                 kMost - 2 * kTile);
    check_.range("splits", splits, 0, kMaxSplits);
    if (!(scale > 0) || !std::isfinite(scale)) {
      check_.refuse("scale", std::to_string(scale), "a finite number above 0");
    }
    in.sizes = {int(q.sizes[0]), int(q.sizes[2]), int(q.sizes[1]), int(k_media.sizes[1]),
                int(k_latents.sizes[1])};
    in.scale = float(scale);
    in.splits = splits;
  }

  std::int64_t head_dim() const { return head_dim_; }
  int device_index() const { return check_.device_index(); }

  View queries(const char* name, const Tensor& t) { return rows(name, t, in.sizes.queries); }
  View media(const char* name, const Tensor& t) { return rows(name, t, in.sizes.media); }
  View latents(const char* name, const Tensor& t) { return rows(name, t, in.sizes.latents); }

  float* lse(const Tensor& t) {
    check_.tensor("lse", t, "float32", {in.sizes.frames, in.sizes.heads, in.sizes.queries});
    check_.contiguous("lse", t);
    return pointer<float>(t);
  }

  void masks(const std::optional<Tensor>& lengths, const std::optional<Tensor>& keep) {
    if (lengths) {
      check_.tensor("lengths", *lengths, "int32", {in.sizes.frames});
      check_.contiguous("lengths", *lengths);
      in.lengths = pointer<int>(*lengths);
    }
    if (keep && keep->elements()) {
      check_.tensor("keep", *keep, "uint8", {in.sizes.frames, in.sizes.media});
      if (keep->sizes[1] > 1 && keep->strides[1] != 1) {
        check_.refuse("keep has a strided last dimension", std::to_string(keep->strides[1]),
                      "1: call .contiguous()");
      }
      in.keep = pointer<std::uint8_t>(*keep);
      in.keep_stride = keep->strides[0];
    }
  }

  Inputs in{};

 private:
  View rows(const char* name, const Tensor& t, int count) {
    check_.tensor(name, t, "bfloat16", {in.sizes.frames, count, in.sizes.heads, head_dim_});
    check_.aligned_rows(name, t, kElementBytes);
    return view(t);
  }

  TensorCheck check_;
  std::int64_t head_dim_;
};

// Runs `call<d>(params, stream)` for the head dimension d of the arguments.
template <class Call>
void dispatch(Arguments& args, std::uintptr_t stream, const Call& call) {
#ifndef BLIP3V_SIM
  DeviceScope scope(kOp, args.device_index());
#endif
  auto const cuda_stream = reinterpret_cast<cudaStream_t>(stream);
  switch (args.head_dim()) {
#define BLIP3V_CASE(d) \
  case d:              \
    return call(std::integral_constant<int, d>{}, cuda_stream);
    BLIP3V_RESAMPLER_ATTENTION_HEAD_DIMS(BLIP3V_CASE)
#undef BLIP3V_CASE
  }
  TensorCheck(kOp, kDevice)
      .refuse("head dimension", std::to_string(args.head_dim()), "64, 72, 96, 128 or 144");
}

void bind_forward(const Tensor& q, const Tensor& k_media, const Tensor& v_media, const Tensor& k_latents,
                  const Tensor& v_latents, const std::optional<Tensor>& lengths,
                  const std::optional<Tensor>& keep, const Tensor& out, const Tensor& lse, double scale,
                  int splits, std::uintptr_t stream) {
  Arguments args(q, k_media, k_latents, scale, splits);
  args.in.q = args.queries("q", q);
  args.in.k_media = args.media("k_media", k_media);
  args.in.v_media = args.media("v_media", v_media);
  args.in.k_latents = args.latents("k_latents", k_latents);
  args.in.v_latents = args.latents("v_latents", v_latents);
  args.masks(lengths, keep);
  Forward const call{args.in, args.queries("out", out), args.lse(lse)};
  py::gil_scoped_release unlocked;
  dispatch(args, stream, [&](auto d, cudaStream_t s) { forward<d>(call, s); });
}

void bind_backward(const Tensor& q, const Tensor& k_media, const Tensor& v_media, const Tensor& k_latents,
                   const Tensor& v_latents, const std::optional<Tensor>& lengths,
                   const std::optional<Tensor>& keep, const Tensor& out, const Tensor& lse,
                   const Tensor& dout, const Tensor& dq, const Tensor& dk_media, const Tensor& dv_media,
                   const Tensor& dk_latents, const Tensor& dv_latents, double scale, int splits,
                   std::uintptr_t stream) {
  Arguments args(q, k_media, k_latents, scale, splits);
  args.in.q = args.queries("q", q);
  args.in.k_media = args.media("k_media", k_media);
  args.in.v_media = args.media("v_media", v_media);
  args.in.k_latents = args.latents("k_latents", k_latents);
  args.in.v_latents = args.latents("v_latents", v_latents);
  args.masks(lengths, keep);
  Backward const call{args.in,
                      args.queries("out", out),
                      args.queries("dout", dout),
                      args.lse(lse),
                      args.queries("dq", dq),
                      args.media("dk_media", dk_media),
                      args.media("dv_media", dv_media),
                      args.latents("dk_latents", dk_latents),
                      args.latents("dv_latents", dv_latents)};
  py::gil_scoped_release unlocked;
  dispatch(args, stream, [&](auto d, cudaStream_t s) { backward<d>(call, s); });
}

py::dict shared_bytes() {
  py::dict forward, backward;
#define BLIP3V_BYTES(d)                             \
  forward[py::int_(d)] = forward_shared_bytes<d>(); \
  backward[py::int_(d)] = backward_shared_bytes<d>();
  BLIP3V_RESAMPLER_ATTENTION_HEAD_DIMS(BLIP3V_BYTES)
#undef BLIP3V_BYTES
  py::dict both;
  both["forward"] = forward;
  both["backward"] = backward;
  return both;
}

}  // namespace
}  // namespace resampler_attention

void register_resampler_attention(py::module_& m) {
  using namespace resampler_attention;
  using py::arg;
  m.def("resampler_attention_forward", &bind_forward, arg("q"), arg("k_media"), arg("v_media"),
        arg("k_latents"), arg("v_latents"), arg("lengths"), arg("keep"), arg("out"), arg("lse"), arg("scale"),
        arg("splits"), arg("stream"), "Writes out and lse; shapes in csrc/resampler_attention/params.h.");
  m.def("resampler_attention_backward", &bind_backward, arg("q"), arg("k_media"), arg("v_media"),
        arg("k_latents"), arg("v_latents"), arg("lengths"), arg("keep"), arg("out"), arg("lse"), arg("dout"),
        arg("dq"), arg("dk_media"), arg("dv_media"), arg("dk_latents"), arg("dv_latents"), arg("scale"),
        arg("splits"), arg("stream"),
        "Writes the five gradients; shapes in csrc/resampler_attention/params.h.");
#define BLIP3V_NAME(d) d,
  m.attr("resampler_attention_head_dims") =
      py::cast(std::vector<int>{BLIP3V_RESAMPLER_ATTENTION_HEAD_DIMS(BLIP3V_NAME)});
#undef BLIP3V_NAME
  m.def("resampler_attention_shared_bytes", &shared_bytes,
        "Shared memory of a block: {'forward': {head dimension: bytes}, 'backward': {...}}.");
}

}  // namespace blip3v
