"""Cases are what their names say, and the same every time."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from blip3v.testing.cases.ttm_read import CASES, LARGE, SMALL, ReadCase


def test_names_are_unique() -> None:
    assert len(CASES) == len(SMALL) + len(LARGE)


@pytest.mark.parametrize("case", SMALL, ids=lambda case: case.name)
def test_shapes_dtypes_and_alignment(case: ReadCase) -> None:
    inputs = case.build(torch.bfloat16)
    assert inputs.memory.shape == (case.videos, case.positions, case.slots, case.width)
    rows = ["memory", "frame"]
    for name in rows:
        tensor = getattr(inputs, name)
        if tensor is not None:
            # Every backend takes every case: contiguous channels, 16-byte steps.
            assert tensor.dtype == torch.bfloat16 and tensor.stride(-1) == 1 and tensor.data_ptr() % 16 == 0
            assert all(stride % 8 == 0 for stride in tensor.stride()[:-1])
    precise = torch.float32 if case.precise else torch.bfloat16
    assert inputs.norm_weight.dtype == precise


def test_layouts() -> None:
    expanded = replace(SMALL[0], memory="expanded", videos=2).build(torch.float32).memory
    assert expanded.stride(0) == 0
    group = replace(SMALL[0], memory="group").build(torch.float32).memory
    assert group.stride(1) == (SMALL[0].slots + 1) * SMALL[0].width
    with pytest.raises(ValueError, match="no layout 'diagonal'"):
        replace(SMALL[0], memory="diagonal").build(torch.float32)


def test_the_same_numbers_every_time_and_others_with_another_seed() -> None:
    case = SMALL[2]
    first, second, other = (
        case.build(torch.float32),
        case.build(torch.float32),
        replace(case, seed=1).build(torch.float32),
    )
    assert all(torch.equal(a, b) for a, b in zip(first, second) if a is not None)
    assert not torch.equal(first.memory, other.memory)
