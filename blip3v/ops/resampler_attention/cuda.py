"""The compiled Hopper kernels (csrc/resampler_attention) on CUDA tensors.

They have run in the simulator and been compiled for sm_90a, not yet run on a GPU.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from blip3v import native
from blip3v.ops.registry import Answer
from blip3v.ops.resampler_attention import compiled
from blip3v.ops.resampler_attention.arguments import Arguments

CAPABILITY = (9, 0)


def can_run(*tensors: Tensor | None) -> Answer:
    arguments = Arguments(*tensors)  # type: ignore[arg-type]
    device = arguments.q.device
    if device.type != "cuda":
        return Answer(False, f"the tensors are on {device}, need a CUDA device of compute capability 9.0")
    capability = torch.cuda.get_device_capability(device)
    if capability != CAPABILITY:
        return Answer(False, f"compute capability {capability}, need {CAPABILITY}")
    ok, reason = native.kernels_run(device.index or 0)
    if not ok:
        return Answer(False, reason)
    return compiled.accepts(native.load(), arguments)


def forward(*tensors_and_scale: Any) -> tuple[Tensor, Tensor]:
    """The seven `Arguments` and the scale -> out, lse, on the current stream."""
    *tensors, scale = tensors_and_scale
    arguments = Arguments(*tensors)
    with torch.cuda.device(arguments.q.device):
        return compiled.forward(native.load(), arguments, scale, torch.cuda.current_stream().cuda_stream)


def backward(dout: Tensor, *tensors_and_rest: Any) -> tuple[Tensor, ...]:
    """dout, the seven `Arguments`, out, lse, scale -> the five gradients, on the current stream."""
    *tensors, out, lse, scale = tensors_and_rest
    arguments = Arguments(*tensors)
    with torch.cuda.device(dout.device):
        stream = torch.cuda.current_stream().cuda_stream
        return compiled.backward(native.load(), dout, arguments, out, lse, scale, stream)
