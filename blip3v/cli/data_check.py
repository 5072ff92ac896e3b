"""`blip3v data check SOURCE`: what a run would read of a data set, and what it would not."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from blip3v.cli.progress import bar, read_source

if TYPE_CHECKING:
    from blip3v.data.check import Decoded
    from blip3v.data.mixture import Mixture


def check(
    source: Annotated[Path, tyro.conf.Positional],
    decode: int = 0,
    workers: int = 2,
    num_frames: int = 8,
    timeout: float = 60.0,
    memory_gb: float = 4.0,
    allow: float = 1.0,
    seed: int = 42,
    write_json: Annotated[Path | None, tyro.conf.arg(name="json")] = None,
) -> None:
    """Read a data set as a run would, and say what is kept, and what is not and why.

    Ends with exit code 1 where more is skipped than allowed, nothing is left, or a video does not decode.

    Args:
        source: mixture (.toml), records (.jsonl), or a folder with one of them.
        decode: also decode the videos of so many random records.
        workers: processes that decode.
        num_frames: frames to decode of each.
        timeout: seconds that one video may take; one that takes longer is broken.
        memory_gb: GiB that decoding one video may take; 0 for no limit.
        allow: share of all entries that may be skipped; 0.01 is one in a hundred.
        seed: of the mixture, as a recipe's, so that the digest is that of a run; and of what is decoded.
        write_json: file for the same as JSON.
    """
    from rich.console import Console

    from blip3v.data.check import decode_some, text_lengths

    console = Console()
    mixture = read_source(source, seed, console, may_be_empty=True)
    report, lengths = mixture.report, text_lengths(mixture.records)
    console.print(report.table())
    count = len(mixture.records)
    console.print(f"{count:,} records, {mixture.records.nbytes / max(1, count):.0f} bytes each in memory")
    longest = ", ".join(f"{name} {size:,}" for size, _, name in lengths.longest)
    console.print(f"characters of a record: {lengths.mean:.0f} on average; longest: {longest}", markup=False)
    decoded: list[Decoded] = []
    if decode > 0:
        with bar(console, f"decoding {decode} videos", decode) as advance:
            decoded = decode_some(
                mixture.records,
                decode,
                workers,
                num_frames,
                seed,
                on_done=lambda _: advance(1),
                timeout=timeout,
                memory=int(memory_gb * 2**30) or None,
            )
    broken = _report_decoded(decoded, console)
    if write_json is not None:
        _write(write_json, mixture, lengths, decoded)
    too_many = report.share_skipped > allow
    if too_many:
        console.print(f"skipped {report.share_skipped:.2%} of all entries, more than --allow {allow:.2%}")
    if count == 0:
        console.print("nothing is left to train on")
    if broken or too_many or count == 0:
        sys.exit(1)


def _report_decoded(decoded: list[Decoded], console: Any) -> int:
    broken = [result for result in decoded if result.error is not None]
    if decoded:
        mean = 1e3 * sum(result.seconds for result in decoded) / len(decoded)
        console.print(f"decoded {len(decoded) - len(broken)} of {len(decoded)} videos, {mean:.1f} ms each")
    for result in broken:
        console.print(f"broken: {result.error}", markup=False, highlight=False)
    return len(broken)


def _write(path: Path, mixture: Mixture, lengths: Any, decoded: list[Decoded]) -> None:
    fields = mixture.report.to_json() | {
        "records": len(mixture.records),
        "bytes_in_memory": mixture.records.nbytes,
        "digest": mixture.records.fingerprint,
        "characters_mean": lengths.mean,
        "longest": [{"characters": size, "source": name, "id": id} for size, name, id in lengths.longest],
        "decoded": len(decoded),
        "broken": [{"media": one.media, "error": one.error} for one in decoded if one.error is not None],
    }
    path.write_text(json.dumps(fields, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
