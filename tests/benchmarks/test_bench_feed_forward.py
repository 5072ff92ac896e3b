"""The benchmark's peers compute the op, and a row tells the truth: error first, then a time or a reason."""

from __future__ import annotations

import pytest
import torch

from benchmarks.ops import bench_feed_forward as bench
from benchmarks.rows import DIRECTIONS, describe
from blip3v.testing.cases.feed_forward import CASES, FeedForwardCase

SMALL = FeedForwardCase("small", (2, 9), 16, 24)


def rows(backend: str, dtype: str = "float32") -> list[dict]:
    return list(bench.BENCH.rows(SMALL, dtype, [backend], "cpu", list(DIRECTIONS), repeats=2))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("backend", ["reference", "eager", "compile default"])
def test_peers_that_run_on_a_cpu_agree_with_float64_and_have_times(backend: str, dtype: str) -> None:
    for row in rows(backend, dtype):
        assert "reason" not in row, row
        assert row["error"] < (1e-5 if dtype == "float32" else 1e-2) and row["tflops"] > 0
        assert f"{row['median_ms']:.4f}" in describe(row)


def test_a_backend_that_cannot_run_is_a_row_with_a_reason() -> None:
    for row in rows("cuda"):
        assert "the tensors are on cpu" in row["reason"] and "median_ms" not in row


def test_a_wrong_result_has_no_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "eager", lambda z, w1, w2, residual: residual + (z @ w1.t()).relu() @ w2.t())
    for row in rows("eager"):
        assert row["error"] > 0.01 and "BAD" in row["reason"] and "median_ms" not in row


def test_counted_work_is_that_of_the_model() -> None:
    """One video: 640 rows, 13.6 GFLOP forward, and the weights of one layer are 21 MB."""
    flops, moved = bench.work(CASES["one_video"], "forward", 2)
    assert round(flops / 1e9, 1) == 13.6
    assert moved == 2 * (2 * 1152 * 4608 + 640 * (3 * 1152 + 3 * 4608))
    both, _ = bench.work(CASES["one_video"], "forward+backward", 2)
    assert both == 3 * flops


def test_every_peer_is_there() -> None:
    assert {"cuda", "triton", "reference", "eager", "compile default", "compile max-autotune"} <= set(
        bench.PEERS
    )
    assert bench.BENCH.build(SMALL, torch.float32, "cpu").roundings("cuda") == 1
