"""Seeded faults of the backward kernels of grouped_attention; tests/sim/faults.py says how they are run.

Those of csrc/common/rows.cuh and products.cuh stand with the forward.
"""

from tests.sim.faults import Fault

SOURCES = ("grouped_attention/backward.cuh", "grouped_attention/products.cuh")

FAULTS = [
    # The LayerNorm of a group.
    Fault(
        "no gradient through the mean",
        (
            "sum.x += rstd[t] * (slope.x * w.x - mean_g - h.x * mean_gh);",
            "sum.x += rstd[t] * (slope.x * w.x - h.x * mean_gh);",
        ),
    ),
    Fault(
        "no gradient through the variance",
        (
            "sum.x += rstd[t] * (slope.x * w.x - mean_g - h.x * mean_gh);",
            "sum.x += rstd[t] * (slope.x * w.x - mean_g);",
        ),
    ),
    Fault(
        "gradient of the LayerNorm not scaled",
        ("sum.y += rstd[t] * (slope.y * w.y", "sum.y += (slope.y * w.y"),
    ),
    Fault("no weight of the LayerNorm", ("sum.y += rstd[t] * (slope.y * w.y", "sum.y += rstd[t] * (slope.y")),
    Fault("no dy", ("float2 sum = dx[t][c].wide();", "float2 sum = {0.f, 0.f};")),
    Fault(
        "dz taken for dy",
        (
            "read_head(dx[t], token_of<Element>(call.dy, group, t)",
            "read_head(dx[t], token_of<Element>(call.dz, group, t)",
        ),
    ),
    Fault(
        "dy with the strides of dz",
        (
            "read_head(dx[t], token_of<Element>(call.dy, group, t)",
            "read_head(dx[t], token_of<Element>({call.dy.data, call.dz.token, call.dz.group / 2}, group, t)",
        ),
    ),
    Fault(
        "means over a head",
        ("share = reciprocal(float(width)), scale", "share = reciprocal(float(sizes.head_dim)), scale"),
    ),
    Fault(
        "statistics of the first token",
        (
            "shift[t] = -load_global(call.mean + row + t) * rstd[t];",
            "shift[t] = -load_global(call.mean + row) * rstd[t];",
        ),
    ),
    Fault(
        "rstd of the first group",
        ("rstd[t] = load_global(call.rstd + row + t);", "rstd[t] = load_global(call.rstd + t);"),
    ),
    Fault(
        "sign of the mean",
        ("shift[t] = -load_global(call.mean + row + t)", "shift[t] = load_global(call.mean + row + t)"),
    ),
    Fault(
        "sums of one channel of two",
        ("sums[2 * t] += slope.x * w.x + slope.y * w.y;", "sums[2 * t] += slope.x * w.x;"),
    ),
    Fault("one buffer for the sums of all groups", ("group += gridDim.x, ++round)", "group += gridDim.x)")),
    Fault(
        "sums of a token in another's place",
        ("mean_g = sums[2 * t] * share,", "mean_g = sums[2 * (t / 2)] * share,"),
    ),
    Fault(
        "means where there is no channel",
        ("Pair<Element>(channels.has(c) ? sum : float2{0.f, 0.f});", "Pair<Element>(sum);"),
        invisible="v is zero there too, and what is written is only what exists",
    ),
    Fault(
        "dx not rounded before it is multiplied",
        (
            "write_pair(dx_rows + t * width, channels, c, dx[t][c]);",
            "write_pair(dx_rows + t * width, channels, c, Pair<Element>(float2{0.f, 0.f}));",
        ),
    ),
    Fault("dx of the first group", ("std::int64_t(same_group) * kTokens, width)", "0, width)")),
    # Parameters of the LayerNorm.
    Fault(
        "parameter sums of the last group alone",
        (
            "float2 weight_sum = load_shared(&shared.weight_sum[c][thread]);",
            "float2 weight_sum = {0.f, 0.f};",
        ),
    ),
    Fault("bias sums not kept", ("      store_shared(&shared.bias_sum[c][thread], bias_sum);\n", "")),
    Fault(
        "parameter sums shared by the lanes",
        (
            "store_shared(&shared.weight_sum[c][thread], weight_sum);",
            "store_shared(&shared.weight_sum[c][thread / 2 * 2], weight_sum);",
        ),
    ),
    Fault(
        "sums start with what was there",
        ("    store_shared(&shared.weight_sum[c][thread], float2{0.f, 0.f});\n", ""),
    ),
    Fault(
        "sum of dz for the weight",
        ("weight_sum = {weight_sum.x + slope.x * h.x,", "weight_sum = {weight_sum.x + slope.x,"),
    ),
    Fault(
        "partial sums of all blocks in the first row",
        (
            "row_at<float>(call.partials, blockIdx.x, 2 * width) + channels.first",
            "row_at<float>(call.partials, 0, 2 * width) + channels.first",
        ),
    ),
    Fault(
        "bias sums over the weight's",
        (
            "write_pair(partials + width, channels, c, Pair<float>(load_shared(&shared.bias_sum",
            "write_pair(partials, channels, c, Pair<float>(load_shared(&shared.bias_sum",
        ),
    ),
    Fault(
        "groups of every second block",
        (
            "group < sizes.groups; group += gridDim.x, ++round",
            "group < sizes.groups; group += 2 * gridDim.x, ++round",
        ),
    ),
    Fault(
        "a group beyond the last",
        (
            "for (int group = blockIdx.x; group < sizes.groups;",
            "for (int group = blockIdx.x; group <= sizes.groups;",
        ),
    ),
    # The softmax and its gradient.
    Fault("p not divided by its sum", ("    p.held[i] *= norm;\n", "")),
    Fault(
        "no delta",
        (
            "dp.held[i] = p.held[i] * (dp.held[i] - delta) * scale;",
            "dp.held[i] = p.held[i] * dp.held[i] * scale;",
        ),
    ),
    Fault(
        "delta of the unweighted dp",
        ("weighted.held[i] = p.held[i] * dp.held[i];", "weighted.held[i] = dp.held[i];"),
    ),
    Fault("ds not scaled", ("(dp.held[i] - delta) * scale;", "(dp.held[i] - delta);")),
    Fault(
        "softmax not scaled",
        ("exponentiate<kTokens>(p, lane, kLog2E * scale);", "exponentiate<kTokens>(p, lane, kLog2E);"),
    ),
    Fault(
        "only the first score of a lane differentiated",
        ("for (int i = 0; i < p.kPerLane; ++i) dp.held[i]", "for (int i = 0; i < 1; ++i) dp.held[i]"),
    ),
    Fault(
        "dp from k",
        (
            "auto ds = products<Element, kTokens, kTokens, kPairs>(dx, v, lane);",
            "auto ds = products<Element, kTokens, kTokens, kPairs>(dx, k, lane);",
        ),
    ),
    Fault(
        "v of the next head",
        (
            "token_of<Element>(call.qkv, still_same_group, t) + 2 * width + channels.first",
            "token_of<Element>(call.qkv, still_same_group, t) + 2 * width + (channels.first + sizes.head_dim) % width",
        ),
    ),
    Fault(
        "dq transposed",
        (
            "write_sums(0, k, [&](int t, int j) { return factors[t][j]; });",
            "write_sums(0, k, [&](int t, int j) { return factors[j][t]; });",
        ),
    ),
    Fault(
        "dk not transposed",
        (
            "write_sums(1, q, [&](int t, int j) { return factors[j][t]; });",
            "write_sums(1, q, [&](int t, int j) { return factors[t][j]; });",
        ),
    ),
    Fault("dk from k", ("write_sums(1, q,", "write_sums(1, k,")),
    Fault("dv from ds", ("    p.gather(factors);\n", "")),
    Fault(
        "dv not transposed",
        (
            "write_sums(2, dx, [&](int t, int j) { return factors[j][t]; });",
            "write_sums(2, dx, [&](int t, int j) { return factors[t][j]; });",
        ),
    ),
    Fault(
        "dk and dv swapped",
        ("write_sums(1, q,", "write_sums(2, q,"),
        ("write_sums(2, dx,", "write_sums(1, dx,"),
    ),
    Fault(
        "parts of a token side by side",
        ("dqkv + (3 * t + part) * width", "dqkv + (t + kTokens * part) * width"),
    ),
    # The rows of other groups.
    Fault(
        "sums not cleared",
        (
            "  for (int c = threadIdx.x; c < 2 * pairs; c += kThreads) store_shared(weight_sum + c, float2{0.f, 0.f});\n",
            "",
        ),
    ),
    Fault(
        "half of the sums cleared",
        ("c < 2 * pairs; c += kThreads) store_shared", "c < pairs; c += kThreads) store_shared"),
    ),
    Fault(
        "no barrier after the sums are cleared", ("  __syncthreads();\n  int round = 0;", "  int round = 0;")
    ),
    Fault("one buffer for the sums of all rows", ("row += gridDim.x, ++round)", "row += gridDim.x)")),
    Fault(
        "tokens taken for groups",
        (
            "int const group = row / sizes.tokens, token = row % sizes.tokens;",
            "int const group = row % sizes.groups, token = row / sizes.groups;",
        ),
    ),
    Fault(
        "rows: no gradient through the variance",
        (
            "sum.x += rstd * (slope.x * w.x - mean_g - h.x * mean_gh);",
            "sum.x += rstd * (slope.x * w.x - mean_g);",
        ),
    ),
    Fault(
        "rows: sums of one channel of two",
        ("sums[1] += slope.x * w.x * h.x + slope.y * w.y * h.y;", "sums[1] += slope.x * w.x * h.x;"),
    ),
    Fault(
        "rows: bias sums in the weight's place",
        (
            "store_global(partials + pairs + c, load_shared(bias_sum + c));",
            "store_global(partials + c, load_shared(bias_sum + c));",
        ),
    ),
    Fault(
        "rows: too little shared memory",
        (
            "sizeof(BlockSums<2, kWarps>) + row_backward_bytes(sizes)",
            "sizeof(BlockSums<2, kWarps>) + row_backward_bytes(sizes) / 2",
        ),
    ),
    # Tiles.
    Fault(
        "keys beyond the last in the sums of a row",
        ("    if (key + p.column(lane, 0) >= sizes.tokens) p.held[0] = -INFINITY;\n", ""),
    ),
    Fault("mass not shrunk", ("mass = mass * shrink +", "mass = mass +")),
    Fault("weighted sum not shrunk", ("weighted = weighted * shrink +", "weighted = weighted +")),
    Fault("maximum not kept", ("    largest = next;\n", "")),
    Fault("delta not divided", ("delta = weighted * reciprocal(mass);", "delta = weighted;")),
    Fault(
        "logarithm of the sum without the maximum",
        ("logarithm = largest * scale_log2 + log2f(mass)", "logarithm = log2f(mass)"),
    ),
    Fault("natural logarithm", ("+ log2f(mass)", "+ logf(mass)")),
    Fault("row sums of other heads overwritten", ("* sizes.heads + item.head;", "* sizes.heads;")),
    Fault(
        "row sums of queries beyond the last",
        (
            "if (first_copy && Tile::column(lane, 0) == 0 && own < sizes.tokens) {",
            "if (Tile::column(lane, 0) == 0) {",
        ),
    ),
    Fault(
        "row sums written by other lanes",
        ("if (first_copy && Tile::column(lane, 0) == 0 && own", "if (lane < kQueries && own"),
    ),
    Fault(
        "dq without delta",
        (
            "(ds.held[0] - delta) * scale;\n    CUTE_UNROLL\n    for (int t = 0; t < kQueries",
            "ds.held[0] * scale;\n    CUTE_UNROLL\n    for (int t = 0; t < kQueries",
        ),
    ),
    Fault(
        "dq from v",
        ("add_scaled(dq[t][c], factor, k[j][c].wide())", "add_scaled(dq[t][c], factor, v[j][c].wide())"),
    ),
    Fault(
        "dq of the last tile of keys alone",
        (
            "add_scaled(dq[t][c], factor, k[j][c].wide())",
            "add_scaled(dq[t][c], key + kKeys < sizes.tokens ? 0.f : factor, k[j][c].wide())",
        ),
    ),
    Fault(
        "keys beyond the last in dq",
        ("bool const exists = key + s.column(lane, 0) < sizes.tokens;", "bool const exists = true;"),
    ),
    Fault(
        "queries beyond the last in dk", ("bool const live = own < sizes.tokens;", "bool const live = true;")
    ),
    Fault(
        "row sums of the first rows for all",
        ("int const own = query + p.row(lane);", "int const own = p.row(lane);"),
    ),
    Fault("dk from p", ("float const of_key = ds.at(i, t),", "float const of_key = p.at(i, t),")),
    Fault("dv from ds in tiles", ("of_value = p.at(i, t);", "of_value = ds.at(i, t);")),
    Fault(
        "first tile of queries alone",
        (
            "for (int query = 0; query < sizes.tokens; query += kQueries)",
            "for (int query = 0; query < kQueries; query += kQueries)",
        ),
    ),
    Fault(
        "dk and dv swapped in tiles",
        (
            "write_pair(to + width, channels, c, Pair<Element>(dk[t][c]));",
            "write_pair(to + width, channels, c, Pair<Element>(dv[t][c]));",
        ),
    ),
    Fault(
        "keys beyond the last written",
        (
            "    if (token >= sizes.tokens) break;\n    std::int64_t const row = std::int64_t(item.group) * sizes.tokens + token;\n    Element* to = row_at<Element>(call.dqkv, row, 3 * width) + channels.first;\n    CUTE_UNROLL\n    for (int c = 0; c < kPairs; ++c) {",
            "    std::int64_t const row = std::int64_t(item.group) * sizes.tokens + token;\n    Element* to = row_at<Element>(call.dqkv, row, 3 * width) + channels.first;\n    CUTE_UNROLL\n    for (int c = 0; c < kPairs; ++c) {",
        ),
    ),
    Fault(
        "dx of tokens beyond the last",
        (
            "token + t < call.sizes.tokens);\n  }\n}\n\n// Where row_sums",
            "true);\n  }\n}\n\n// Where row_sums",
        ),
    ),
    Fault(
        "dk before dq has its row sums",
        (
            "    launch(kName, &query_gradients<Element, pairs>, warps(items(sizes, queries(pairs))), stream, call);\n",
            "",
        ),
    ),
    Fault(
        "tiles of keys as large as those of queries",
        ("warps(items(sizes, kKeys)), stream, call);", "warps(items(sizes, 2 * kKeys)), stream, call);"),
    ),
]
