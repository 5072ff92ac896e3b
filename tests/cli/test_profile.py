"""`blip3v profile` from the command line."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from blip3v.cli.main import main


@pytest.fixture(autouse=True)
def here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An empty folder to work in, without NVIDIA's tools."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("BLIP3V_DEBUG", raising=False)
    return tmp_path


def test_an_op_with_the_torch_profiler(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = "profile op token_learner --tool torch --case ragged --device cpu --warmup 1 --iterations 1"
    assert main(shlex.split(command)) == 0
    text = capsys.readouterr().out
    assert "blip3v::token_learner reference" in text and "aten::mm" in text and "100.0%" in text
    (folder,) = (here / "profiles").iterdir()
    assert {path.name for path in folder.iterdir()} == {"trace.json.gz", "summary.json"}


def test_out(here: Path) -> None:
    command = "profile op ttm_read --case narrow --device cpu --warmup 1 --iterations 1 --out mine"
    assert main(shlex.split(command)) == 0
    assert (here / "mine" / "summary.json").is_file()


def test_prints_the_command_of_a_tool(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(shlex.split("profile step --preset 4b --batch 16 --tool nsys --print")) == 0
    words = shlex.split(capsys.readouterr().out.splitlines()[0])
    assert words[:2] == ["nsys", "profile"]
    assert words[-6:] == ["blip3v.profiling.run", "step", "--preset", "4b", "--batch", "16"]


@pytest.mark.parametrize(
    "command, reason",
    [
        ("profile op token_learner --tool ncu", "was not run: no ncu on PATH"),
        ("profile stage reasampler", "no stage 'reasampler': choose one of vision"),
        ("profile step --print", "--print and --inside are for --tool ncu and nsys"),
    ],
)
def test_refusals(command: str, reason: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(shlex.split(command)) == 2
    assert reason in capsys.readouterr().err
