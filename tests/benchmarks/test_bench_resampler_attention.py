"""The benchmark's peers compute the op, and a row tells the truth: error first, then a time or a reason."""

from __future__ import annotations

import pytest
import torch

from benchmarks.ops import bench_resampler_attention as bench
from benchmarks.ops.attention_peers import PEERS
from benchmarks.rows import DIRECTIONS, DTYPES, describe
from blip3v.testing.cases.resampler_attention import CASES, AttentionCase

SMALL = AttentionCase("small", 2, 8, 2, 16, 20, 8)
MASKED = AttentionCase("small_masked", 2, 8, 2, 16, 20, 8, lengths=(20, 5), keep="random")


def rows(case: AttentionCase, backend: str, dtype: str = "float32") -> list[dict]:
    return list(bench.BENCH.rows(case, dtype, [backend], "cpu", DIRECTIONS, repeats=2))


@pytest.mark.parametrize("backend", ["reference", "sdpa flash", "sdpa math", "einsum", "compile sdpa"])
def test_peers_that_run_on_a_cpu_agree_with_float64_and_have_times(backend: str) -> None:
    for row in rows(SMALL, backend):
        assert row["error"] < 1e-5 and row["p20_ms"] <= row["median_ms"] <= row["p80_ms"], row
        assert row["tflops"] > 0 and row["gbytes_per_s"] > 0 and row["repeats"] == 2
        assert f"--peer '{backend}'" in row["command"]
        assert f"{row['median_ms']:.4f}" in describe(row)


@pytest.mark.parametrize(
    "case, backend, reason",
    [
        (SMALL, "cuda", "the tensors are on cpu"),
        (SMALL, "sdpa cudnn", "No viable backend"),
        (MASKED, "einsum", "it has no masks"),
        (MASKED, "flash-attn", "a mask would need"),
    ],
)
def test_peers_that_cannot_run_are_rows_with_a_reason(case: AttentionCase, backend: str, reason: str) -> None:
    for row in rows(case, backend):
        assert reason in row["reason"] and "median_ms" not in row
        assert reason in describe(row)


def test_a_wrong_result_has_no_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(
        PEERS, "wrong", lambda inputs, scale: lambda q, *rest: q * 1.0 + sum(t.sum() for t in rest)
    )
    for row in rows(SMALL, "wrong"):
        assert row["error"] > 0.1 and "BAD" in row["reason"] and "median_ms" not in row


def test_counted_work_is_that_of_the_floors() -> None:
    """One layer, one video: 5.4 GFLOP and 48 MB forward; sixteen videos backward: 216 GFLOP, 1.55 GB."""
    flops, moved = bench.work(CASES["one_video"], "forward", 2)
    assert round(flops / 1e9, 1) == 5.4 and round(moved / 1e6) == 48
    sixteen = CASES["sixteen_videos"]
    both, forward = bench.work(sixteen, "forward+backward", 2), bench.work(sixteen, "forward", 2)
    assert round((both[0] - forward[0]) / 1e9) == 216
    assert (both[1] - forward[1]) / 1e9 == pytest.approx(1.55, rel=0.01)


def test_every_peer_is_named_once_and_dtypes_are_torchs() -> None:
    assert {"cuda", "triton", "reference"} < set(PEERS)
    assert all(getattr(torch, name) is dtype for name, dtype in DTYPES.items())
