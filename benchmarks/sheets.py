"""From rows to what a reader sees of them: grouped, ours first, numbers rounded, failures with their reason.

Terminal, Markdown and HTML print the same sheets. A group holds everything that does the same work, so the
fastest of it can be marked; where nothing is compared, a sheet is a plain list of rows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from benchmarks.columns import Column, Row, best_ms, columns_of, number, of_field, prefix_of
from benchmarks.compare import noise
from benchmarks.results_file import IDENTITY

OURS = ("cuda", "triton", "reference", "simulator")
"""Backends of the package's own operators; so is every name that begins with blip3v."""

Item = TypeVar("Item")
TIME = "ms"
BEST, BUG, WRONG, UNTIMED = "best", "BUG", "WRONG", "no time"


@dataclass(frozen=True)
class Line:
    """One row. state: best of its group, BUG (time below the data sheet's), WRONG, no time, or empty.

    cells: one text per column of the sheet, the first of them the time or the state in its place.
    note: the reason, or what is wrong with the time.
    """

    name: str
    cells: tuple[str, ...]
    state: str
    note: str
    row: Row


@dataclass(frozen=True)
class Group:
    """What does the same work.

    floor: what nobody can beat. result: ours against the best of the others; both may be empty.
    """

    title: str
    floor: str
    result: str
    lines: tuple[Line, ...]


@dataclass(frozen=True)
class Sheet:
    title: str
    head: tuple[str, ...]
    groups: tuple[Group, ...]


def is_ours(backend: str) -> bool:
    return backend in OURS or backend.startswith("blip3v")


def timed(rows: Iterable[Row]) -> list[Row]:
    """Those whose time counts: one that is a bug does not."""
    return [row for row in rows if best_ms(row) is not None and "bug" not in row]


def contest(rows: Iterable[Row]) -> tuple[Row | None, Row | None]:
    """The fastest of ours and the fastest of the others, of rows that do the same work."""
    rows = timed(rows)
    sides = ([row for row in rows if is_ours(row["backend"]) == mine] for mine in (True, False))
    ours, others = (min(side, key=lambda row: best_ms(row) or math.inf, default=None) for side in sides)
    return ours, others


def rank(backend: str) -> tuple[bool, int]:
    """Ours first, in their own order."""
    return not is_ours(backend), OURS.index(backend) if backend in OURS else 0


def grouped(rows: Iterable[Item], key: Callable[[Item], Any]) -> dict[Any, list[Item]]:
    """By key, both in the order in which they first appear: a resumed file holds rows in any order."""
    groups: dict[Any, list[Item]] = {}
    for row in rows:
        groups.setdefault(key(row), []).append(row)
    return groups


def same_work(rows: Iterable[Row]) -> list[list[Row]]:
    """Rows of the same level, op, case, dtype and direction."""
    return [*grouped(rows, lambda row: tuple(row.get(name) for name in IDENTITY[:-1])).values()]


def sheets(file: dict[str, Any]) -> list[Sheet]:
    """One per op where backends are compared, one per level where not."""
    found = []
    for level, rows in grouped(file["rows"], lambda row: row["level"]).items():
        if level == "tokens":  # measured by encoder, read by number
            rows = sorted(rows, key=lambda row: row.get("tokens", 0))
        groups = same_work(rows)
        if any(len(group) > 1 for group in groups):
            for op, of_op in grouped(groups, lambda group: group[0]["op"]).items():
                found.append(_compared(f"{level}: {op}", of_op))
        else:
            found.append(_listed(level, rows))
    return found


def device_name(machine: dict[str, Any]) -> str:
    """`NVIDIA H200`, or `CPU (AMD EPYC, 2 threads)`."""
    of_cpu = f"CPU ({machine.get('cpu', 'unknown')}, {machine.get('threads', 'unknown')} threads)"
    return str(machine.get("gpu", of_cpu))


def words(*parts: Any) -> str:
    return " ".join(str(part) for part in parts if part not in (None, ""))


def _compared(title: str, groups: list[list[Row]]) -> Sheet:
    columns = columns_of([row for group in groups for row in group])
    shown = []
    for group in groups:
        first, (ours, other) = group[0], contest(group)
        times = timed(group)
        best = min(times, key=lambda row: best_ms(row) or math.inf) if len(times) > 1 else None
        # Stable: what is not ours keeps the order in which it was measured.
        group = sorted(group, key=lambda row: rank(row["backend"]))
        lines = tuple(_line(row, row["backend"], columns, row is best) for row in group)
        heading = words(first["case"], first.get("dtype"), first.get("direction"))
        shown.append(Group(heading, _floor(group), _result(ours, other), lines))
    return Sheet(title, (TIME, *(column.head for column in columns)), tuple(shown))


def _listed(level: str, rows: list[Row]) -> Sheet:
    """Rows of which each does work of its own; what is the same for all of them stands in the title."""
    columns = columns_of(rows)
    fields = [name for name in IDENTITY[2:] if len({row.get(name) for row in rows}) > 1]
    common = words(*(rows[0].get(name) for name in IDENTITY[3:] if name not in fields))
    groups = []
    for op, of_op in grouped(rows, lambda row: row["op"]).items():
        lines = (
            _line(row, words(*(row.get(name) for name in fields)) or op, columns, False) for row in of_op
        )
        groups.append(Group(op, "", "", tuple(lines)))
    return Sheet(words(f"{level}:", common), (TIME, *(column.head for column in columns)), tuple(groups))


def _line(row: Row, name: str, columns: Sequence[Column], best: bool) -> Line:
    if best_ms(row) is None:
        state = WRONG if row.get("ok") is False else UNTIMED
    else:
        state = BUG if "bug" in row else BEST if best else ""
    head = state if state in (BUG, WRONG, UNTIMED) else of_field("median_ms")(row)
    note = row.get("bug") or row.get("reason") or ""
    if row.get("graph_reason"):
        note = words(note, f"no graph: {row['graph_reason']}")
    # What follows from an impossible time is impossible too, and must not be read as a result.
    shown = ("" if state == BUG else column.text(row) for column in columns)
    return Line(name, (head, *shown), state, note, row)


def floor_of(rows: Sequence[Row]) -> float | None:
    """The floor in milliseconds, if all share it: encoders that make as many tokens have their own."""
    floors = {row["floor_ms"] for row in rows if "floor_ms" in row}
    return floors.pop() if len(floors) == 1 else None


def _floor(group: Sequence[Row]) -> str:
    floor = floor_of(group)
    bound = next((row["bound"] for row in group if "bound" in row), "")
    return "" if floor is None else f"floor {number(floor)} ms ({bound})"


def ratio(ours: Row, other: Row) -> str:
    """How many times as fast ours is, and whether its repeats can tell."""
    sides = [(row, prefix_of(row)) for row in (ours, other)]
    times = (best_ms(other) or 0) / (best_ms(ours) or math.inf)
    unresolved = noise(sides)
    doubt = " (noise)" if unresolved is None or abs(math.log(times)) <= math.log1p(unresolved) else ""
    return f"{number(times)}x{doubt}"


def _result(ours: Row | None, other: Row | None) -> str:
    if ours is None or other is None:
        return ""
    return f"{ours['backend']} against {other['backend']}, the best other: {ratio(ours, other)}"
