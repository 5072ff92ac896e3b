"""The same kernel sources as `cuda`, compiled for the CPU and run in the simulator (csrc/sim) on CPU tensors.

For tests: correct, counted and slow. What it cannot show is written in csrc/sim.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from blip3v import native
from blip3v.errors import UserError
from blip3v.ops.registry import Answer
from blip3v.ops.resampler_attention import compiled
from blip3v.ops.resampler_attention.arguments import Arguments

NO_STREAM = 0


def can_run(*tensors: Tensor | None) -> Answer:
    arguments = Arguments(*tensors)  # type: ignore[arg-type]
    if arguments.q.device.type != "cpu":
        return Answer(False, f"the tensors are on {arguments.q.device}, need the CPU")
    try:
        module = native.load_simulator()
    except UserError as error:
        return Answer(False, str(error))
    return compiled.accepts(module, arguments)


def forward(*tensors_and_scale: Any) -> tuple[Tensor, Tensor]:
    """The seven `Arguments` and the scale -> out, lse."""
    *tensors, scale = tensors_and_scale
    return compiled.forward(native.load_simulator(), Arguments(*tensors), scale, NO_STREAM)


def backward(dout: Tensor, *tensors_and_rest: Any) -> tuple[Tensor, ...]:
    """dout, the seven `Arguments`, out, lse, scale -> the five gradients."""
    *tensors, out, lse, scale = tensors_and_rest
    return compiled.backward(native.load_simulator(), dout, Arguments(*tensors), out, lse, scale, NO_STREAM)
