"""What Nsight watches: start and stop of the profiler stand around the active iterations and nothing else."""

from __future__ import annotations

import pytest
import torch

from blip3v import ranges
from blip3v.profiling import run as module
from blip3v.profiling.request import Request
from blip3v.profiling.workloads import Repeated

REQUEST = Request("op", "ttm_read", case="narrow", warmup=2, iterations=3)


@pytest.fixture
def heard(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What happens, in order: iterations, and what a GPU is told."""
    heard: list[str] = []

    def iteration() -> None:
        heard.append("ranges on" if ranges.are_enabled() else "ranges off")

    monkeypatch.setattr(module, "build", lambda request: Repeated(iteration))
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: heard.append("wait"))
    monkeypatch.setattr(torch.cuda.profiler, "start", lambda: heard.append("start"))
    monkeypatch.setattr(torch.cuda.profiler, "stop", lambda: heard.append("stop"))
    return heard


def test_the_warm_up_is_outside(heard: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    module.run(REQUEST)
    assert heard == [*["ranges on"] * 2, "wait", "start", *["ranges on"] * 3, "wait", "stop"]


def test_without_a_gpu_it_only_runs(heard: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    module.run(REQUEST)
    assert heard == ["ranges on"] * 5


def test_the_command_line_of_a_request(heard: list[str]) -> None:
    assert module.main([*REQUEST.arguments(), "--device", "cpu"]) == 0
    assert len(heard) == 5


def test_a_refusal_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert module.main(["op", "nothing"]) == 2
    assert capsys.readouterr().err.startswith("blip3v.profiling: error: no op 'nothing'")
