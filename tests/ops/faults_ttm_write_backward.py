"""Seeded faults of the backward kernel of ttm_write; tests/sim/faults.py says how they are run.

Those of the recomputed forward are in faults_ttm_write_forward.py, those of the group in faults_ttm_read_backward.py.
"""

from tests.sim.faults import Fault

SOURCES = ("ttm_write/backward.cuh",)
UNITS = ("forward", "forward_others")
"""Other units that the problems call: the binding asks both directions how much shared memory they need."""

FAULTS = [
    # Barriers and shared memory.
    Fault(
        "no barrier after the group's sums",
        (
            "      memory.group.put(values, 0, 2 * kRows);\n      __syncthreads();\n",
            "      memory.group.put(values, 0, 2 * kRows);\n",
        ),
    ),
    Fault(
        "no barrier after the gradients of the logits",
        ("attention * (slope - mean));\n  }\n  __syncthreads();\n", "attention * (slope - mean));\n  }\n"),
    ),
    Fault(
        "no barrier after the hidden gradients",
        (
            "    store_shared(memory.dw2 + i, total);\n  }\n  __syncthreads();\n",
            "    store_shared(memory.dw2 + i, total);\n  }\n",
        ),
    ),
    Fault(
        "no barrier after the fourth round",
        ("    });\n    __syncthreads();\n\n    put_away", "    });\n\n    put_away"),
    ),
    Fault(
        "sums of w2 not zeroed",
        (
            "  for (int i = threadIdx.x; i < kSlots * kHidden; i += blockDim.x) store_shared(memory.dw2 + i, 0.f);\n",
            "",
        ),
    ),
    Fault(
        "hidden sums not zeroed",
        (
            "  for (int i = threadIdx.x; i < kHidden; i += blockDim.x) store_shared(memory.hidden_sums + i, 0.f);\n",
            "",
        ),
    ),
    Fault(
        "affine sums not zeroed",
        (
            "  for (int i = 0; i < 4; ++i) store_shared(affine",
            "  for (int i = 0; i < 2; ++i) store_shared(affine",
        ),
    ),
    Fault(
        "Y not zeroed",
        (
            "  Own products[kHidden] = {};  // Y\n  put_away<kTurns>(memory.products, products);\n",
            "  Own products[kHidden] = {};  // Y\n",
        ),
    ),
    Fault(
        "Y not put away",
        (
            "    put_away<kTurns>(memory.products, products);\n    take_back<kTurns>(memory.dnew",
            "    take_back<kTurns>(memory.dnew",
        ),
    ),
    Fault(
        "Y not taken back",
        (
            "    put_away<kTurns>(memory.dnew, dnew);\n    take_back<kTurns>(memory.products, products);\n",
            "    put_away<kTurns>(memory.dnew, dnew);\n",
        ),
        invisible="the compiler of the simulator has no reason to reuse the registers that still hold it",
    ),
    Fault(
        "scaled rows one too few",
        (
            "scaled = arena.take<Pack<float>>(rows * threads);",
            "scaled = arena.take<Pack<float>>((rows - 1) * threads);",
        ),
    ),
    Fault(
        "fourth round in the group's memory",
        ("    fourth = arena.sums(warps, 2 * rows);\n", "    fourth = {group.partial, 2 * rows};\n"),
    ),
    # The group.
    Fault(
        "gradient of the group not averaged",
        ("gradient.finish(g, gamma, totals[2 * g] / width,", "gradient.finish(g, gamma, totals[2 * g],"),
    ),
    Fault(
        "frame's gradient from a memory row", ("gradient.finish(kSlots, gamma,", "gradient.finish(0, gamma,")
    ),
    Fault(
        "all frames in one",
        ("static_cast<T*>(call.dframe) + std::int64_t(item) * width", "static_cast<T*>(call.dframe)"),
    ),
    Fault(
        "last memory's gradient a group apart",
        (
            "(std::int64_t(item) * kSlots + g) * width, dnew[g]",
            "(std::int64_t(item) * kRows + g) * width, dnew[g]",
        ),
    ),
    Fault("dgamma not added", ("      add_own(affine + 2 * threads, dgamma);\n", "")),
    Fault(
        "dbeta of the last position",
        (
            "      add_own(affine + 3 * threads, dbeta);\n",
            "      store_shared(affine + 3 * threads + threadIdx.x, ttm_read::pack<float>(dbeta));\n",
        ),
    ),
    # Attention and hidden channels.
    Fault(
        "gradient of the attention of the first slot",
        ("values[1 + kHidden + g] = dot(x, dnew[g]);", "values[1 + kHidden + g] = dot(x, dnew[0]);"),
    ),
    Fault("softmax's mean not subtracted", ("attention * (slope - mean));", "attention * slope);")),
    Fault("attention forgotten in its gradient", ("attention * (slope - mean));", "slope - mean);")),
    Fault("mean without the attention", ("warp_sum(attention * slope)", "warp_sum(slope)")),
    Fault(
        "gradients of logits transposed",
        ("memory.dlogits + lane * kSlots + g,", "memory.dlogits + g * kSlots + lane,"),
    ),
    Fault("w2 transposed", ("memory.learner.w2 + g * kHidden + j)", "memory.learner.w2 + j * kSlots + g)")),
    Fault("slope of gelu forgotten", ("da * gelu_slope(load_shared(memory.learner.hidden + i))", "da")),
    Fault(
        "slope of gelu at gelu",
        (
            "gelu_slope(load_shared(memory.learner.hidden + i))",
            "gelu_slope(load_shared(memory.learner.gelu + i))",
        ),
    ),
    Fault(
        "w2's gradient from h",
        (
            "load_shared(memory.learner.gelu + n * kHidden + i % kHidden)",
            "load_shared(memory.learner.hidden + n * kHidden + i % kHidden)",
        ),
    ),
    Fault(
        "w2's gradient transposed",
        ("memory.dlogits + n * kSlots + i / kHidden)", "memory.dlogits + n * kSlots + i % kSlots)"),
    ),
    Fault(
        "w2's gradient of the last position",
        ("float total = load_shared(memory.dw2 + i);", "float total = 0.f;"),
    ),
    Fault(
        "hidden sums of the last position",
        ("float total = load_shared(memory.hidden_sums + j);", "float total = 0.f;"),
    ),
    Fault(
        "some hidden gradients never made",
        (
            "i < learner.row_count * kHidden; i += blockDim.x",
            "i < learner.row_count * kHidden - 1; i += blockDim.x",
        ),
    ),
    # Second LayerNorm.
    Fault("average not divided", ("    average2 /= width;\n", "")),
    Fault("slope not divided", ("    slope2 /= width;\n", "")),
    Fault(
        "c forgotten",
        (
            "(load_shared(memory.learner.hidden + lane * kHidden + j) -\n                        load_shared(memory.learner.constants + 1 + j))",
            "(load_shared(memory.learner.hidden + lane * kHidden + j))",
        ),
    ),
    Fault(
        "average of the wrong constants",
        (
            "average2 += dh * load_shared(memory.learner.constants + 1 + kHidden + j);",
            "average2 += dh * load_shared(memory.learner.constants + kHidden + j);",
        ),
    ),
    Fault(
        "second average not subtracted",
        ("scale2 * (dy[i] - average - yhat[i] * slope)", "scale2 * (dy[i] - yhat[i] * slope)"),
    ),
    Fault(
        "second slope not subtracted",
        ("scale2 * (dy[i] - average - yhat[i] * slope)", "scale2 * (dy[i] - average)"),
    ),
    Fault(
        "second scale forgotten",
        ("scale2 * (dy[i] - average - yhat[i] * slope)", "(dy[i] - average - yhat[i] * slope)"),
    ),
    Fault("yhat not scaled", ("        yhat[i] *= scale2;\n", "")),
    Fault("xhat not scaled", ("        xhat[i] *= scale1;\n", "")),
    Fault("Y of the last row", ("products[j][i] += dh[j] * yhat[i];", "products[j][i] = dh[j] * yhat[i];")),
    Fault("Y from xhat", ("products[j][i] += dh[j] * yhat[i];", "products[j][i] += dh[j] * xhat[i];")),
    # First LayerNorm and the rows.
    Fault("dgamma1 without xhat", ("dgamma1[i] += dy[i] * xhat[i];", "dgamma1[i] += dy[i];")),
    Fault(
        "dbeta1 behind gamma1",
        (
            "        dbeta1[i] += dy[i];\n        dy[i] *= gamma[i];\n",
            "        dy[i] *= gamma[i];\n        dbeta1[i] += dy[i];\n",
        ),
    ),
    Fault("gamma1 forgotten", ("        dy[i] *= gamma[i];\n", "")),
    Fault(
        "first average not subtracted",
        ("(dx[i] - average - xhat[i] * scale * slope)", "(dx[i] - xhat[i] * scale * slope)"),
    ),
    Fault(
        "first slope not scaled",
        ("(dx[i] - average - xhat[i] * scale * slope)", "(dx[i] - average - xhat[i] * slope)"),
    ),
    Fault(
        "rows' own gradient forgotten",
        ("dx[i] += attention[g] * dnew[g][i];", "dx[i] += 0 * attention[g] * dnew[g][i];"),
    ),
    Fault(
        "scaled row of the neighbour",
        (
            "unpack(load_shared(memory.scaled + n * blockDim.x + threadIdx.x), dx);",
            "unpack(load_shared(memory.scaled + n * blockDim.x + (threadIdx.x ^ 1)), dx);",
        ),
    ),
    Fault(
        "memory rows a group apart",
        ("(std::int64_t(item) * kSlots + n) * width\n", "(std::int64_t(item) * kRows + n) * width\n"),
    ),
    Fault(
        "processed rows from the first on",
        (
            "(std::int64_t(item) * sizes.processed + n - kSlots) * width",
            "(std::int64_t(item) * sizes.processed + n) * width",
        ),
    ),
    Fault(
        "only a grid of items",
        ("item < items; item += gridDim.x", "item < int(gridDim.x); item += gridDim.x"),
    ),
    # Sums of the block.
    Fault(
        "all blocks in one row",
        ("call.partial + std::int64_t(blockIdx.x) * sums(kSlots, width)", "call.partial"),
    ),
    Fault(
        "beta2's part of w1's gradient forgotten",
        (
            "dw[i] = gamma2[i] * products[j][i] + beta2[i] * hidden_sum;",
            "dw[i] = gamma2[i] * products[j][i];",
        ),
    ),
    Fault(
        "gamma2 forgotten in w1's gradient",
        ("dw[i] = gamma2[i] * products[j][i] +", "dw[i] = products[j][i] +"),
    ),
    Fault("dgamma2 without w1", ("dgamma2[i] += w[i] * products[j][i];", "dgamma2[i] += products[j][i];")),
    Fault(
        "dbeta2 of the last hidden channel",
        ("dbeta2[i] += w[i] * hidden_sum;", "dbeta2[i] = w[i] * hidden_sum;"),
    ),
    Fault(
        "affine sums in each other's place",
        ("(i < 2 ? i : 2 + kHidden + i) * width, total", "(i < 2 ? 1 - i : 2 + kHidden + i) * width, total"),
    ),
    Fault(
        "w2's gradient not at its place",
        ("store_global(row + (6 + kHidden) * width + i,", "store_global(row + (5 + kHidden) * width + i,"),
    ),
]
