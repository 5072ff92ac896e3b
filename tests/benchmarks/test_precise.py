"""The judge passes roundings and nothing else."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from benchmarks.precise import CAP, Judge, cast_parameters, parameters_in, relative

NAMES = ("output", "large", "small")


def truth() -> list[Tensor]:
    torch.manual_seed(0)
    return [
        torch.randn(20, 30, dtype=torch.float64),
        100 * torch.randn(40, 40, dtype=torch.float64),
        torch.randn(4, dtype=torch.float64),
    ]


def off_by(values: list[Tensor], share: float, seed: int = 1) -> list[Tensor]:
    torch.manual_seed(seed)
    noise = [torch.randn_like(value) for value in values]
    return [value + share * value.norm() / n.norm() * n for value, n in zip(values, noise)]


def judge(plain: float = 0.01) -> Judge:
    return Judge(NAMES, truth(), off_by(truth(), plain), torch.bfloat16)


def ok(results: list[Tensor], plain: float = 0.01) -> bool:
    return all(verdict.ok for verdict in judge(plain).verdicts(results))


def test_twice_the_plainest_form_is_allowed_and_not_more() -> None:
    assert ok(off_by(truth(), 0.019)) and not ok(off_by(truth(), 0.022))


def test_one_rounding_is_allowed_where_the_plainest_form_is_exact() -> None:
    assert ok(off_by(truth(), 0.003), plain=0.0) and not ok(off_by(truth(), 0.006), plain=0.0)


def test_a_plainest_form_that_is_wrong_approves_nothing_wrong() -> None:
    assert not ok(off_by(truth(), 2 * CAP[torch.bfloat16]), plain=10.0)


def test_a_wrong_small_gradient_does_not_hide_in_the_sum() -> None:
    # It has no more than its share, and is missing: 5% of all gradients, where 20% are allowed.
    values = truth()
    values[2] = 100 * values[2]
    results = [*values[:2], torch.zeros(4, dtype=torch.float64)]
    verdicts = Judge(NAMES, values, off_by(values, 0.1), torch.bfloat16).verdicts(results)
    assert [verdict.name for verdict in verdicts if not verdict.ok] == ["small"]


def test_what_cancelled_is_measured_by_its_share() -> None:
    # The true value is what is left of terms as large as the other gradient's.
    values = truth()
    values[2] = 1e-6 * values[2]
    results = [*values[:2], values[2] + 0.01]
    assert all(v.ok for v in Judge(NAMES, values, off_by(values, 0.01), torch.bfloat16).verdicts(results))


@pytest.mark.parametrize("index", range(3))
def test_nan_and_other_shapes_fail(index: int) -> None:
    for spoil in (lambda t: t * float("nan"), lambda t: t[:1]):
        results = truth()
        results[index] = spoil(results[index])
        assert not ok(results)


def test_a_forward_has_one_verdict() -> None:
    assert [verdict.name for verdict in judge().verdicts(truth()[:1])] == ["output"]


def test_parameters_come_back_as_the_same_bits_and_buffers_never_change() -> None:
    module = nn.BatchNorm1d(5)
    module.running_mean.normal_()
    cast_parameters(module, torch.bfloat16)
    before = module.weight.detach().clone()
    assert module.weight.dtype == torch.bfloat16 and module.running_mean.dtype == torch.float32
    with pytest.raises(ZeroDivisionError), parameters_in(module, torch.float64):
        assert module.weight.dtype == torch.float64 and module.running_mean.dtype == torch.float32
        raise ZeroDivisionError
    assert module.weight.dtype == torch.bfloat16 and torch.equal(module.weight, before)


def test_relative_error_of_zero_is_the_norm_itself() -> None:
    assert relative(torch.ones(4), torch.zeros(4, dtype=torch.float64)) == 2.0
