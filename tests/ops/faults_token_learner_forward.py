"""Seeded faults of the forward kernels of token_learner; tests/sim/faults.py says how they are run."""

from tests.sim.faults import Fault

SOURCES = (
    "token_learner/forward.cuh",
    "token_learner/fold.cuh",
    "token_learner/row_sums.cuh",
    "token_learner/logits.cuh",
    "token_learner/pool.cuh",
)
UNITS = ("pool_wide", "backward", "backward_wide")
"""Other units that the problems call."""

FAULTS = [
    # fold.
    Fault(
        "w1 without the second norm's weight",
        ("float const scaled = w1 * value(w.norm2_weight, d);", "float const scaled = w1;"),
    ),
    Fault(
        "constants sum unrounded weights of another norm",
        ("make_float4(float(rounded), scaled", "make_float4(scaled, scaled"),
    ),
    Fault("bias of the second norm dropped", ("w1 * value(w.norm2_bias, d)));", "0.f));")),
    Fault(
        "rows beyond J not zeroed",
        ("if (block <= p.hidden_rows) fold", "if (block <= p.call.sizes.hidden) fold"),
    ),
    Fault(
        "rows of w2 beyond k not zeroed",
        ("bool const real = i < sizes.made && j < sizes.hidden;", "bool const real = true;"),
    ),
    Fault("bias not centred", ("c = b - mean;", "c = b;")),
    Fault(
        "variance of the bias dropped", ("make_float4(mean, centred.x / channels,", "make_float4(mean, 0.f,")
    ),
    Fault(
        "fold: sums read before every warp has left its own",
        (
            "    if (thread % 32 == 0) store_shared(&s.warps[thread / 32], v);\n    __syncthreads();\n",
            "    if (thread % 32 == 0) store_shared(&s.warps[thread / 32], v);\n",
        ),
    ),
    Fault(
        "fold: sums of the other passes overwritten while they are read",
        ("    __syncthreads();  // the sums before have been read\n", ""),
    ),
    # Statistics of the rows.
    Fault("mean is the shift alone", ("return {high.z + d,", "return {high.z,")),
    Fault("variance without the shift's part", ("(low.y - d * low.x) * over", "low.y * over")),
    Fault(
        "second variance without the cross term", ("+ 2.f * gbx * over) + variance_bias", ") + variance_bias")
    ),
    Fault("second mean without the bias", ("r1 * mean + mean_bias,", "r1 * mean,")),
    Fault("ragged channels counted", ("if (channel >= channels) return;", "if (channel > channels) return;")),
    Fault("sums of 4 lanes instead of 8", ("    return x + __shfl_xor_sync(~0u, x, 4);", "    return x;")),
    Fault(
        "one row for four",
        ("thread / 32 * 16 + thread % 32 / 8 + 4 * i", "thread / 32 * 16 + thread % 32 / 8"),
    ),
    Fault("squares of one more weight", ("g2uu[i] += gv * gv;", "g2uu[i] += g2v * gv;")),
    Fault("shift read beyond the tokens", ("row(thread, i) < rows ? float", "true ? float")),
    # Waits, releases.
    Fault(
        "no wait for a chunk",
        (
            "        s.ring.wait(slot);\n        start_product(HiddenProduct{}",
            "        start_product(HiddenProduct{}",
        ),
    ),
    Fault(
        "a chunk released while its product runs",
        ("          warpgroup_wait<1>();  // the chunk before is through\n", ""),
    ),
    Fault(
        "a chunk released while lanes add up its rows",
        ("          __syncwarp();         // also for the other lanes' `more`\n", ""),
    ),
    Fault(
        "the last chunk never released",
        ("      __syncwarp();\n      s.ring.release(before, lane);", "      __syncwarp();"),
    ),
    Fault("no wait for w2", ("      s.w2_ring.wait(w2_slot);\n", "")),
    Fault(
        "w2 released while its product runs",
        (
            "      finish_product<0>(logits);\n      s.w2_ring.release(w2_slot, lane);",
            "      s.w2_ring.release(w2_slot, lane);\n      finish_product<0>(logits);",
        ),
    ),
    Fault(
        "products read before they have ended",
        ("      finish_product<0>(products);", "      finish_product<1>(products);"),
    ),
    Fault(
        "too few bytes announced for w2",
        ("s.w2_ring.acquire(w2_slot, W2::kBytes);", "s.w2_ring.acquire(w2_slot, W2::kBytes - 64);"),
    ),
    Fault("buffers count one warpgroup", ("      s.ring.init(4 * kConsumers);", "      s.ring.init(4);")),
    Fault(
        "w1 of the first pass in every pass",
        ("s.ring.full[slot.stage], pass, c, 0, sW1", "s.ring.full[slot.stage], 0, c, 0, sW1"),
    ),
    Fault(
        "both consumers load the first tokens",
        ("work.tile * kConsumers + who, c, work.video", "work.tile * kConsumers, c, work.video"),
    ),
    # The hidden layer and the logits.
    Fault(
        "constants of the first pass in every pass",
        ("int const j = pass * kHidden + first_column(thread)", "int const j = first_column(thread)"),
    ),
    Fault("mean not taken out", ("-row.r1 * row.r2 * row.mu, row.r2", "0.f, row.r2")),
    Fault("sign of the second mean", ("row.r2, -row.r2 * row.m2)", "row.r2, row.r2 * row.m2)")),
    Fault("gelu of the wrong width", ("erff(x * 0.70710678118654752f)", "erff(x)")),
    Fault(
        "logits of the last pass only",
        ("fW2(_, _, _, 0), logits, true);", "fW2(_, _, _, 0), logits, false);"),
    ),
    Fault(
        "tokens beyond the video count",
        ("bool seen = mine && token < sizes.tokens;", "bool seen = mine && token <= sizes.tokens;"),
    ),
    Fault(
        "mask of the first video everywhere",
        ("p.call.keep + work.video * p.call.keep_stride + token", "p.call.keep + token"),
    ),
    Fault(
        "column maximum of half the rows",
        ("for (int by = 4; by < 32; by *= 2) max", "for (int by = 4; by < 16; by *= 2) max"),
    ),
    Fault(
        "column sums of three warps", ("for (int w = 1; w < 4; ++w) all", "for (int w = 1; w < 3; ++w) all")
    ),
    Fault(
        "column sums read before every warp has left its own",
        ("    sync_consumer(who);\n    std::int64_t const part", "    std::int64_t const part"),
    ),
    Fault(
        "sums joined without their maxima",
        ("return {max, a.y * exp2f(a.x * kLog2E - shift)", "return {max, a.y"),
    ),
    Fault(
        "rows' numbers read before they are there",
        (
            "          finish_rows(p, s, work, who, thread);\n          sync_consumer(who);",
            "          finish_rows(p, s, work, who, thread);",
        ),
    ),
    Fault(
        "hidden layer of the backward without the last columns",
        ("p.call.hidden && j < sizes.hidden &&", "p.call.hidden && j + 8 < sizes.hidden &&"),
    ),
    # Clusters of `logits`.
    Fault(
        "sums taken before the peers have published",
        ("    cute::cluster_sync();  // every block has published\n    constexpr", "    constexpr"),
        (
            "          cute::cluster_sync();\n          cute::cluster_sync();\n          __syncthreads();",
            "          cute::cluster_sync();\n          __syncthreads();",
        ),
    ),
    Fault(
        "a block overwrites what its peers read",
        ("    cute::cluster_sync();  // nobody overwrites, or leaves, while others read\n", ""),
        (
            "          cute::cluster_sync();\n          cute::cluster_sync();\n          __syncthreads();",
            "          cute::cluster_sync();\n          __syncthreads();",
        ),
    ),
    Fault(
        "the ring filled while sums are read from its place",
        (
            "    cutlass::arch::fence_view_async_shared();  // TMA writes here next\n    __syncthreads();\n",
            "",
        ),
        (
            "          cute::cluster_sync();\n          __syncthreads();\n",
            "          cute::cluster_sync();\n",
        ),
    ),
    Fault(
        "own sums for every peer",
        ("[work.rank * rows + r][unit]), peer));", "[work.rank * rows + r][unit]), work.rank));"),
    ),
    Fault(
        "sums published into a ring in use",
        ("    sync_consumers();  // both are through with the ring, whose place the sums take\n", ""),
    ),
    Fault("every block counts all rows", ("bool const mine = work.mine(row);", "bool const mine = true;")),
    # pool.
    Fault(
        "pool: no wait for x",
        ("      s.ring.wait(slot);\n      start_product(Product{}", "      start_product(Product{}"),
    ),
    Fault(
        "pool: x released while its product runs",
        (
            "      finish_product<0>(out);\n      s.ring.release(slot, thread % 32);",
            "      s.ring.release(slot, thread % 32);\n      finish_product<0>(out);",
        ),
    ),
    Fault(
        "pool: weights of the tile before",
        ("if (j + 1 < work.last) read(j + 1);", "if (j + 1 < work.last) read(j);"),
    ),
    Fault(
        "pool: one part left out",
        (
            "    for (int i = 0; i < p.call.part_count; ++i) {\n          float2",
            "    for (int i = 1; i < p.call.part_count; ++i) {\n          float2",
        ),
    ),
    Fault("pool: nothing seen is not zero", ("lse == nothing ? INFINITY : lse * kLog2E", "lse * kLog2E")),
    Fault(
        "pool: shift read before it is there",
        (
            "    sync_consumer(who);\n  }\n\n  static __device__ void consume(Params const& p, Shared& s, Work const& work, int who, int thread) {\n    using namespace cute;\n    Tensor sXt",
            "  }\n\n  static __device__ void consume(Params const& p, Shared& s, Work const& work, int who, int thread) {\n    using namespace cute;\n    Tensor sXt",
        ),
    ),
    Fault(
        "pool: rows beyond k written",
        ("if (real[row_of(i)] && channel < p.call.sizes.channels)", "if (channel < p.call.sizes.channels)"),
    ),
    Fault(
        "pool: channels beyond D written",
        ("if (real[row_of(i)] && channel < p.call.sizes.channels)", "if (real[row_of(i)])"),
    ),
    Fault(
        "pool: added before the peers have published",
        ("        cute::cluster_sync();  // every block has published\n", ""),
        (
            "        cute::cluster_sync();\n        cute::cluster_sync();\n      }\n    } else",
            "        cute::cluster_sync();\n      }\n    } else",
        ),
    ),
    Fault(
        "pool: a block leaves while others read",
        ("        cute::cluster_sync();  // nobody leaves while others read\n", ""),
        (
            "        cute::cluster_sync();\n        cute::cluster_sync();\n      }\n    } else",
            "        cute::cluster_sync();\n      }\n    } else",
        ),
    ),
    Fault(
        "pool: every block adds up all tokens",
        (
            "first = tiles * rank / splits;\n      last = tiles * (rank + 1) / splits;\n    }\n  };\n\n  static CUTE_DEVICE void produce(Params const& p, Shared& s, Work const& work) {",
            "first = 0;\n      last = tiles;\n    }\n  };\n\n  static CUTE_DEVICE void produce(Params const& p, Shared& s, Work const& work) {",
        ),
    ),
    # What a functional simulator cannot show.
    Fault(
        "the compiler may move reads of an accumulator ahead of its product",
        ("      finish_product<0>(out);", "      cute::warpgroup_wait<0>();"),
        invisible="the wait is there; only what nvcc makes of registers that change behind its back depends on the fence",
    ),
]
