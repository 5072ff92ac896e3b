"""Tables of a terminal and of Markdown, and CSV."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks.tables import markdown, table, write_csv


def printed(file: dict[str, Any], width: int = 110) -> list[str]:
    console = Console(width=width, file=io.StringIO(), record=True)
    for each in table(file):
        console.print(each)
    return console.export_text().splitlines()


def test_everything_is_readable_at_110_columns(gpu_file: dict[str, Any]) -> None:
    lines = printed(gpu_file)
    text = "\n".join(lines)
    assert max(len(line.rstrip()) for line in lines) <= 110
    assert "ops: token_learner on NVIDIA H200" in text and "…" not in text
    # The last column is there to its end, and brackets of a reason are no markup.
    cuda = next(line for line in lines if line.split()[:2] == ["cuda", "0.0310"])
    assert cuda.split()[-1] == "2.1e-3"
    assert "[1] einsum: output [8,729]: BAD, relative error 3.1e-01" in text
    assert "WRONG [1]" in next(line for line in lines if "einsum " in line)


def test_a_reason_that_rows_share_stands_once(gpu_file: dict[str, Any]) -> None:
    absent = [row for row in gpu_file["rows"] if row["backend"] == "flash-attn"]
    more = [row | {"case": f"case_{number}"} for number in range(5) for row in absent]
    lines = printed({**gpu_file, "rows": gpu_file["rows"][:5] + more})
    assert sum("No module named 'flash_attn'" in line for line in lines) == 1
    assert sum("no time [2]" in line for line in lines) == 6


def test_a_table_of_a_cpu_names_it(cpu_file: dict[str, Any]) -> None:
    assert "on CPU (A processor, 2 threads)" in printed(cpu_file)[0]


def test_markdown_has_as_many_cells_in_every_line_of_a_table(gpu_file: dict[str, Any]) -> None:
    gpu_file["rows"][0]["backend"] = "reference | odd"
    text = markdown(gpu_file)
    rows = [line.replace(r"\|", "") for line in text.splitlines() if line.startswith("|")]
    assert {row.count("|") for row in rows[:7]} == {10} and "| **cuda** | **0.0310** |" in text
    assert "reference \\| odd" in text and "### stages: vit" in text


def test_csv_holds_the_union_of_all_fields(gpu_file: dict[str, Any], tmp_path: Path) -> None:
    write_csv(gpu_file, tmp_path / "rows.csv")
    with (tmp_path / "rows.csv").open(newline="", encoding="utf-8") as lines:
        read = [*csv.DictReader(lines)]
    assert len(read) == len(gpu_file["rows"])
    assert set(read[0]) == {name for row in gpu_file["rows"] for name in row}
    assert float(read[0]["median_ms"]) == 0.42 and read[2]["median_ms"] == ""
    assert read[2]["reason"] == gpu_file["rows"][2]["reason"]
