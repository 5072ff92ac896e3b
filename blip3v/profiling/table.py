"""The summary of a profile for a person."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table

STAGES_SHOWN, OPERATORS_SHOWN = 24, 12
"""Rows; the rest is one row more."""


def show(summary: dict[str, Any], console: Console | None = None) -> None:
    """Prints where the time went: kinds, stages, operators or kernels."""
    console = console or Console(markup=False, highlight=False)
    on_gpu = summary["device"] == "GPU"
    wall, kinds = summary["wall_ms"], summary["kinds"]
    gap = "GPU idle (launch gaps)" if on_gpu else "in no operator"
    console.print(
        f"{wall:.3f} ms an iteration on the {summary['device']},",
        f"mean of {summary['iterations']} after warm-up:",
        f"{'kernels' if on_gpu else 'operators'} {kinds['compute_ms'] / wall:.1%},",
        f"memory copies {kinds['copy_ms'] / wall:.1%}, {gap} {kinds['gap_ms'] / wall:.1%};",
        f"peak memory {summary['peak_memory_bytes'] / 2**20:.0f} MiB ({summary['memory_of']})",
    )
    console.print(_table("stage", "stage", summary["stages"], STAGES_SHOWN))
    what = "kernel or copy" if on_gpu else "operator"
    console.print(_table(what, "name", summary["operators"], OPERATORS_SHOWN))


def _table(title: str, key: str, rows: list[dict[str, Any]], most: int) -> Table:
    totals = any("total_ms" in row for row in rows)
    table = Table(title)
    for column in ("calls", *(["ms in all"] if totals else []), "own ms", "own share"):
        table.add_column(column, justify="right")

    def add(name: str, of: list[dict[str, Any]], calls: str = "", total: str = "") -> None:
        ms, share = (sum(row[value] for row in of) for value in ("ms", "share"))
        table.add_row(name, calls, *([total] if totals else []), f"{ms:.3f}", f"{share:.1%}")

    for row in rows[:most]:
        calls = f"{row['calls']:g}" if row["calls"] else ""
        add(row[key], [row], calls, f"{row.get('total_ms', 0):.3f}")
    if rows[most:]:
        add(f"{len(rows) - most} more", rows[most:])
    add("sum", rows)
    return table
