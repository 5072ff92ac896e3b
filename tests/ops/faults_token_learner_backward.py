"""Seeded faults of the backward kernels of token_learner; tests/sim/faults.py says how they are run."""

from tests.sim.faults import Fault

SOURCES = ("token_learner/backward.cuh", "token_learner/slopes.cuh", "token_learner/inputs.cuh")
UNITS = ("forward",)
"""Other units that the problems call."""

FAULTS = [
    # slopes: waits, releases, bytes.
    Fault(
        "no wait for x and dout",
        (
            "        s.ring.wait(slot);\n        start_product(WeightProduct{}",
            "        start_product(WeightProduct{}",
        ),
    ),
    Fault(
        "a chunk released while its product runs",
        ("          warpgroup_wait<1>();  // the chunk before is through\n", ""),
    ),
    Fault(
        "dA read before its product has ended",
        (
            "      finish_product<0>(da);\n      differentiate",
            "      finish_product<1>(da);\n      differentiate",
        ),
    ),
    Fault("no wait for w2", ("      s.w2_ring.wait(w2_slot);\n", "")),
    Fault("w2 never released", ("      s.w2_ring.release(w2_slot, lane);\n", "")),
    Fault(
        "w2 released while its product runs",
        (
            "      finish_product<0>(da);\n      s.w2_ring.release(w2_slot, lane);",
            "      s.w2_ring.release(w2_slot, lane);\n      finish_product<0>(da);",
        ),
    ),
    Fault(
        "too few bytes announced for x and dout",
        ("kConsumers * X::kBytes + Dout::kBytes);", "kConsumers * X::kBytes);"),
    ),
    Fault("dout of the first video everywhere", ("0, c, work.video, sDout", "0, c, 0, sDout")),
    Fault(
        "both consumers load the first tokens",
        ("work.tile * kConsumers + who, c, work.video", "work.tile * kConsumers, c, work.video"),
    ),
    Fault(
        "w2 of the first pass in every pass",
        ("s.w2_ring.full[0], 0, pass, 0, sW2", "s.w2_ring.full[0], 0, 0, 0, sW2"),
    ),
    # Registers that nobody set happen to be zero on the CPU, so they are given something.
    Fault(
        "chunks added to what the registers held",
        (
            "      clear(da);\n      CUTE_NO_UNROLL\n      for (int c",
            "      cute::fill(da, 1.f);\n      CUTE_NO_UNROLL\n      for (int c",
        ),
    ),
    Fault(
        "hidden gradients of the pass before added", ("      clear(da);\n      s.w2_ring", "      s.w2_ring")
    ),
    # slopes: formulas.
    Fault("delta left out", ("(da(i + 2 * r + e) - delta[e])", "da(i + 2 * r + e)")),
    Fault(
        "delta of the first video everywhere",
        ("load_global(p.call.delta + at)", "load_global(p.call.delta + made + e)"),
    ),
    Fault(
        "lse of the neighbour",
        (
            "shift[e] = lse == -INFINITY ? INFINITY : lse * kLog2E;",
            "shift[1 - e] = lse == -INFINITY ? INFINITY : lse * kLog2E;",
        ),
    ),
    Fault("nothing seen is not zero", ("lse == -INFINITY ? INFINITY : lse * kLog2E", "lse * kLog2E")),
    Fault(
        "one column beyond k is real",
        ("bool const real = made + e < sizes.made;", "bool const real = made + e <= sizes.made;"),
    ),
    Fault(
        "weights written beyond the tokens",
        ("if (token < sizes.tokens && made < p.made_out)", "if (made < p.made_out)"),
    ),
    Fault(
        "weights written beyond the columns",
        ("if (token < sizes.tokens && made < p.made_out)", "if (token < sizes.tokens)"),
    ),
    Fault(
        "slopes where the weights belong",
        (
            "                       pack(weight[0], weight[1]));",
            "                       pack(slope[0], slope[1]));",
        ),
    ),
    Fault("slope of gelu without the density", ("+ x * kDensity * exp2f", "+ 0.f * kDensity * exp2f")),
    Fault("density of another width", ("-0.5f * kLog2E * x * x", "-kLog2E * x * x")),
    Fault(
        "hidden gradient without the norms' factor",
        ("float(bf16(factor * da(i + 2 * r + e)", "float(bf16(da(i + 2 * r + e)"),
    ),
    Fault(
        "hidden layer of the first row for both",
        ("float(bf16(factor * da(i + 2 * r + e)", "float(bf16(factor * da(i + e)"),
    ),
    Fault(
        "constants of the first pass in every pass",
        ("int const j = pass * kHidden + first_column(thread)", "int const j = first_column(thread)"),
    ),
    Fault("h not relative to its constant", ("(h[e] - c[e].w);", "h[e];")),
    Fault("second mean left out of e1", ("float const e1 = -c3 - row.m2 * e2;", "float const e1 = -c3;")),
    Fault(
        "gradient through the norm not orthogonal to 1",
        ("float const e0 = -c1 - e1 * mean_g", "float const e0 = -e1 * mean_g"),
    ),
    Fault("e0 without the bias", ("e2 * (row.g2x + mean_gb);", "e2 * row.g2x;")),
    Fault("e3 without the squares", ("e2 * (row.g2xx + row.gbx);", "e2 * row.gbx;")),
    Fault("sign of e2", ("float const e2 = -row.r2 * h;", "float const e2 = row.r2 * h;")),
    Fault(
        "sums of one thread, not of the quad", ("c3 = quad_sum(sums.c3[r]) * over", "c3 = sums.c3[r] * over")
    ),
    # inputs: waits, releases, bytes.
    Fault(
        "no wait for the factors",
        ("        s.ring.wait(slot);\n        start_product(Product{}", "        start_product(Product{}"),
    ),
    Fault("no wait for x", ("      s.x_ring.wait(x_slot);\n", "")),
    Fault(
        "factors released while their product runs",
        ("          warpgroup_wait<1>();  // the step before is through\n", ""),
    ),
    Fault("x released before its gradient has left", ("        tma_store_wait<0>();\n", "")),
    Fault("x never released", ("      s.x_ring.release(x_slot, thread);\n", "")),
    Fault("x counts one consumer", ("s.x_ring.init(kConsumers);", "s.x_ring.init(1);")),
    Fault("no fence before the TMA store", ("      tma_store_fence();\n", "")),
    Fault(
        "no barrier before the TMA store",
        ("      tma_store_fence();\n      sync_consumer(who);\n", "      tma_store_fence();\n"),
    ),
    Fault(
        "x overwritten while columns are added up",
        ("      sync_consumer(who);  // nobody needs x any more but each thread its own pairs\n", ""),
        invisible="wgmma waits for all four warps here, so none is a product behind; hardware does not promise that",
    ),
    Fault(
        "coefficients read before they are there",
        ("      sync_consumer(who);\n      s.x_ring.wait(x_slot);", "      s.x_ring.wait(x_slot);"),
    ),
    Fault(
        "both consumers store the first tokens",
        ("store_tile<X>(p.dx, x, tile, slice, video);", "store_tile<X>(p.dx, x, tile - who, slice, video);"),
    ),
    Fault("dout of the first video everywhere in dx", ("at, slice, made ? video : 0,", "at, slice, 0,")),
    Fault(
        "one step of the hidden product left out",
        ("divide_up(sizes.hidden, Kernel::kDepth)};", "divide_up(sizes.hidden, Kernel::kDepth) - 1};"),
    ),
    Fault("products of the tile before added", ("      clear(products);\n", "")),
    Fault(
        "both factors of the first consumer",
        (
            "at, video,\n                          sLeft(_, _, slot.stage * kConsumers + who)",
            "at, video,\n                          sLeft(_, _, slot.stage * kConsumers)",
        ),
    ),
    # inputs: formulas.
    Fault("e0 left out", ("return product + high[r].x + low", "return product + low")),
    Fault("squares of the first norm's weight left out", ("(gb + g * g * xhat)", "(gb + g * xhat)")),
    Fault("e3 left out", ("+ high[r].y * xhat;", ";")),
    Fault(
        "neighbouring channels exchanged",
        (
            "gradient(products(i + 2 * r), pair.x, g.x, gb.x)",
            "gradient(products(i + 2 * r), pair.y, g.x, gb.x)",
        ),
    ),
    Fault(
        "tokens of the first video everywhere",
        ("2 * (std::int64_t(video) * sizes.tokens + token) + thread % 2", "2 * token + thread % 2"),
    ),
    Fault("half the columns' tokens", ("row < kRows; row += kShares", "row < kRows / 2; row += kShares")),
    Fault("column sums without r1", ("e2v2.x += a[0] * (c.y * v[0]);", "e2v2.x += a[0] * v[0];")),
    Fault("column sums with the wrong coefficient", ("e1v.y += c.z * v[1];", "e1v.y += c.w * v[1];")),
    Fault(
        "column sums of one consumer written over the other's",
        (
            "(std::int64_t(group) * kConsumers + who) * kShares",
            "(std::int64_t(group) * kConsumers) * kShares",
        ),
    ),
    Fault(
        "column sums beyond the channels",
        ("if (share >= kShares || channel >= channels) return;", "if (share >= kShares) return;"),
    ),
    Fault(
        "tiles left out by a group",
        (
            "number += p.call.groups) {\n      int const video = number / p.tiles, tile = number % p.tiles * kConsumers + who;",
            "number += p.call.groups + 1) {\n      int const video = number / p.tiles, tile = number % p.tiles * kConsumers + who;",
        ),
    ),
    # What a functional simulator cannot show.
    Fault(
        "the compiler may move reads of an accumulator ahead of its product",
        ("      finish_product<0>(products);", "      cute::warpgroup_wait<0>();"),
        invisible="the wait is there; only what nvcc makes of registers that change behind its back depends on the fence",
    ),
]
