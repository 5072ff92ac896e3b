"""The benchmark's peers compute the op, and the counted work is that of the floors."""

from __future__ import annotations

import pytest

from benchmarks.ops import bench_ttm_read as bench
from benchmarks.rows import DIRECTIONS, describe
from blip3v.testing.cases.ttm_read import CASES


def rows(backend: str, dtype: str = "float32") -> list[dict]:
    return list(bench.BENCH.rows(CASES["demo"], dtype, [backend], "cpu", DIRECTIONS, repeats=2))


@pytest.mark.parametrize("backend", ["reference", "compile default"])
def test_peers_that_run_on_a_cpu_agree_with_float64_and_have_times(backend: str) -> None:
    for row in rows(backend):
        assert row["error"] < 1e-5 and row["p20_ms"] <= row["median_ms"] <= row["p80_ms"], row
        assert row["tflops"] > 0 and row["gbytes_per_s"] > 0 and row["repeats"] == 2
        assert f"{row['median_ms']:.4f}" in describe(row)


def test_peers_that_cannot_run_are_rows_with_a_reason() -> None:
    for row in rows("cuda"):
        assert "the tensors are on cpu" in row["reason"] and "median_ms" not in row


def test_counted_work_is_that_of_the_floors() -> None:
    _, moved = bench.work(CASES["one_video"], "forward", 2, 4)
    assert moved / 128 / 1000 == pytest.approx(35, abs=1)  # 15 rows of a position
    forward, both = (bench.work(CASES["one_video"], direction, 2, 4) for direction in DIRECTIONS)
    assert both[0] > 2 * forward[0] and both[1] > 2 * forward[1]
