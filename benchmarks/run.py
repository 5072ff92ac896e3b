"""One run of `blip3v bench`: rows as they come, then the table and the files."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from benchmarks import compare, page, plots, results_file, tables
from benchmarks.ceilings import measure_ceilings
from benchmarks.levels import Choice, parts
from benchmarks.machine import describe_machine, slug
from benchmarks.rows import describe
from blip3v.errors import UserError

RUNS = Path("runs") / "bench"
PIPED = 110
"""Columns where there is no terminal to ask: what the tables need."""


def run(choice: Choice, out: Path | None, *, resume: bool, check: Path | None, tolerance: float) -> bool:
    """Measure, print, write. False if `check` found a regression.

    Raises:
        UserError: unknown names, or a `check` file that is none, before anything is measured.
    """
    baseline = None if check is None else results_file.read(check)
    parts(choice, None)  # names are checked before the seconds that the ceilings take
    console = console_for_tables()
    machine, ceilings = describe_machine(choice.device), measure_ceilings(choice.device)
    folder = out or RUNS / slug(machine)
    file = results_file.ResultFile(folder / f"{choice.level}.json", machine, ceilings.as_json(), resume)
    _measure(choice, file, ceilings, console)

    publish(file.content, file.path, console)
    if baseline is None:
        return True
    slower = compare.check(chosen_rows(baseline, choice), file.content, tolerance)
    console.print("\n".join(slower) or f"no row is slower than in {check}", markup=False)
    return not slower


def redraw(path: Path) -> None:
    """Table, CSV, page and plots of a result file once more, wherever it was measured.

    Raises:
        UserError: it is no result file.
    """
    publish(results_file.read(path), path, console_for_tables())


def publish(content: dict[str, Any], path: Path, console: Console) -> None:
    """Print the tables; write CSV, page and plots beside the result file."""
    for table in tables.table(content):
        console.print(table)
    written = [path, path.with_suffix(".csv"), path.with_suffix(".html")]
    tables.write_csv(content, written[1])
    page.write_page(content, written[2])
    try:
        written += plots.write_plots(content, path.parent)
    except UserError as error:  # no matplotlib: what was measured is worth having without pictures
        console.print(f"no plots: {error}", markup=False)
    console.print("written: " + ", ".join(map(str, written)), markup=False, soft_wrap=True)


def chosen_rows(baseline: dict[str, Any], choice: Choice) -> dict[str, Any]:
    """The baseline without the rows that were not asked for this time: they are not missing."""
    wanted = {"case": choice.case, "dtype": choice.dtype, "direction": choice.direction}
    # An encoder is what a user calls the op; rows of this level all have one op, and the encoder as backend.
    tokens = choice.level == "tokens"
    wanted |= {"backend": choice.op} if tokens else {"op": choice.op, "backend": choice.peer}
    rows = [
        row
        for row in baseline["rows"]
        if all(not names or row.get(field) in names for field, names in wanted.items())
    ]
    return {**baseline, "rows": rows}


def console_for_tables() -> Console:
    return Console(width=None if sys.stdout.isatty() else PIPED)


def _measure(choice: Choice, file: results_file.ResultFile, ceilings: Any, console: Console) -> None:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    todo = [part for part in parts(choice, ceilings) if not file.done(part.name)]
    with Progress(*columns, console=console, transient=True) as progress:
        bar = progress.add_task("", total=len(todo))
        for part in todo:
            progress.update(bar, description=part.name)
            for row in part.measure():
                file.add(row)
                progress.console.print(describe(row), markup=False, highlight=False, soft_wrap=True)
            file.finish(part.name)
            progress.advance(bar)


def print_comparison(first: Path, second: Path) -> None:
    """Ratios of two result files, row by row."""
    found = compare.compare(results_file.read(first), results_file.read(second))
    console_for_tables().print(compare.table(found))
