"""The learning run: the real loop for some seconds, and a verdict on its log."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.train import learning
from benchmarks.train.learning import learn, summary
from blip3v.errors import UserError
from blip3v.models.configuration import blip3_video_tiny
from blip3v.train.metrics import read_log


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(learning, "config_with_tokens", lambda preset, tokens: blip3_video_tiny())
    monkeypatch.setitem(learning.RATE, "small", 3e-3)


def test_the_loss_falls_and_the_files_say_so(tmp_path: Path) -> None:
    found = learn(tmp_path, 5 / 60, "cpu", "small")
    assert found == json.loads((tmp_path / "learning.json").read_text())
    lines = read_log(tmp_path / "log.jsonl")
    print(f"loss {found['loss_at_start']:.3f} -> {found['loss_at_end']:.3f}, {found['steps']} steps")
    assert found["steps"] == lines[-1]["step"] == len(lines) and found["seconds"] < 60
    assert found["loss_at_start"] == pytest.approx(found["uniform_loss"], rel=0.2)
    assert found["fell"] and found["samples_per_s"] > 0 and found["mfu"] is None
    with pytest.raises(UserError, match="earlier run"):
        learn(tmp_path, 0.01, "cpu", "small")


def line(step: int, loss: float, speed: float, mfu: float | None) -> dict[str, Any]:
    return {
        "step": step, "samples": 4 * step, "seconds": 1.0 * step, "loss": loss, "samples_per_second": speed,
        "mfu": mfu, "stall_share": 0.1, "memory_bytes": 7,
    }  # fmt: skip


def test_what_a_log_says() -> None:
    lines = [line(1, 8.0, 0.1, 0.01), line(2, 6.0, 1.0, 0.3), line(3, 4.5, 2.0, 0.4), line(4, 4.1, 6.0, 0.5)]
    found = summary(lines)
    assert not found["fell"] and not found["saw_the_video"]
    assert found["samples_per_s"] == pytest.approx(3.0) and found["mfu"] == pytest.approx(0.45)
    assert summary([*lines, line(5, 0.1, 6.0, None)]) | {"mfu": 0} == {
        "steps": 5, "samples": 20, "seconds": 5.0, "loss_at_start": 8.0, "loss_at_end": 0.1, "fell": True,
        "saw_the_video": True, "samples_per_s": pytest.approx(3.6), "mfu": 0, "peak_memory_bytes": 7,
        "stall_share": pytest.approx(0.1),
    }  # fmt: skip


def test_a_setup_that_does_not_exist(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="blip3v compiled fp8"):
        learn(tmp_path, 0.01, "cpu", "small", setup="fast")
