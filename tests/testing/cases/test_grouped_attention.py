"""Cases are what their names say, and the same every time."""

from __future__ import annotations

import pytest
import torch

from blip3v.testing.cases.grouped_attention import CASES, LARGE, SMALL, GroupCase


def test_names_are_unique() -> None:
    assert len(CASES) == len(SMALL) + len(LARGE)


@pytest.mark.parametrize("case", SMALL, ids=lambda case: case.name)
def test_shapes_dtypes_and_alignment(case: GroupCase) -> None:
    inputs = case.build(torch.bfloat16)
    for tensor in (inputs.x, inputs.dy, inputs.dz):
        assert tensor.shape == (case.groups, case.tokens, case.heads * case.dim)
        assert tensor.dtype == torch.bfloat16
    assert inputs.qkv.shape == (case.groups, case.tokens, 3, case.heads, case.dim)
    assert inputs.norm_weight.shape == inputs.norm_bias.shape == (case.width,)
    assert inputs.norm_weight.dtype == (torch.float32 if case.wide_norm else torch.bfloat16)
    # Every backend takes every case: two channels at a time.
    for tensor in (inputs.x, inputs.qkv):
        assert tensor.stride(-1) == 1 and tensor.storage_offset() % 2 == 0
        assert all(stride % 2 == 0 for stride in tensor.stride()[:2])


def test_the_same_numbers_every_time_and_others_with_another_seed() -> None:
    case = CASES["strided"]
    first, second = case.build(torch.float32), case.build(torch.float32)
    assert all(torch.equal(a, b) for a, b in zip(first, second))
    assert not torch.equal(first.x, GroupCase(**{**case.__dict__, "seed": 1}).build(torch.float32).x)


def test_the_layouts_are_what_they_say() -> None:
    own, strided, expanded = CASES["model"], CASES["strided"], CASES["expanded"]
    assert all(tensor.is_contiguous() for tensor in own.build(torch.float32))
    apart = strided.build(torch.float32)
    assert not any(tensor.is_contiguous() for tensor in (apart.x, apart.qkv, apart.dy, apart.dz))
    same = expanded.build(torch.float32)
    assert same.x.stride(0) == 0 and not same.dy.any()


def test_unknown_words_are_refused() -> None:
    with pytest.raises(ValueError, match="no layout 'diagonal'"):
        GroupCase("x", layout="diagonal").build(torch.float32)
