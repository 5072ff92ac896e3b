// token_learner for Python: checks every argument, fills the parameters, launches on the given stream. The
// shapes stand in params.h.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>

#include "common/device_scope.h"
#include "common/tensor.h"
#include "token_learner/params.h"
#include "token_learner/tiles.h"

namespace py = pybind11;

namespace blip3v {
namespace token_learner {
namespace {

constexpr const char* kOp = "token_learner";
#ifdef BLIP3V_SIM
constexpr const char* kDevice = "cpu";
#else
constexpr const char* kDevice = "cuda";
#endif
constexpr int kElementBytes = 2, kUnit = 8;
constexpr std::int64_t kMostTokens = 1 << 24, kMostInt = std::numeric_limits<int>::max();

constexpr int divide_up(int a, int b) {
  return (a + b - 1) / b;
}

// How a call is cut: what Python needs to know to make room for what lies between two launches.
struct Plan {
  int made, hidden, tokens;  // kp, Jp, Np
  int tiles;                 // of 128 tokens of a video
  int splits;                // blocks that share the channels of a tile
  int pool_channels, pool_consumers, pool_splits;
  int input_channels, input_groups, input_partials;

  Plan(const Sizes& s, int splits_wish, int pool_splits_wish, int multiprocessors) {
    made = made_tile(s.made);
    hidden = divide_up(s.hidden, hidden_tile(made)) * hidden_tile(made);
    tiles = divide_up(s.tokens, kTokens);
    tokens = tiles * kTokens;
    const int works = s.videos * tiles, chunks = divide_up(s.channels, kChunk);
    splits = splits_wish;
    if (!splits) {
      splits = 1;
      while (2 * splits <= kMostSplits && 2 * splits <= chunks && 2 * splits * works <= multiprocessors) {
        splits *= 2;
      }
    }
    // Wide slices of channels read the logits less often; with too few of them for the GPU narrow ones, and
    // where these are not enough a cluster per slice.
    const int made_blocks = divide_up(s.made, kRows);
    pool_consumers = made_blocks > 1 ? 2 : 1;
    const int wide = s.videos * divide_up(s.channels, kWidePool) * divide_up(made_blocks, pool_consumers);
    pool_channels =
        s.channels > kNarrowPool && 10 * std::int64_t(wide) >= 7 * multiprocessors ? kWidePool : kNarrowPool;
    if (pool_channels == kNarrowPool) pool_consumers = 1;
    const int pool_works =
        s.videos * divide_up(s.channels, pool_channels) * divide_up(made_blocks, pool_consumers);
    pool_splits = pool_splits_wish;
    if (!pool_splits) {
      pool_splits =
          std::max(1, std::min({kMostSplits, divide_up(s.tokens, kRows), multiprocessors / pool_works}));
    }
    input_channels = s.channels > kNarrowInputs ? kWideInputs : kNarrowInputs;
    input_groups = std::max(1, std::min(works, multiprocessors / divide_up(s.channels, input_channels)));
    input_partials = kConsumers * (input_channels == kNarrowInputs ? 4 : 1);
  }
};

template <class T>
T* pointer(const Tensor& t) {
  return reinterpret_cast<T*>(t.data);
}

// Collects tensors, checking each one against the sizes that x, w1 and w2 define.
class Arguments {
 public:
  Arguments(const Tensor& x, const Tensor& w1, const Tensor& w2, double eps, int splits, int pool_splits)
      : check_(kOp, kDevice), sizes(measure(x, w1, w2)), plan(sizes, splits, pool_splits, multiprocessors()) {
    if (!(eps > 0) || !std::isfinite(eps))
      check_.refuse("eps", std::to_string(eps), "a finite number above 0");
    if (splits != 0 && splits != 1 && splits != 2 && splits != 4 && splits != 8) {
      check_.refuse("splits", std::to_string(splits), "0, 1, 2, 4 or 8");
    }
    if (splits > divide_up(sizes.channels, kChunk)) {
      check_.refuse("splits", std::to_string(splits),
                    "at most one per 64 of the " + std::to_string(sizes.channels) + " channels");
    }
    check_.range("splits of the pooling", pool_splits, 0, kMostSplits);
  }

  int device_index() const { return check_.device_index(); }

  View rows(const char* name, const Tensor& t, int count) {
    check_.tensor(name, t, "bfloat16", {sizes.videos, count, sizes.channels});
    check_.aligned_rows(name, t, kElementBytes);
    // Dimensions of size one keep no meaningful stride; TMA still wants a legal one.
    const auto stride = [&](int i) { return t.sizes[i] == 1 ? std::int64_t(sizes.channels) : t.strides[i]; };
    return {reinterpret_cast<void*>(t.data), stride(1), stride(0)};
  }

  Parameter parameter(const char* name, const Tensor& t, std::vector<std::int64_t> shape) {
    const bool narrow = t.dtype == "bfloat16";
    check_.tensor(name, t, narrow ? "bfloat16" : "float32", shape);
    check_.contiguous(name, t);
    return {pointer<void>(t), narrow};
  }

  template <class T>
  T* dense(const char* name, const Tensor& t, const char* dtype, std::vector<std::int64_t> shape) {
    check_.tensor(name, t, dtype, shape);
    check_.contiguous(name, t);
    if (t.data % 16) check_.refuse(std::string(name) + " starts at an unaligned address", "", "16 bytes");
    return pointer<T>(t);
  }

  const std::uint8_t* keep(const std::optional<Tensor>& t) {
    if (!t) return nullptr;
    return dense_bytes("keep", *t);
  }

  Folded folded(const Tensor& w1, const Tensor& w2, const Tensor& constants, const Tensor& channels,
                const Tensor& moments) {
    return {dense<void>("folded w1", w1, "bfloat16", {plan.hidden, sizes.channels}),
            dense<void>("folded w2", w2, "bfloat16", {plan.made, plan.hidden}),
            dense<float>("constants", constants, "float32", {plan.hidden, 4}),
            dense<float>("channels", channels, "float32", {3, sizes.channels}),
            dense<float>("moments", moments, "float32", {8})};
  }

  int parts() const { return plan.tiles * kConsumers * plan.splits; }
  int made_out() const { return divide_up(sizes.made, kUnit) * kUnit; }

 private:
  Sizes measure(const Tensor& x, const Tensor& w1, const Tensor& w2) {
    if (x.sizes.size() != 3 || w1.sizes.size() != 2 || w2.sizes.size() != 2) {
      check_.refuse("wrong number of dimensions",
                    std::to_string(x.sizes.size()) + ", " + std::to_string(w1.sizes.size()) + ", " +
                        std::to_string(w2.sizes.size()),
                    "3 of x, 2 of w1 and of w2");
    }
    check_.range("videos", x.sizes[0], 1, kMostInt / kMostSplits);
    check_.range("tokens", x.sizes[1], 1, kMostTokens);
    check_.range("channels", x.sizes[2], kUnit, kMostChannels);
    check_.range("hidden columns", w1.sizes[0], kUnit, kMostHidden);
    check_.range("tokens made", w2.sizes[0], 1, kMost);
    if (x.sizes[2] % kUnit || w1.sizes[0] % kUnit) {
      check_.refuse("channels and hidden columns",
                    std::to_string(x.sizes[2]) + " and " + std::to_string(w1.sizes[0]), "multiples of 8");
    }
    const std::int64_t blocks =
        x.sizes[0] * divide_up(int(x.sizes[1]), kRows) * divide_up(int(x.sizes[2]), kChunk);
    check_.range("videos x tiles of tokens and channels", blocks, 1, kMostInt / kMostSplits / 4);
    return {int(x.sizes[0]), int(x.sizes[1]), int(x.sizes[2]), int(w1.sizes[0]), int(w2.sizes[0])};
  }

  const std::uint8_t* dense_bytes(const char* name, const Tensor& t) {
    check_.tensor(name, t, "uint8", {sizes.videos, sizes.tokens});
    check_.contiguous(name, t);
    return pointer<std::uint8_t>(t);
  }

  TensorCheck check_;

 public:
  const Sizes sizes;
  const Plan plan;
};

cudaStream_t stream_of(std::uintptr_t stream) {
  return reinterpret_cast<cudaStream_t>(stream);
}

void launch_logits(const Logits& call, int made, cudaStream_t stream) {
  switch (made) {
    case 64:
      return logits<64>(call, stream);
    case 128:
      return logits<128>(call, stream);
    default:
      return logits<256>(call, stream);
  }
}

void launch_pool(const Pool& call, const Plan& plan, cudaStream_t stream) {
  if (plan.pool_channels == kNarrowPool) return pool<kNarrowPool, 1>(call, stream);
  if (plan.pool_consumers == 1) return pool<kWidePool, 1>(call, stream);
  pool<kWidePool, 2>(call, stream);
}

void launch_slopes(const Slopes& call, int made, cudaStream_t stream) {
  switch (made) {
    case 64:
      return slopes<64>(call, stream);
    case 128:
      return slopes<128>(call, stream);
    default:
      return slopes<256>(call, stream);
  }
}

void launch_inputs(const Inputs& call, const Plan& plan, cudaStream_t stream) {
  plan.input_channels == kNarrowInputs ? inputs<kNarrowInputs>(call, stream)
                                       : inputs<kWideInputs>(call, stream);
}

Parameters parameters(Arguments& args, const Tensor& norm1_weight, const Tensor& norm1_bias,
                      const Tensor& norm2_weight, const Tensor& norm2_bias, const Tensor& w1,
                      const Tensor& w2) {
  const Sizes& s = args.sizes;
  return {args.parameter("norm1_weight", norm1_weight, {s.channels}),
          args.parameter("norm1_bias", norm1_bias, {s.channels}),
          args.parameter("norm2_weight", norm2_weight, {s.channels}),
          args.parameter("norm2_bias", norm2_bias, {s.channels}),
          args.parameter("w1", w1, {s.hidden, s.channels}),
          args.parameter("w2", w2, {s.made, s.hidden})};
}

void bind_forward(const Tensor& x, const Tensor& norm1_weight, const Tensor& norm1_bias,
                  const Tensor& norm2_weight, const Tensor& norm2_bias, const Tensor& w1, const Tensor& w2,
                  const std::optional<Tensor>& keep, const Tensor& folded_w1, const Tensor& folded_w2,
                  const Tensor& constants, const Tensor& channels, const Tensor& moments,
                  const Tensor& logits, const Tensor& parts, const Tensor& out, const Tensor& lse, double eps,
                  int splits, int pool_splits, std::uintptr_t stream) {
  Arguments args(x, w1, w2, eps, splits, pool_splits);
  const Sizes& s = args.sizes;
  const Plan& plan = args.plan;
  const View rows = args.rows("x", x, s.tokens);
  const Folded folded = args.folded(folded_w1, folded_w2, constants, channels, moments);
  const Fold first{s, parameters(args, norm1_weight, norm1_bias, norm2_weight, norm2_bias, w1, w2), folded};
  float* const scores = args.dense<float>("logits", logits, "float32", {s.videos, plan.made, plan.tokens});
  float2* const sums = args.dense<float2>("parts", parts, "float32", {s.videos, args.parts(), plan.made, 2});
  const Logits second{s,           rows,   folded, args.keep(keep), s.tokens, float(eps),
                      plan.splits, scores, sums,   nullptr,         nullptr,  nullptr};
  const Pool third{s,
                   rows,
                   scores,
                   sums,
                   args.parts(),
                   plan.pool_splits,
                   args.rows("out", out, s.made),
                   args.dense<float>("lse", lse, "float32", {s.videos, s.made})};
  py::gil_scoped_release unlocked;
#ifndef BLIP3V_SIM
  DeviceScope scope(kOp, args.device_index());
#endif
  fold(first, stream_of(stream));
  launch_logits(second, plan.made, stream_of(stream));
  launch_pool(third, plan, stream_of(stream));
}

void bind_backward(const Tensor& dout, const Tensor& x, const Tensor& norm1_weight, const Tensor& norm1_bias,
                   const Tensor& norm2_weight, const Tensor& norm2_bias, const Tensor& w1, const Tensor& w2,
                   const std::optional<Tensor>& keep, const Tensor& lse, const Tensor& delta,
                   const Tensor& folded_w1, const Tensor& folded_w2, const Tensor& constants,
                   const Tensor& channels, const Tensor& moments, const Tensor& logits, const Tensor& parts,
                   const Tensor& hidden, const Tensor& activated, const Tensor& rows, const Tensor& weights,
                   const Tensor& dlogits, const Tensor& dhidden, const Tensor& coefficients, const Tensor& dx,
                   const Tensor& partials, double eps, int splits, std::uintptr_t stream) {
  Arguments args(x, w1, w2, eps, splits, 0);
  const Sizes& s = args.sizes;
  const Plan& plan = args.plan;
  const View in = args.rows("x", x, s.tokens), gradient = args.rows("dout", dout, s.made);
  const Folded folded = args.folded(folded_w1, folded_w2, constants, channels, moments);
  const Fold first{s, parameters(args, norm1_weight, norm1_bias, norm2_weight, norm2_bias, w1, w2), folded};
  const Logits second{s,
                      in,
                      folded,
                      args.keep(keep),
                      s.tokens,
                      float(eps),
                      plan.splits,
                      args.dense<float>("logits", logits, "float32", {s.videos, plan.made, plan.tokens}),
                      args.dense<float2>("parts", parts, "float32", {s.videos, args.parts(), plan.made, 2}),
                      args.dense<float>("hidden", hidden, "float32", {s.videos, s.tokens, s.hidden}),
                      args.dense<void>("activated", activated, "bfloat16", {s.videos, s.tokens, s.hidden}),
                      args.dense<Row>("rows", rows, "float32", {s.videos, s.tokens, 8})};
  const std::int64_t made_out = args.made_out();
  const Slopes third{s,
                     in,
                     gradient,
                     folded,
                     second.logits,
                     args.dense<float>("lse", lse, "float32", {s.videos, s.made}),
                     args.dense<float>("delta", delta, "float32", {s.videos, s.made}),
                     second.hidden,
                     second.rows,
                     args.dense<void>("weights", weights, "bfloat16", {s.videos, s.tokens, made_out}),
                     args.dense<void>("dlogits", dlogits, "bfloat16", {s.videos, s.tokens, made_out}),
                     args.dense<void>("dhidden", dhidden, "bfloat16", {s.videos, s.tokens, s.hidden}),
                     args.dense<float>("coefficients", coefficients, "float32", {s.videos, s.tokens, 8})};
  const Inputs fourth{s,
                      in,
                      gradient,
                      folded,
                      third.weights,
                      third.dhidden,
                      third.coefficients,
                      args.rows("dx", dx, s.tokens),
                      args.dense<float>("partials", partials, "float32",
                                        {plan.input_groups * plan.input_partials, 3, s.channels}),
                      plan.input_groups};
  py::gil_scoped_release unlocked;
#ifndef BLIP3V_SIM
  DeviceScope scope(kOp, args.device_index());
#endif
  fold(first, stream_of(stream));
  launch_logits(second, plan.made, stream_of(stream));
  launch_slopes(third, plan.made, stream_of(stream));
  launch_inputs(fourth, plan, stream_of(stream));
}

py::dict plan(const Tensor& x, const Tensor& w1, const Tensor& w2, int splits, int pool_splits) {
  Arguments args(x, w1, w2, 1., splits, pool_splits);
#ifndef BLIP3V_SIM
  DeviceScope scope(kOp, x.device_index);
#endif
  py::dict d;
  d["made"] = args.plan.made;
  d["hidden"] = args.plan.hidden;
  d["tokens"] = args.plan.tokens;
  d["parts"] = args.parts();
  d["splits"] = args.plan.splits;
  d["pool_splits"] = args.plan.pool_splits;
  d["partials"] = args.plan.input_groups * args.plan.input_partials;
  return d;
}

}  // namespace
}  // namespace token_learner

void register_token_learner(py::module_& m) {
  using namespace token_learner;
  using py::arg;
  m.def("token_learner_plan", &plan, arg("x"), arg("w1"), arg("w2"), arg("splits"), arg("pool_splits"),
        "How a call is cut: the padded sizes, and the number of parts, that scratch memory must have.");
  m.def("token_learner_forward", &bind_forward, arg("x"), arg("norm1_weight"), arg("norm1_bias"),
        arg("norm2_weight"), arg("norm2_bias"), arg("w1"), arg("w2"), arg("keep"), arg("folded_w1"),
        arg("folded_w2"), arg("constants"), arg("channels"), arg("moments"), arg("logits"), arg("parts"),
        arg("out"), arg("lse"), arg("eps"), arg("splits"), arg("pool_splits"), arg("stream"),
        "Writes out and lse, and the scratch before them; shapes in csrc/token_learner/params.h.");
  m.def("token_learner_backward", &bind_backward, arg("dout"), arg("x"), arg("norm1_weight"),
        arg("norm1_bias"), arg("norm2_weight"), arg("norm2_bias"), arg("w1"), arg("w2"), arg("keep"),
        arg("lse"), arg("delta"), arg("folded_w1"), arg("folded_w2"), arg("constants"), arg("channels"),
        arg("moments"), arg("logits"), arg("parts"), arg("hidden"), arg("activated"), arg("rows"),
        arg("weights"), arg("dlogits"), arg("dhidden"), arg("coefficients"), arg("dx"), arg("partials"),
        arg("eps"), arg("splits"), arg("stream"),
        "Writes dx and what the gradients of the parameters are made of; shapes in "
        "csrc/token_learner/params.h.");
  m.attr("token_learner_most") = py::make_tuple(kMost, kMostHidden, kMostChannels);
}

}  // namespace blip3v
