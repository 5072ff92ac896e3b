"""The compiled kernels (csrc/grouped_attention) on CUDA tensors.

They have run in the simulator and been compiled for sm_90a, not yet run on a GPU.
"""

from blip3v.ops.grouped_attention import compiled
from blip3v.ops.native_backend import on_gpu

can_run, forward, backward = on_gpu(compiled)
