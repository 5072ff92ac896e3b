"""Seeded faults of the backward kernel of ttm_read; tests/sim/faults.py says how they are run."""

from tests.sim.faults import Fault

SOURCES = ("ttm_read/backward.cuh", "ttm_read/group.cuh", "ttm_read/row_sums.cuh")

FAULTS = [
    Fault(
        "no barrier before the totals",
        ("    sums.put(values, 0, kSums);\n    __syncthreads();\n", "    sums.put(values, 0, kSums);\n"),
    ),
    Fault("items do not take turns", ("shared.partial[turn][0][0]", "shared.partial[0][0][0]")),
    Fault(
        "warps write one place",
        ("store_shared(partial + threadIdx.x / kLanes * count + first", "store_shared(partial + first"),
    ),
    Fault("first warp alone", ("warp < int(blockDim.x) / kLanes; ++warp", "warp < 1; ++warp")),
    Fault("last sum not written", ("number < sums) {", "number < sums - 1) {")),
    Fault(
        "totals of the neighbour",
        ("__shfl_sync(kWholeWarp, mine, i);", "__shfl_sync(kWholeWarp, mine, i ^ 1);"),
    ),
    Fault(
        "no direct gradient",
        ("    unpack(dgroup[r], gradient);\n", "    for (int i = 0; i < kOwn; ++i) gradient[i] = 0;\n"),
    ),
    Fault(
        "mean not subtracted",
        ("given[i] * gamma[i] - average - normal[i] * slope", "given[i] * gamma[i] - normal[i] * slope"),
    ),
    Fault(
        "projection not subtracted",
        ("given[i] * gamma[i] - average - normal[i] * slope", "given[i] * gamma[i] - average"),
    ),
    Fault("gamma forgotten in the gradient", ("rstd[r] * (given[i] * gamma[i] -", "rstd[r] * (given[i] -")),
    Fault("gamma forgotten in the sums", ("        given[i] *= gamma[i];\n", "")),
    Fault("rstd forgotten", ("gradient[i] += rstd[r] * (", "gradient[i] += (")),
    Fault(
        "normal row not centred",
        ("normal[i] = (normal[i] - mean[r]) * rstd[r];", "normal[i] = normal[i] * rstd[r];"),
    ),
    Fault(
        "normal row not scaled",
        ("normal[i] = (normal[i] - mean[r]) * rstd[r];", "normal[i] = normal[i] - mean[r];"),
    ),
    Fault(
        "sum without its normal row",
        ("values[2 * r + 1] = dot(given, normal);", "values[2 * r + 1] = sum(given);"),
    ),
    Fault(
        "means over the padded width",
        (
            "totals[2 * r] / width, totals[2 * r + 1] / width",
            "totals[2 * r] / (4 * blockDim.x), totals[2 * r + 1] / width",
        ),
    ),
    Fault(
        "sums not divided",
        ("totals[2 * r] / width, totals[2 * r + 1] / width", "totals[2 * r] / width, totals[2 * r + 1]"),
    ),
    Fault(
        "sums of a row swapped",
        (
            "totals[2 * r] / width, totals[2 * r + 1] / width",
            "totals[2 * r + 1] / width, totals[2 * r] / width",
        ),
    ),
    Fault(
        "dgamma after gamma",
        (
            "        dgamma[i] += given[i] * normal[i];\n        dbeta[i] += given[i];\n        given[i] *= gamma[i];\n",
            "        given[i] *= gamma[i];\n        dgamma[i] += given[i] * normal[i];\n        dbeta[i] += given[i];\n",
        ),
    ),
    Fault("dbeta of the last row", ("dbeta[i] += given[i];", "dbeta[i] = given[i];")),
    Fault(
        "dgamma of the last row", ("dgamma[i] += given[i] * normal[i];", "dgamma[i] = given[i] * normal[i];")
    ),
    Fault(
        "frame's gradient with the memory's", ("T* const to = r < kSlots ?", "T* const to = r <= kSlots ?")
    ),
    Fault(
        "memory rows a group apart",
        ("(std::int64_t(item) * kSlots + r) * width", "(std::int64_t(item) * kRows + r) * width"),
    ),
    Fault(
        "all frames in one",
        ("static_cast<T*>(call.dframe) + std::int64_t(item) * width;", "static_cast<T*>(call.dframe);"),
    ),
    Fault(
        "all blocks in one row of partial",
        ("call.partial + std::int64_t(blockIdx.x) * 2 * width", "call.partial"),
    ),
    Fault(
        "rows of partial half as far",
        ("std::int64_t(blockIdx.x) * 2 * width", "std::int64_t(blockIdx.x) * width"),
    ),
    Fault(
        "dgamma and dbeta swapped",
        (
            "  columns.store(partial, dgamma);\n  columns.store(partial + width, dbeta);",
            "  columns.store(partial, dbeta);\n  columns.store(partial + width, dgamma);",
        ),
    ),
    Fault(
        "only a grid of items",
        ("item < items; item += gridDim.x", "item < int(gridDim.x); item += gridDim.x"),
    ),
    Fault("idle threads write", ("    if (own) store_global(", "    store_global(")),
    Fault(
        "statistics of the first row",
        ("mean[r] = load_global(means + first + r);", "mean[r] = load_global(means + first);"),
    ),
    Fault(
        "group of the first position",
        (
            "group[r] = columns.load(static_cast<const T*>(groups) + at);",
            "group[r] = columns.load(static_cast<const T*>(groups) + r * columns.width);",
        ),
    ),
]
