"""What packing is worth: clips/s to the pixels of the vision encoder, from files and from a packed shard.

    python -m benchmarks.decode.packing CLIP ... --out packing.json

The files are packed as `blip3v data pack` does it by default (16 frames of 384x384, JPEG). Then 8 frames of
each become pixels, as a worker of the loader makes them, with one thread: from the file, opened for the first
time, and from the shard, in turns. A row holds median_ms, packed_ms and ratio; the last one is all clips
together.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import tyro

from benchmarks.ceilings import measure_ceilings
from benchmarks.decode.bench_decode import SAMPLED
from benchmarks.decode.readers import forget
from benchmarks.decode.turns import in_turns
from benchmarks.machine import describe_machine
from benchmarks.results_file import ResultFile
from blip3v.data.mixture import read_mixture
from blip3v.data.pack.plan import Plan, Settings
from blip3v.data.pack.run import RECORDS, pack
from blip3v.errors import UserError
from blip3v.video import frames_to_pixels, read_video

Row = dict[str, Any]


def packed(clips: Sequence[Path], folder: Path, size: int) -> list[Path]:
    """Where each clip lies in a shard in `folder`.

    Raises:
        UserError: a clip that cannot be packed.
    """
    turns = [{"from": "human", "value": "What is it?"}, {"from": "gpt", "value": "A film."}]
    lines = []
    for number, clip in enumerate(clips):
        if not clip.is_file():
            raise UserError(f"no such video: {clip}")
        name = f"{number}{clip.suffix}"
        shutil.copy(clip, folder / name)  # records name nothing outside their folder
        lines.append({"id": number, "video": name, "conversations": turns})
    listed = folder / "clips.jsonl"
    listed.write_text("".join(json.dumps(line) + "\n" for line in lines))
    records = read_mixture(listed).records
    done = pack(Plan(records, folder, Settings(size=size)), folder / "packed", workers=1)
    if done.failed or done.records != len(clips):
        raise UserError(f"{len(clips) - done.records} of the clips cannot be packed; leave them out")
    return [Path(str(record.media)) for record in read_mixture(folder / "packed" / RECORDS).records]


def packing_rows(clips: Sequence[Path], repeats: int = 9, size: int = 384) -> Iterator[Row]:
    """The rows, clip by clip, and one of the whole.

    Raises:
        UserError: a clip that cannot be packed.
    """
    sums = {"file": 0.0, "shard": 0.0}
    with tempfile.TemporaryDirectory(prefix="blip3v-packing-") as folder:
        for clip, shard in zip(clips, packed(clips, Path(folder), size), strict=True):

            def pixels(path: Path) -> None:
                frames_to_pixels(read_video(path, SAMPLED).frames, size)

            calls = {"file": lambda c=clip: pixels(c), "shard": lambda s=shard: pixels(s)}
            found = in_turns(calls, repeats, share=10.0, before=forget, warm=True)
            medians = {name: turns.timing.median for name, turns in found.items()}
            for name, seconds in medians.items():
                sums[name] += seconds
            yield _row(clip.stem, medians, found["file"].timing.repeats)
    yield _row("all", sums, repeats, len(clips))


def _row(name: str, seconds: dict[str, float], repeats: int, clips: int = 1) -> Row:
    return {
        "level": "packing",
        "op": name,
        "case": f"{clips}_clips",
        "dtype": "float32",
        "direction": f"{SAMPLED} frames to pixels",
        "backend": "blip3v packed",
        "ok": True,
        "repeats": repeats,
        "median_ms": seconds["file"] * 1e3,
        "packed_ms": seconds["shard"] * 1e3,
        "clips_per_s": clips / seconds["file"],
        "packed_clips_per_s": clips / seconds["shard"],
        "ratio": seconds["file"] / seconds["shard"],
    }


def main(
    clips: Annotated[tuple[Path, ...], tyro.conf.Positional], repeats: int = 9, out: Path | None = None
) -> None:
    """Measure and print a line for each clip.

    Args:
        clips: video files.
        repeats: of each, at most.
        out: file for the rows.
    """
    if not clips or repeats < 1:
        raise UserError("give at least one video file and one repeat")
    file = ResultFile(out, describe_machine("cpu"), measure_ceilings("cpu").as_json()) if out else None
    print(f"{'':<24} {'file ms':>10} {'packed ms':>10} {'ratio':>7}")
    for row in packing_rows(clips, repeats):
        print(
            f"{row['op']:<24.24} {row['median_ms']:>10.1f} {row['packed_ms']:>10.1f} {row['ratio']:>7.1f}",
            flush=True,
        )
        if file is not None:
            file.add(row)


if __name__ == "__main__":
    try:
        tyro.cli(main)
    except UserError as error:
        sys.exit(f"error: {error}")
