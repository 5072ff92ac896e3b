"""`blip3v data pack MIXTURE --out DIR`: videos as tars of sampled frames, which need no decoder."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from blip3v.cli.progress import read_source

if TYPE_CHECKING:
    from blip3v.data.pack.run import OnClip


def pack(
    source: Annotated[Path, tyro.conf.Positional],
    out: Path,
    frames: int | None = None,
    size: int = 384,
    format: Literal["jpg", "png"] = "jpg",
    quality: int = 90,
    clips_per_shard: int = 500,
    seed: int = 42,
    epochs: int = 0,
    workers: int | None = None,
    timeout: float = 60.0,
    decoder: str = "auto",
) -> None:
    """Decode every video once, and store some frames of each in WebDataset shards.

    Afterwards `blip3v train RECIPE --data OUT/records.jsonl` trains on them. The same command goes on where
    it was interrupted.

    Args:
        source: what `blip3v train` takes as --data: mixture (.toml), records (.jsonl), or a folder with one.
        out: folder of the shards.
        frames: stored per clip, evenly spread, 16 if not given; training gets the nearest ones. With
            --epochs, the frames per sample of the recipe, 8 if not given.
        size: side of the stored frames in pixels, padded and resized as the model of this image size takes
            them; 0 stores them as they are.
        format: jpg, or png, which is lossless and several times as large.
        quality: of jpg, 1 to 100.
        clips_per_shard: clips in one tar.
        seed: the recipe's: of the mixture, and of the frames that --epochs stores.
        epochs: store exactly the frames that training with this seed takes in its first EPOCHS passes; 0
            stores evenly spread ones.
        workers: processes; one for each core if not given.
        timeout: seconds per clip; one that takes longer is left out.
        decoder: auto, pyav, decord or dali.
    """
    from rich.console import Console

    from blip3v.data.pack.plan import Plan, Settings
    from blip3v.data.pack.run import FAILED, RECORDS
    from blip3v.data.pack.run import pack as run

    if frames is None:
        frames = 8 if epochs else 16
    if workers is None:
        workers = len(os.sched_getaffinity(0))
    settings = Settings(frames, size, format, quality, clips_per_shard, seed, epochs, decoder)
    console = Console()
    mixture = read_source(source, seed, console)
    if mixture.report.num_skipped:
        console.print(mixture.report.table())
    folder = source if source.is_dir() else source.parent
    plan = Plan(mixture.records, folder, settings)
    with _bar(console, plan.num_clips) as on_clip:
        result = run(plan, out, workers, timeout, on_clip)
    print(
        f"{result.clips:,} clips in {result.shards:,} shards, {result.records:,} records in {out / RECORDS}"
    )
    if result.failed:
        print(f"{result.failed:,} clips failed, with {result.left_out:,} records; see {out / FAILED}")


@contextmanager
def _bar(console: Any, clips: int) -> Iterator[OnClip]:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = [
        TextColumn("packing"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[speed]}"),
        TextColumn("{task.fields[failed]}"), TimeRemainingColumn(),
    ]  # fmt: skip
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("packing", total=clips, speed="", failed="")

        def tell(done: int, failed: int) -> None:
            rate = progress.tasks[task].speed
            speed = f"{rate:.1f} clips/s" if rate else ""
            progress.update(task, completed=done, speed=speed, failed=f"{failed} failed" if failed else "")

        yield tell
