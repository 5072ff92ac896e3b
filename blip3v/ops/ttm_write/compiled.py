"""What the compiled kernels need and how they are called, the same for the GPU and for the simulator."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from blip3v.ops.registry import Answer
from blip3v.ops.tensor_description import NAMES, describe
from blip3v.ops.ttm_read.compiled import as_dense, as_row, empty_group, fits
from blip3v.ops.ttm_write.arguments import ROWS, Arguments


def accepts(module: Any, *tensors: Tensor | None) -> Answer:
    """Whether the kernels of `module` take these tensors; the first thing that they do not is the reason."""
    arguments = Arguments(*tensors)  # type: ignore[arg-type]
    memory, processed = arguments.memory, arguments.processed
    views = {
        name: tensor for name, tensor in arguments._asdict().items() if name in ROWS and tensor is not None
    }
    answer = fits(module.ttm_write_widths, memory, views)
    if not answer.ok:
        return answer
    slots, width = memory.shape[2:]
    hidden, rows, most = arguments.w1.shape[0], processed.shape[2], module.ttm_write_most_processed
    if hidden != 2 * slots:
        return Answer(False, f"{hidden} hidden channels, need twice the memory slots, {2 * slots}")
    if rows > most:
        return Answer(False, f"{rows} processed rows, need at most {most}")
    needed = max(module.ttm_write_shared_bytes(NAMES[memory.dtype], slots, rows, width))
    if needed > module.ttm_write_most_shared_bytes:
        most = module.ttm_write_most_shared_bytes
        return Answer(
            False, f"{slots} + {rows} rows of {width} channels take {needed} bytes, a block has {most}"
        )
    return Answer(True)


def forward(module: Any, stream: int, *inputs_and_eps: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The twelve `Arguments` and eps -> group, normed [B,S,G+1,D]; mean, rstd [B,S,G+1] float32.

    Without a frame the new memory [B,S,G,D] and three empty tensors.
    """
    *inputs, eps = inputs_and_eps
    arguments = Arguments(*inputs)
    memory, frame = arguments.memory, arguments.frame
    results: tuple[Tensor | None, ...]
    if frame is None:
        results = (memory.new_empty(memory.shape), None, None, None)
    else:
        results = empty_group(memory)
    stamp = as_row(arguments.stamp, memory.dtype)
    norm = (as_row(arguments.norm_weight), as_row(arguments.norm_bias))
    tensors = (memory, arguments.processed, *_learned(arguments), frame, stamp, *norm, *results)
    module.ttm_write_forward(*(describe(module, tensor) for tensor in tensors), eps, stream)
    if frame is not None:
        return results  # type: ignore[return-value]
    nothing = (memory.new_empty(0, dtype=dtype) for dtype in (memory.dtype, torch.float32, torch.float32))
    return results[0], *nothing  # type: ignore[return-value]


def backward(
    module: Any, stream: int, dgroup: Tensor, dnormed: Tensor | None, *inputs_and_rest: Any
) -> tuple[Tensor | None, ...]:
    """dgroup, dnormed, the twelve `Arguments`, group, mean, rstd, eps -> the gradients of all but the stamp.

    They are contiguous; without a frame dnormed, group, mean and rstd do not count, and the last three are
    None. The kernel leaves the gradients of the parameters as sums of each block, which torch adds up.
    """
    *inputs, group, mean, rstd, eps = inputs_and_rest
    arguments = Arguments(*inputs)
    memory, processed = arguments.memory, arguments.processed
    videos, positions, slots, width = memory.shape
    dmemory, dprocessed = memory.new_empty(memory.shape), processed.new_empty(processed.shape)
    dframe = None
    norm: tuple[Tensor | None, ...] = (None,) * 4
    if arguments.frame is None:
        dnormed = None
    else:
        dframe = memory.new_empty((videos, positions, width))
        dnormed = as_dense(dnormed)  # type: ignore[arg-type]
        norm = (as_row(arguments.norm_weight), as_dense(group), mean, rstd)
    hidden = 2 * slots
    blocks = module.ttm_write_blocks(videos * positions)
    sizes = [width] * 4 + [hidden * width, width, width, slots * hidden, -slots * hidden % 4]
    partial = memory.new_empty((blocks, sum(sizes)), dtype=torch.float32)
    given = (as_dense(dgroup), dnormed, memory, processed, *_learned(arguments), *norm)
    tensors = (*given, dmemory, dprocessed, dframe, partial)
    module.ttm_write_backward(*(describe(module, tensor) for tensor in tensors), eps, stream)
    *learned, dw1, dweight, dbias, dw2, _ = partial.sum(0).split(sizes)
    own = (*learned, dw1, dw2)
    parameters = [_like(gradient, parameter) for gradient, parameter in zip(own, arguments[2:8])]
    if arguments.frame is None:
        return dmemory, dprocessed, *parameters, None, None, None
    affine = (_like(dweight, arguments.norm_weight), _like(dbias, arguments.norm_bias))
    return dmemory, dprocessed, *parameters, dframe, *affine


def _learned(arguments: Arguments) -> list[Tensor | None]:
    return [as_row(parameter) for parameter in arguments[2:8]]


def _like(gradient: Tensor, parameter: Tensor | None) -> Tensor:
    """In the shape and the type of its parameter, and in memory of its own."""
    assert parameter is not None
    return gradient.view(parameter.shape).to(parameter.dtype, copy=True)
