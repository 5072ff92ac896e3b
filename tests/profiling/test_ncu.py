from __future__ import annotations

from pathlib import Path

from blip3v.profiling import ncu


def test_command() -> None:
    assert ncu.command(["python", "-m", "work"], Path("out/report")) == [
        "ncu", "--set", "full", "--nvtx", "--profile-from-start", "off", "--clock-control", "none",
        "--target-processes", "all", "--force-overwrite", "--export", "out/report", "python", "-m", "work",
    ]  # fmt: skip


def test_a_filter_names_a_range_that_is_pushed_and_popped() -> None:
    command = ncu.command(["work"], Path("report"), inside="blip3v.resampler")
    assert command[command.index("--nvtx-include") + 1] == "blip3v.resampler/"


def test_tables_are_read_from_the_report() -> None:
    assert "out/report.ncu-rep" in ncu.tables(Path("out/report"))
