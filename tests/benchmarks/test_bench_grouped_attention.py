"""The benchmark's peers compute the op, and the counted work is that of the floors."""

from __future__ import annotations

import pytest

from benchmarks.ops import bench_grouped_attention as bench
from benchmarks.rows import DIRECTIONS
from blip3v.testing.cases.grouped_attention import CASES, GroupCase

SMALL = GroupCase("small", 2, 5, 2, 16)


def rows(case: GroupCase, backend: str, dtype: str = "float32") -> list[dict]:
    return list(bench.BENCH.rows(case, dtype, [backend], "cpu", DIRECTIONS, repeats=2))


@pytest.mark.parametrize("backend", ["reference", "spelled out", "compile default"])
def test_peers_that_run_on_a_cpu_agree_with_float64_and_have_times(backend: str) -> None:
    for row in rows(SMALL, backend):
        assert row["error"] < 1e-5 and row["p20_ms"] <= row["median_ms"] <= row["p80_ms"], row
        assert row["tflops"] > 0 and row["gbytes_per_s"] > 0 and row["repeats"] == 2


@pytest.mark.parametrize("backend", ["reference", "spelled out"])
def test_bfloat16_shows_times_too(backend: str) -> None:
    assert all("median_ms" in row for row in rows(CASES["model"], backend, "bfloat16"))


def test_a_peer_that_cannot_run_is_a_row_with_a_reason() -> None:
    for row in rows(SMALL, "cuda"):
        assert "the tensors are on cpu" in row["reason"] and "median_ms" not in row


def test_a_wrong_result_has_no_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "spelled_out", lambda x, qkv, *norm: (x + qkv.sum(), x * sum(norm)))
    for row in rows(SMALL, "spelled out"):
        assert row["error"] > 0.1 and "BAD" in row["reason"] and "median_ms" not in row


def test_counted_work_is_that_of_the_floors() -> None:
    """Sixteen videos: 141 MB forward; one video 8.8 MB."""
    assert bench.work(CASES["sixteen_videos"], "forward", 2)[1] / 1e6 == pytest.approx(141.6, abs=0.5)
    assert bench.work(CASES["one_video"], "forward", 2)[1] / 1e6 == pytest.approx(8.8, abs=0.1)
    forward, both = (bench.work(CASES["one_video"], direction, 2)[0] for direction in DIRECTIONS)
    assert both == pytest.approx(3.5 * forward)
