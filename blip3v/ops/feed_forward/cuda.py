"""The compiled Hopper kernels (csrc/feed_forward) on CUDA tensors.

They have run in the simulator and been compiled for sm_90a, not yet run on a GPU.
"""

from blip3v.ops.feed_forward import compiled
from blip3v.ops.native_backend import on_gpu

can_run, forward, backward, input_backward = on_gpu(compiled, "input_backward")
