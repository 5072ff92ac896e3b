"""What the compiled kernels are given: descriptions that lead back to the same numbers, and refusals.

A module written here stands in for the compiled one. Every tensor reaches it as address, type, sizes and
strides; torch serves it only to read that memory.
"""

from __future__ import annotations

import ctypes
from math import prod
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from blip3v import native
from blip3v.ops import tensor_description
from blip3v.ops.resampler_attention import compiled, reference, simulator
from blip3v.ops.resampler_attention.arguments import Arguments
from blip3v.testing.cases.resampler_attention import CASES, SMALL, AttentionCase


class Described(NamedTuple):
    data_ptr: int
    dtype: str
    device: str
    device_index: int
    sizes: tuple[int, ...]
    strides: tuple[int, ...]

    def view(self) -> Tensor:
        """The memory behind the description."""
        dtype = getattr(torch, self.dtype)
        if prod(self.sizes) == 0:
            return torch.empty(self.sizes, dtype=dtype)
        last = sum((size - 1) * stride for size, stride in zip(self.sizes, self.strides))
        memory = (ctypes.c_byte * ((last + 1) * dtype.itemsize)).from_address(self.data_ptr)
        return torch.frombuffer(memory, dtype=dtype).as_strided(self.sizes, self.strides)


class StandIn:
    """Has the interface of `blip3v._C`, and the formula of the reference."""

    __name__ = "stand_in"
    Tensor = Described
    resampler_attention_head_dims = (64, 72, 96, 128, 144)

    def resampler_attention_forward(self, *call) -> None:
        *described, scale, splits, stream = call
        assert (splits, stream) == (0, 7)
        *inputs, out, lse = self.views(described)
        for written, result in zip((out, lse), reference.forward(*self.masks(inputs), scale)):
            written.copy_(result)

    def resampler_attention_backward(self, *call) -> None:
        *described, scale, splits, stream = call
        assert (splits, stream) == (0, 7)
        *inputs, out, lse, dout, dq, dk_media, dv_media, dk_latents, dv_latents = self.views(described)
        results = reference.backward(dout, *self.masks(inputs), out, lse, scale)
        for written, result in zip((dq, dk_media, dv_media, dk_latents, dv_latents), results):
            written.copy_(result)

    @staticmethod
    def views(described: list[Described | None]) -> list[Tensor | None]:
        return [None if d is None else d.view() for d in described]

    @staticmethod
    def masks(inputs: list[Tensor | None]) -> tuple[Tensor | None, ...]:
        *rest, lengths, keep = inputs
        assert lengths is None or lengths.dtype == torch.int32
        assert keep is None or keep.dtype == torch.uint8
        return *rest, lengths, None if keep is None else keep.bool()


@pytest.mark.parametrize("case", SMALL, ids=lambda case: case.name)
def test_descriptions_lead_to_the_same_numbers(case: AttentionCase) -> None:
    inputs = case.build(torch.bfloat16)
    call, module = Arguments(*inputs[:7]), StandIn()
    assert compiled.accepts(module, *call) == (True, "")
    out, lse = compiled.forward(module, 7, *call, 0.2)
    expected, expected_lse = reference.forward(*call, 0.2)
    assert torch.equal(out, expected) and torch.equal(lse, expected_lse)
    gradients = compiled.backward(module, 7, inputs.dout, *call, out, lse, 0.2)
    for got, wanted in zip(gradients, reference.backward(inputs.dout, *call, out, lse, 0.2)):
        assert torch.equal(got, wanted) and got.is_contiguous()


def test_a_gradient_that_comes_from_a_sum_is_made_dense() -> None:
    inputs = CASES["ragged"].build(torch.bfloat16)
    call, module = Arguments(*inputs[:7]), StandIn()
    out, lse = compiled.forward(module, 7, *call, 0.2)
    ones = torch.ones((), dtype=torch.bfloat16).expand(out.shape)
    gradients = compiled.backward(module, 7, ones, *call, out, lse, 0.2)
    for got, wanted in zip(gradients, reference.backward(ones, *call, out, lse, 0.2)):
        assert torch.equal(got, wanted)


def test_masks_of_any_stride_are_taken() -> None:
    case = CASES["lengths_and_keep"]
    inputs = case.build(torch.bfloat16)
    call = Arguments(*inputs[:7])
    strided = call._replace(
        lengths=call.lengths.repeat_interleave(2)[::2], keep=call.keep.t().contiguous().t()
    )
    plain, _ = compiled.forward(StandIn(), 7, *call, 0.2)
    assert torch.equal(plain, compiled.forward(StandIn(), 7, *strided, 0.2)[0])


def wide(*shape: int) -> Tensor:
    return torch.zeros(shape, dtype=torch.bfloat16)


@pytest.mark.parametrize(
    "changes, reason",
    [
        ({"q": torch.zeros(2, 5, 2, 64)}, "torch.float32, need bfloat16"),
        ({"q": wide(2, 5, 2, 80)}, "80 channels per head, need one of 64, 72, 96, 128, 144"),
        ({"q": wide(2, 129, 2, 64)}, "129 queries, need at most 128"),
        (
            {"k_media": wide(2, 7, 64, 2).transpose(2, 3)},
            "k_media: its channels are 2 elements apart, need 1",
        ),
        ({"v_media": wide(2, 7, 2, 65)[..., 1:]}, "v_media: it starts 2 bytes into its memory"),
        ({"v_media": wide(2, 7, 2, 65)[..., :64]}, "v_media: stride 910 of axis 0, need a positive multiple"),
        ({"k_latents": wide(2, 1, 2, 64).expand(2, 3, 2, 64)}, "k_latents: stride 0 of axis 1"),
    ],
)
def test_refusals_say_what_is_wrong(changes: dict, reason: str) -> None:
    call = Arguments(wide(2, 5, 2, 64), *[wide(2, 7, 2, 64)] * 2, *[wide(2, 3, 2, 64)] * 2)
    assert compiled.accepts(StandIn(), *call).ok
    answer = compiled.accepts(StandIn(), *call._replace(**changes))
    assert not answer.ok and reason in answer.reason


def test_strides_of_axes_of_one_and_of_nothing_do_not_matter() -> None:
    q = wide(2, 5, 2, 64)[:1].as_strided((1, 5, 2, 64), (3, 128, 64, 1))
    media = wide(1, 0, 2, 64).as_strided((1, 0, 2, 64), (3, 3, 3, 3))
    call = Arguments(q, media, media, *[wide(1, 3, 2, 64)] * 2)
    assert compiled.accepts(StandIn(), *call).ok


def test_a_module_without_the_kernels_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    class Empty:
        __name__ = "blip3v._sim"

    monkeypatch.setattr(native, "load_simulator", Empty)
    answer = simulator.can_run(*Arguments(*[wide(2, 5, 2, 64)] * 5))
    assert answer == (False, "blip3v._sim was built without the kernels of resampler_attention")


def test_a_description_is_plain_data() -> None:
    tensor = torch.zeros(3, 4, dtype=torch.bool)[:, 1:]
    assert tensor_description.describe(StandIn(), None) is None
    assert tensor_description.describe(StandIn(), tensor) == (
        tensor.data_ptr(), "uint8", "cpu", 0, (3, 3), (4, 1),
    )  # fmt: skip
