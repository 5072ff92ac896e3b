"""README.md and the committed results agree, and the table claims nothing that was not measured."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import report
from blip3v.errors import UserError

EMPTY = f"before\n{report.BEGIN}\n{report.END}\nafter\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "results").mkdir()
    (tmp_path / "README.md").write_text(EMPTY, encoding="utf-8")
    return tmp_path


def commit(folder: Path, device: str, name: str, content: Any) -> None:
    (folder / "results" / device).mkdir(exist_ok=True)
    (folder / "results" / device / name).write_text(json.dumps(content), encoding="utf-8")


def run(folder: Path, *arguments: str) -> int:
    places = ["--readme", str(folder / "README.md"), "--results", str(folder / "results")]
    return report.main([*places, *arguments])


def test_the_readme_of_this_repository_agrees_with_its_results() -> None:
    assert report.main(["--check"]) == 0, "run `python -m benchmarks.report`"


def test_a_readme_out_of_date_fails_and_is_repaired(folder: Path, gpu_file: dict[str, Any]) -> None:
    commit(folder, "nvidia-h200", "ops.json", gpu_file)
    assert run(folder, "--check") == 1 and (folder / "README.md").read_text() == EMPTY
    assert run(folder) == 0 and run(folder, "--check") == 0
    text = (folder / "README.md").read_text()
    assert text.startswith("before\n") and text.endswith("\nafter\n")
    gpu_file["rows"][4]["graph_median_ms"] *= 1.1
    commit(folder, "nvidia-h200", "ops.json", gpu_file)
    assert run(folder, "--check") == 1


def test_a_line_per_contest_ours_against_the_best_other(folder: Path, gpu_file: dict[str, Any]) -> None:
    commit(folder, "nvidia-h200", "ops.json", gpu_file)
    table = report.table(folder / "results")
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines() if "|" in line][
        2:
    ]
    assert [" ".join(cells) for cells in lines] == [
        "token_learner one_video bfloat16 forward cuda 0.0248 0.000605 compile max-autotune 0.0568 2.29x",
        "token_learner sixteen_videos bfloat16 forward+backward cuda 0.160 0.0592 sdpa cudnn 0.400 2.50x",
        "vit one_video bfloat16 forward blip3v cuda 7.28 6.73 sdpa cudnn 7.44 1.02x (noise)",
    ]
    assert "NVIDIA H200" in table and "0123456789ab" in table and report.NOTHING not in table


def test_results_of_a_cpu_are_no_claim_about_a_gpu(folder: Path, cpu_file: dict[str, Any]) -> None:
    commit(folder, "a-processor-2-threads", "ops.json", cpu_file)
    table = report.table(folder / "results")
    assert table.startswith(report.NOTHING) and report.OF_A_CPU in table
    assert "CPU (A processor, 2 threads)" in table and "H200" not in table
    assert "| reference | 4.00 |" in table and "cuda" not in table and "simulator" not in table


def test_gpus_come_first(folder: Path, cpu_file: dict[str, Any], gpu_file: dict[str, Any]) -> None:
    commit(folder, "a-processor-2-threads", "ops.json", cpu_file)
    commit(folder, "nvidia-h200", "ops.json", gpu_file)
    table = report.table(folder / "results")
    assert table.index("NVIDIA H200") < table.index("CPU (A processor")


def test_other_files_among_the_results_are_passed_over(folder: Path) -> None:
    commit(folder, "a-processor", "faults.json", [{"fault": 1}])
    commit(folder, "a-processor", "stages.json", {"rows": [{"stage": "resampler"}], "machine": {}})
    assert report.table(folder / "results") == report.NOTHING


@pytest.mark.parametrize("text", ["no comments", report.BEGIN, f"{report.END}{report.BEGIN}", EMPTY + EMPTY])
def test_a_readme_without_its_two_comments_is_refused(text: str, folder: Path) -> None:
    with pytest.raises(UserError, match="the README must hold"):
        report.with_table(text, "table")
    (folder / "README.md").write_text(text, encoding="utf-8")
    assert run(folder) == 2
