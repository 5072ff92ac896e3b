"""A shard with the sampled frames of one clip, as `blip3v data pack` writes it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from blip3v.data.pack.encode import Encoded, encode_frames, fields_of
from blip3v.data.pack.plan import ClipJob, Settings
from blip3v.data.pack.shards import add_clip, written_shard
from blip3v.video import read_video
from blip3v.video.tar_frames import FramesInTar


def packed_clip(path: Path, indices: Sequence[int], folder: Path) -> Path:
    """The clip in a new shard in `folder`: `shard.tar/clip`, for `read_video`.

    Frames keep their size, so that they can be compared with what decoders give; packing for training makes
    them smaller, which reads faster.

    Raises:
        UserError: the video cannot be read.
    """
    stored = np.asarray(indices)
    video = read_video(path, len(stored), lambda total, wanted: stored)
    job = ClipJob(0, path, path.name, None, False, (), Settings(frames=len(stored), size=0))
    total = video.total_frames
    fields = fields_of(job, video.frames.shape[1:], video.fps, total, range(total), stored, video.times)
    shard = folder / f"{path.stem}.tar"
    with written_shard(shard) as tar:
        add_clip(tar, job.key, Encoded(fields, encode_frames(video.frames, job.settings)), "jpg")
    FramesInTar.open(shard)  # keeps the index beside it, as packing does
    return shard / job.key
