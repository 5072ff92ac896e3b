"""`blip3v data convert SOURCE OUT`: a mixture as records in our own format."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import tyro

from blip3v.cli.progress import read_source


def convert(
    source: Annotated[Path, tyro.conf.Positional], out: Annotated[Path, tyro.conf.Positional], seed: int = 42
) -> None:
    """Write the records of a mixture in our own format; copies for a weight are written once.

    Of two records with one id and one source the first is written, as in every file that is read.

    Args:
        source: as in `blip3v data check`.
        out: the JSON lines file; all videos must lie in its folder or below.
        seed: of the mixture, as a recipe's: the order of options and the questions to captions.
    """
    from rich.console import Console

    from blip3v.data.records import Record, write_records

    mixture = read_source(source, seed, Console())
    records = mixture.records.without_copies()
    named: dict[tuple[str | None, str], Record] = {}
    for record in records:
        named.setdefault((record.source, record.id), record)
    write_records(out, named.values())
    skipped = mixture.report.num_skipped + len(records) - len(named)
    print(f"{len(named):,} records written to {out}, {skipped:,} entries skipped")
    if len(named) < len(records):
        print(
            f"{len(records) - len(named):,} of them have the id and the source of a record before them; "
            "change `source` in their file to keep them"
        )
