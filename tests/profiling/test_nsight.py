"""NVIDIA's tools, which are not here: the command that is printed, and what a stand-in for one is told."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import pytest
import torch

from blip3v.errors import UserError
from blip3v.profiling.nsight import command, run_nsight
from blip3v.profiling.request import Request

REQUEST = Request("op", "token_learner", case="one_video", backend="cuda")
WORKLOAD = [sys.executable, "-m", "blip3v.profiling.run", *REQUEST.arguments()]


@pytest.fixture
def no_tools(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A folder on PATH: its `ncu` and `nsys` write their words to `log`, and a report where they are told."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for tool, suffix in (("ncu", ".ncu-rep"), ("nsys", ".nsys-rep")):
        script = folder / tool
        script.write_text(
            f"#!{sys.executable}\n"
            "import pathlib, shlex, sys\n"
            f"pathlib.Path({str(folder / 'log')!r}).open('a').write(shlex.join(sys.argv[1:]) + '\\n')\n"
            "words = [w for a in sys.argv for w in a.split('=', 1)]\n"
            "for option in ('--export', '--output'):\n"
            "    if option in words and '--silent' not in words:\n"
            f"        pathlib.Path(words[words.index(option) + 1] + {suffix!r}).write_text('report')\n"
            "sys.exit(3 if 'narrow' in words else 0)\n"
        )
        script.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    return folder


@pytest.mark.parametrize("tool", ["ncu", "nsys"])
def test_prints_a_command_that_a_shell_reads_as_it_is_meant(
    tool: str, no_tools: None, capsys: pytest.CaptureFixture[str]
) -> None:
    inside = "blip3v::token_learner cuda forward" if tool == "ncu" else None
    run_nsight(tool, REQUEST, Path("my profiles"), inside, only_print=True)  # type: ignore[arg-type]
    printed, reason = capsys.readouterr().out.splitlines()
    words = shlex.split(printed)
    assert words == command(tool, REQUEST, Path("my profiles/report"), inside)  # type: ignore[arg-type]
    assert words[0] == tool and words[-len(WORKLOAD) :] == WORKLOAD
    assert any("my profiles/report" in word for word in words)
    assert reason.startswith(f"not run: no {tool} on PATH")


def test_without_the_tool_the_command_is_printed_and_it_is_an_error(
    no_tools: None, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UserError, match="no nsys on PATH: install Nsight Systems, or use --tool torch"):
        run_nsight("nsys", REQUEST, Path("out"))
    assert shlex.split(capsys.readouterr().out)[:2] == ["nsys", "profile"]


def test_without_a_gpu_it_is_an_error(stand_in: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match="ncu watches a GPU, and there is none here"):
        run_nsight("ncu", REQUEST, Path("out"))


@pytest.mark.parametrize("tool, suffix", [("ncu", ".ncu-rep"), ("nsys", ".nsys-rep")])
def test_runs_the_tool_then_its_tables(tool: str, suffix: str, stand_in: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run_nsight(tool, REQUEST, out)  # type: ignore[arg-type]
    assert [path.name for path in out.iterdir()] == [f"report{suffix}"]
    first, second = (stand_in / "log").read_text().splitlines()
    assert shlex.split(first)[-len(WORKLOAD) :] == WORKLOAD
    assert str(out / f"report{suffix}") in second


def test_a_tool_that_fails_leaves_the_old_report(stand_in: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "report.ncu-rep").write_text("old")
    with pytest.raises(UserError, match="ncu failed"):
        run_nsight("ncu", Request("op", "ttm_read", case="narrow"), out)
    assert (out / "report.ncu-rep").read_text() == "old"


def test_a_filter_is_for_ncu_only() -> None:
    with pytest.raises(UserError, match="--inside is for --tool ncu"):
        command("nsys", REQUEST, Path("out"), "blip3v.vision")
