"""Seeded faults of the forward kernel of ttm_write; tests/sim/faults.py says how they are run.

Those of the group's LayerNorm, which it shares with ttm_read, are in faults_ttm_read_forward.py.
"""

from tests.sim.faults import Fault

SOURCES = ("ttm_write/forward.cuh", "ttm_write/learner.cuh")
UNITS = ("backward", "backward_others")
"""Other units that the problems call: the binding asks both directions how much shared memory they need."""

FAULTS = [
    # Barriers.
    Fault(
        "no barrier after the sums of x",
        (
            "    bool const live = lane < row_count;\n    __syncthreads();\n    mean1",
            "    bool const live = lane < row_count;\n    mean1",
        ),
    ),
    Fault("no barrier after the second round", ("    __syncthreads();\n    rstd1", "    rstd1")),
    Fault("no barrier after the third round", ("    __syncthreads();\n    rstd2", "    rstd2")),
    Fault(
        "no barrier after h",
        ("h * normal_cdf(h));\n    }\n    __syncthreads();\n", "h * normal_cdf(h));\n    }\n"),
    ),
    Fault(
        "no barrier after the attention",
        ("learner.attend(g);\n    __syncthreads();\n", "learner.attend(g);\n"),
    ),
    Fault(
        "no barrier before the constants",
        (
            "    __syncthreads();\n    for (int i = threadIdx.x; i < memory.once.count",
            "    for (int i = threadIdx.x; i < memory.once.count",
        ),
    ),
    # Memory.
    Fault(
        "second round in the first one's memory",
        (
            "    second = arena.sums(warps, 2 * row_count);\n",
            "    second = {first.partial, 2 * row_count};\n    arena.sums(warps, 2 * row_count);\n",
        ),
    ),
    Fault(
        "group's two rounds in one memory",
        ("        for_square(arena.sums(threads / 32, kSlots + 1)) {}", "        for_square(for_mean) {}"),
    ),
    Fault(
        "attention where gelu lies",
        ("    attention = arena.take<float>(row_count * kSlots);\n", "    attention = gelu;\n"),
    ),
    Fault(
        "one row too few in shared memory",
        (
            "rows = arena.take<Pack<T>>(row_count * threads);",
            "rows = arena.take<Pack<T>>((row_count - 1) * threads);",
        ),
    ),
    Fault(
        "weights of the neighbour",
        (
            "unpack(load_shared(memory.weights + j * blockDim.x + threadIdx.x), w);",
            "unpack(load_shared(memory.weights + j * blockDim.x + (threadIdx.x ^ 1)), w);",
        ),
    ),
    Fault("too little shared memory", (".arena.used;", ".arena.used - 64;")),
    # Rows.
    Fault(
        "processed rows from the first on",
        ("others + (n - kSlots) * in.processed.row", "others + n * in.processed.row"),
    ),
    Fault(
        "processed rows with the memory's stride",
        ("(n - kSlots) * in.processed.row", "(n - kSlots) * in.memory.row * 2"),
    ),
    Fault("last row of the memory missing", ("n < kSlots ? slots +", "n < kSlots - 1 ? slots +")),
    Fault(
        "one row too few",
        ("row_count(kSlots + in.sizes.processed)", "row_count(kSlots + in.sizes.processed - 1)"),
    ),
    Fault(
        "only so many rows as are read at once",
        ("start < row_count; start += kAtOnce", "start < kAtOnce; start += kAtOnce"),
    ),
    Fault(
        "sums of x start at the first row", ("memory.first.put(values, start,", "memory.first.put(values, 0,")
    ),
    Fault(
        "only a grid of items",
        ("item < items; item += gridDim.x", "item < int(gridDim.x); item += gridDim.x"),
    ),
    Fault(
        "frame of another position",
        (
            "row_of<T>(call.frame, sizes.positions, item, 0)",
            "row_of<T>(call.frame, sizes.positions, item / 2, 0)",
        ),
    ),
    # First LayerNorm.
    Fault(
        "mean of the padded width",
        ("memory.first.total(lane) / width", "memory.first.total(lane) / (4 * blockDim.x)"),
    ),
    Fault(
        "idle threads count in the variance",
        ("xc[i] = columns.own ? x[i] - mean : 0.f;", "xc[i] = x[i] - mean;"),
    ),
    Fault("variance about zero", ("values[0] = dot(xc, xc);", "values[0] = dot(x, x);")),
    Fault(
        "no eps in the first norm",
        ("memory.second.total(2 * lane) / width + in.eps", "memory.second.total(2 * lane) / width"),
    ),
    Fault("mean of beta1 forgotten", (" / width + load_shared(memory.constants) : 0.f;", " / width : 0.f;")),
    Fault("mean of beta1 not divided", ("(i == 0 ? float(columns.width) : 1.f)", "1.f")),
    Fault("gamma1 forgotten in the mean", ("values[1] = dot(xc, gamma);", "values[1] = sum(xc);")),
    Fault("beta1 forgotten", ("(beta[i] - mean)", "(-mean)")),
    Fault("second mean not subtracted", ("(beta[i] - mean)", "beta[i]")),
    Fault("gamma1 forgotten", ("xc[i] * scale * gamma[i] +", "xc[i] * scale +")),
    Fault(
        "statistics of the first row",
        ("float const scale = from_lane(rstd1, n), mean", "float const scale = from_lane(rstd1, 0), mean"),
    ),
    # Second LayerNorm and hidden channels.
    Fault(
        "idle threads count in the second variance",
        (
            "yc[i] = columns.own ? xc[i] * scale * gamma[i] + (beta[i] - mean) : 0.f;",
            "yc[i] = xc[i] * scale * gamma[i] + (beta[i] - mean);",
        ),
    ),
    Fault(
        "no eps in the second norm",
        (
            "memory.third.total(Memory::kPerRow * n) / width + in.eps",
            "memory.third.total(Memory::kPerRow * n) / width",
        ),
    ),
    Fault("rstd forgotten", ("          spread * memory.third.total(", "          memory.third.total(")),
    Fault("beta2 forgotten", (" + load_shared(memory.constants + 1 + j);\n      store", ";\n      store")),
    Fault("gamma2 forgotten", ("w[i] *= gamma2[i];", "w[i] *= 1;")),
    Fault(
        "hidden channels one on",
        ("memory.third.total(Memory::kPerRow * n + 1 + j)", "memory.third.total(Memory::kPerRow * n + j)"),
    ),
    Fault("gelu without its 1", ("0.5f * (1.f + erff(", "0.5f * (erff(")),
    Fault("gelu of tanh's scale", ("h * 0.70710678f", "h * 0.79788456f")),
    Fault(
        "some hidden channels never made",
        ("i < row_count * kHidden; i += blockDim.x", "i < row_count * kHidden - 1; i += blockDim.x"),
    ),
    # Attention.
    Fault("lanes beyond the rows count", ("float logit = live ? 0.f : -INFINITY;", "float logit = 0.f;")),
    Fault(
        "largest logit not subtracted",
        ("expf(logit - largest)", "expf(logit)"),
        invisible="the same but for overflow, which needs logits of 88",
    ),
    Fault("softmax over the slots", ("memory.gelu + lane * kHidden + j)", "memory.gelu + g * kHidden + j)")),
    Fault(
        "w2 transposed",
        ("load_shared(memory.w2 + g * kHidden + j)", "load_shared(memory.w2 + j * kSlots + g)"),
    ),
    Fault("not divided by the sum", ("weight / warp_sum(weight)", "weight")),
    Fault(
        "attention transposed",
        ("memory.attention + lane * kSlots + g", "memory.attention + g * kSlots + lane"),
    ),
    Fault(
        "one warp for all slots only",
        (
            "for (int g = warp; g < kSlots; g += blockDim.x / kLanes) learner.attend(g);",
            "if (warp < kSlots) learner.attend(warp);",
        ),
    ),
    Fault(
        "sum of normalised rows",
        ("      learner.row(n, x);\n", "      Own all;\n      learner.centred(n, all, x);\n"),
    ),
    Fault(
        "attention of the first row",
        ("memory.learner.attention + n * kSlots, attention", "memory.learner.attention, attention"),
    ),
    Fault(
        "new memory not rounded before its norm",
        (
            "      for (int g = 0; g < kSlots; ++g) unpack(ttm_read::pack<T>(rows[g]), rows[g]);",
            "      for (int g = 0; g < kSlots; ++g) (void)0;",
        ),
        invisible="the norm of what was not rounded is off by less than rounding explains",
    ),
    Fault("stamp forgotten", ("      ttm_read::add_stamp<T>(columns, call.stamp, rows[kSlots]);\n", "")),
    Fault(
        "last memory a group apart",
        (
            "(std::int64_t(item) * kSlots + g) * columns.width",
            "(std::int64_t(item) * kRows + g) * columns.width",
        ),
    ),
    Fault("reads without a frame", ("bool const reads = call.frame.data;", "bool const reads = true;")),
]
