"""Seeded faults of the backward kernel of resampler_attention; tests/sim/faults.py says how they are run."""

from tests.sim.faults import Fault

SOURCES = ("resampler_attention/backward.cuh", "resampler_attention/work.cuh")

FAULTS = [
    # Waits that a consumer must not skip.
    Fault("no wait for K", ("        s.k_ring.wait(k);\n", "")),
    Fault("no wait for V", ("        s.v_ring.wait(v);\n", "")),
    Fault(
        "no wait for Q and gO", ("      s.q_ring.wait(q);\n      Rows const rows", "      Rows const rows")
    ),
    Fault(
        "delta read from gO before it has landed",
        ("      s.q_ring.wait(q);\n      Rows const rows", "      Rows const rows"),
        ("      clear(dq);\n", "      clear(dq);\n      s.q_ring.wait(q);\n"),
    ),
    Fault(
        "scores read before their products have ended",
        (
            "finish_product<decltype(kLeft)::value>(scores);",
            "finish_product<decltype(kLeft)::value + 2>(scores);",
        ),
    ),
    Fault(
        "gO V^T read before its product has ended",
        (
            "finish_product<decltype(kLeft)::value>(scores);",
            "finish_product<decltype(kLeft)::value + 1>(scores);",
        ),
    ),
    Fault(
        "gradients read before their products have ended",
        ("        finish_product<0>(dkv);\n", "        finish_product<1>(dkv);\n"),
    ),
    Fault(
        "P and dS written while the products that read them run",
        (
            "        if constexpr (more) exchange();\n        if constexpr (!more)",
            "        if constexpr (!more)",
        ),
        (
            "          finish_scores(Int<3>{}, j + 1);\n",
            "          finish_scores(Int<3>{}, j + 1);\n          exchange();\n",
        ),
    ),
    # Buffers given back too early, or not at all.
    Fault(
        "K released after the scores",
        ("        s.k_ring.release(k, lane);\n", ""),
        (
            "        s.v_ring.release(v, lane);\n",
            "        s.v_ring.release(v, lane);\n        s.k_ring.release(k, lane);\n",
        ),
    ),
    Fault(
        "K released before the product of gQ has ended",
        ("        s.k_ring.release(k, lane);\n", ""),
        (
            "        finish_product<0>(dkv);\n",
            "        s.k_ring.release(k, lane);\n        finish_product<0>(dkv);\n",
        ),
    ),
    Fault(
        "Q and gO released before the tiles",
        ("      s.q_ring.release(q, lane);\n", ""),
        ("      clear(dq);\n", "      clear(dq);\n      s.q_ring.release(q, lane);\n"),
    ),
    Fault("K never released", ("        s.k_ring.release(k, lane);\n", "")),
    Fault("V never released", ("        s.v_ring.release(v, lane);\n", "")),
    Fault("Q and gO never released", ("      s.q_ring.release(q, lane);\n", "")),
    Fault("slot of K does not advance", ("        k.advance();\n", "")),
    Fault("slot of V does not advance", ("        v.advance();\n", "")),
    Fault("scores of the tile that is in use", ("        next.advance();\n", "")),
    Fault(
        "slot of Q and gO does not advance",
        ("      s.q_ring.release(q, lane);\n      q.advance();\n", "      s.q_ring.release(q, lane);\n"),
    ),
    # Barriers.
    Fault("K buffers count one warpgroup", ("s.k_ring.init(4 * kConsumers);", "s.k_ring.init(4);")),
    Fault(
        "V buffers count one warp too many",
        ("s.v_ring.init(4 * kConsumers);", "s.v_ring.init(4 * kConsumers + 1);"),
    ),
    Fault("all lanes of the producer issue", ("thread < 32 && cute::elect_one_sync()", "thread < 32")),
    Fault("no barrier after the barriers' init", ("    __syncthreads();\n", "")),
    Fault(
        "P and dS written while the other consumer's products read them",
        ("        sync_consumers();  // the products that read the tile before are done in both\n", ""),
    ),
    Fault(
        "the other consumer's P and dS read before they are written",
        (
            "        cutlass::arch::fence_view_async_shared();\n        sync_consumers();\n",
            "        cutlass::arch::fence_view_async_shared();\n",
        ),
    ),
    Fault(
        "consumers wait for themselves only",
        ("NamedBarrier::sync(128 * kConsumers, kConsumers)", "NamedBarrier::sync(128, kConsumers)"),
    ),
    Fault(
        "no fence between P, dS and their products",
        ("        cutlass::arch::fence_view_async_shared();\n", ""),
    ),
    # Bytes and tiles.
    Fault(
        "too few bytes announced for K and V",
        ("ring.acquire(slot, T::kBytes);", "ring.acquire(slot, T::kBytes - 64);"),
    ),
    Fault(
        "too many bytes announced for Q and gO",
        (
            "s.q_ring.acquire(q, 2 * kConsumers * T::kBytes);",
            "s.q_ring.acquire(q, 2 * kConsumers * T::kBytes + 64);",
        ),
    ),
    Fault(
        "both halves load the first queries",
        ("sizes, c, work.head", "sizes, 0, work.head"),
    ),
    Fault("latent tiles not counted from their own start", ("sizes, work.keys.local(j),", "sizes, j,")),
    Fault(
        "gradients of latent tiles not counted from their own start",
        ("work.keys.in_media(j), work.keys.local(j), who", "work.keys.in_media(j), j, who"),
    ),
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
    Fault(
        "gradients of latents with the length of the media",
        ("store(call.dk_latents, sizes.latents)", "store(call.dk_latents, sizes.media)"),
    ),
    Fault(
        "gK and gV exchanged",
        (
            "in_media ? (who == 0 ? p.dv_media : p.dk_media)",
            "in_media ? (who == 0 ? p.dk_media : p.dv_media)",
        ),
    ),
    Fault(
        "head and frame exchanged",
        ("head(number % in.sizes.heads)", "head(number / in.sizes.frames)"),
    ),
    Fault(
        "dS of the other half of the queries",
        ("fS(_, _, _, kConsumers + me)", "fS(_, _, _, kConsumers + 1 - me)"),
    ),
    Fault("P in the place of dS", ("fS(_, _, _, kConsumers + me)", "fS(_, _, _, me)")),
    Fault("gK and gV of the first half twice", ("fSt(_, _, _, left + 1)", "fSt(_, _, _, left)")),
    Fault(
        "P read without transposition",
        (
            "    Tensor sSt = make_tensor(make_smem_ptr(s.scores), LayoutSt{});\n",
            "    Tensor sSt = make_tensor(make_smem_ptr(s.scores), LayoutS{});\n",
        ),
    ),
    Fault(
        "swizzle of P that the product does not know",
        (
            "using LayoutS = typename Tiles<kTile>::template Stack<2 * kConsumers>;",
            "using LayoutS = decltype(cute::tile_to_shape(cute::GMMA::Layout_K_SW64_Atom<bf16>{}, "
            "cute::Shape<cute::_64, cute::_64, cute::_4>{}));",
        ),
    ),
    Fault(
        "16-byte columns of a staged tile exchanged",
        ("column = thread % 32 / 16 * 8;", "column = 8 - thread % 32 / 16 * 8;"),
    ),
    # Masks.
    Fault("mask off by one, too few", ("if (key >= left) return false;", "if (key > left) return false;")),
    Fault(
        "mask off by one, too many", ("if (key >= left) return false;", "if (key + 1 >= left) return false;")
    ),
    Fault("lengths hide whole tiles only", ("      if (key >= left) return false;\n", "")),
    Fault(
        "upper half of the keys unmasked", ("__ballot_sync(~0u, seen(lane + 32))", "__ballot_sync(~0u, true)")
    ),
    Fault("mask of the neighbouring columns", ("seen >> first_column(thread)", "seen >> thread % 4")),
    Fault(
        "keep mask of the first frame everywhere",
        ("p.call.in.keep + work.frame * p.call.in.keep_stride +", "p.call.in.keep +"),
    ),
    Fault("keep mask of the first tile everywhere", ("work.keys.local(j) * kTile + key)", "key)")),
    Fault("keep mask hides latents too", ("p.call.in.keep && work.keys.in_media(j);", "p.call.in.keep;")),
    Fault("lengths ignored", ("if (!in.lengths) return", "return")),
    Fault(
        "gradients beyond lengths not written",
        (
            "for (int t = work.keys.media_tiles() + rank;",
            "for (int t = work.keys.media_tiles() + rank + p.splits;",
        ),
    ),
    Fault("gradients beyond lengths not cleared", ("      clear(rounded);\n", "")),
    # Sums.
    Fault(
        "rows that saw nothing not guarded",
        ("value == -INFINITY ? INFINITY : value * kLog2E", "value * kLog2E"),
    ),
    Fault(
        "lse of rows beyond the queries",
        (
            "float const value = query < queries ? load_global(lse + query) : -INFINITY;",
            "float const value = load_global(lse + query);",
        ),
    ),
    Fault(
        "lse of the other head",
        ("* p.call.in.sizes.heads + work.head) * queries", "* p.call.in.sizes.heads) * queries"),
    ),
    Fault("lse in the wrong unit", ("INFINITY : value * kLog2E", "INFINITY : value")),
    Fault("delta of one thread, not of the quad", ("rows.delta[r] = quad_sum(sum);", "rows.delta[r] = sum;")),
    Fault("delta left out", ("scores(i) * (dp(i) - rows.delta[row_of(i)]);", "scores(i) * dp(i);")),
    Fault("delta of the other row", ("dp(i) - rows.delta[row_of(i)]", "dp(i) - rows.delta[1 - row_of(i)]")),
    Fault(
        "delta without the last channels",
        ("channel < kHeadDim;", "channel < kHeadDim - 8;"),
    ),
    Fault(
        "gK without its scale",
        ("round(dkv, who == 0 ? 1.f : p.call.in.scale, rounded);", "round(dkv, 1.f, rounded);"),
    ),
    Fault("gQ without its scale", ("round(dq, p.call.in.scale, rounded);", "round(dq, 1.f, rounded);")),
    Fault("gQ not cleared", ("      clear(dq);\n", "")),
    Fault(
        "gQ of the last tile only",
        ("fKt(_, _, _, k.stage), dq, true);", "fKt(_, _, _, k.stage), dq, false);"),
    ),
    Fault(
        "gK and gV keep the tile before",
        ("fQt(_, _, _, right), dkv, false);", "fQt(_, _, _, right), dkv, true);"),
    ),
    Fault(
        "gradient of the next tile written in the place of this one",
        (
            "        if (j > work.tiles.first) write_tile(j - 1);\n",
            "        if (j > work.tiles.first) write_tile(j);\n",
        ),
    ),
    # The way out.
    Fault("no fence before the TMA store", ("    tma_store_fence();\n", "")),
    Fault(
        "no barrier before the TMA store",
        ("    tma_store_fence();\n    sync_consumer(who);\n", "    tma_store_fence();\n"),
    ),
    Fault(
        "buffer written while a TMA store reads it",
        ("    if (thread == 0) tma_store_wait<0>();  // the tile before", "    // the tile before"),
    ),
    Fault(
        "only the thread that stores waits for the buffer",
        ("has left the buffer\n    sync_consumer(who);\n", "has left the buffer\n"),
    ),
    Fault("block ends while a TMA store reads", ("    if (thread == 0) cute::tma_store_wait<0>();", "   ")),
    Fault(
        "both consumers stage in the same buffer",
        ("LayoutGradient{})(_, _, who);", "LayoutGradient{})(_, _, 0);"),
    ),
    # Clusters.
    Fault(
        "parts of gQ left in rings that are in use",
        (
            "        sync_consumers();  // both have emptied the rings",
            "        // both have emptied the rings",
        ),
    ),
    Fault(
        "parts of gQ read before they are there",
        ("        cute::cluster_sync();\n        combine(", "        combine("),
        ("        cute::cluster_sync();\n        cute::cluster_sync();\n", "        cute::cluster_sync();\n"),
    ),
    Fault(
        "a block ends while its peers read",
        ("threadIdx.x - 128);\n        cute::cluster_sync();\n", "threadIdx.x - 128);\n"),
        ("        cute::cluster_sync();\n        cute::cluster_sync();\n", "        cute::cluster_sync();\n"),
    ),
    Fault(
        "own part of gQ for every peer",
        ("peer_shared(&s.partial[i][thread], r)", "peer_shared(&s.partial[i][thread], rank)"),
    ),
    Fault("every block reads all tiles", ("tiles(keys.tiles(), rank, splits)", "tiles(keys.tiles(), 0, 1)")),
    Fault(
        "last channels of gQ left out",
        ("i < kHeadDim / 8; i += p.splits", "i < kHeadDim / 8 - 1; i += p.splits"),
    ),
    Fault(
        "gQ written beyond the queries",
        ("if (query + 8 < p.call.in.sizes.queries)", "if (query < p.call.in.sizes.queries)"),
    ),
    # The machine.
    Fault(
        "registers given to the producer",
        (
            "warpgroup_reg_dealloc<kBackwardProducerRegisters>",
            "warpgroup_reg_dealloc<kBackwardConsumerRegisters>",
        ),
    ),
    Fault("no fence after the barriers' init", ("      cutlass::arch::fence_barrier_init();\n", "")),
    # Faults without an effect.
    Fault(
        "V released before its product has ended",
        ("        s.v_ring.release(v, lane);\n", ""),
        (
            "        finish_product<decltype(kLeft)::value>(scores);\n",
            "        s.v_ring.release(v, lane);\n        finish_product<decltype(kLeft)::value>(scores);\n",
        ),
        invisible="before V the producer fetches a K whose buffer is free only when that product has ended",
    ),
    Fault(
        "scores keep the tile before",
        ("fK(_, _, _, k.stage), scores, false);", "fK(_, _, _, k.stage), scores, true);"),
        invisible="the registers hold P of the tile before, of which a tenth is added: less than rounding",
    ),
    # What a functional simulator cannot show.
    Fault(
        "the compiler may move reads of gQ ahead of its product",
        ("        warpgroup_fence_operand(dq);\n", ""),
        invisible="the wait is there; the fence is for nvcc, behind whose back the registers change",
    ),
    Fault(
        "the compiler may move P and dS behind the wait",
        ("          s.q_ring.wait(q);\n        }\n", "        }\n"),
        invisible="the order of independent instructions: it costs time, not correctness",
    ),
]
