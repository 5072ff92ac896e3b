"""The compiled kernels of each step's ops in the simulator, for tests."""

from blip3v.ops.grouped_ttm.composed import composed_of

can_run, forward, backward = composed_of("simulator")
