"""Seeded faults of the product with GELU; tests/sim/faults.py says how they are run.

The pipeline is CUTLASS's; ours are the activation, the marshalling of arguments, the cut and the launch. The
latter two are shared by the three kernels and have their faults here.
"""

from tests.sim.faults import Fault

SOURCES = (
    "feed_forward/gelu.cuh",
    "feed_forward/activation.cuh",
    "feed_forward/product.cuh",
    "feed_forward/tiles.h",
)
UNITS = ("residual", "residual_many")
"""Other units that the problems call: the binding does both products."""

FAULTS = [
    # The activation.
    Fault("GELU of the sum before it is rounded", ("gelu(float(cutlass::bfloat16_t(sums[i])))", "gelu(sums[i])")),
    Fault("one side of the distribution for both", ("h > 0.f ? 1.f - tail : tail", "tail")),
    Fault("sides swapped", ("h > 0.f ? 1.f - tail : tail", "h > 0.f ? tail : 1.f - tail")),
    Fault("p without the root of two", ("0.3275911f * 0.70710678f", "0.3275911f")),
    Fault("a wrong digit in a coefficient", ("kA3 = 1.421413741f", "kA3 = 1.421413714f"), invisible="3e-8 is less than bfloat16 shows"),
    Fault("a wrong sign of a coefficient", ("kA4 = -1.453152027f", "kA4 = 1.453152027f")),
    Fault("exp(-h^2) instead of exp(-h^2 / 2)", ("kHalfLog2E = 0.72134752f", "kHalfLog2E = 1.44269504f")),
    Fault("tail not halved", ("float const tail = 0.5f * t", "float const tail = t")),
    Fault("h for its absolute value", ("float const x = fabsf(h);", "float const x = h;")),
    Fault("Phi without its factor h", ("return h * normal(h).below;", "return normal(h).below;")),
    # What is given to the product.
    Fault("h and a swapped", ("(call.h.data)", "(call.a.data)"), ("Matrix{}, call.a)", "Matrix{}, call.h)")),
    Fault("h never written", ("(call.h.data)", "(call.a.data)")),
    Fault("stride of h is that of z", ("P::row_major(call.h)", "P::row_major(call.z)")),
    Fault("rows and columns swapped", ("call.sizes.rows, call.sizes.hidden,", "call.sizes.hidden, call.sizes.rows,")),
    Fault("depth of the other product", ("call.sizes.hidden, call.sizes.width,", "call.sizes.hidden, call.sizes.hidden,")),
    Fault("eight channels forgotten", ("call.sizes.hidden, call.sizes.width,", "call.sizes.hidden, call.sizes.width - 8,")),
    Fault("last row forgotten", ("P::params(call.sizes.rows,", "P::params(call.sizes.rows - 1,")),
    Fault("operands swapped", ("call.z, call.w1, tree", "call.w1, call.z, tree")),
    Fault("w1 read transposed", ("Product<Cut, Operand::kAsStored,", "Product<Cut, Operand::kTransposed,")),
    Fault("stride of a is that of b", ("in(a), row_major(a), in(b)", "in(a), row_major(b), in(b)")),
    Fault("stride of d is that of a", ("arguments.epilogue.dD = row_major(d);", "arguments.epilogue.dD = row_major(a);")),
    Fault("columns apart by two", ("return cute::make_stride(matrix.row, cute::_1{}, std::int64_t(0));",
                                   "return cute::make_stride(2 * matrix.row, cute::_1{}, std::int64_t(0));")),
    # The cut and the launch.
    Fault("launched without a cluster", ("Cut::cluster(),", "dim3(1),")),
    Fault("cluster lies the other way", ("return {kClusterM, kClusterN, 1};", "return {kClusterN, kClusterM, 1};")),
    Fault("too little shared memory", ("sizeof(typename Product::Shared)}", "sizeof(typename Product::Shared) - 4096}")),
    Fault("a warpgroup too few", ("Kernel::get_block_shape()", "dim3(256)")),
    Fault("one block of each cluster", ("Kernel::get_grid_shape(params)", "dim3(1)")),
    Fault("tiles written by half swizzles, off their period", ("kN % 64 == 0 ? 64 : 32", "32")),
]  # fmt: skip
