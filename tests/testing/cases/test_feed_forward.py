"""Cases are what their names say, and the same every time."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from blip3v.testing.cases.feed_forward import CASES, LARGE, ODD, SMALL, FeedForwardCase


def test_names_are_unique() -> None:
    assert len(CASES) == len(SMALL) + len(LARGE)


@pytest.mark.parametrize("case", SMALL, ids=lambda case: case.name)
def test_shapes_and_dtypes(case: FeedForwardCase) -> None:
    inputs = case.build(torch.bfloat16)
    weights = torch.float32 if case.wide_weights else torch.bfloat16
    for tensor in (inputs.z, inputs.residual, inputs.dout):
        assert tensor.shape == (*case.leading, case.width) and tensor.dtype == torch.bfloat16
    assert inputs.w1.shape == (case.hidden, case.width) and inputs.w1.dtype == weights
    assert inputs.w2.shape == (case.width, case.hidden) and inputs.w2.dtype == weights
    assert (case in ODD) == bool(case.width % 8 or case.hidden % 8)


def test_the_same_numbers_every_time_and_others_with_another_seed() -> None:
    case = CASES["ragged"]
    first, second = case.build(torch.float32), case.build(torch.float32)
    assert all(torch.equal(a, b) for a, b in zip(first, second))
    assert not torch.equal(first.z, replace(case, seed=1).build(torch.float32).z)


def test_layouts_are_strided() -> None:
    strided, transposed = CASES["strided"].build(torch.float32), CASES["transposed"].build(torch.float32)
    assert strided.z.stride() == (5 * 3 * 72, 3 * 72, 1) and strided.w1.stride() == (80, 1)
    assert strided.w2.stride() == (512, 1)
    assert transposed.z.stride(0) < transposed.z.stride(1)


def test_an_unknown_layout_is_refused() -> None:
    with pytest.raises(ValueError, match="no layout 'diagonal'"):
        FeedForwardCase("x", (1,), layout="diagonal").build(torch.float32)
