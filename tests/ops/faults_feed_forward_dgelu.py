"""Seeded faults of the product with GELU's derivative; those of the shared parts: faults_feed_forward_gelu.py."""

from tests.sim.faults import Fault

SOURCES = ("feed_forward/dgelu.cuh", "feed_forward/activation.cuh", "feed_forward/product.cuh")

FAULTS = [
    Fault("derivative without h phi(h)", ("return n.below + h * n.density;", "return n.below;")),
    Fault("h phi(h) subtracted", ("return n.below + h * n.density;", "return n.below - h * n.density;")),
    Fault("density without h", ("return n.below + h * n.density;", "return n.below + n.density;")),
    Fault("density of another distribution", ("kInverseRoot2Pi = 0.39894228f", "kInverseRoot2Pi = 0.79788456f")),
    Fault("GELU instead of its derivative", ("sums[i] * dgelu(h[i])", "sums[i] * gelu(h[i])")),
    Fault("sum and h swapped", ("sums[i] * dgelu(h[i])", "h[i] * dgelu(sums[i])")),
    Fault("the sum forgotten", ("sums[i] * dgelu(h[i])", "dgelu(h[i])")),
    Fault("a of the sum instead of h", ("Sm90Compute<Gelu, float, float, kNearest>, H>>", "Sm90Compute<Gelu, float, float, kNearest>, Sm90AccFetch>>")),
    Fault("a not written", ("Sm90AccFetch, H, A>;", "Sm90AccFetch, H, H>;"), ("tree{\n      {}, {}, {{{}, {}}, {static_cast<bf16*>(call.a.data), P::row_major(call.a)}}, {}};", "tree{};")),
    Fault("w2 read as it is stored", ("Operand::kTransposed, typename", "Operand::kAsStored, typename")),
    Fault("stride of a transposed operand forgotten", ("cute::make_stride(cute::_1{}, matrix.row, std::int64_t(0))", "cute::make_stride(cute::_1{}, matrix.row + 8, std::int64_t(0))")),
    Fault("a and dh swapped", ("call.h, call.dh)", "call.h, call.a)"), ("(call.a.data), P", "(call.dh.data), P")),
    Fault("dh for h", ("call.h, call.dh)", "call.dh, call.dh)")),
    Fault("a over dh", ("(call.a.data), P", "(call.dh.data), P")),
    Fault("depth of the other product", ("call.sizes.hidden, call.sizes.width,", "call.sizes.hidden, call.sizes.hidden,")),
    Fault("last row forgotten", ("P::params(call.sizes.rows,", "P::params(call.sizes.rows - 1,")),
]  # fmt: skip
