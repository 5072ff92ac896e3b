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

    Args:
        source: as in `blip3v data check`.
        out: the JSON lines file; all videos must lie in its folder or below.
        seed: of the mixture, as a recipe's: the order of options and the questions to captions.
    """
    from rich.console import Console

    from blip3v.data.records import write_records

    mixture = read_source(source, seed, Console())
    once = {(record.source, record.id): record for record in mixture.records}
    write_records(out, once.values())
    print(f"{len(once):,} records written to {out}, {mixture.report.num_skipped:,} entries skipped")
