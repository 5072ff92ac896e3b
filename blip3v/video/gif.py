"""Frames of GIF files.

decord 0.6 refuses every GIF that was tried ("broken metadata": the format says neither its length nor its
number of frames), so they go through PyAV, which is FFmpeg as well.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from blip3v.errors import UserError


def is_gif(path: Path) -> bool:
    """Whether a file begins as a GIF does; names are not asked, because collections mix .gif and .mp4."""
    try:
        with path.open("rb") as file:
            return file.read(6) in (b"GIF87a", b"GIF89a")
    except OSError:
        return False  # whoever opens it next says why it cannot be read


class GifFrames:
    """An opened GIF: its clock is read at once, its pictures when they are asked for.

    Attributes:
        times: float64 [N], seconds at which each frame appears; GIFs may give every frame its own duration.
        end: seconds at which the last one ends.

    Raises:
        UserError: broken, or without frames.
    """

    def __init__(self, path: Path) -> None:
        try:
            import av
        except ImportError as error:
            raise UserError("reading GIF files needs PyAV; run: pip install av") from error
        self._av, self.path = av, path
        try:
            with av.open(str(path)) as container:
                stream = container.streams.video[0]
                # A GIF has one packet for each frame, so counting them needs no decoding.
                packets = [packet for packet in container.demux(stream) if packet.size]
                rate = float(stream.average_rate or 10)
                times = [
                    number / rate if packet.pts is None else float(packet.pts * packet.time_base)
                    for number, packet in enumerate(packets)
                ]
                last = float((packets[-1].duration or 0) * packets[-1].time_base) if packets else 0.0
        except (av.FFmpegError, OSError, ValueError, IndexError) as error:
            raise UserError(f"cannot open {path} as a GIF; check that it plays, or leave it out") from error
        if not times:
            raise UserError(f"{path} holds no frames; check that it plays, or leave it out")
        self.times = np.asarray(times) - times[0]
        self.end = float(self.times[-1]) + (last or 1 / rate)

    @property
    def fps(self) -> float:
        """Frames per second, on average."""
        return len(self.times) / self.end

    def take(self, indices: np.ndarray) -> np.ndarray:
        """uint8 [T, H, W, 3], RGB, of the frames at `indices`; transparency is dropped.

        Raises:
            UserError: the file breaks off before the last of them.
        """
        wanted, images = set(indices.tolist()), {}
        try:
            with self._av.open(str(self.path)) as container:
                # Each frame paints over the one before: all have to be decoded up to the last one asked for.
                for number, frame in enumerate(container.decode(video=0)):
                    if number in wanted:
                        images[number] = frame.to_ndarray(format="rgb24")
                    if len(images) == len(wanted):
                        break
        except (self._av.FFmpegError, OSError, ValueError) as error:
            raise self._broken() from error
        if len(images) < len(wanted):
            raise self._broken()
        return np.stack([images[index] for index in indices.tolist()])

    def _broken(self) -> UserError:
        return UserError(f"{self.path} breaks off while decoding; get the file again, or leave it out")
