"""Seeded faults of the forward kernel of resampler_attention; tests/sim/faults.py says how they are run."""

from tests.sim.faults import Fault

SOURCES = ("resampler_attention/forward.cuh", "resampler_attention/work.cuh")

FAULTS = [
    # Waits that a consumer must not skip.
    Fault(
        "no wait for K of the first tile",
        ("        s.k_ring.wait(k);\n        start_product", "        start_product"),
    ),
    Fault("no wait for K in the loop", ("          s.k_ring.wait(k);\n", "")),
    Fault(
        "no wait for V in the loop",
        ("          s.v_ring.wait(v);\n          start_product", "          start_product"),
    ),
    Fault(
        "no wait for V of the last tile",
        ("        s.v_ring.wait(v);\n        start_product(MmaO{}", "        start_product(MmaO{}"),
    ),
    Fault("no wait for Q", ("      s.q_ring.wait(q);\n      if (work", "      if (work")),
    Fault(
        "S read before its product has ended", ("finish_product<1>(scores);", "finish_product<2>(scores);")
    ),
    Fault(
        "first S read before its product has ended",
        ("finish_product<0>(scores);", "finish_product<1>(scores);"),
    ),
    Fault(
        "O rescaled while its product runs",
        ("finish_product<0>(o);  // O(j-1)", "finish_product<1>(o);  // O(j-1)"),
    ),
    Fault(
        "last O read before its product has ended",
        ("finish_product<0>(o);\n        s.v_ring", "finish_product<1>(o);\n        s.v_ring"),
    ),
    Fault(
        "P overwritten while its product runs",
        (
            "          finish_product<0>(o);  // O(j-1)",
            "          round_to_operand<kTile>(scores, probabilities);\n          finish_product<0>(o);  // O(j-1)",
        ),
    ),
    # Buffers given back too early, or not at all.
    Fault(
        "K released before its product has ended",
        ("          s.k_ring.release(k, lane);\n", ""),
        (
            "          finish_product<1>(scores);",
            "          s.k_ring.release(k, lane);\n          finish_product<1>(scores);",
        ),
    ),
    Fault(
        "V released before its product has ended",
        ("          s.v_ring.release(v, lane);\n", ""),
        (
            "          finish_product<1>(scores);",
            "          s.v_ring.release(v, lane);\n          finish_product<1>(scores);",
        ),
    ),
    Fault(
        "Q released before the last product",
        ("      s.q_ring.release(q, lane);\n", ""),
        (
            "      s.q_ring.wait(q);\n      if (work",
            "      s.q_ring.wait(q);\n      s.q_ring.release(q, lane);\n      if (work",
        ),
    ),
    Fault("K never released", ("          s.k_ring.release(k, lane);\n", "")),
    Fault(
        "last V never released",
        (
            "        s.v_ring.release(v, lane);\n        v.advance();\n      } else",
            "        v.advance();\n      } else",
        ),
    ),
    Fault("Q never released", ("      s.q_ring.release(q, lane);\n", "")),
    Fault(
        "slot of K does not advance",
        (
            "          s.k_ring.release(k, lane);\n          k.advance();",
            "          s.k_ring.release(k, lane);",
        ),
    ),
    Fault(
        "slot of Q does not advance at the consumer",
        ("      s.q_ring.release(q, lane);\n      q.advance();", "      s.q_ring.release(q, lane);"),
    ),
    # Barriers that count wrongly.
    Fault("K buffers count one warpgroup", ("s.k_ring.init(4 * kConsumers);", "s.k_ring.init(4);")),
    Fault(
        "V buffers count one warp too many",
        ("s.v_ring.init(4 * kConsumers);", "s.v_ring.init(4 * kConsumers + 1);"),
    ),
    Fault("all lanes of the producer issue", ("thread < 32 && cute::elect_one_sync()", "thread < 32")),
    Fault("no barrier after the barriers' init", ("    __syncthreads();\n", "")),
    # Bytes and tiles.
    Fault(
        "too few bytes announced for K and V",
        ("ring.acquire(slot, T::kBytes);", "ring.acquire(slot, T::kBytes - 64);"),
    ),
    Fault(
        "too many bytes announced for Q",
        ("s.q_ring.acquire(q, kConsumers * T::kBytes);", "s.q_ring.acquire(q, kConsumers * T::kBytes + 64);"),
    ),
    Fault(
        "both warpgroups load the first queries",
        ("sizes, c, work.head", "sizes, 0, work.head"),
    ),
    Fault("V of the next tile", ("s.v_ring, v, sV, j - 1);", "s.v_ring, v, sV, j);")),
    Fault("latent tiles not counted from their own start", ("work.keys.local(j),", "j,")),
    Fault(
        "V of the latents read as their K",
        ("load(p.k_media, p.k_latents, s.k_ring", "load(p.k_media, p.v_latents, s.k_ring"),
    ),
    Fault(
        "V of the latents with the strides of the media",
        (
            "load(in.v_latents, sizes.latents)",
            "load({in.v_latents.data, in.v_media.row, in.v_media.head, in.v_media.frame}, sizes.latents)",
        ),
    ),
    Fault("head and frame exchanged", ("head(number % in.sizes.heads)", "head(number / in.sizes.frames)")),
    # Masks.
    Fault("mask off by one, too few", ("column_of(i) >= left", "column_of(i) > left")),
    Fault("mask off by one, too many", ("column_of(i) >= left", "column_of(i) + 1 >= left")),
    Fault("no mask of the ragged tile", ("if (left < kTile) {", "if (false) {")),
    Fault(
        "keep mask of the first tile everywhere",
        ("p.in.keep_stride + work.keys.local(j) * kTile", "p.in.keep_stride"),
    ),
    Fault(
        "keep mask of the first frame everywhere", ("p.in.keep + work.frame * p.in.keep_stride", "p.in.keep")
    ),
    Fault("keep mask hides latents too", ("if (p.in.keep && in_media)", "if (p.in.keep)")),
    Fault(
        "keep mask reaches one row of two", ("scores(i) = scores(i + 2) = -INFINITY", "scores(i) = -INFINITY")
    ),
    Fault("lengths ignored", ("if (!in.lengths) return", "return")),
    # Sums.
    Fault(
        "scores without their scale",
        ("OnlineSoftmax softmax{p.in.scale * kLog2E};", "OnlineSoftmax softmax{kLog2E};"),
    ),
    Fault(
        "probabilities of the tile before",
        ("          round_to_operand<kTile>(scores, probabilities);\n        }", "        }"),
    ),
    Fault(
        "maximum starts anew in each tile",
        (
            "          softmax.update(scores, factor);\n",
            "          softmax.max[0] = -INFINITY;\n          softmax.update(scores, factor);\n",
        ),
    ),
    Fault("O not rescaled", ("o(i) *= factor[row_of(i)];", ";")),
    Fault("O keeps what was in its registers", ("o, j > work.tiles.first + 1);", "o, true);")),
    Fault(
        "S keeps the tile before",
        ("scores, false);\n          s.v_ring", "scores, true);\n          s.v_ring"),
    ),
    Fault("neighbouring channels exchanged", ("o(i) * by, o(i + 1) * by", "o(i + 1) * by, o(i) * by")),
    Fault(
        "total of one thread, not of the quad",
        (
            "float const total = softmax.total(r);\n      inverse",
            "float const total = softmax.sum[r];\n      inverse",
        ),
    ),
    Fault("log-sum-exp with the scale of the scores", ("total, softmax.scale_log2)", "total, p.in.scale)")),
    # The way out.
    Fault("no fence before the TMA store", ("    tma_store_fence();\n", "")),
    Fault(
        "no barrier before the TMA store",
        (
            "    tma_store_fence();\n    cutlass::arch::NamedBarrier::sync(128, who);\n",
            "    tma_store_fence();\n",
        ),
    ),
    Fault(
        "buffer used again while a TMA store reads it",
        ("    if (thread == 0) tma_store_wait<0>();  // the previous", "    // the previous"),
    ),
    Fault("block ends while a TMA store reads", ("    if (thread == 0) cute::tma_store_wait<0>();", "")),
    Fault(
        "both warpgroups store the first queries", ("p.in.sizes, who, work.head", "p.in.sizes, 0, work.head")
    ),
    Fault(
        "lse written beyond the queries",
        ("if (thread % 4 == 0 && query < p.in.sizes.queries) {", "if (thread % 4 == 0) {"),
    ),
    # Clusters.
    Fault(
        "combined before the peers have published",
        ("        cute::cluster_sync();  // every block has published\n", ""),
        ("        cute::cluster_sync();\n        cute::cluster_sync();\n", "        cute::cluster_sync();\n"),
    ),
    Fault(
        "published into rings that are in use",
        ("    cutlass::arch::NamedBarrier::sync(128 * kConsumers, kConsumers);\n", ""),
    ),
    Fault("own maximum for every peer", ("max[query], r)) * scale_log2", "max[query], rank)) * scale_log2")),
    Fault("totals added without weights", ("total += weight * load_shared", "total += load_shared")),
    Fault("every block reads all tiles", ("tiles(keys.tiles(), rank, splits)", "tiles(keys.tiles(), 0, 1)")),
    Fault(
        "share of the queries off by one",
        ("p.in.sizes.queries * (rank + 1) / p.splits;", "p.in.sizes.queries * (rank + 1) / p.splits - 1;"),
    ),
    Fault(
        "a block ends while its peers read",
        ("        cute::cluster_sync();  // nobody leaves", "        // nobody leaves"),
        ("        cute::cluster_sync();\n        cute::cluster_sync();\n", "        cute::cluster_sync();\n"),
    ),
    # The machine.
    Fault("no fence after the barriers' init", ("      cutlass::arch::fence_barrier_init();\n", "")),
    Fault(
        "registers given to the producer",
        (
            "warpgroup_reg_dealloc<kForwardProducerRegisters>",
            "warpgroup_reg_dealloc<kForwardConsumerRegisters>",
        ),
    ),
    # What a functional simulator cannot show.
    Fault(
        "the compiler may move reads of an accumulator ahead of its product",
        ("finish_product<0>(o);  // O(j-1)", "cute::warpgroup_wait<0>();  // O(j-1)"),
        invisible="the wait is there; only what nvcc makes of registers that change behind its back depends on the fence",
    ),
]
