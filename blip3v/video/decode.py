"""Frames from a video file, a folder of images or an array."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from blip3v.errors import UserError
from blip3v.ranges import ranged, stage_range
from blip3v.video.decoders import DecodeError, Limits, OpenVideo, WrongCount, decoder_named
from blip3v.video.names import IMAGE_SUFFIXES, natural_key
from blip3v.video.packed import PackedClip
from blip3v.video.sampling import Sampler, single_frame_indices, uniform_indices
from blip3v.video.span import Span, frames_in_span
from blip3v.video.tar_frames import FramesInTar, split_tar_path

WHOLE = 0.9
"""Share of its frames that must decode; a clip of which more is lost does not show what is said about it."""


@dataclass(frozen=True)
class Video:
    """Sampled frames of one clip and where they came from.

    Attributes:
        frames: uint8 [T, H, W, 3], RGB.
        indices: int64 [T], place of each frame in the clip.
        fps: frames per second of the clip; None for folders and arrays, which do not say.
        total_frames: frames in the whole clip.
        path: the file or folder; None for arrays.
        times: float64 [T], seconds at which each frame appears; None for what has no clock, and packed clips.
    """

    frames: np.ndarray
    indices: np.ndarray
    fps: float | None
    total_frames: int
    path: str | None
    times: np.ndarray | None = None


@ranged(stage_range, "decode video")
def read_video(
    source: Any,
    num_frames: int,
    sampler: Sampler = uniform_indices,
    span: Span | None = None,
    decoder: str = "auto",
    threads: int = 1,
    limits: Limits | None = None,
) -> Video:
    """Read `num_frames` frames.

    Args:
        source: path of a video file, path of a folder of images (one per frame, in natural order of their
            names: frame2 before frame10), path of a plain tar with a folder of it behind (`chunk.tar/clip7`,
            see `blip3v.video.tar_frames`), or a uint8 array or tensor [N, H, W, 3].
        num_frames: T, frames to take.
        sampler: (N, T) -> indices, see `blip3v.video.sampling`.
        span: (begin, end) in seconds: sample inside this stretch of a video file only, by the times of its
            frames. Indices still count from the beginning of the clip.
        decoder: which library decodes a video file, see `blip3v.video.decoders`.
        threads: of the decoder. A loader has processes of its own, so one; a single clip comes faster
            with more.
        limits: what a video file may ask for, by default 8K and six hours.

    Raises:
        UserError: missing, empty, broken or no video at all; frames of different sizes; another array; a span
            that does not lie in the video, or of something that has no clock.
    """
    if not isinstance(source, (str, os.PathLike)):
        _refuse_span(span, "an array of frames")
        return select_frames(_array_frames(source), num_frames, sampler)
    path = Path(source)
    if path.is_dir():
        _refuse_span(span, f"the folder of frames {path}")
        return _read_folder(path, num_frames, sampler)
    if path.exists():
        return _read_file(path, num_frames, sampler, span, decoder, threads, limits or Limits())
    if (inside := split_tar_path(path)) is not None:
        _refuse_span(span, f"the folder of frames {path}")
        return _read_tar(path, *inside, num_frames, sampler)
    raise UserError(f"no such video: {path}; give the path of a video file or of a folder of frames")


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


def _refuse_span(span: Span | None, what: str) -> None:
    if span is not None:
        raise UserError(
            f"{what} does not say when its frames were taken; leave the span out, or give a video"
        )


def _read_folder(path: Path, num_frames: int, sampler: Sampler) -> Video:
    names = [entry.name for entry in path.iterdir() if entry.suffix.lower() in IMAGE_SUFFIXES]
    # A hidden file beside the frames is a leftover of an archive or a file manager, not a frame.
    names = sorted((name for name in names if not name.startswith(".")), key=natural_key)
    if not names:
        raise UserError(f"no frames in folder {path}; it must hold one image per frame (.jpg, .png, ...)")
    indices = sampler(len(names), num_frames)
    frames = _one_size([read_image(path / names[index]) for index in indices], path)
    return Video(frames, indices, None, len(names), str(path))


def _read_tar(path: Path, tar: Path, folder: str, num_frames: int, sampler: Sampler) -> Video:
    chunk = FramesInTar.open(tar)
    if chunk.header(folder) is not None:
        return _read_packed(path, PackedClip(chunk, folder), num_frames, sampler)
    total = chunk.count(folder)
    if total == 0:
        raise UserError(f"no folder of frames {folder} in {tar}; check the name, or get the chunk again")
    indices = sampler(total, num_frames)
    frames = [read_image(image, str(path)) for image in chunk.images(folder, indices)]
    return Video(_one_size(frames, path), indices, None, total, str(path))


def _read_packed(path: Path, clip: PackedClip, num_frames: int, sampler: Sampler) -> Video:
    asked = clip.shown[0] + sampler(len(clip.shown), num_frames)
    numbers, again = np.unique(clip.nearest(asked), return_inverse=True)
    images = [read_image(image, str(path)) for image in clip.images(numbers)]
    frames = _one_size([images[place] for place in again], path)
    return Video(frames, clip.stored[numbers][again], clip.fps, clip.total_frames, str(path))


def _one_size(frames: Sequence[np.ndarray], path: Path) -> np.ndarray:
    sizes = {frame.shape[:2] for frame in frames}
    if len(sizes) > 1:
        raise UserError(
            f"frames of different sizes in folder {path}: {sorted(sizes)}; put one clip in one folder"
        )
    return np.stack(frames)


def read_image(source: str | Path | IO[bytes], name: str | None = None) -> np.ndarray:
    """An image file as uint8 [H, W, 3], RGB.

    Args:
        source: its path, or the opened file.
        name: of an opened file, for the error.

    Raises:
        UserError: missing, not an image, or so large that Pillow suspects an attack.
    """
    from PIL import Image

    try:
        with Image.open(source) as image:
            return np.asarray(image.convert("RGB"))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UserError(f"cannot read image {name or source}; replace it, or leave it out") from error


def read_still(path: Path) -> np.ndarray:
    """An image as uint8 [H, W, 3], RGB: a file, or one in a packed shard (`shard-000000.tar/00000042`).

    Raises:
        UserError: it cannot be read.
    """
    if split_tar_path(path) is None:
        return read_image(path)
    return read_video(path, 1, single_frame_indices).frames[0]


def _read_file(
    path: Path,
    num_frames: int,
    sampler: Sampler,
    span: Span | None,
    decoder: str,
    threads: int,
    limits: Limits,
) -> Video:
    chosen = decoder_named(decoder)
    with chosen.open(path, threads, limits) as video:
        promised = video.info.num_frames
        try:
            return _sampled(video, num_frames, sampler, span)
        except WrongCount:
            pass  # a damaged file, or a container that says something else than its frames
    with chosen.open(path, threads, limits, exact=True) as video:
        if video.info.num_frames < WHOLE * promised:
            raise DecodeError(
                f"{path} is damaged: {video.info.num_frames} of {promised} frames decode; get it again, or "
                "leave it out"
            )
        return _sampled(video, num_frames, sampler, span)


def _sampled(video: OpenVideo, num_frames: int, sampler: Sampler, span: Span | None) -> Video:
    info = video.info
    shown = range(info.num_frames)
    if span is not None:
        # Frame times rather than the frame rate: a file may say 120 fps and hold 30.
        shown = frames_in_span(span, info.times, info.duration, str(info.path))
    indices = shown[0] + sampler(len(shown), num_frames)
    frames = video.frames_at(indices)
    return Video(frames, indices, info.fps, info.num_frames, str(info.path), info.times[indices])
