"""Cases are what their names say, and the same every time."""

from __future__ import annotations

import pytest
import torch

from blip3v.testing.cases.resampler_attention import CASES, LARGE, SMALL, AttentionCase


def test_names_are_unique() -> None:
    assert len(CASES) == len(SMALL) + len(LARGE)


@pytest.mark.parametrize("case", SMALL, ids=lambda case: case.name)
def test_shapes_dtypes_and_alignment(case: AttentionCase) -> None:
    inputs = case.build(torch.bfloat16)
    expected = [case.queries, case.media, case.media, case.latents, case.latents]
    for tensor, rows in zip(inputs[:5], expected):
        assert tensor.shape == (case.frames, rows, case.heads, case.dim)
        assert tensor.dtype == torch.bfloat16
        # Every backend takes every case: contiguous channels, 16-byte steps.
        assert tensor.stride(-1) == 1 and tensor.data_ptr() % 16 == 0
        assert all(stride % 8 == 0 for stride in tensor.stride()[:-1]) or tensor.numel() == 0
    assert inputs.dout.shape == inputs.q.shape
    assert inputs.lengths is None or inputs.lengths.tolist() == list(case.lengths or ())
    assert inputs.keep is None or inputs.keep.shape == (case.frames, case.media)


def test_the_same_numbers_every_time_and_others_with_another_seed() -> None:
    case = CASES["lengths_and_keep"]
    first, second = case.build(torch.float32), case.build(torch.float32)
    assert all(torch.equal(a, b) for a, b in zip(first, second))
    assert not torch.equal(first.q, AttentionCase(**{**case.__dict__, "seed": 1}).build(torch.float32).q)


def test_masks_hide_what_they_say() -> None:
    keep = CASES["nothing_seen"].build(torch.float32).keep
    assert not keep[0].any() and keep[1].any() and not keep[1].all()
    assert not CASES["media_masked"].build(torch.float32).keep.any()


def test_layouts_share_memory_and_differ_in_strides() -> None:
    fused = CASES["fused"].build(torch.float32)
    assert fused.k_media.untyped_storage().data_ptr() == fused.v_media.untyped_storage().data_ptr()
    hoisted = CASES["hoisted"].build(torch.float32)
    assert hoisted.k_media.stride(1) == 6 * 2 * 3 * 96
    assert len({tensor.stride() for tensor in hoisted[:5]}) == 4  # media keys and values are alike


def test_unknown_words_are_refused() -> None:
    with pytest.raises(ValueError, match="no layout 'diagonal'"):
        AttentionCase("x", layout="diagonal").build(torch.float32)
    with pytest.raises(ValueError, match="no mask 'odd'"):
        AttentionCase("x", keep="odd").build(torch.float32)
