"""The compiled kernels (csrc/ttm_read) on CUDA tensors.

They have run in the simulator and been compiled for sm_90a, not yet run on a GPU.
"""

from blip3v.ops.native_backend import on_gpu
from blip3v.ops.ttm_read import compiled

can_run, forward, backward = on_gpu(compiled)
