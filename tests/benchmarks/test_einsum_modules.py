"""The baseline is a fair one only if it computes the same: outputs and gradients, at small widths."""

from __future__ import annotations

import pytest
import torch

from benchmarks.stages.bench_reference import TOLERANCE, Pair, Widths, bench, stages
from benchmarks.stages.cost import CostCounter, Rates

SMALL = Widths(
    frames=4,
    patches=9,
    dim=16,
    latents=8,
    resampler_depth=2,
    resampler_heads=2,
    dim_head=6,
    temporal_depth=2,
    temporal_heads=2,
    tokens=4,
)
STAGES = {stage.name: stage for stage in stages(SMALL)}


@pytest.mark.parametrize("name", STAGES)
def test_both_spellings_agree_in_outputs_and_gradients(name):
    errors = Pair.build(STAGES[name]).errors()
    assert max(errors.values()) < 1e-5


def test_a_row_whose_outputs_differ_has_no_time(monkeypatch):
    monkeypatch.setattr(Pair, "errors", lambda pair: dict.fromkeys(("forward", "forward+backward"), 1.0))
    rows = list(bench(STAGES["token_learner"], Rates(1e9, 1e9), seconds=0, fewest=3))
    assert TOLERANCE < 1.0
    assert len(rows) == 2
    assert not any("ratio" in row or "median_ms" in row["reference"] for row in rows)


def test_a_row_that_agrees_has_times_and_a_prediction():
    for row in bench(STAGES["resampler"], Rates(1e9, 1e9), seconds=0, fewest=3):
        assert row["error"] <= TOLERANCE
        assert row["reference"]["repeats"] == 3
        assert row["ratio"] == pytest.approx(row["einsum"]["median_ms"] / row["reference"]["median_ms"])
        # The einsum Perceiver moves more bytes: per-layer norms, concatenation, scores in memory.
        assert row["predicted_ratio"] > 1


def test_cost_of_a_product_and_an_addition():
    a, b, c = torch.randn(3, 5), torch.randn(5, 7), torch.randn(3, 7)
    with CostCounter() as counter:
        (a @ b).view(21).view(3, 7) + c
    assert counter.cost.flops == 2 * 3 * 5 * 7
    assert counter.cost.bytes == 3 * 21 * 4
