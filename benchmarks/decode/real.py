"""A user's own files: the library beside plain decoders.

    python -m benchmarks.decode.real CLIP ... --threads 1 2 --out decode_real.json

Eight frames of each file, by everybody with equal threads and in turns, and how often the library is as fast
as the fastest of the plain ways with decord and PyAV that gives the right frames. The rows are those of
`blip3v bench decode`; files are named without their folders.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import tyro

from benchmarks.ceilings import measure_ceilings
from benchmarks.decode.bench_decode import DIRECTIONS, decode_rows
from benchmarks.levels import check
from benchmarks.machine import describe_machine
from benchmarks.results_file import ResultFile
from blip3v.errors import UserError

OURS = "blip3v pyav"
PLAIN = ("decord", "pyav", "pyav seeking")
PEERS = (OURS, *PLAIN, "torchcodec")
SHARE = 10.0
"""Seconds for each reader and file: the ratio of two numbers wants more than a table of them."""

Row = dict[str, Any]


def real_rows(
    clips: Sequence[Path],
    threads: Sequence[int] = (1,),
    peers: Sequence[str] = PEERS,
    repeats: int = 15,
    share: float = SHARE,
    device: str = "cpu",
) -> Iterator[Row]:
    """The rows, file by file. That of OURS also holds

    ratio: how often it is as fast as the fastest right one of PLAIN, with the file opened for the first time;
    ratio_reopened: the same where its index is in memory;
    fastest: which one that is.

    Raises:
        UserError: a file that is no video.
    """
    for clip in clips:
        for number in threads:
            rows = list(
                decode_rows(
                    device,
                    clips=[clip],
                    peers=peers,
                    directions=DIRECTIONS[:1],
                    repeats=repeats,
                    threads=number,
                    share=share,
                )
            )
            found = {row["backend"]: row for row in rows}
            plain = [found[name] for name in PLAIN if "median_ms" in found.get(name, {})]
            if plain and "median_ms" in found.get(OURS, {}):
                best = min(plain, key=lambda row: float(row["median_ms"]))
                found[OURS] |= {
                    "ratio": best["median_ms"] / found[OURS]["median_ms"],
                    "ratio_reopened": best["median_ms"] / found[OURS]["reopened_ms"],
                    "fastest": best["backend"],
                }
            yield from found.values()


def lines(rows: Sequence[Row]) -> list[str]:
    """A table of milliseconds, a line for each file and number of threads."""
    names = list(dict.fromkeys(row["backend"] for row in rows))
    found = [f"{'':<24} {'threads':>7} " + " ".join(f"{name:>13}" for name in names) + "   reopened  ratio"]
    cases: dict[tuple[str, int], dict[str, Row]] = {}
    for row in rows:
        cases.setdefault((row["op"], row["threads"]), {})[row["backend"]] = row
    for (name, threads), of_case in cases.items():
        cells = " ".join(f"{_cell(of_case.get(peer, {})):>13}" for peer in names)
        ours = of_case.get(OURS, {})
        end = ""
        if "ratio" in ours:
            end = f" {ours['reopened_ms']:>10.1f}  {ours['ratio']:.2f} of {ours['fastest']}"
        found.append(f"{name:<24.24} {threads:>7} {cells}{end}")
    return found


def _cell(row: Row) -> str:
    if "median_ms" in row:
        return f"{row['median_ms']:.1f}"
    return "wrong" if row.get("ok") is False else "-"


def main(
    clips: Annotated[tuple[Path, ...], tyro.conf.Positional],
    threads: tuple[int, ...] = (1,),
    peer: tyro.conf.UseAppendAction[tuple[str, ...]] = (),
    repeats: int = 15,
    device: str = "cpu",
    out: Path | None = None,
) -> None:
    """Measure, print the table, and write the rows.

    Args:
        clips: video files.
        threads: of every reader.
        peer: only this reader; may be repeated.
        repeats: rounds at most.
        device: cuda lets DALI decode on the GPU.
        out: file for the rows, for `blip3v bench --redraw` and `--compare`.
    """
    from benchmarks.decode.readers import READERS

    check("--peer", peer, READERS)
    if not clips or repeats < 1 or min(threads, default=0) < 1:
        raise UserError("give at least one video file, one repeat and one thread")
    file = None
    if out is not None:
        file = ResultFile(out, describe_machine(device), measure_ceilings(device).as_json())
    rows = []
    for row in real_rows(clips, threads, peer or PEERS, repeats, device=device):
        rows.append(row)
        if file is not None:
            file.add(row)
    print("\n".join(lines(rows)))


if __name__ == "__main__":
    try:
        tyro.cli(main)
    except UserError as error:
        sys.exit(f"error: {error}")
