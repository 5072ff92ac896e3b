"""A comparison that passes what rounding explains and nothing else."""

from __future__ import annotations

import math

import pytest
import torch

from blip3v.testing.compare import compare, poisoned_memory

VALUE = torch.linspace(-2, 3, 1001, dtype=torch.float64)
TERMS = VALUE.abs() + 1


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_rounding_is_fine(dtype: torch.dtype) -> None:
    verdict = compare("x", VALUE.to(dtype), VALUE, TERMS)
    assert verdict.ok and verdict.relative < 2**-9


def test_one_element_too_far_is_seen() -> None:
    got = VALUE.to(torch.bfloat16)
    got[500] += 0.02
    verdict = compare("x", got, VALUE, TERMS)
    assert not verdict.ok and verdict.worst > 1 and verdict.spread < 0.5
    assert "x: BAD" in str(verdict)
    assert compare("x", got, VALUE, TERMS, roundings=8).ok


def test_a_bias_everywhere_is_seen_though_each_element_is_within_its_bound() -> None:
    got = (VALUE + 0.8 * 2**-8 * (VALUE.abs() + TERMS)).float().to(torch.float64)
    verdict = compare("x", got.to(torch.bfloat16), VALUE, TERMS)
    assert not verdict.ok and verdict.spread > 0.5


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_nan_and_infinity_are_never_fine(bad: float) -> None:
    got = VALUE.clone()
    got[3] = bad
    assert not compare("x", got, VALUE, TERMS).ok


def test_infinities_must_be_met() -> None:
    value = torch.tensor([-math.inf, 1.0], dtype=torch.float64)
    assert compare("lse", value.float(), value, torch.ones(2, dtype=torch.float64)).ok
    for wrong in (math.inf, 0.0, math.nan):
        assert not compare("lse", torch.tensor([wrong, 1.0]), value, torch.ones(2, dtype=torch.float64)).ok


def test_zero_must_be_zero() -> None:
    zero = torch.zeros(4, dtype=torch.float64)
    assert compare("x", zero.float(), zero, zero).ok
    assert not compare("x", zero.float() + 1e-6, zero, zero).ok


def test_shapes_and_empty_tensors() -> None:
    assert not compare("x", VALUE[1:], VALUE, TERMS).ok
    assert compare("x", VALUE[:0], VALUE[:0], TERMS[:0]).ok


def test_poisoned_memory_shows_what_was_not_written() -> None:
    with poisoned_memory():
        assert torch.empty(100).isnan().all()
        assert torch.empty(100, dtype=torch.bfloat16).isnan().all()
    assert not torch.are_deterministic_algorithms_enabled()
