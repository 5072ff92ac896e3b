"""Seeded faults of the product with the residual; those of the shared parts are in faults_feed_forward_gelu.py."""

from tests.sim.faults import Fault

SOURCES = ("feed_forward/residual.cuh", "feed_forward/product.cuh")
UNITS = ("gelu", "gelu_many")
"""Other units that the problems call: the binding does both products."""

FAULTS = [
    Fault("residual subtracted", ("Sm90Compute<cutlass::plus,", "Sm90Compute<cutlass::minus,")),
    Fault("residual multiplied", ("Sm90Compute<cutlass::plus,", "Sm90Compute<cutlass::multiplies,")),
    Fault("residual forgotten", ("Sm90SrcFetch<bf16>, Sm90AccFetch>", "Sm90AccFetch, Sm90AccFetch>")),
    Fault("residual and out swapped", ("call.residual, call.out)", "call.out, call.residual)")),
    Fault("out added to itself", ("call.residual, call.out)", "call.out, call.out)")),
    Fault("stride of c is that of a", ("arguments.epilogue.dC = row_major(c);", "arguments.epilogue.dC = row_major(a);")),
    Fault("c not given", ("arguments.epilogue.ptr_C = in(c);", "")),
    Fault("width and hidden swapped", ("call.sizes.width, call.sizes.hidden,", "call.sizes.hidden, call.sizes.width,")),
    Fault("last eight columns forgotten", ("call.sizes.rows, call.sizes.width,", "call.sizes.rows, call.sizes.width - 8,")),
    Fault("last eight hidden channels forgotten", ("call.sizes.hidden, call.a,", "call.sizes.hidden - 8, call.a,")),
    Fault("operands swapped", ("call.a, call.w2,", "call.w2, call.a,")),
    Fault("w2 read transposed", ("Product<Cut, Operand::kAsStored,", "Product<Cut, Operand::kTransposed,")),
    Fault("more blocks at a time than there are", ("clusters * Cut::kClusterSize;", "multiprocessors();")),
]  # fmt: skip
