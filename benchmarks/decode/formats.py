"""The format table: every kind of file through every decoder.

    python -m benchmarks.decode.formats --out formats.json

makes the files, checks frames, times, sizes and pixels of each (`benchmarks.decode.format_table`), prints a
Markdown table and, with --out, writes the cells with their notes.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.decode.files.odd import ODD
from benchmarks.decode.files.plain import PLAIN
from benchmarks.decode.format_table import OK, REFUSED, Cell, check, in_order
from blip3v.video.decoders import DECODERS

ROWS = PLAIN | ODD
NOT_INSTALLED = "not installed"


def table(
    folder: Path, rows: Sequence[str] = (), decoders: Sequence[str] = ()
) -> Iterator[tuple[str, dict[str, Cell]]]:
    """(row, cell of each decoder), as they are checked; empty choices mean all."""
    for name in rows or ROWS:
        made = ROWS[name](folder / name)
        reference = in_order(made)
        cells = {}
        for decoder in decoders or DECODERS:
            why_not = DECODERS[decoder].available()
            cells[decoder] = (
                Cell(NOT_INSTALLED, why_not) if why_not else check(DECODERS[decoder], made, reference)
            )
        yield name, cells


def markdown(cells: dict[str, dict[str, Cell]]) -> str:
    """A row a file, a column a decoder; of a right cell how far its pixels are from PyAV's in order."""
    decoders = list(next(iter(cells.values())))
    lines = [f"| file | {' | '.join(decoders)} |", "|---" * (1 + len(decoders)) + "|"]
    for name, row in cells.items():
        lines.append(f"| {name} | {' | '.join(_text(row[decoder]) for decoder in decoders)} |")
    return "\n".join(lines)


def _text(cell: Cell) -> str:
    if cell.outcome == OK:
        return OK if cell.difference is None else f"ok, {cell.difference:.2f}"
    return cell.outcome if cell.outcome == REFUSED else f"**{cell.outcome}**: {cell.note}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rows", nargs="*", default=[], choices=ROWS, metavar="ROW")
    parser.add_argument("--decoders", default="", help="such as pyav,decord; all")
    parser.add_argument("--out", type=Path)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="blip3v-formats-") as folder:
        cells = dict(table(Path(folder), chosen.rows, chosen.decoders.split(",") if chosen.decoders else ()))
    print(markdown(cells))
    if chosen.out:
        plain = {
            name: {
                key: dataclasses.asdict(cell) | {"note": cell.note.replace(f"{folder}/", "")}
                for key, cell in row.items()
            }
            for name, row in cells.items()
        }
        chosen.out.write_text(json.dumps(plain, indent=1) + "\n")


if __name__ == "__main__":
    main()
