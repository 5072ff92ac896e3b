from __future__ import annotations

from pathlib import Path

from blip3v.profiling import nsys


def test_command() -> None:
    assert nsys.command(["python", "-m", "work"], Path("out/report")) == [
        "nsys", "profile", "--trace=cuda,nvtx", "--cuda-graph-trace=node", "--sample=none", "--cpuctxsw=none",
        "--capture-range=cudaProfilerApi", "--capture-range-end=stop", "--force-overwrite=true",
        "--output=out/report", "python", "-m", "work",
    ]  # fmt: skip


def test_tables_are_read_from_the_report() -> None:
    assert nsys.tables(Path("out/report"))[-1] == "out/report.nsys-rep"
