from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from blip3v.train import metrics as metrics_module
from blip3v.train.metrics import SMOOTHING, Metrics, StepNumbers, drop_lines_after, peak_memory, read_log
from blip3v.train.parallel import SingleDevice
from blip3v.train.progress import PlainLines, ProgressBar, Silent, clock, display_for_terminal, summary


def _run(metrics: Metrics, losses: list[float], first: int, total: int, every: int) -> None:
    metrics.start("t", first, total)
    for step, loss in enumerate(losses, start=first + 1):
        metrics.add(StepNumbers(loss, 2 * loss, samples=4, label_tokens=7, tokens=50, skipped=step % 2))
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

    timing = {
        "samples_per_second", "tokens_per_second", "stall_share", "memory_bytes", "seconds", "eta_seconds",
    }  # fmt: skip
    plain = [
        [{k: v for k, v in line.items() if k not in timing} for line in read_log(p)] for p in (whole, parts)
    ]
    assert plain[0] == plain[1]
    seconds = [line["seconds"] for line in read_log(parts)]
    assert seconds == sorted(seconds)


class _TwoProcesses:
    """The one of `rank`, beside another that has the same numbers."""

    device, world_size = torch.device("cuda"), 2

    def __init__(self, rank: int) -> None:
        self.rank = rank

    def total(self, value: int) -> int:
        return 2 * value


class _Clock:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        monkeypatch.setattr(metrics_module.time, "perf_counter", lambda: self.now)


def test_speed_is_summed_over_the_processes_and_measured_between_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metrics_module, "device_peak", lambda device: 1e12)
    monkeypatch.setattr(metrics_module, "peak_memory", lambda device: 5)
    clock, log = _Clock(monkeypatch), tmp_path / "log.jsonl"
    metrics = Metrics(log, Silent())
    metrics.start("t", 0, 4, _TwoProcesses(0))
    for step, (tokens, flops, stall) in enumerate(
        [(10, 10**12, 0.5), (20, 10**12, 1.5), (50, 10**11, 0.0)], 1
    ):
        clock.now += 4
        metrics.add(
            StepNumbers(1.0, 1.0, 8, label_tokens=3, tokens=tokens, flops=flops, stall=stall, skipped=1)
        )
        if step != 1:
            metrics.write(step, 0.1)
    first, second = read_log(log)
    # 8 s, 2 x 30 tokens and 2 x 2 TFLOP over 2 devices of 1 TFLOP/s; 2 of 8 s waited on either.
    assert (first["tokens_per_second"], first["mfu"], first["stall_share"]) == (7.5, 0.25, 0.25)
    assert (second["tokens_per_second"], second["mfu"], second["stall_share"]) == (25.0, 0.025, 0.0)
    assert (second["label_tokens"], second["skipped"], second["memory_bytes"]) == (9, 6, 5)


def test_the_second_process_writes_and_shows_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    metrics = Metrics(tmp_path / "new" / "log.jsonl", PlainLines())
    metrics.start("t", 0, 1, _TwoProcesses(1))
    metrics.add(StepNumbers(1.0, 1.0, 8))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(metrics_module, "device_peak", lambda device: None)
        patch.setattr(metrics_module, "peak_memory", lambda device: 5)
        metrics.write(1, 0.1)
    metrics.finish()
    assert list(tmp_path.iterdir()) == []
    assert capsys.readouterr().err == ""
    assert metrics.smoothed_loss == 1.0


def test_on_a_cpu_mfu_is_unknown_and_memory_is_the_process(tmp_path: Path) -> None:
    metrics = Metrics(tmp_path / "log.jsonl", Silent())
    metrics.start("t", 0, 1)
    metrics.add(StepNumbers(1.0, 1.0, 8, flops=10**9))
    metrics.write(1, 0.1)
    (line,) = read_log(tmp_path / "log.jsonl")
    assert line["mfu"] is None
    # Importing torch alone takes more than 100 MB, and no machine here has a TB.
    assert 10**8 < line["memory_bytes"] <= peak_memory(torch.device("cpu")) < 10**12


@pytest.mark.gpu
def test_on_a_gpu_memory_is_that_of_tensors(tmp_path: Path) -> None:
    metrics = Metrics(tmp_path / "log.jsonl", Silent())
    parallel = SingleDevice("cuda")
    metrics.start("t", 0, 1, parallel)
    held = torch.empty(3 << 20, dtype=torch.uint8, device="cuda")
    metrics.add(StepNumbers(1.0, 1.0, 8, flops=10**9))
    metrics.write(1, 0.1)
    (line,) = read_log(tmp_path / "log.jsonl")
    assert line["memory_bytes"] == torch.cuda.max_memory_allocated() >= held.nbytes
    known = metrics_module.device_peak(parallel.device) is not None
    assert (line["mfu"] is not None) == known


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


def test_a_line_shows_what_it_knows() -> None:
    more = {"tokens_per_second": 1234.4, "mfu": 0.4512, "stall_share": 0.031, "memory_bytes": 3 << 30}
    assert summary(LINE | more | {"skipped": 2}) == (
        "loss 2.500  3.0 samples/s  1234 tokens/s  MFU 45.1%  waiting for data 3%  3.0 GiB  skipped 2  "
        "lr 1.0e-04  ETA 1:05"
    )
    assert "MFU" not in summary(LINE | more | {"mfu": None})


def test_without_a_terminal_there_is_no_bar(capsys: pytest.CaptureFixture[str]) -> None:
    assert isinstance(display_for_terminal(), PlainLines)
    display = ProgressBar()
    display.start("stage", 3, 9)
    display.show(LINE | {"step": 9})
    display.finish()
    assert "9/9" in capsys.readouterr().err


def test_clock() -> None:
    assert [clock(s) for s in (0, 59.6, 245, 3845)] == ["0:00", "1:00", "4:05", "1:04:05"]
