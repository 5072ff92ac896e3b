from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from blip3v.profiling.table import OPERATORS_SHOWN, show


def summary(device: str, operators: int = 2) -> dict[str, Any]:
    return {
        "device": device,
        "iterations": 5,
        "wall_ms": 2.0,
        "kinds": {"compute_ms": 1.0, "copy_ms": 0.5, "gap_ms": 0.5},
        "stages": [{"stage": "blip3v.vision", "calls": 1, "ms": 2.0, "total_ms": 2.0, "share": 1.0}],
        "operators": [
            {"name": f"name {number}", "calls": 3, "ms": 2.0 / operators, "share": 1.0 / operators}
            for number in range(operators)
        ],
        "peak_memory_bytes": 3 * 2**20,
        "memory_of": "tensors on the GPU",
    }


def printed(summary: dict[str, Any]) -> str:
    file = io.StringIO()
    show(summary, Console(file=file, width=200))
    return file.getvalue()


@pytest.mark.parametrize(
    "device, words",
    [
        ("GPU", ["kernels 50.0%", "memory copies 25.0%", "GPU idle (launch gaps) 25.0%", "kernel or copy"]),
        ("CPU", ["operators 50.0%", "in no operator 25.0%", "operator"]),
    ],
)
def test_says_where_the_time_went(device: str, words: list[str]) -> None:
    text = printed(summary(device))
    for word in [*words, "2.000 ms an iteration", "peak memory 3 MiB", "blip3v.vision", "name 1"]:
        assert word in text


def test_what_is_not_shown_is_summed() -> None:
    lines = printed(summary("CPU", operators=OPERATORS_SHOWN + 4)).splitlines()
    (rest,) = [line for line in lines if "4 more" in line]
    assert "0.500" in rest and "25.0%" in rest
    assert "100.0%" in lines[-2]
