"""The torture run: damaged, odd and hostile files through every decoder, in processes with limits.

    python -m benchmarks.decode.torture --decoders pyav,decord,dali --out results.json

Eight frames are read from each file with `read_video`, and behind each a good file in the same process, whose
frames must still be right. Then memory is watched over 1,000 opens of a good file, and of damaged ones.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.decode.damage import Damaged, damaged, good_files
from benchmarks.decode.files.writing import COUNT
from benchmarks.decode.header_lies import lying_files
from benchmarks.decode.impostors import leading_elsewhere, special_files
from benchmarks.decode.trial import FRAMES, GOOD, Case, Leak, Verdict, eight_frames, growth
from blip3v.data.isolated import Outcome, run_isolated
from blip3v.video import uniform_indices
from blip3v.video.decoders import DECODERS

OPENED, REFUSED, ERROR, DIED, TIME, MEMORY = (
    "opened", "refused", "other error", "process died", "timed out", "out of memory",
)  # fmt: skip
OUTCOMES = (OPENED, REFUSED, ERROR, DIED, TIME, MEMORY)
TIMEOUT, ALLOWANCE = 10.0, 4 << 30
"""Seconds and bytes that a file may cost."""

NOWHERE = "http://127.0.0.1:9"
"""An address at which nobody answers; the tests put a server where it would be noticed."""

RIGHT = uniform_indices(COUNT, FRAMES).tolist()
"""Numbers of the frames that are read of a good file."""

GOOD_FILE = {"dali": "vp9.webm"}
"""Good file of a decoder that, without a GPU, does not decode the usual one."""


class Result(NamedTuple):
    """One file through one decoder. outcome: one of OUTCOMES. note: the message."""

    case: Case
    outcome: str
    note: str
    seconds: float


def all_files(folder: Path, address: str = NOWHERE) -> tuple[dict[str, Path], list[Damaged]]:
    """The good files, and everything made of them and beside them."""
    whole, broken = folder / "good", folder / "broken"
    whole.mkdir(parents=True)
    broken.mkdir()
    good = good_files(whole)
    files = [
        *damaged(good, broken),
        *lying_files(good, broken),
        *special_files(broken),
        *leading_elsewhere(broken, good["h264.ts"], address),
    ]
    return good, files


def torture(
    decoder: str, good: Path, files: Iterable[Damaged], workers: int = 1
) -> Iterator[tuple[Result, Result]]:
    """(a file, the good file read behind it); with one worker both in the same process, if that lives."""
    cases = (
        case for file in files for case in (Case(decoder, file.path, file.kind), Case(decoder, good, GOOD))
    )
    results = map(_result, run_isolated(eight_frames, cases, workers, TIMEOUT, ALLOWANCE))
    return zip(results, results, strict=True)


def _result(outcome: Outcome[Case, Verdict]) -> Result:
    note, verdict = outcome.error, outcome.result
    if verdict is not None:
        kind, note = (REFUSED, verdict.refusal) if verdict.refusal else (OPENED, "")
        if outcome.item.kind == GOOD and verdict.numbers != RIGHT:
            kind, note = ERROR, f"frames {verdict.numbers}, expected {RIGHT}"
    elif note.startswith("took longer"):
        kind = TIME
    elif note.startswith("its process died"):
        kind = DIED
    elif note.startswith("asked for more"):
        kind = MEMORY
    else:
        kind = ERROR
    return Result(outcome.item, kind, note, outcome.seconds)


def markdown(results: Sequence[Result]) -> str:
    """Files by decoder and kind of damage, and what became of them."""
    counts = Counter((result.case.decoder, result.case.kind, result.outcome) for result in results)
    lines = [f"| decoder | damage | files | {' | '.join(OUTCOMES)} |", "|---" * (3 + len(OUTCOMES)) + "|"]
    for decoder, kind in dict.fromkeys((result.case.decoder, result.case.kind) for result in results):
        row = [counts[decoder, kind, outcome] for outcome in OUTCOMES]
        lines.append(f"| {decoder} | {kind} | {sum(row)} | {' | '.join(map(str, row))} |")
    return "\n".join(lines)


def leaks(decoder: str, good: Path, results: Sequence[Result]) -> dict[str, float | str]:
    """MB per 1,000 opens of a good file, and of the damaged ones that the decoder survives."""
    survived = [
        result.case.path
        for result in results
        if result.outcome in (OPENED, REFUSED) and result.seconds < 0.1 and result.case.kind != GOOD
    ]
    # The slow ones among them would take half an hour.
    items = [Leak(decoder, [good]), Leak(decoder, survived)]
    outcomes = run_isolated(growth, items, workers=1, timeout=300, memory=ALLOWANCE)
    kinds = ("a good file", f"{len(survived)} damaged files")
    return {
        kind: outcome.error if outcome.result is None else round(outcome.result, 2)
        for kind, outcome in zip(kinds, outcomes, strict=True)
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--decoders", default="", help="such as pyav,decord; all that are installed")
    parser.add_argument("--out", type=Path)
    chosen = parser.parse_args()
    found = [name for name, decoder in DECODERS.items() if not decoder.available()]
    summary: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="blip3v-torture-") as folder:
        good, files = all_files(Path(folder))
        for decoder in chosen.decoders.split(",") if chosen.decoders else found:
            whole = good[GOOD_FILE.get(decoder, "h264.mp4")]
            pairs = list(torture(decoder, whole, files))
            results = [result for pair in pairs for result in pair]
            print(markdown(results))
            for result in sorted(results, key=lambda result: -result.seconds)[:5]:
                print(f"{decoder}: {result.case.path.name} took {result.seconds:.2f} s")
            bad = [r for r in results if r.outcome not in (OPENED, REFUSED)]
            for line, count in Counter(f"{r.case.path.name}: {r.outcome}, {r.note}" for r in bad).items():
                print(f"{decoder}: {line}" + (f" ({count} times)" if count > 1 else ""))
            grown = leaks(decoder, whole, results)
            print(f"{decoder}: MB per 1,000 opens: {grown}\n", flush=True)
            rows = [
                (
                    r.case.path.name,
                    r.case.kind,
                    r.outcome,
                    r.note.replace(f"{folder}/", ""),
                    round(r.seconds, 3),
                )
                for r in results
            ]
            summary[decoder] = {"growth_mb": grown, "results": rows}
    if chosen.out:
        chosen.out.write_text(json.dumps(summary, indent=1) + "\n")


if __name__ == "__main__":
    main()
