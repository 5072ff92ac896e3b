"""Clips that `blip3v data pack` has decoded already: a few frames of each, as images in a tar.

A clip is one WebDataset sample: `00000042.json`, then `00000042.000.jpg`, `00000042.001.jpg` and so on, one
behind the other in a plain tar. The JSON says

    source         name of the video, relative to the folder of the mixture
    span           [begin, end] in seconds where only this part is stored, else null
    fps            frames per second of the video, null where it does not say
    total_frames   frames of the whole video
    shown          [first, end): the frames that may be sampled; those of the span, or all
    indices        the stored frames, counted from the beginning of the video, rising
    times          seconds at which they appear; null where there is no clock
    width, height  of the video's frames, in pixels
    size           side of the stored squares; 0 where frames are stored as they are

Whoever samples a packed clip is told how many frames the clip has, not how many are stored, and gets the
nearest stored frame for each that is asked for.
"""

from __future__ import annotations

import io
import json

import numpy as np

from blip3v.errors import UserError
from blip3v.video.tar_frames import FramesInTar

AT_ONCE = 8 << 20
"""Bytes: a clip up to this size is read with one call, of a larger one only what is asked for."""


class PackedClip:
    """One packed clip, read from its tar.

    Attributes:
        total_frames: frames of the whole video.
        shown: the frames that may be sampled.
        fps: frames per second of the video, None where it does not say.
        stored: int64 [K], the frames that are here, rising.

    Raises:
        UserError: no packed clip of this name, or one that was damaged.
    """

    def __init__(self, chunk: FramesInTar, key: str) -> None:
        header = chunk.header(key)
        if header is None:
            raise UserError(f"no packed clip {key} in {chunk.path}; check the name, or pack the corpus again")
        self._chunk, self._places = chunk, chunk.places(key)
        begin, end = header[0], int(self._places.sum(axis=1).max())
        self._begin = begin
        self._whole = chunk.read(begin, end - begin) if 0 < end - begin <= AT_ONCE else b""
        try:
            fields = json.loads(self._read(*header))
            self.total_frames, self.fps = int(fields["total_frames"]), fields["fps"]
            self.shown = range(*fields["shown"])
            self.stored = np.asarray(fields["indices"], dtype=np.int64)
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"{chunk.path}/{key} is no packed clip ({error}); pack the corpus again"
            ) from error
        if not self.shown or self.stored.shape != (len(self._places),):
            raise UserError(
                f"{chunk.path}/{key} lists {self.stored.size} frames, not {len(self._places)}; pack it again"
            )

    def nearest(self, indices: np.ndarray) -> np.ndarray:
        """int64 [T], numbers of the stored frames nearest to `indices` [T], the earlier one of two."""
        behind = np.searchsorted(self.stored, indices).clip(0, len(self.stored) - 1)
        before = (behind - 1).clip(0)
        closer = np.abs(indices - self.stored[before]) <= np.abs(self.stored[behind] - indices)
        return np.where(closer, before, behind)

    def images(self, numbers: np.ndarray) -> list[io.BytesIO]:
        """The image files of stored frames."""
        return [io.BytesIO(self._read(*place)) for place in self._places[numbers].tolist()]

    def _read(self, offset: int, size: int) -> bytes:
        if not self._whole:
            return self._chunk.read(offset, size)
        begin = offset - self._begin
        return self._whole[begin : begin + size]
