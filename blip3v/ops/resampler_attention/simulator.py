"""The same kernel sources as `cuda`, compiled for the CPU and run in the simulator (csrc/sim) on CPU tensors.

For tests: correct, counted and slow. What it cannot show is written in csrc/sim.
"""

from __future__ import annotations

import functools
import importlib
from types import ModuleType
from typing import Any

from torch import Tensor

from blip3v.ops.registry import Answer
from blip3v.ops.resampler_attention import compiled
from blip3v.ops.resampler_attention.arguments import Arguments

NO_STREAM = 0


@functools.cache
def _load() -> ModuleType | str:
    """The module `blip3v._sim`, or why there is none."""
    try:
        return importlib.import_module("blip3v._sim")
    except ImportError as error:
        return f"blip3v._sim cannot be imported ({error}): build it with BLIP3V_SIM=1, see CONTRIBUTING.md"


def can_run(*tensors: Tensor | None) -> Answer:
    arguments = Arguments(*tensors)  # type: ignore[arg-type]
    if arguments.q.device.type != "cpu":
        return Answer(False, f"the tensors are on {arguments.q.device}, need the CPU")
    module = _load()
    return Answer(False, module) if isinstance(module, str) else compiled.accepts(module, arguments)


def forward(*tensors_and_scale: Any) -> tuple[Tensor, Tensor]:
    """The seven `Arguments` and the scale -> out, lse."""
    *tensors, scale = tensors_and_scale
    return compiled.forward(_load(), Arguments(*tensors), scale, NO_STREAM)


def backward(dout: Tensor, *tensors_and_rest: Any) -> tuple[Tensor, ...]:
    """dout, the seven `Arguments`, out, lse, scale -> the five gradients."""
    *tensors, out, lse, scale = tensors_and_rest
    return compiled.backward(_load(), dout, Arguments(*tensors), out, lse, scale, NO_STREAM)
