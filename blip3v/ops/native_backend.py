"""The backends `cuda` and `simulator` of an op, from what the op says once of its compiled kernels.

An op's module `compiled` holds `accepts(module, *arguments) -> Answer`, `forward(module, stream, *arguments)`
and `backward(module, stream, *arguments)`, and further functions where the op has more. `module` is
`blip3v._C` or `blip3v._sim`, which have the same functions. The first argument is a tensor, on the device
that decides.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from types import ModuleType
from typing import Any

import torch

from blip3v import native
from blip3v.errors import UserError
from blip3v.ops.registry import Answer

CAPABILITY = (9, 0)
ALIGNMENT = 16
"""Bytes: what the tensor memory accelerator and 16-byte accesses ask of addresses and strides."""

NO_STREAM = 0

Functions = tuple[Callable[..., Any], ...]


def on_gpu(compiled: ModuleType, *more: str) -> Functions:
    """-> can_run, forward, backward and those named in `more`, on CUDA tensors, on the current stream."""

    def can_run(*arguments: Any) -> Answer:
        device = arguments[0].device
        if device.type != "cuda":
            return Answer(False, f"the tensors are on {device}, need a CUDA device of compute capability 9.0")
        capability = torch.cuda.get_device_capability(device)
        if capability != CAPABILITY:
            return Answer(False, f"compute capability {capability}, need {CAPABILITY}")
        ok, reason = native.kernels_run(device.index or 0)
        if not ok:
            return Answer(False, reason)
        return _accepts(compiled, native.load(), arguments)

    def run(function: Callable[..., Any], *arguments: Any) -> Any:
        with torch.cuda.device(arguments[0].device):
            return function(native.load(), torch.cuda.current_stream().cuda_stream, *arguments)

    return can_run, *(partial(run, getattr(compiled, name)) for name in ("forward", "backward", *more))


def in_simulator(compiled: ModuleType, *more: str) -> Functions:
    """-> can_run, forward, backward and those named in `more`, on CPU tensors in the simulator (csrc/sim)."""

    def can_run(*arguments: Any) -> Answer:
        device = arguments[0].device
        if device.type != "cpu":
            return Answer(False, f"the tensors are on {device}, need the CPU")
        try:
            module = native.load_simulator()
        except UserError as error:
            return Answer(False, str(error))
        return _accepts(compiled, module, arguments)

    def run(function: Callable[..., Any], *arguments: Any) -> Any:
        return function(native.load_simulator(), NO_STREAM, *arguments)

    return can_run, *(partial(run, getattr(compiled, name)) for name in ("forward", "backward", *more))


def _accepts(compiled: ModuleType, module: ModuleType, arguments: tuple[Any, ...]) -> Answer:
    op = compiled.__name__.split(".")[-2]
    if not hasattr(module, f"{op}_forward"):
        return Answer(False, f"{module.__name__} was built without the kernels of {op}")
    answer: Answer = compiled.accepts(module, *arguments)
    return answer


def misfit(tensor: torch.Tensor) -> str:
    """What the kernels cannot take about a tensor's layout, or nothing.

    Its last dimension must be contiguous and all else lie at multiples of `ALIGNMENT` bytes. Strides along an
    axis of one do not matter.
    """
    if tensor.numel() == 0:
        return ""
    if tensor.stride(-1) != 1:
        return f"its channels are {tensor.stride(-1)} elements apart, need 1"
    size = tensor.element_size()
    # Memory that torch allocates is aligned; so the offset in it says enough, and a fake tensor has one too.
    offset = tensor.storage_offset() * size
    if offset % ALIGNMENT:
        return f"it starts {offset} bytes into its memory, need a multiple of {ALIGNMENT}"
    for axis, stride in enumerate(tensor.stride()[:-1]):
        if tensor.shape[axis] > 1 and (stride * size % ALIGNMENT or stride <= 0):
            return f"stride {stride} of axis {axis}, need a positive multiple of {ALIGNMENT} bytes"
    return ""
