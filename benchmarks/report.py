"""The table of README.md, made from the committed results: `python -m benchmarks.report`.

It stands between two comments, so nobody types a number. `--check` writes nothing and fails where README and
results disagree. One table per device; a line per op or stage, case and direction: our fastest backend
against the fastest of all others.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.columns import Row, best_ms, number
from benchmarks.machine import ROOT
from benchmarks.sheets import contest, device_name, floor_of, ratio, same_work, words
from blip3v.errors import UserError

README = ROOT / "README.md"
RESULTS = ROOT / "benchmarks" / "results"
BEGIN, END = "<!-- benchmark table: benchmarks/report.py -->", "<!-- end -->"
LEVELS = ("ops", "stages")
NOTHING = "**Nothing has been measured on a GPU yet.**"
OF_A_GPU = "The better of an eager call and a CUDA graph, medians"
OF_A_CPU = (
    "PyTorch on a CPU: everything runs and agrees with float64; says nothing about the kernels on a GPU"
)
HEAD = ("", "case", "direction", "ours", "ms", "floor, ms", "best other", "ms", "ratio")
ALIGNED = ("---", "---", "---", "---", "---:", "---:", "---", "---:", "---:")


def main(arguments: Sequence[str] | None = None) -> int:
    """Rewrite the table, or with --check only say whether it is right: 0, or 1 where it is not."""
    parser = argparse.ArgumentParser(description="The README's table from benchmarks/results/*/*.json.")
    parser.add_argument("--check", action="store_true", help="write nothing, fail where they disagree")
    parser.add_argument("--readme", type=Path, default=README)
    parser.add_argument("--results", type=Path, default=RESULTS)
    args = parser.parse_args(arguments)
    try:
        before = args.readme.read_text(encoding="utf-8")
        after = with_table(before, table(args.results))
    except UserError as error:
        print(f"report: {error}", file=sys.stderr)
        return 2
    if before == after:
        print(f"{args.readme.name} agrees with {args.results.name}/")
        return 0
    if args.check:
        print(f"{args.readme.name} is out of date: run `python -m benchmarks.report`", file=sys.stderr)
        return 1
    args.readme.write_text(after, encoding="utf-8")
    print(f"{args.readme.name} written anew")
    return 0


def with_table(readme: str, table: str) -> str:
    """The text with `table` between its two comments.

    Raises:
        UserError: the comments are not there, once each and in this order.
    """
    head, begin, rest = readme.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not begin or not end or BEGIN in rest:
        raise UserError(
            f"the README must hold {BEGIN} and then {END}, once; put them where the table belongs"
        )
    return f"{head}{BEGIN}\n{table}\n{END}{tail}"


def table(results: Path) -> str:
    """Markdown: the tables of all devices, GPUs first; says so where no GPU was measured."""
    found = [_device(folder) for folder in sorted(results.iterdir()) if folder.is_dir()]
    tables = sorted((table for table in found if table), key=lambda table: not table.gpu)
    nothing = [] if any(table.gpu for table in tables) else [NOTHING]
    return "\n\n".join([*nothing, *(table.text for table in tables)])


class DeviceTable(NamedTuple):
    """gpu: whether its numbers say anything about kernels."""

    gpu: bool
    text: str


def _device(folder: Path) -> DeviceTable | None:
    """The table of one device's folder; None where `blip3v bench` wrote nothing into it."""
    files = [*_files(folder)]
    if not files:
        return None
    machine = files[0]["machine"]
    gpu = "gpu" in machine
    commits = ", ".join(dict.fromkeys(file["machine"]["commit"] for file in files))
    driver = f", driver {machine['driver_version']}" if "driver_version" in machine else ""
    title = (
        f"**{device_name(machine)}**, torch {machine['torch']}{driver}, commit {commits}, {machine['date']}. "
        f"{OF_A_GPU if gpu else OF_A_CPU} ([all rows](benchmarks/results/{folder.name}))."
    )
    rows = [row for file in files for row in file["rows"] if row.get("level") in LEVELS]
    lines = [line for group in same_work(rows) if (line := _line(group))]
    head = [_cells(HEAD), _cells(ALIGNED)] if lines else ["None of our backends has a time there."]
    return DeviceTable(gpu, "\n".join([title, "", *head, *lines]))


def _files(folder: Path) -> Iterator[dict[str, Any]]:
    """Those that `blip3v bench` wrote: other files there have rows of their own kind, or none."""
    for path in sorted(folder.glob("*.json")):
        file = json.loads(path.read_text(encoding="utf-8"))
        rows = file.get("rows") if isinstance(file, dict) else None
        if isinstance(rows, list) and any(
            isinstance(row, dict) and row.get("level") in LEVELS for row in rows
        ):
            yield file


def _line(group: Sequence[Row]) -> str:
    """Ours against the best other; nothing where none of ours has a time."""
    ours, other = contest(group)
    if ours is None:
        return ""
    floor = floor_of(group)
    peer = (other["backend"], number(best_ms(other) or 0), ratio(ours, other)) if other else ("none", "", "")
    return _cells(
        (
            ours["op"],
            words(ours["case"], ours["dtype"]),
            ours["direction"],
            ours["backend"],
            number(best_ms(ours) or 0),
            "" if floor is None else number(floor),
            *peer,
        )
    )


def _cells(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    sys.exit(main())
