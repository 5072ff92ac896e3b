from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest

from blip3v.train.metrics import SMOOTHING, Metrics, drop_lines_after, read_log
from blip3v.train.progress import PlainLines, ProgressBar, Silent, clock, display_for_terminal


def _run(metrics: Metrics, losses: list[float], first: int, total: int, every: int) -> None:
    metrics.start("t", first, total)
    for step, loss in enumerate(losses, start=first + 1):
        metrics.add([loss], [2 * loss], samples=4)
        if step % every == 0:
            metrics.write(step, rate := 0.1 * step)
            assert rate > 0
    metrics.finish()


def test_the_log_holds_means_speed_and_time_left(tmp_path: Path) -> None:
    log = tmp_path / "new" / "log.jsonl"
    _run(Metrics(log, Silent()), [1.0, 3.0, 5.0, 7.0], 0, 8, every=2)
    first, second = read_log(log)
    assert (first["step"], first["loss"], first["grad_norm"], first["samples"]) == (2, 2.0, 4.0, 8)
    assert (second["step"], second["loss"], second["learning_rate"]) == (4, 6.0, 0.4)
    assert second["samples_per_second"] > 0
    assert second["eta_seconds"] == pytest.approx(second["seconds"])  # half is done


def test_the_smoothed_loss_is_the_weighted_mean_of_all_losses(tmp_path: Path) -> None:
    losses = [5.0, 1.0, 4.0, 2.0]
    metrics = Metrics(None, Silent())
    _run(metrics, losses, 0, 4, every=1)
    weights = [SMOOTHING ** (len(losses) - 1 - i) for i in range(len(losses))]
    expected = sum(w * x for w, x in zip(weights, losses, strict=True)) / sum(weights)
    assert metrics.smoothed_loss == pytest.approx(expected, rel=1e-12)


def test_a_resumed_log_reads_as_one_run(tmp_path: Path) -> None:
    losses = [float(n * n % 7) for n in range(10)]
    whole, parts = tmp_path / "whole.jsonl", tmp_path / "parts.jsonl"
    _run(Metrics(whole, Silent()), losses, 0, 10, every=2)

    first = Metrics(parts, Silent())
    _run(first, losses[:5], 0, 10, every=2)
    state = json.loads(json.dumps(first.state()))  # the checkpoint, in the middle between two lines
    _run(first, losses[5:7], 5, 10, every=2)  # steps that the killed run still made
    with parts.open("a") as file:
        file.write('{"step": 8, "lo')
    second = Metrics(parts, Silent())
    second.load_state(state)
    _run(second, losses[5:], 5, 10, every=2)

    timing = {"samples_per_second", "seconds", "eta_seconds"}
    plain = [
        [{k: v for k, v in line.items() if k not in timing} for line in read_log(p)] for p in (whole, parts)
    ]
    assert plain[0] == plain[1]
    seconds = [line["seconds"] for line in read_log(parts)]
    assert seconds == sorted(seconds)


def test_dropping_lines_of_no_log_does_nothing(tmp_path: Path) -> None:
    drop_lines_after(tmp_path / "none.jsonl", 3)
    assert list(tmp_path.iterdir()) == []


LINE: dict[str, Any] = {
    "step": 1, "smoothed_loss": 2.5, "samples_per_second": 3.0, "learning_rate": 1e-4, "eta_seconds": 65.0,
}  # fmt: skip


def test_plain_lines_are_few_and_say_everything() -> None:
    out = io.StringIO()
    display = PlainLines(seconds=1000, file=out)
    display.start("stage", 0, 9)
    for step in range(1, 10):
        display.show(LINE | {"step": step})
    display.finish()
    lines = out.getvalue().splitlines()
    assert lines[0] == "stage: step 1/9  loss 2.500  3.0 samples/s  lr 1.0e-04  ETA 1:05"
    assert len(lines) == 2
    assert lines[1].startswith("stage: step 9/9")


def test_without_a_terminal_there_is_no_bar(capsys: pytest.CaptureFixture[str]) -> None:
    assert isinstance(display_for_terminal(), PlainLines)
    display = ProgressBar()
    display.start("stage", 3, 9)
    display.show(LINE | {"step": 9})
    display.finish()
    assert "9/9" in capsys.readouterr().err


def test_clock() -> None:
    assert [clock(s) for s in (0, 59.6, 245, 3845)] == ["0:00", "1:00", "4:05", "1:04:05"]
