"""Cases are what their names say, and the same every time."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from blip3v.testing.cases.token_learner import CASES, LARGE, SMALL, PoolingCase


def test_names_are_unique() -> None:
    assert len(CASES) == len(SMALL) + len(LARGE)


@pytest.mark.parametrize("case", SMALL, ids=lambda case: case.name)
def test_shapes_dtypes_and_alignment(case: PoolingCase) -> None:
    x, *parameters, keep, dout = case.build(torch.bfloat16)
    assert x.shape == (case.videos, case.tokens, case.width) and x.dtype == torch.bfloat16
    # Every backend takes every case's layout: contiguous channels, 16-byte steps.
    assert x.stride(-1) == 1 and x.data_ptr() % 16 == 0 and all(stride % 8 == 0 for stride in x.stride()[:-1])
    shapes = [(case.width,)] * 4 + [(case.inner, case.width), (case.made, case.inner)]
    assert [tuple(parameter.shape) for parameter in parameters] == shapes
    kept = torch.float32 if case.precise else torch.bfloat16
    assert {parameter.dtype for parameter in parameters} == {kept}
    assert dout.shape == (case.videos, case.made, case.width)
    masked = case.keep is not None or case.lengths is not None
    assert (keep is not None) == masked
    assert keep is None or (keep.shape == x.shape[:2] and keep.dtype == torch.bool)


def test_the_same_numbers_every_time_and_others_with_another_seed() -> None:
    case = CASES["keep"]
    first, second = case.build(torch.float32), case.build(torch.float32)
    assert all(torch.equal(a, b) for a, b in zip(first, second))
    assert not torch.equal(first.x, replace(case, seed=1).build(torch.float32).x)


def test_masks_hide_what_they_say() -> None:
    assert not CASES["all_masked"].build(torch.float32).keep.any()
    keep = CASES["one_video_masked"].build(torch.float32).keep
    assert not keep[0].any() and keep[1].any() and not keep[1].all()
    assert CASES["lengths"].build(torch.float32).keep.sum(1).tolist() == [150, 1, 77, 128]


def test_layouts_differ_in_strides() -> None:
    sliced, transposed = CASES["sliced"].build(torch.float32).x, CASES["transposed"].build(torch.float32).x
    assert sliced.stride() == (95 * 152, 152, 1) and sliced.storage_offset() % 8 == 0
    assert transposed.stride() == (64, 3 * 64, 1)


def test_offset_moves_x_alone() -> None:
    case = CASES["offset"]
    plain, moved = replace(case, offset=0.0).build(torch.float64), case.build(torch.float64)
    torch.testing.assert_close(moved.x, plain.x + 2)
    assert all(torch.equal(a, b) for a, b in zip(plain[1:7], moved[1:7]))


def test_unknown_words_are_refused() -> None:
    with pytest.raises(ValueError, match="no layout 'diagonal'"):
        PoolingCase("x", layout="diagonal").build(torch.float32)
    with pytest.raises(ValueError, match="no mask 'odd'"):
        PoolingCase("x", keep="odd").build(torch.float32)
