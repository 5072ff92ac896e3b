"""The columns of a sheet: which field of a row each shows, under which head, rounded how."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

Row = dict[str, Any]


@dataclass(frozen=True)
class Column:
    """text: of a row, empty where it has nothing to show."""

    head: str
    text: Callable[[Row], str]


def best_ms(row: Row) -> float | None:
    """The better of eager and CUDA graph, in milliseconds."""
    times = [row[name] for name in ("median_ms", "graph_median_ms") if row.get(name) is not None]
    return min(times, default=None)


def prefix_of(row: Row) -> str:
    """Of the fields that belong to it: `graph_`, or nothing for an eager call."""
    return "graph_" if row.get("graph_median_ms", math.inf) <= row["median_ms"] else ""


def number(value: float, digits: int = 3) -> str:
    """`digits` significant ones, and never an exponent: 0.0123, 12.3, 1230."""
    if not math.isfinite(value) or value == 0:
        return f"{value:g}"
    places = digits - 1 - math.floor(math.log10(abs(value)))
    return f"{value:.{places}f}" if places >= 0 else f"{round(value):d}"


def memory(value: float) -> str:
    """Bytes in the unit that suits them."""
    for unit in ("B", "KiB", "MiB"):
        if value < 1024:
            return f"{number(value)} {unit}"
        value /= 1024
    return f"{number(value)} GiB"


def of_field(name: str, text: Callable[[Any], str] = number) -> Callable[[Row], str]:
    return lambda row: text(row[name]) if row.get(name) is not None else ""


def _better(name: str) -> Callable[[Row], str]:
    """Of a rate that eager calls and graph replays both have, the higher one."""

    def text(row: Row) -> str:
        rates = [row[key] for key in (name, f"graph_{name}") if row.get(key) is not None]
        return number(max(rates)) if rates else ""

    return text


def _span(row: Row) -> str:
    """How far p20 and p80 are from the median: shorter than the times, and what one wants to know of them."""
    if row.get("p20_ms") is None or row.get("p80_ms") is None:
        return ""
    return " ".join(f"{row[name] / row['median_ms'] - 1:+.1%}" for name in ("p20_ms", "p80_ms"))


def _percent(share: float) -> str:
    return f"{share:.0%}" if share >= 0.1 else f"{share:.1%}"


COLUMNS = {
    "p20_ms": Column("p20, p80", _span),
    "graph_median_ms": Column("graph ms", of_field("graph_median_ms")),
    "tflops": Column("TFLOP/s", _better("tflops")),
    "gbytes_per_s": Column("GB/s", _better("gbytes_per_s")),
    "roofline_share": Column("roofline", of_field("roofline_share", _percent)),
    "peak_memory_bytes": Column("memory", of_field("peak_memory_bytes", memory)),
    "activation_checkpointing": Column("recompute", of_field("activation_checkpointing", str)),
    "error": Column("error", of_field("error", lambda error: f"{error:.1e}".replace("e-0", "e-"))),
}
"""By field. A level's own numbers come after them, see `_own`."""

CHOSEN = {
    "ops": tuple(COLUMNS),
    "stages": tuple(COLUMNS),
    "tokens": (
        *("p20_ms", "vision_ms", "prefill_ms", "tokens_per_s"),
        *("peak_memory_bytes", "kv_cache_bytes", "largest_batch"),
    ),
    "train": (
        *("p20_ms", "samples_per_s", "tokens_per_s", "tflops", "mfu"),
        *("data_stall_ms", "activation_checkpointing", "peak_memory_bytes", "error"),
    ),
    "decode": ("p20_ms", "clips_per_s", "frames_per_s", "first_frame_ms", "cpu_ms", "difference"),
}
"""Level -> what its sheets show; of a level that is not here, every number. CSV and JSON hold all of them."""

ELSEWHERE = {
    *("median_ms", "p80_ms", "repeats", "floor_ms", "flops", "bytes", "sm_clock_mhz", "memory_clock_mhz"),
    *(f"graph_{name}" for name in ("p20_ms", "p80_ms", "repeats", "tflops", "gbytes_per_s")),
}
"""Numbers that stand in another column or above the group, or in the files only."""

UNITS = {"_ms": " ms", "_per_s": "/s"}


def columns_of(rows: Sequence[Row]) -> list[Column]:
    """Those of which any of these rows, all of one level, has something."""
    fields = CHOSEN.get(rows[0]["level"]) or (
        *COLUMNS,
        *(name for name in _numbers(rows) if name not in COLUMNS and name not in ELSEWHERE),
    )
    columns = (COLUMNS.get(name) or _own(name) for name in fields)
    return [column for column in columns if any(column.text(row) for row in rows)]


def _numbers(rows: Sequence[Row]) -> dict[str, None]:
    """The names of all numbers, in the order in which they first appear."""
    return dict.fromkeys(
        name
        for row in rows
        for name, value in row.items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    )


def _own(name: str) -> Column:
    """A column for a number that only one level has, headed and formatted by the unit in its name."""
    if name.endswith("_bytes"):
        return Column(name.removesuffix("_bytes").replace("_", " "), of_field(name, memory))
    if name == "mfu" or name.endswith("_share"):
        return Column(name.removesuffix("_share"), of_field(name, _percent))
    text = of_field(name, lambda value: str(value) if isinstance(value, int) else number(value))
    for suffix, unit in UNITS.items():
        if name.endswith(suffix):
            return Column(name.removesuffix(suffix).replace("_", " ") + unit, text)
    return Column(name.replace("_", " "), text)
