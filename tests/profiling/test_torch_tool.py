"""The torch profiler on a CPU: the trace holds our ranges and nothing of the warm-up; shares add up."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from blip3v import ranges
from blip3v.profiling.request import Request
from blip3v.profiling.torch_tool import SUMMARY, TRACE, run_torch
from blip3v.profiling.trace import read_trace

WARMUP, ITERATIONS = 3, 2
OFTEN: dict[str, Any] = {"warmup": WARMUP, "iterations": ITERATIONS, "device": "cpu"}


def annotations(folder: Path) -> Counter[str]:
    """How often each label stands in the trace."""
    events = read_trace(folder / TRACE)
    return Counter(event["name"] for event in events if event.get("cat") == "user_annotation")


def stages(summary: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {row["stage"]: row for row in summary["stages"]}


def check_sums(summary: dict[str, Any]) -> None:
    for rows in ("stages", "operators"):
        assert sum(row["share"] for row in summary[rows]) == pytest.approx(1)
        assert sum(row["ms"] for row in summary[rows]) == pytest.approx(summary["wall_ms"])
    assert sum(summary["kinds"].values()) == pytest.approx(summary["wall_ms"])
    assert all(value > 0 for value in (summary["kinds"]["compute_ms"], summary["peak_memory_bytes"]))


def test_an_op(tmp_path: Path) -> None:
    request = Request("op", "token_learner", case="ragged", direction="forward+backward", **OFTEN)
    summary = run_torch(request, tmp_path)
    check_sums(summary)
    assert sorted(path.name for path in tmp_path.iterdir()) == [SUMMARY, TRACE]
    assert json.loads((tmp_path / SUMMARY).read_text()) == summary
    assert summary["request"] == request.arguments()
    # The reference's two products, and the two of each in its backward pass.
    calls = {row["name"]: row["calls"] for row in summary["operators"]}
    assert calls["aten::mm"] == 6
    found = annotations(tmp_path)
    assert found["blip3v::token_learner reference"] == ITERATIONS
    assert {name for name in found if name.startswith("ProfilerStep#")} == {
        f"ProfilerStep#{number}" for number in range(WARMUP, WARMUP + ITERATIONS)
    }
    backward = stages(summary)["blip3v::token_learner reference (backward)"]
    assert backward["calls"] == 0 and backward["ms"] > 0
    assert not ranges.are_enabled()


def test_a_stage(tmp_path: Path) -> None:
    summary = run_torch(Request("stage", "resampler", frames=2, **OFTEN), tmp_path)
    check_sums(summary)
    rows = stages(summary)
    # The small model's resampler has one layer.
    for label in ("blip3v.resampler", "blip3v.resampler attention", "blip3v::resampler_attention reference"):
        assert annotations(tmp_path)[label] == ITERATIONS
        assert rows[label]["calls"] == 1
    totals = [
        rows[label]["total_ms"]
        for label in (
            "blip3v.resampler",
            "blip3v.resampler attention",
            "blip3v::resampler_attention reference",
        )
    ]
    assert summary["wall_ms"] >= totals[0] > totals[1] > totals[2] > 0


def test_a_training_step(tmp_path: Path) -> None:
    summary = run_torch(Request("step", frames=2, batch=2, text_tokens=8, **OFTEN), tmp_path)
    check_sums(summary)
    rows = stages(summary)
    once = "training step,forward,vision,resampler,temporal encoder,projection,language model,logits,backward"
    for name in [*once.split(","), "clip gradients", "optimizer"]:
        assert rows[f"blip3v.{name}"]["calls"] == 1, name
    assert rows["blip3v.data"]["calls"] == pytest.approx(2, abs=0.5)  # drawn, and brought to the device
    inside = ("forward", "backward", "optimizer")
    assert rows["blip3v.training step"]["total_ms"] > sum(
        rows[f"blip3v.{name}"]["total_ms"] for name in inside
    )
    # The vision encoder is frozen and has no backward pass; what is behind it has.
    assert "blip3v.vision (backward)" not in rows
    for name in ("resampler", "temporal encoder", "projection", "language model"):
        assert rows[f"blip3v.{name} (backward)"]["total_ms"] > 0, name


def test_a_run_that_fails_leaves_the_earlier_profile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / TRACE).write_text("old")

    def fail(request: Request) -> None:
        raise KeyError

    monkeypatch.setattr("blip3v.profiling.torch_tool.build", fail)
    with pytest.raises(KeyError):
        run_torch(Request("op", "ttm_read", **OFTEN), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [TRACE]
    assert (tmp_path / TRACE).read_text() == "old"
