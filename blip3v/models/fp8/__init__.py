"""FP8 matrix products of a frozen SigLIP: e4m3 rows of activations times e4m3 rows of weights.

    rows.py            the formulas: a matrix as e4m3 numbers with one float32 scale a row
    triton_kernels.py  LayerNorm, GELU or nothing, and the rounding behind it, in one pass
    fused.py           which of the two runs
    linear.py          Fp8Linear: the product
    layer.py           Fp8Layer: an encoder layer made of them
    check.py           GPU and formulas compared before a GPU is trusted

Rounded are the four products of an encoder layer (q k v together, output, and the two of the feed-forward),
90% of SigLIP's FLOPs. The patch embedding, all norms, the attention core and the residual stream stay in the
tower's dtype. Weights are rounded once, because they are frozen; they are copies, and the model that they
come from keeps its own, which is what checkpoints and exports write.

Memory: a byte a weight and four a row of them, 0.41 GB for SigLIP so400m, beside the model's own 1.7 GB in
float32, which may lie on the host meanwhile. The same tower in bfloat16 has 0.82 GB.

None of this has run on a GPU yet. On a CPU the same arithmetic is emulated: slower than float32, for tests.
"""

from __future__ import annotations

from blip3v.models.fp8.layer import Fp8Layer
from blip3v.models.fp8.linear import Fp8Linear
from blip3v.models.fp8.rows import Rows

__all__ = ["Fp8Layer", "Fp8Linear", "Rows"]
