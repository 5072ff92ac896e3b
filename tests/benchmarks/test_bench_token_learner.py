"""The benchmark's peers compute the op, and the counted work is that of the floors."""

from __future__ import annotations

import pytest

from benchmarks.ops import bench_token_learner as bench
from benchmarks.rows import DIRECTIONS, describe
from blip3v.testing.cases.token_learner import CASES, PoolingCase

SMALL = PoolingCase("small", 2, 20, 4, 16)
MASKED = PoolingCase("small_masked", 2, 20, 4, 16, keep="random")


def rows(case: PoolingCase, backend: str, dtype: str = "float32") -> list[dict]:
    return list(bench.BENCH.rows(case, dtype, [backend], "cpu", DIRECTIONS, repeats=2))


@pytest.mark.parametrize("backend", ["reference", "einsum", "compile default"])
def test_peers_that_run_on_a_cpu_agree_with_float64_and_have_times(backend: str) -> None:
    for row in rows(SMALL, backend):
        assert row["error"] < 1e-5 and row["p20_ms"] <= row["median_ms"] <= row["p80_ms"], row
        assert row["tflops"] > 0 and row["gbytes_per_s"] > 0 and row["repeats"] == 2
        assert f"{row['median_ms']:.4f}" in describe(row)


@pytest.mark.parametrize("backend", ["reference", "einsum"])
def test_bfloat16_shows_times_too(backend: str) -> None:
    assert all("median_ms" in row for row in rows(CASES["model"], backend, "bfloat16"))


@pytest.mark.parametrize(
    "case, backend, reason",
    [
        (SMALL, "cuda", "the tensors are on cpu"),
        (MASKED, "einsum", "it has no masks"),
        (MASKED, "compile max-autotune einsum", "it has no masks"),
    ],
)
def test_peers_that_cannot_run_are_rows_with_a_reason(case: PoolingCase, backend: str, reason: str) -> None:
    for row in rows(case, backend):
        assert reason in row["reason"] and "median_ms" not in row


def test_a_wrong_result_has_no_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "einsum", lambda x, *rest: x[:, :4] + sum(t.sum() for t in rest))
    for row in rows(SMALL, "einsum"):
        assert row["error"] > 0.1 and "BAD" in row["reason"] and "median_ms" not in row


def test_counted_work_is_that_of_the_floors() -> None:
    """1024 -> 32, one video: 0.23 GFLOP and 2.6 MB; 1024 -> 128, sixteen videos: 15.6 GFLOP, 43 MB."""
    flops, moved = bench.work(CASES["one_video"], "forward", 2)
    assert flops / 1e9 == pytest.approx(0.23, abs=0.005) and moved / 1e6 == pytest.approx(2.6, abs=0.05)
    flops, moved = bench.work(CASES["sixteen_videos_to_128"], "forward", 2)
    assert flops / 1e9 == pytest.approx(15.6, abs=0.1) and moved / 1e6 == pytest.approx(43, abs=0.5)


def test_the_backward_has_two_products_for_each() -> None:
    forward, both = (bench.work(CASES["one_video"], direction, 2) for direction in DIRECTIONS)
    assert both[0] == 3 * forward[0]
    assert 2 < both[1] / forward[1] < 3.2
