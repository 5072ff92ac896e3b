"""The compiled Hopper kernels (csrc/token_learner) on CUDA tensors.

They have run in the simulator and been compiled for sm_90a, not yet run on a GPU.
"""

from blip3v.ops.native_backend import on_gpu
from blip3v.ops.token_learner import compiled

can_run, forward, backward = on_gpu(compiled)
