"""How long the paper's recipe would take: `python -m benchmarks.train.hours RESULTS/train.json`.

Projected from rows of `blip3v bench train` to 8 such devices: samples over the measured speed of one, with no
communication, no decoding and no checkpoints in it. The same samples at the published speed stand beside
that, because how often the paper repeats samples in several forms is not published.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from benchmarks import results_file
from benchmarks.sheets import timed
from blip3v.errors import UserError
from blip3v.train.plan import PUBLISHED_SAMPLES_PER_SECOND

PAPER = "arXiv 2410.16267, training recipe"
DEVICES = 8
PUBLISHED_HOURS = 12.0
"""Of the whole training on 8 H100; arXiv 2410.16267."""


@dataclass(frozen=True)
class DataSet:
    """samples: in one epoch. batch: per device."""

    name: str
    samples: int
    batch: int
    source: str


RECIPE = (
    DataSet("LLaVA-Hound captions", 900_000, 16, f'{PAPER}, "more than 900k"'),
    DataSet("VideoChatGPT", 99_000, 4, PAPER),
    DataSet("MSVD-QA", 30_000, 4, PAPER),
    DataSet("MSRVTT-QA", 149_000, 4, PAPER),
    DataSet("ActivityNet-QA", 32_000, 4, PAPER),
    DataSet("TGIF-QA, action and transition", 71_000, 4, PAPER),
    DataSet("NExT-QA", 34_000, 4, PAPER),
)
MIRA = DataSet("Mira captions", 935_000, 4, f"{PAPER}, second version")

Row = dict[str, Any]


def hours(data: Sequence[DataSet], samples_per_s: dict[int, float], devices: int = DEVICES) -> float:
    """Of one epoch. samples_per_s: of one device, by batch; the nearest stands for one that is not there."""
    seconds = 0.0
    for part in data:
        nearest = min(samples_per_s, key=lambda batch: abs(batch - part.batch))
        seconds += part.samples / (devices * samples_per_s[nearest])
    return seconds / 3600


def projection(rows: Sequence[Row]) -> list[str]:
    """Lines: the hours of the recipe by tokens and setup, those at the published speed first."""
    with_mira = (*RECIPE, MIRA)
    heads = [f"{sum(part.samples for part in data) / 1e6:.2f}M samples" for data in (RECIPE, with_mira)]
    lines = [
        f"Hours of the recipe on {DEVICES} devices, projected: no communication measured. "
        f"The paper took about {PUBLISHED_HOURS:.0f}.",
        f"{heads[1]}: with {MIRA.name}, of the paper's second version.",
        f"  {'tokens':>6}  {'setup':<44}{heads[0]:>16}{heads[1]:>16}",
        _hours_line(32, "published speed", {4: PUBLISHED_SAMPLES_PER_SECOND}),
    ]
    speeds: dict[tuple[int, str], dict[int, float]] = {}
    for row in timed(rows):
        if row["level"] == "train" and row["case"].startswith("4b"):
            speeds.setdefault((row["tokens"], row["backend"]), {})[row["batch"]] = row["samples_per_s"]
    lines += [_hours_line(tokens, name, by_batch) for (tokens, name), by_batch in speeds.items()]
    return lines


def _hours_line(tokens: int, name: str, samples_per_s: dict[int, float]) -> str:
    found = (hours(data, samples_per_s) for data in (RECIPE, (*RECIPE, MIRA)))
    return f"  {tokens:>6}  {name:<44}" + "".join(f"{value:>16.1f}" for value in found)


def main(results: Annotated[Path, tyro.conf.Positional]) -> None:
    """Print the table.

    Args:
        results: a file that `blip3v bench train` wrote.
    """
    print("\n".join(projection(results_file.read(results)["rows"])))


if __name__ == "__main__":
    try:
        tyro.cli(main)
    except UserError as error:
        sys.exit(f"error: {error}")
