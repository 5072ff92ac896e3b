"""Seeded faults of the forward kernels of grouped_attention; tests/sim/faults.py says how they are run."""

from tests.sim.faults import Fault

SOURCES = ("grouped_attention/forward.cuh", "grouped_attention/products.cuh", "common/rows.cuh")

FAULTS = [
    # Sums over lanes and warps.
    Fault(
        "no barrier between the sums of the warps and their readers",
        (
            "  __syncthreads();\n  CUTE_UNROLL\n  for (int r = 0; r < kRows; ++r) {\n    rows[r] = 0.f;",
            "  CUTE_UNROLL\n  for (int r = 0; r < kRows; ++r) {\n    rows[r] = 0.f;",
        ),
    ),
    Fault("one buffer for all rounds", ("shared.of[round % 2]", "shared.of[0]")),
    Fault(
        "second round in the first one's buffer",
        ("block_sums(shared, round + 1, sums);", "block_sums(shared, round, sums);"),
    ),
    Fault("sums of the warps in one place", ("(buffer[row]) + warp,", "(buffer[row]),")),
    Fault("half of the warps summed up", ("w < kWarps / 4; ++w", "w < kWarps / 8; ++w")),
    Fault(
        "last part of four warps forgotten",
        ("(part.x + part.y) + (part.z + part.w)", "(part.x + part.y) + part.z"),
    ),
    Fault(
        "wrong half sent", ("upper ? terms[i] : terms[i + kHalf];", "upper ? terms[i + kHalf] : terms[i];")
    ),
    Fault("wrong half kept", ("(upper ? terms[i + kHalf] : terms[i]) +", "terms[i] +")),
    Fault(
        "lanes taken for their partners",
        ("bool const upper = lane & kBit;", "bool const upper = !(lane & kBit);"),
    ),
    Fault(
        "last step of the butterfly missing",
        ("if constexpr (kBit > 1) halve", "if constexpr (kBit > 2) halve"),
    ),
    Fault(
        "copies not summed up",
        ("    if constexpr (kHalf == 0) terms[0] += __shfl_xor_sync(kWholeWarp, terms[0], kBit);\n", ""),
    ),
    Fault(
        "sum asked of the wrong lane",
        ("(base + offset) / kPerLane * kCopies)", "(base + offset) / kPerLane)"),
    ),
    Fault("a lane's second sum forgotten", ("held[offset % kPerLane]", "held[0]")),
    Fault(
        "warp sum without its first step",
        (
            "for (int bit = kLanes / 2; bit > 0; bit /= 2) value",
            "for (int bit = kLanes / 4; bit > 0; bit /= 2) value",
        ),
    ),
    # Two channels at a time.
    Fault(
        "channels swapped when widened",
        (
            "{__uint_as_float(bits << 16), __uint_as_float(bits & 0xffff0000u)}",
            "{__uint_as_float(bits & 0xffff0000u), __uint_as_float(bits << 16)}",
        ),
    ),
    Fault(
        "lower channel left in the upper one",
        ("__uint_as_float(bits & 0xffff0000u)}", "__uint_as_float(bits)}"),
    ),
    Fault(
        "pairs of a lane side by side",
        (
            "reinterpret_cast<Pair<Element> const*>(from) + p * kLanes",
            "reinterpret_cast<Pair<Element> const*>(from) + p",
        ),
    ),
    Fault(
        "output pairs side by side",
        (
            "reinterpret_cast<Pair<Element>*>(to) + p * kLanes, value",
            "reinterpret_cast<Pair<Element>*>(to) + p, value",
        ),
    ),
    Fault("one pair too many", ("p * kLanes < beyond", "p * kLanes <= beyond")),
    Fault("one pair too few", ("p * kLanes < beyond", "p * kLanes + 1 < beyond")),
    Fault("lanes a channel apart", ("head * sizes.head_dim + 2 * lane)", "head * sizes.head_dim + lane)")),
    Fault("a head beyond the last", ("head < sizes.heads ?", "head <= sizes.heads ?")),
    Fault(
        "token strides as in contiguous x",
        ("+ std::int64_t(token) * view.token;", "+ std::int64_t(token) * (view.token / 2);"),
    ),
    Fault("group stride of one token", ("group * view.group +", "group * view.token +")),
    # The softmax.
    Fault("scores of one channel of two", ("left.x * right.x + left.y * right.y", "left.x * right.x")),
    Fault("rows and columns swapped", ("terms[i * kColumns + j] +=", "terms[j * kColumns + i] +=")),
    Fault(
        "maximum of a row without its last column",
        ("for (int j = 1; j < kColumns; ++j) largest", "for (int j = 1; j < kColumns - 1; ++j) largest"),
        invisible="any number near the scores will do for a maximum",
    ),
    Fault(
        "softmax without the maximum",
        ("exp2f((scores.held[i] - largest) * scale_log2)", "exp2f(scores.held[i] * scale_log2)"),
    ),
    Fault(
        "another row's maximum",
        ("float largest = at(row(lane), 0);", "float largest = at(0, 0);"),
    ),
    Fault(
        "no scale in the group",
        (
            "exponentiate<kTokens>(p, lane, kLog2E * rsqrtf(float(sizes.head_dim)));",
            "exponentiate<kTokens>(p, lane, kLog2E);",
        ),
    ),
    Fault(
        "powers of two in the group",
        ("exponentiate<kTokens>(p, lane, kLog2E * rsqrtf", "exponentiate<kTokens>(p, lane, rsqrtf"),
    ),
    Fault(
        "transposed probabilities", ("float const weight = p.at(t, j);", "float const weight = p.at(j, t);")
    ),
    Fault("sum of the row one short", ("      total += weight;\n", "      total += j ? weight : 0.f;\n")),
    Fault(
        "not divided by the sum",
        ("add_scaled(y[t][c], reciprocal(total), sum[c]);", "add_scaled(y[t][c], 1.f, sum[c]);"),
    ),
    # The group kernel.
    Fault("k read as q", ("read_head(k[t], qkv + width, channels);", "read_head(k[t], qkv, channels);")),
    Fault(
        "v read as k",
        (
            "token_of<Element>(call.qkv, group, t) + 2 * width + channels.first, channels);",
            "token_of<Element>(call.qkv, group, t) + width + channels.first, channels);",
        ),
    ),
    Fault("no residual", ("      y[t][c] = x[t][c].wide();\n", "      y[t][c] = {0.f, 0.f};\n")),
    Fault(
        "residual of the next group",
        (
            "read_head(x[t], token_of<Element>(call.x, group, t)",
            "read_head(x[t], token_of<Element>(call.x, group + 1, t)",
        ),
    ),
    Fault(
        "LayerNorm of what was not rounded",
        ("      y[t][c] = written.wide();  // the LayerNorm is of what the backward will read\n", ""),
    ),
    Fault(
        "norm of the wrong channels",
        ("read_head(norm[0], call.norm_weight + channels.first", "read_head(norm[0], call.norm_weight"),
    ),
    Fault(
        "weight and bias swapped",
        ("read_head(norm[1], call.norm_bias +", "read_head(norm[1], call.norm_weight +"),
    ),
    Fault(
        "lanes without channels count in the variance",
        (
            "float const distance = live(i) ? value(r, i) - moments[r].mean : 0.f;",
            "float const distance = value(r, i) - moments[r].mean;",
        ),
    ),
    Fault(
        "no eps in the group",
        ("moments[r].rstd = rsqrtf(sums[r] * share + eps)", "moments[r].rstd = rsqrtf(sums[r] * share)"),
    ),
    Fault(
        "second moment instead of the variance",
        ("moments[r].mean = sums[r] * share;\n    sums[r] = 0.f;", "moments[r].mean = sums[r] * share;"),
    ),
    Fault(
        "rows of another group written",
        (
            "std::int64_t const row = std::int64_t(group) * kTokens;",
            "std::int64_t const row = std::int64_t(group) * kTokens + (group ? 1 : 0);",
        ),
    ),
    Fault(
        "statistics of the first token alone",
        ("if (threadIdx.x == t) {", "if (t == 0) {"),
    ),
    # Tiles.
    Fault(
        "keys beyond the last count",
        ("    if (key + p.column(lane, 0) >= sizes.tokens) p.held[0] = -INFINITY;\n", ""),
    ),
    Fault(
        "last key hidden",
        ("if (key + p.column(lane, 0) >= sizes.tokens)", "if (key + p.column(lane, 0) + 1 >= sizes.tokens)"),
    ),
    Fault(
        "tokens beyond the last key read",
        (
            "read_head(k[t], qkv + width, channels, key + t < sizes.tokens);",
            "read_head(k[t], qkv + width, channels, key + t <= sizes.tokens);",
        ),
    ),
    Fault("old sums not shrunk", ("sum[t][c] = {sum[t][c].x * factor, sum[t][c].y * factor};", "")),
    Fault("old mass not shrunk", ("mass = mass * shrink.held[0] +", "mass = mass +")),
    Fault("old maximum kept", ("    largest = next;\n", "")),
    Fault(
        "maximum of the tile alone",
        ("float const next = fmaxf(largest, p.row_max(lane));", "float const next = p.row_max(lane);"),
        invisible="shrinking by more than one is as right, if nothing overflows",
    ),
    Fault(
        "factor of the first row",
        ("float const factor = shrink.at(t, 0);", "float const factor = shrink.at(0, 0);"),
    ),
    Fault(
        "mass of the first row",
        ("float const total = masses.at(t, 0);", "float const total = masses.at(0, 0);"),
    ),
    Fault("queries beyond the last written", ("    if (token >= sizes.tokens) continue;\n", "")),
    Fault(
        "tiles of half the queries",
        ("  Item const item(sizes, kQueries);", "  Item const item(sizes, kQueries / 2);"),
    ),
    Fault(
        "heads taken for groups",
        ("head = int(number / tiles % sizes.heads);", "head = int(number / tiles % sizes.groups);"),
    ),
    Fault("a grid one block short", ("(count + kWarps - 1) / kWarps", "count / kWarps")),
    Fault("warps beyond the last item work", ("  if (item.group >= sizes.groups) return;\n", "")),
    # LayerNorm of rows.
    Fault("mean of one channel of two", ("sum += v.x + v.y;", "sum += v.x;")),
    Fault("no eps in the rows", ("warp_sum(squares) * share + call.eps", "warp_sum(squares) * share")),
    Fault("rows beyond the last", ("  if (row >= std::int64_t(sizes.groups) * sizes.tokens) return;\n", "")),
    Fault(
        "mean not subtracted",
        (
            "store_global(z + c, Pair<Element>({(v.x - mean) * rstd",
            "store_global(z + c, Pair<Element>({v.x * rstd",
        ),
    ),
    Fault(
        "statistics of the wrong row",
        ("store_global(call.mean + row, mean);", "store_global(call.mean + row / 2, mean);"),
    ),
]
