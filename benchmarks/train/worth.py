"""What each part of the fastest step is worth: `python -m benchmarks.train.worth RESULTS/train.json`.

The fastest setup of `blip3v bench train` against itself without one part at a time, case by case. Parts help
each other, so the factors do not multiply to the whole.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import tyro

from benchmarks import results_file
from benchmarks.sheets import grouped, ratio, timed
from benchmarks.train.setups import BEST, SWITCHED_OFF
from blip3v.errors import UserError

Row = dict[str, Any]


def worth(rows: Sequence[Row]) -> list[str]:
    """A line for each case and part whose two rows have times; and the fastest beside the recipe as it comes.

    Raises:
        UserError: there is not a single one.
    """
    lines = []
    train = [row for row in timed(rows) if row["level"] == "train"]
    for case, of_case in grouped(train, lambda row: row["case"]).items():
        found = {row["backend"]: row for row in of_case}
        for part, name in {**SWITCHED_OFF, "all of these": "blip3v"}.items():
            if BEST in found and name in found:
                times = ratio(found[BEST], found[name])
                lines.append(f"{case:<26} {part:<24} {times:<14}{remark(found[BEST], found[name], part)}")
    if not lines:
        raise UserError(
            f"no case with both {BEST!r} and a setup without one of its parts: run `blip3v bench train` on a "
            "GPU without --peer"
        )
    return [f"{'case':<26} {'without':<24} {BEST} is as fast", *(line.rstrip() for line in lines)]


def remark(best: Row, without: Row, part: str) -> str:
    """Where the two do not recompute alike, the part is not the only difference."""
    modes = [row.get("activation_checkpointing", "none") for row in (best, without)]
    alike = modes == ["none", "full"] if part == "activations kept" else modes[0] == modes[1]
    return "" if alike else f"(recomputing {modes[0]} against {modes[1]})"


def main(results: Annotated[Path, tyro.conf.Positional]) -> None:
    """Print the table.

    Args:
        results: a file that `blip3v bench train` wrote.
    """
    print("\n".join(worth(results_file.read(results)["rows"])))


if __name__ == "__main__":
    try:
        tyro.cli(main)
    except UserError as error:
        sys.exit(f"error: {error}")
