"""Two result files, row by row: which is faster, by how much, and whether the repeats can tell at all.

Ratio: time in B over time in A, medians both; above 1, B is slower. Noise comes from the rows' own spread. Of
n repeats with standard deviation s, the 20th and 80th percentile lie 2 * 0.8416 s apart if they are normally
distributed, and their median has the standard error sqrt(pi / 2) s / sqrt(n) (the asymptotic one). So

    error = 0.745 (p80 - p20) / sqrt(n) * (1 + 4 / n)

The last factor pays for percentiles of few repeats, which vary themselves and lie too close. A ratio is noise
unless its logarithm exceeds both 3 standard errors of the two sides together and log 1.02. With it, one row
in 500 is called faster or slower although nothing changed, from 3 repeats to 50; and of rows that did become
20% slower while their repeats vary by 3%, 20 repeats find all but a few in a thousand, 5 repeats three in
four (simulated in tests/benchmarks/test_compare.py). What differs from one process to the next (clocks,
memory layout, another load) is in no spread; 2% allows for a little of it, and the drift that all rows share
is reported beside the verdicts.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from benchmarks.machine import slug
from benchmarks.results_file import identity
from blip3v.errors import UserError

SMALLEST = 0.02
"""Relative difference below which nothing is said, however steady the repeats are."""
ERRORS = 3.0
FEWEST = 3
"""Repeats that a spread needs."""
COMMON = 5
"""Rows that make a drift common."""
SPAN = math.sqrt(math.pi / 2) / (2 * statistics.NormalDist().inv_cdf(0.8))
STYLES = {"faster": "green", "slower": "red", "noise": "dim"}


@dataclass(frozen=True)
class Comparison:
    """One row in two files.

    ratio: B's time over A's. noise: relative difference that the repeats do not resolve. clock: which median,
    `graph` or `eager`. verdict: faster, slower, noise, too few repeats; only in A, only in B; failed in A, in
    B or in both, where there is a row and no time. detail: the reason of a failure, or a lost CUDA graph.
    """

    row: tuple[Any, ...]
    verdict: str
    a_ms: float | None = None
    b_ms: float | None = None
    noise: float | None = None
    clock: str = ""
    detail: str = ""

    @property
    def ratio(self) -> float | None:
        return self.b_ms / self.a_ms if self.a_ms and self.b_ms else None

    @property
    def name(self) -> str:
        return " ".join(str(part) for part in self.row if part)


def compare(a: dict[str, Any], b: dict[str, Any]) -> list[Comparison]:
    """Every row of either file, in A's order and then B's.

    Raises:
        UserError: they come from different kinds of device, or a file holds a row twice.
    """
    kinds = [file["machine"].get("kind", "unknown") for file in (a, b)]
    if kinds[0] != kinds[1]:
        raise UserError(
            f"A was measured on {kinds[0]} and B on {kinds[1]}; compare files of one kind of device"
        )
    rows_a, rows_b = _by_identity(a, "A"), _by_identity(b, "B")
    return [_compare(row, rows_a.get(row), rows_b.get(row)) for row in {**rows_a, **rows_b}]


def check(baseline: dict[str, Any], current: dict[str, Any], tolerance: float = 0.1) -> list[str]:
    """The regressions in words: slower by more than `tolerance` and beyond noise, or without a time it had.

    Rows that only `current` has are no regression, and neither are those that had no time before.

    Raises:
        UserError: another device, or a row with too few repeats for a verdict.
    """
    devices = [slug(file["machine"]) for file in (baseline, current)]
    if devices[0] != devices[1]:
        raise UserError(
            f"the baseline was measured on {devices[0]}, this is {devices[1]}; "
            "check against a baseline of the same device"
        )
    found = compare(baseline, current)
    unclear = [one.name for one in found if one.verdict == "too few repeats"]
    if unclear:
        raise UserError(
            f"{unclear[0]} (and {len(unclear) - 1} more) has too few repeats to tell a regression "
            f"from noise; measure both sides with --repeats {FEWEST} or more"
        )
    shared = drift(found)
    beside = f"; all rows together {shared:.2f}" if shared else ""
    regressions = []
    for one in found:
        if one.verdict in ("only in A", "failed in B"):
            before = f"took {one.a_ms:.4g} ms in the baseline" if one.a_ms else ""
            why = "its row is gone" if one.verdict == "only in A" else one.detail
            regressions += [f"{one.name}: {before} and has no time now: {why}"] if before else []
        elif one.verdict == "slower" and one.ratio is not None and one.ratio > 1 + tolerance:
            regressions.append(
                f"{one.name}: {one.ratio:.2f} times the baseline ({one.a_ms:.4g} -> {one.b_ms:.4g} ms "
                f"{one.clock}, noise {one.noise:.1%}{beside})"
            )
        if one.detail.startswith("graph"):
            regressions.append(f"{one.name}: {one.detail}")
    return regressions


def drift(comparisons: list[Comparison]) -> float | None:
    """Median ratio of all rows, if it is no noise itself: clocks or another load rather than one change."""
    logs = sorted(math.log(one.ratio) for one in comparisons if one.ratio is not None)
    if len(logs) < COMMON:
        return None
    low, *_, high = statistics.quantiles(logs, n=5)
    middle, error = statistics.median(logs), ERRORS * _error(high - low, len(logs))
    return math.exp(middle) if abs(middle) > max(math.log1p(SMALLEST), error) else None


def noise(sides: Iterable[tuple[dict[str, Any], str]]) -> float | None:
    """Relative difference of two medians that their repeats do not resolve; None of too few repeats.

    sides: each a row and the prefix of its times, `graph_` or nothing.
    """
    squares = 0.0
    for row, prefix in sides:
        low, middle, high = (row.get(f"{prefix}{name}_ms") for name in ("p20", "median", "p80"))
        repeats = row.get(f"{prefix}repeats", 0)
        if repeats < FEWEST or low is None or high is None:
            return None
        squares += _error((high - low) / middle, repeats) ** 2
    return max(math.expm1(ERRORS * math.sqrt(squares)), SMALLEST)


def table(comparisons: list[Comparison]) -> Table:
    """A line per row, but for those that failed in both; the caption counts all, and says what they share."""
    lines = Table(
        title="B against A (ratio: B's time over A's)",
        title_justify="left",
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        show_edge=False,
    )
    lines.add_column("row", ratio=3)
    for head in ("A ms", "B ms", "ratio", "noise"):
        lines.add_column(head, justify="right", no_wrap=True)
    lines.add_column("verdict", ratio=1, min_width=10)
    for one in comparisons:
        if one.verdict == "failed in both":
            continue
        verdict = f"{one.verdict}: {one.detail}" if one.detail else one.verdict
        cells = (_ms(one.a_ms), _ms(one.b_ms), *_ratio(one), verdict)
        # As Text: a reason may hold brackets, which markup would swallow.
        lines.add_row(*map(Text, (one.name, *cells)), style=STYLES.get(one.verdict, "yellow"))
    verdicts = [one.verdict for one in comparisons]
    counted = ", ".join(f"{verdicts.count(verdict)} {verdict}" for verdict in dict.fromkeys(verdicts))
    shared = drift(comparisons)
    common = f"; all rows together: {shared:.2f}, so look at the clocks first" if shared else ""
    lines.caption = f"{counted or 'no rows'}{common}"
    return lines


def _by_identity(file: dict[str, Any], name: str) -> dict[tuple[Any, ...], dict[str, Any]]:
    rows: dict[tuple[Any, ...], dict[str, Any]] = {}
    for row in file["rows"]:
        if identity(row) in rows:
            twice = " ".join(str(part) for part in identity(row) if part)
            raise UserError(f"{name} holds two rows {twice!r}; measure it again into a new file")
        rows[identity(row)] = row
    return rows


def _compare(name: tuple[Any, ...], a: dict[str, Any] | None, b: dict[str, Any] | None) -> Comparison:
    if a is None or b is None:
        there = a or b or {}
        time = there.get("graph_median_ms", there.get("median_ms"))
        only = "only in A" if b is None else "only in B"
        return Comparison(name, only, a_ms=time if b is None else None, b_ms=time if a is None else None)
    prefix = "graph_" if "graph_median_ms" in a and "graph_median_ms" in b else ""
    # An impossible time is none.
    a_ms, b_ms = (None if "bug" in row else row.get(f"{prefix}median_ms") for row in (a, b))
    if a_ms is None or b_ms is None:
        side = ("both" if a_ms is None else "B") if b_ms is None else "A"
        failed = a if side == "A" else b
        reason = failed.get("bug") or failed.get("reason", "no time")
        return Comparison(name, f"failed in {side}", a_ms, b_ms, detail=reason)
    lost = "graph_median_ms" in a and not prefix
    detail = f"graph replay is gone: {b.get('graph_reason', 'not measured')}" if lost else ""
    unresolved = noise([(a, prefix), (b, prefix)])
    verdict = _verdict(math.log(b_ms / a_ms), unresolved)
    return Comparison(name, verdict, a_ms, b_ms, unresolved, prefix.strip("_") or "eager", detail)


def _verdict(distance: float, unresolved: float | None) -> str:
    """distance: logarithm of the ratio."""
    if unresolved is None:
        return "too few repeats"
    if abs(distance) <= math.log1p(unresolved):
        return "noise"
    return "slower" if distance > 0 else "faster"


def _error(span: float, repeats: int) -> float:
    """Standard error of the median of `repeats` values whose 20th and 80th percentile are `span` apart."""
    return SPAN * span / math.sqrt(repeats) * (1 + 4 / repeats)


def _ms(time: float | None) -> str:
    return "" if time is None else f"{time:.4g}"


def _ratio(one: Comparison) -> tuple[str, str]:
    if one.ratio is None:
        return "", ""
    return f"{one.ratio:.3f}", "" if one.noise is None else f"{one.noise:.1%}"
