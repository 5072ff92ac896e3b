"""The Triton kernels of each step's ops."""

from blip3v.ops.grouped_ttm.composed import composed_of

can_run, forward, backward = composed_of("triton")
