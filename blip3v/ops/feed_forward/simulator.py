"""The same kernel sources as `cuda`, compiled for the CPU and run in the simulator (csrc/sim) on CPU tensors.

For tests: correct, counted and slow. What it cannot show is written in csrc/sim.
"""

from blip3v.ops.feed_forward import compiled
from blip3v.ops.native_backend import in_simulator

can_run, forward, backward, input_backward = in_simulator(compiled, "input_backward")
