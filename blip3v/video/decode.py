"""Frames from a video file, a folder of images or an array."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from blip3v.errors import UserError
from blip3v.ranges import ranged, stage_range
from blip3v.video.sampling import Sampler, uniform_indices

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm"})


@dataclass(frozen=True)
class Video:
    """Sampled frames of one clip and where they came from.

    Attributes:
        frames: uint8 [T, H, W, 3], RGB.
        indices: int64 [T], place of each frame in the clip.
        fps: frames per second of the clip; None for folders and arrays, which do not say.
        total_frames: frames in the whole clip.
        path: the file or folder; None for arrays.
    """

    frames: np.ndarray
    indices: np.ndarray
    fps: float | None
    total_frames: int
    path: str | None


@ranged(stage_range, "decode video")
def read_video(source: Any, num_frames: int, sampler: Sampler = uniform_indices) -> Video:
    """Read `num_frames` frames.

    Args:
        source: path of a video file (anything decord's FFmpeg decodes), path of a folder of images (one per
            frame, in natural order of their names: frame2 before frame10), or a uint8 array or tensor [N, H,
            W, 3].
        num_frames: T, frames to take.
        sampler: (N, T) -> indices, see `blip3v.video.sampling`.

    Raises:
        UserError: missing, empty, broken or no video at all; frames of different sizes; another array.
    """
    if not isinstance(source, (str, os.PathLike)):
        return select_frames(_array_frames(source), num_frames, sampler)
    path = Path(source)
    if path.is_dir():
        return _read_folder(path, num_frames, sampler)
    if not path.exists():
        raise UserError(f"no such video: {path}; give the path of a video file or of a folder of frames")
    return _read_file(path, num_frames, sampler)


def select_frames(frames: np.ndarray, num_frames: int, sampler: Sampler = uniform_indices) -> Video:
    """Sample `num_frames` of uint8 [N, H, W, 3] frames that are in memory already."""
    indices = sampler(len(frames), num_frames)
    return Video(frames[indices], indices, None, len(frames), None)


def _array_frames(source: Any) -> np.ndarray:
    frames = source.numpy(force=True) if hasattr(source, "numpy") else np.asarray(source)
    if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != np.uint8 or frames.size == 0:
        raise UserError(
            f"frames must be a non-empty uint8 array [T, H, W, 3], got {frames.dtype} {list(frames.shape)}; "
            "convert it, or give the path of a video"
        )
    return frames


def _natural(name: str) -> list[tuple[int, int, str]]:
    """Sort key that compares runs of digits as numbers."""
    return [
        (0, int(part), "") if part.isdecimal() else (1, 0, part) for part in re.split(r"(\d+)", name) if part
    ]


def _read_folder(path: Path, num_frames: int, sampler: Sampler) -> Video:
    names = [entry.name for entry in path.iterdir() if entry.suffix.lower() in IMAGE_SUFFIXES]
    # A hidden file beside the frames is a leftover of an archive or a file manager, not a frame.
    names = sorted((name for name in names if not name.startswith(".")), key=_natural)
    if not names:
        raise UserError(f"no frames in folder {path}; it must hold one image per frame (.jpg, .png, ...)")
    indices = sampler(len(names), num_frames)
    frames = [read_image(path / names[index]) for index in indices]
    sizes = {frame.shape[:2] for frame in frames}
    if len(sizes) > 1:
        raise UserError(
            f"frames of different sizes in folder {path}: {sorted(sizes)}; put one clip in one folder"
        )
    return Video(np.stack(frames), indices, None, len(names), str(path))


def read_image(path: str | Path) -> np.ndarray:
    """An image file as uint8 [H, W, 3], RGB.

    Raises:
        UserError: missing, or not an image.
    """
    from PIL import Image

    try:
        with Image.open(path) as image:
            return np.asarray(image.convert("RGB"))
    except (OSError, SyntaxError, ValueError) as error:
        raise UserError(f"cannot read image {path}; replace it, or leave it out") from error


def _read_file(path: Path, num_frames: int, sampler: Sampler) -> Video:
    try:
        import decord
    except ImportError as error:
        raise UserError("reading video files needs decord; run: pip install decord") from error
    # FFmpeg's own lines on stderr would repeat, less clearly, what the error raised below says.
    decord.logging.set_level(decord.logging.QUIET)
    try:
        # One thread: a loader has its own workers, and decord's thread pools in many processes have been seen
        # to hang.
        reader = decord.VideoReader(str(path), ctx=decord.cpu(0), num_threads=1)
        total, fps = len(reader), float(reader.get_avg_fps())
    except (RuntimeError, decord.DECORDError) as error:
        raise UserError(
            f"cannot open {path} as a video; check that it plays, or convert it to H.264 with ffmpeg"
        ) from error
    if total < 1:
        raise UserError(f"{path} holds no frames; check that it plays, or convert it to H.264 again")
    indices = sampler(total, num_frames)
    try:
        frames = reader.get_batch(indices).asnumpy()
    except (RuntimeError, IndexError, decord.DECORDError) as error:
        raise UserError(f"{path} breaks off while decoding; cut or convert it to H.264 again") from error
    return Video(frames, indices, fps, total, str(path))
