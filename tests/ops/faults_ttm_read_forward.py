"""Seeded faults of the forward kernel of ttm_read; tests/sim/faults.py says how they are run."""

from tests.sim.faults import Fault

SOURCES = ("ttm_read/forward.cuh", "ttm_read/group.cuh", "ttm_read/row_sums.cuh")

FAULTS = [
    # Sums over the block.
    Fault(
        "no barrier before the means",
        ("  for_mean.put(values, 0, kRows);\n  __syncthreads();\n", "  for_mean.put(values, 0, kRows);\n"),
    ),
    Fault(
        "no barrier before the variances",
        (
            "  for_square.put(values, 0, kRows);\n  __syncthreads();\n",
            "  for_square.put(values, 0, kRows);\n",
        ),
    ),
    Fault(
        "both rounds in one memory",
        ("for_square{&shared.for_square[0][0], kRows};", "for_square{&shared.for_mean[0][0], kRows};"),
    ),
    Fault(
        "warps write one place",
        ("store_shared(partial + threadIdx.x / kLanes * count + first", "store_shared(partial + first"),
    ),
    Fault(
        "last warp not summed up",
        ("warp < int(blockDim.x) / kLanes; ++warp", "warp < int(blockDim.x) / kLanes - 1; ++warp"),
    ),
    Fault("last sum not written", ("number < sums) {", "number < sums - 1) {")),
    Fault(
        "copies write as if they were sums",
        (
            "    if (lane % spread.kCopies == 0 && number < sums) {\n      store_shared(partial + threadIdx.x / kLanes * count + first + number,",
            "    if (lane < sums) {\n      store_shared(partial + threadIdx.x / kLanes * count + first + lane,",
        ),
    ),
    Fault(
        "totals of the neighbour",
        ("__shfl_sync(kWholeWarp, mine, i);", "__shfl_sync(kWholeWarp, mine, i ^ 1);"),
    ),
    # LayerNorm.
    Fault("mean of the padded width", ("    mean[r] /= columns.width;", "    mean[r] /= kOwn * blockDim.x;")),
    Fault(
        "variance of the padded width",
        ("rsqrtf(square[r] / columns.width + eps)", "rsqrtf(square[r] / (kOwn * blockDim.x) + eps)"),
    ),
    Fault("no eps", ("rsqrtf(square[r] / columns.width + eps)", "rsqrtf(square[r] / columns.width)")),
    Fault(
        "idle threads count in the variance",
        ("rows[r][i] = columns.own ? rows[r][i] - mean[r] : 0.f;", "rows[r][i] = rows[r][i] - mean[r];"),
    ),
    Fault(
        "variance about zero",
        (
            "rows[r][i] = columns.own ? rows[r][i] - mean[r] : 0.f;\n    values[r] = dot(rows[r], rows[r]);",
            "(void)0;\n    values[r] = dot(rows[r], rows[r]);\n    for (int i = 0; i < kOwn; ++i) rows[r][i] -= mean[r];",
        ),
    ),
    Fault("beta forgotten", ("* rstd * gamma[i] + beta[i];", "* rstd * gamma[i];")),
    Fault(
        "gamma and beta swapped",
        (
            "  columns.load(call.gamma, gamma);\n  columns.load(call.beta, beta);",
            "  columns.load(call.beta, gamma);\n  columns.load(call.gamma, beta);",
        ),
    ),
    Fault(
        "statistics of the first row",
        ("store_global(out.mean + first + r, mean[r]);", "store_global(out.mean + first + r, mean[0]);"),
    ),
    Fault(
        "statistics a row apart",
        ("store_global(out.rstd + first + r, rstd);", "store_global(out.rstd + first, rstd);"),
    ),
    # Rows and items.
    Fault("idle threads write", ("    if (own) store_global(", "    store_global(")),
    Fault("idle threads read", ("return own ? load_global(", "return true ? load_global(")),
    Fault("a thread's channels overlap", ("first(kOwn * threadIdx.x)", "first(kOwn / 2 * threadIdx.x)")),
    Fault("positions of the first video", ("+ video * view.video + position", "+ position")),
    Fault("position stride of a row", ("position * view.position + row", "position * view.row + row")),
    Fault("row stride forgotten", (" + row * view.row;", " + row;")),
    Fault(
        "video and position swapped",
        (
            "int const video = item / positions, position = item % positions;",
            "int const position = item / positions, video = item % positions;",
        ),
    ),
    Fault(
        "frame of the next row",
        (
            "columns.load(row_of<T>(call.frame, call.sizes.positions, item, 0));",
            "columns.load(row_of<T>(call.frame, call.sizes.positions, item / 2, 0));",
        ),
    ),
    Fault("stamp on a memory row", ("call.stamp, rows[kSlots]);", "call.stamp, rows[0]);")),
    Fault("stamp forgotten", ("row[i] += s[i];", "row[i] += 0 * s[i];")),
    Fault(
        "normed from what was not rounded",
        ("  unpack(pack<T>(row), row);\n", ""),
        invisible="between the sum in float32 and its rounding lies less than what rounding explains",
    ),
    Fault(
        "only a grid of items",
        ("item < items; item += gridDim.x)", "item < int(gridDim.x); item += gridDim.x)"),
    ),
    Fault(
        "upper channels swapped",
        ("    x[i] = two.x;\n    x[i + 1] = two.y;", "    x[i] = two.y;\n    x[i + 1] = two.x;"),
    ),
]
