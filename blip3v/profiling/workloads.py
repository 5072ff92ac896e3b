"""A request -> something to run: an op, a stage of a model, or training steps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch

from blip3v.errors import UserError
from blip3v.profiling.request import Request

After = Callable[[int], None]
"""Called after each iteration with the number of those done."""


class Workload(Protocol):
    def run(self, iterations: int, after: After) -> None: ...


class Repeated:
    """The same call again and again."""

    def __init__(self, call: Callable[[], Any]) -> None:
        self.call = call

    def run(self, iterations: int, after: After) -> None:
        for number in range(iterations):
            self.call()
            after(number + 1)


def build(request: Request) -> Workload:
    """Inputs and random weights on the device.

    Raises:
        UserError: no such device, case, encoder or token count; more than a CPU can hold.
    """
    device = device_of(request)
    torch.manual_seed(0)
    # Each needs what the others do not: an op no model, a stage no training loop.
    if request.what == "op":
        from blip3v.profiling.ops import op_call

        return Repeated(op_call(request, device))
    if request.what == "stage":
        from blip3v.profiling.stages import stage_call

        return Repeated(stage_call(request, device))
    from blip3v.profiling.steps import TrainingSteps

    return TrainingSteps(request, device)


def device_of(request: Request) -> str:
    """Raises: UserError, if a GPU was asked for and there is none."""
    there = torch.cuda.is_available()
    if request.device == "cuda" and not there:
        raise UserError(
            "--device cuda was asked for and torch sees no GPU; leave it out, or see blip3v doctor"
        )
    return request.device or ("cuda" if there else "cpu")


def dtype_of(request: Request, device: str) -> torch.dtype:
    name = request.dtype or ("bfloat16" if device == "cuda" else "float32")
    dtype: torch.dtype = getattr(torch, name)
    return dtype
