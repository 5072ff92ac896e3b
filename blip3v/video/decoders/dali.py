"""NVIDIA DALI: on a GPU all of its video decoder engines, on a CPU for tests.

DALI takes whole files and numbers of frames and gives pictures; it tells neither times nor how many frames
there are. These come from the index of the packets, and what DALI could count differently is left to another
decoder (`UnsupportedVideo`): files whose frames had to be decoded to be counted, and streams that change
their size. A frame that DALI does not find is noticed (`WrongCount`).

What was found with DALI 2.4.0 on a CPU, on files with frames that show their number
(tests/video/decoders/test_dali.py):

- Frames come in the order in which they are shown, also with hidden reference frames, variable frame rate and
  edit lists. A frame behind the last one is painted in one colour, without an error. Without a list of frames
  DALI gives as many as the header claims.
- Rotation is not applied: it is done here.
- Pixels are BT.601's whatever the stream says, with its range respected. For BT.709, BT.2020 and the others
  the colours are corrected here; what was clipped stays clipped. Against FFmpeg through PyAV a frame differs
  by 1.1 to 2 of 255 on average, for each matrix and both ranges (4 for noise in colour), and by 60 at single
  pixels, because the colour planes are enlarged in another way; with 4:4:4 and with odd heights it is 0.
  Without the correction it is 3.3 to 3.8.
- A stream that grows on its way makes DALI fail, one that shrinks gives wrong pictures, a damaged MJPEG file
  has crashed the process. So files that nobody vouches for go through `blip3v.data.isolated`.

The GPU path is written by DALI's documentation and has not run on one: there, colours and 10 bit are
unchecked, and files with packets that show nothing (edit lists, hidden frames) are left to another decoder.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from blip3v.video.decoders import dali_run
from blip3v.video.decoders.dali_job import Job, NotForDali, job_for, with_indices
from blip3v.video.decoders.dali_run import device_named, run_jobs
from blip3v.video.decoders.protocol import DecodeError, Limits, OpenVideo, UnsupportedVideo, VideoInfo
from blip3v.video.decoders.pyav import PyAVDecoder

Request = tuple[Path, np.ndarray]
"""A file and the numbers of the frames wanted of it, int [T]."""

log = logging.getLogger(__name__)


class DaliDecoder:
    """DALI's `fn.decoders.video`, a file at a time; `read_batch` takes many.

    Args:
        device: "gpu", "cpu", or "auto": a GPU where there is one.
    """

    name = "dali"

    def __init__(self, device: str = "auto") -> None:
        self._device = device

    def available(self) -> str:
        return dali_run.missing()

    def open(
        self, path: Path, threads: int = 1, limits: Limits | None = None, exact: bool = False
    ) -> DaliVideo:
        """See `VideoDecoder.open`; on a CPU, DALI decodes a file with one thread whatever `threads` says."""
        return DaliVideo(path, device_named(self._device), threads, limits or Limits(), exact)


class DaliVideo(OpenVideo):
    """An opened file, see `OpenVideo`; it holds the file's bytes."""

    def __init__(self, path: Path, device: str, threads: int, limits: Limits, exact: bool) -> None:
        self._device, self._threads = device, threads
        self._job = job_for(path, (), device, limits, exact)

    @property
    def info(self) -> VideoInfo:
        return self._job.info

    def frames_at(self, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        job = with_indices(self._job, indices)
        if not len(job.indices):
            return np.empty((0, self.info.height, self.info.width, 3), dtype=np.uint8)
        found: list[np.ndarray] = []
        errors = run_jobs(
            [job], self._device, self._threads, 0, lambda output, _: found.append(_upright(output, 0, job))
        )
        if errors:
            raise errors[0]
        return found[0]

    def close(self) -> None:
        # All that is held is memory, and it goes with the object.
        pass


def read_batch(
    requests: Sequence[Request], device: str = "auto", limits: Limits | None = None, threads: int = 4
) -> list[np.ndarray | DecodeError]:
    """Frames of many files, decoded beside each other in one run.

    What DALI does not decode is read by PyAV, with one line in the log for each codec.

    Args:
        requests: files, and int [T] frames of each; T may differ.
        device: see `DaliDecoder`.
        threads: of the CPU.

    Returns:
        For each request uint8 [T, H, W, 3], RGB, upright, or what is wrong with the file.

    Raises:
        IndexError: an index outside a file's frames.
        UserError: DALI is missing, or the device.
    """
    results: list[np.ndarray | DecodeError | None] = [None] * len(requests)

    def keep(output: Any, numbers: Sequence[int], jobs: Sequence[Job], places: Sequence[int]) -> None:
        for row, number in enumerate(numbers):
            results[places[number]] = _upright(output, row, jobs[number])

    others = decode_requests(requests, device_named(device), limits or Limits(), threads, 0, keep)
    for place, other in others.items():
        results[place] = other
    return [result for result in results if result is not None]


Keep = Callable[[Any, Sequence[int], Sequence[Job], Sequence[int]], None]
"""(DALI's list of tensors, which jobs they are, all jobs, their places among the requests)."""


def decode_requests(
    requests: Sequence[Request], device: str, limits: Limits, threads: int, size: int, keep: Keep
) -> dict[int, np.ndarray | DecodeError]:
    """Decode what DALI decodes, see `run_jobs`; the rest is returned: PyAV's frames, or an error.

    Returns:
        By place among the requests; where there is an entry, it counts rather than what `keep` was given.
    """
    others: dict[int, np.ndarray | DecodeError] = {}
    jobs: list[Job] = []
    places: list[int] = []
    for place, (path, indices) in enumerate(requests):
        try:
            job = job_for(path, indices, device, limits)
        except UnsupportedVideo as error:
            others[place] = _by_pyav(path, indices, limits, threads, error)
        except DecodeError as error:
            others[place] = error
        else:
            if len(job.indices):
                jobs.append(job)
                places.append(place)
            else:
                others[place] = np.empty((0, job.info.height, job.info.width, 3), dtype=np.uint8)
    failed = run_jobs(
        jobs, device, threads, size, lambda output, numbers: keep(output, numbers, jobs, places)
    )
    for number, why in failed.items():
        path, indices = requests[places[number]]
        others[places[number]] = _by_pyav(path, indices, limits, threads, why)
    return others


def _by_pyav(
    path: Path, indices: np.ndarray, limits: Limits, threads: int, why: DecodeError
) -> np.ndarray | DecodeError:
    if isinstance(why, NotForDali):
        _say_once(why.codec, str(path))
    else:
        log.warning("%s", why)
    try:
        with PyAVDecoder().open(path, threads, limits) as video:
            return video.frames_at(indices)
    except DecodeError as error:
        return error


_said: set[str] = set()


def _say_once(codec: str, path: str) -> None:
    if codec not in _said:
        _said.add(codec)
        log.warning("DALI does not decode %s here: PyAV reads %s and others like it on the CPU", codec, path)


def _upright(output: Any, row: int, job: Job) -> np.ndarray:
    """uint8 [T, H, W, 3] on the host, turned and in the right colours."""
    tensor = output[row]
    frames = np.array(tensor.as_cpu() if hasattr(tensor, "as_cpu") else tensor)
    if job.colours is not None:
        # A frame at a time: floats take four times the room.
        for frame in frames:
            frame[:] = np.clip(np.rint(frame @ job.colours.T.astype(np.float32)), 0, 255)
    return np.ascontiguousarray(np.rot90(frames, job.info.rotation, axes=(1, 2)))
