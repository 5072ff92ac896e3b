"""Clips decoded by DALI: many files in one run, on the decoder engines of a GPU where there is one.

Worker processes look at the files, as they do for other decoders, and say which frames to take. Frames are
decoded in this process, because CUDA serves one process best: a file that takes the GPU's decoder down takes
the run with it. Pack such a corpus with another decoder.

Tested on the CPU, with VP9; no run on a GPU has been made yet.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from blip3v.data.isolated import Outcome, run_isolated
from blip3v.data.pack.encode import AT_ONCE, Encoded, encode_clip, encode_frames, fields_of
from blip3v.data.pack.plan import ClipJob, Settings
from blip3v.video.decoders import DecodeError, Limits, decoder_named
from blip3v.video.span import frames_in_span

CLIPS, REQUESTS = 32, 16
"""Clips that are gathered, and pieces of them that are decoded in one run."""


@dataclass(frozen=True)
class Wanted:
    """What is to be decoded of a video: the JSON of the clip, and int64 [K] frames."""

    fields: dict[str, Any]
    indices: np.ndarray


def look(job: ClipJob) -> Encoded | Wanted:
    """What is to be decoded of a video file; anything else as it is stored, since it needs no decoder.

    Raises:
        UserError: the video or image cannot be read.
    """
    if job.is_image or not job.path.is_file():
        return encode_clip(job)
    with decoder_named("pyav").open(job.path, 1, Limits()) as video:
        info = video.info
    shown = range(info.num_frames)
    if job.span is not None:
        shown = frames_in_span(job.span, info.times, info.duration, str(job.path))
    indices = shown.start + job.stored(len(shown))
    shape = info.height, info.width, 3
    return Wanted(
        fields_of(job, shape, info.fps, info.num_frames, shown, indices, info.times[indices]), indices
    )


def encode_with_dali(
    jobs: Iterable[ClipJob], workers: int, timeout: float
) -> Iterator[Outcome[ClipJob, Encoded]]:
    """As `run_isolated(encode_clip, jobs, ...)`."""
    with closing(run_isolated(look, jobs, workers=workers, timeout=timeout)) as seen:  # type: ignore[type-var]
        while outcomes := list(islice(seen, CLIPS)):
            wanted = [
                (outcome.item, outcome.result) for outcome in outcomes if isinstance(outcome.result, Wanted)
            ]
            decoded = {
                job.number: Outcome(job, clip, "", 0.0)
                for (job, _), clip in zip(wanted, _decode(wanted, workers), strict=True)
                if clip is not None
            }
            # What DALI gave up is tried once more as other decoders do it, counting all frames if need be.
            again = [_for_pyav(job) for job, _ in wanted if job.number not in decoded]
            if again:
                retried = run_isolated(encode_clip, again, workers=workers, timeout=timeout)
                decoded |= {outcome.item.number: outcome for outcome in retried}
            for outcome in outcomes:
                if isinstance(outcome.result, Wanted):
                    other = decoded[outcome.item.number]
                    yield replace(other, item=outcome.item)
                else:
                    yield Outcome(outcome.item, outcome.result, outcome.error, outcome.seconds)


def _for_pyav(job: ClipJob) -> ClipJob:
    return replace(job, settings=replace(job.settings, decoder="pyav"))


def _decode(clips: list[tuple[ClipJob, Wanted]], workers: int) -> list[Encoded | None]:
    """Each clip as it is stored; None where decoding failed."""
    from blip3v.video.decoders.dali import read_batch

    # In pieces, as for other decoders: all frames of a clip may be gigabytes.
    requests: list[tuple[Path, np.ndarray]] = []
    owners: list[int] = []
    for number, (job, one) in enumerate(clips):
        for begin in range(0, len(one.indices), AT_ONCE):
            requests.append((job.path, one.indices[begin : begin + AT_ONCE]))
            owners.append(number)
    images: list[list[bytes] | None] = [[] for _ in clips]
    with ThreadPoolExecutor(workers) as pool:
        for begin in range(0, len(requests), REQUESTS):
            read = read_batch(requests[begin : begin + REQUESTS])
            mine = owners[begin : begin + REQUESTS]
            settings = [clips[number][0].settings for number in mine]
            for number, files in zip(mine, pool.map(_encoded, read, settings), strict=True):
                so_far = images[number]
                images[number] = None if files is None or so_far is None else so_far + files
    return [
        None if files is None else Encoded(one.fields, files)
        for (_, one), files in zip(clips, images, strict=True)
    ]


def _encoded(frames: np.ndarray | DecodeError, settings: Settings) -> list[bytes] | None:
    return None if isinstance(frames, DecodeError) else encode_frames(frames, settings)
