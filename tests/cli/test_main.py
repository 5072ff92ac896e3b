"""The front door: speed of the help, exit codes, one-line errors."""

from __future__ import annotations

import subprocess
import sys
import time
import types

import pytest

from blip3v.cli import main as cli
from blip3v.errors import UserError


@pytest.fixture
def failing_command(monkeypatch: pytest.MonkeyPatch) -> None:
    """`blip3v generate VIDEO` that refuses every video with a message of two lines."""

    def generate(video: str) -> None:
        raise UserError(f"no file {video}:\n  give a path that exists")

    module = types.ModuleType("blip3v.cli.generate")
    module.generate = generate  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "blip3v.cli.generate", module)


def test_help_comes_within_a_second() -> None:
    times = []
    for _ in range(3):
        start = time.perf_counter()
        run = subprocess.run(
            [sys.executable, "-m", "blip3v.cli.main", "--help"], capture_output=True, text=True, check=True
        )
        times.append(time.perf_counter() - start)
        assert all(name in run.stdout for name in cli.COMMANDS)
    assert min(times) < 1.0


def test_no_command_prints_the_usage_and_fails(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([]) == 2
    assert "usage: blip3v COMMAND" in capsys.readouterr().out


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    import blip3v

    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"blip3v {blip3v.__version__}\n"


def test_unknown_command_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["dance"]) == 2
    assert capsys.readouterr().err == (
        "blip3v: error: no command 'dance': "
        "choose one of demo, train, export, data, generate, stream, bench, profile, doctor\n"
    )


def test_user_error_is_one_line_without_traceback(
    failing_command: None, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("BLIP3V_DEBUG", raising=False)
    assert cli.main(["generate", "--video", "a.mp4"]) == 2
    assert capsys.readouterr().err == "blip3v: error: no file a.mp4: give a path that exists\n"


def test_debug_shows_the_traceback(failing_command: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BLIP3V_DEBUG", "1")
    with pytest.raises(UserError, match=r"no file a\.mp4"):
        cli.main(["generate", "--video", "a.mp4"])


def test_wrong_option_exits_with_2(failing_command: None) -> None:
    with pytest.raises(SystemExit) as exit_info:
        cli.main(["generate", "--banana", "1"])
    assert exit_info.value.code == 2
