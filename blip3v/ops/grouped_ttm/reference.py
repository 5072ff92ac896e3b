"""Plain PyTorch, step by step; every other backend is this recurrence over other kernels."""

from blip3v.ops.grouped_ttm.composed import composed_of

can_run, forward, backward = composed_of("reference")
