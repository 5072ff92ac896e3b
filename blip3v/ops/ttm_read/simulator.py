"""The same kernel sources as `cuda`, compiled for the CPU and run in the simulator (csrc/sim) on CPU tensors.

For tests: correct, counted and slow. What it cannot show is written in csrc/sim.
"""

from blip3v.ops.native_backend import in_simulator
from blip3v.ops.ttm_read import compiled

can_run, forward, backward = in_simulator(compiled)
