from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from blip3v.train import tensorboard
from blip3v.train.metrics import Metrics, StepNumbers, read_log
from blip3v.train.progress import Silent
from blip3v.train.tensorboard import NAMES, TensorBoard, tensorboard_sinks


def _curves(folder: Path) -> dict[str, list[tuple[int, float]]]:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    events = accumulator.EventAccumulator(str(folder))
    events.Reload()
    return {
        name: [(event.step, event.value) for event in events.Scalars(name)]
        for name in events.Tags()["scalars"]
    }


def _steps(metrics: Metrics, first: int, last: int, offset: float) -> None:
    metrics.start("t", first, 6)
    for step in range(first + 1, last + 1):
        metrics.add(StepNumbers(offset + step, 1.0, samples=2, label_tokens=3))
        metrics.write(step, 0.5)


def test_curves_are_those_of_the_log_and_do_not_turn_back_after_a_kill(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")

    def metrics() -> Metrics:
        return Metrics(tmp_path / "log.jsonl", Silent(), [TensorBoard(tmp_path / "events")])

    killed = metrics()
    _steps(killed, 0, 5, offset=0.0)  # no finish: killed after step 5, the checkpoint is of step 3
    resumed = metrics()
    _steps(resumed, 3, 6, offset=100.0)
    resumed.finish()

    curves = _curves(tmp_path / "events")
    assert curves["loss/mean"] == [(1, 1.0), (2, 2.0), (3, 3.0), (4, 104.0), (5, 105.0), (6, 106.0)]
    lines = read_log(tmp_path / "log.jsonl")
    for key, name in NAMES.items():
        if key == "mfu":  # a CPU has no data sheet
            assert name not in curves
            continue
        assert [value for _, value in curves[name]] == pytest.approx([line[key] for line in lines], rel=1e-6)


def test_nothing_is_written_before_the_start(tmp_path: Path) -> None:
    TensorBoard(tmp_path / "events")
    assert not (tmp_path / "events").exists()


def test_without_the_package_there_is_a_line_and_no_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    absent: Any = lambda name: None  # noqa: E731
    monkeypatch.setattr(tensorboard.importlib.util, "find_spec", absent)
    sinks = tensorboard_sinks(tmp_path / "events")
    assert capsys.readouterr().err == ""  # processes that do not write say nothing
    _steps(Metrics(None, Silent(), sinks), 0, 2, offset=0.0)
    assert capsys.readouterr().err.count("pip install 'blip3v[train]'") == 1
    assert list(tmp_path.iterdir()) == []
