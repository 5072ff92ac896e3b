"""The compiled kernels of each step's ops on CUDA tensors; products by cuBLAS. Not yet run on a GPU."""

from blip3v.ops.grouped_ttm.composed import composed_of

can_run, forward, backward = composed_of("cuda")
