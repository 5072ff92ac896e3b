"""No kernel is reached with an argument that was not checked: what the binding refuses, and in which words.

Through blip3v._sim, which has the same binding as blip3v._C and needs no GPU.
"""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch

from blip3v.ops.tensor_description import describe

OP = "blip3v: resampler_attention: "


def normal(*shape: int) -> torch.Tensor:
    return torch.randn(shape).bfloat16()


def arguments(frames=2, queries=16, heads=2, dim=64, media=20, latents=8) -> dict[str, Any]:
    return {
        "q": normal(frames, queries, heads, dim),
        "k_media": normal(frames, media, heads, dim),
        "v_media": normal(frames, media, heads, dim),
        "k_latents": normal(frames, latents, heads, dim),
        "v_latents": normal(frames, latents, heads, dim),
        "lengths": None,
        "keep": None,
        "out": normal(frames, queries, heads, dim),
        "lse": torch.zeros(frames, heads, queries),
        "scale": 0.125,
        "splits": 0,
        "stream": 0,
    }


def call(module, **changes: Any) -> None:
    given = arguments() | changes
    described = {
        name: describe(module, value) if isinstance(value, torch.Tensor) else value
        for name, value in given.items()
    }
    module.resampler_attention_forward(**described)


def test_what_fits_is_taken(simulator_module):
    call(simulator_module)


def strided_channels() -> torch.Tensor:
    return normal(2, 20, 2, 128)[..., ::2]


def unaligned() -> torch.Tensor:
    return normal(2 * 20 * 2 * 64 + 1)[1:].view(2, 20, 2, 64)


REFUSED = {
    "dtype": ({"k_media": normal(2, 20, 2, 64).float()}, "k_media has the wrong dtype (got float32, need bf"),
    "shape": (
        {"v_media": normal(2, 21, 2, 64)},
        "v_media has the wrong shape (got [2, 21, 2, 64], need [2, 20, 2, 64])",
    ),
    "dimensions": ({"q": normal(2, 16, 128)}, "q has the wrong number of dimensions (got 3, need 4"),
    "channels apart": (
        {"k_media": strided_channels()},
        "k_media has a strided last dimension (got 2, need 1",
    ),
    "address": ({"k_media": unaligned()}, "k_media starts at an unaligned address (got 2 bytes past 16"),
    "rows apart": ({"v_media": normal(2, 20, 2, 65)[..., :64]}, "v_media has strides that TMA cannot take"),
    "expanded": ({"v_media": normal(1, 20, 2, 64).expand(2, -1, -1, -1)}, "v_media has strides that TMA"),
    "queries": (arguments(queries=129), "queries (got 129, need 1 to 128)"),
    "head dimension": (arguments(dim=80), "head dimension (got 80, need 64, 72, 96, 128 or 144)"),
    "no keys": (arguments(media=0, latents=0), "media and latent keys together (got 0, need 1 to"),
    "splits": ({"splits": 9}, "splits (got 9, need 0 to 8)"),
    "scale": ({"scale": -1.0}, "scale (got -1.000000, need a finite number above 0)"),
    "no scale": ({"scale": float("nan")}, "scale (got nan"),
    "lengths": (
        {"lengths": torch.tensor([1.0, 2.0])},
        "lengths has the wrong dtype (got float32, need int32)",
    ),
    "keep": ({"keep": torch.ones(2, 19, dtype=torch.uint8)}, "keep has the wrong shape (got [2, 19], need"),
    "lse": ({"lse": torch.zeros(2, 16, 2).transpose(1, 2)}, "lse is not contiguous"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_does_not_fit_is_refused_with_what_came_and_what_was_wanted(simulator_module, name):
    changes, message = REFUSED[name]
    with pytest.raises((RuntimeError, ValueError), match=re.escape(OP + message)):
        call(simulator_module, **changes)


def test_a_null_pointer_and_another_device_are_refused(simulator_module):
    tensor = simulator_module.Tensor
    null = tensor(0, "bfloat16", "cpu", 0, (2, 20, 2, 64), (2560, 128, 64, 1))
    with pytest.raises(RuntimeError, match="k_media has no memory"):
        call(simulator_module, k_media=null)
    elsewhere = tensor(4096, "bfloat16", "cuda", 0, (2, 20, 2, 64), (2560, 128, 64, 1))
    with pytest.raises(RuntimeError, match=r"k_media is on the wrong device \(got cuda, need cpu\)"):
        call(simulator_module, k_media=elsewhere)
