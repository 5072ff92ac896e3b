"""DALI's pipelines: built once, run for a batch of files, built again after a failure.

They are DALI's stable interface. Its imperative one (nvidia.dali.experimental.dynamic) has the same
operators, is marked as experimental in 2.4, and saves nothing here: what differs between two batches (files,
frames, sizes) goes into a pipeline as an input.
"""

from __future__ import annotations

import importlib
import os
import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from blip3v.errors import UserError
from blip3v.video.decoders.dali_job import Job
from blip3v.video.decoders.protocol import DecodeError, UnsupportedVideo, WrongCount

FILL = (1, 254, 2)
"""What DALI paints where it finds no frame with the number asked for, without an error. A whole frame of this
green is no picture that a camera takes."""

PAD_GREY = 127
"""As in `blip3v.video.transforms`, which needs torch."""


def missing() -> str:
    """Empty where DALI is installed, otherwise what to do."""
    try:
        import nvidia.dali  # noqa: F401
    except (ImportError, OSError):
        return "DALI is missing; run: pip install 'blip3v[dali]'"
    return ""


def _dali(part: str) -> Any:
    """A module of DALI's; half of its names are missing from its type stubs."""
    return importlib.import_module(f"nvidia.dali.{part}")


def device_named(device: str) -> str:
    """ "gpu" or "cpu"; `auto` is a GPU where DALI sees one.

    Raises:
        UserError: another word, DALI is missing, or there is no GPU.
    """
    if device not in ("auto", "gpu", "cpu"):
        raise UserError(f"DALI decodes on a gpu or a cpu, not on {device!r}; give one of these, or auto")
    if why := missing():
        raise UserError(why)
    try:
        count = _dali("backend").GetCUDADeviceCount()
    except RuntimeError:
        count = 0  # no driver
    if device == "gpu" and not count:
        raise UserError("DALI sees no GPU; decode with device='cpu', or with the decoder pyav")
    return ("gpu" if count else "cpu") if device == "auto" else device


_built: dict[tuple[Any, ...], Any] = {}
_lock = threading.Lock()


class _Failed(Exception):
    """What DALI says; an error of whoever takes the frames is not one of these."""


Give = Callable[[Any, Sequence[int]], None]
"""What is done with DALI's output for the jobs with these numbers; it must not keep the output."""


def run_jobs(jobs: Sequence[Job], device: str, threads: int, size: int, give: Give) -> dict[int, DecodeError]:
    """Decode all jobs at once; if that fails each by itself, because DALI does not say whose fault it was.

    Args:
        device: "gpu" or "cpu".
        threads: of the CPU; on one, each decodes a file.
        size: side of padded and resized squares, float32 [T, size, size, 3] for each job, neither turned nor
            clipped; 0 for frames as they are coded, uint8 [T, H, W, 3].
        give: gets DALI's list of tensors.

    Returns:
        What went wrong, by the number of the job.
    """
    failed: dict[int, DecodeError] = {}
    if not jobs:
        return failed
    numbers = range(len(jobs))
    with _lock:
        try:
            failed.update(_run(jobs, numbers, device, threads, size, give))
        except _Failed as error:
            if len(jobs) == 1:
                return {0: _refused(jobs[0], error)}
            for number in numbers:
                try:
                    failed.update(_run(jobs, [number], device, threads, size, give))
                except _Failed as alone:
                    failed[number] = _refused(jobs[number], alone)
    return failed


def _run(
    jobs: Sequence[Job], numbers: Sequence[int], device: str, threads: int, size: int, give: Give
) -> dict[int, DecodeError]:
    # Powers of two, so that the last, smaller batch of a pass does not build another one.
    most = 1 << (len(numbers) - 1).bit_length()
    number_of_gpu = None
    if device == "gpu":
        number_of_gpu = _dali("backend").GetCUDACurrentDevice()
    # With the process: what was built before a fork does not work behind it.
    key = (os.getpid(), device, number_of_gpu, most, threads, size)
    if key not in _built:
        _built[key] = _build(device, number_of_gpu, most, threads, size)
    pipeline = _built[key]
    chosen = [jobs[number] for number in numbers]
    try:
        pipeline.feed_input("encoded", [job.data for job in chosen])
        pipeline.feed_input("indices", [job.indices for job in chosen])
        if size:
            squares = [job.square() for job in chosen]
            pipeline.feed_input("start", [start for start, _ in squares])
            pipeline.feed_input("sides", [sides for _, sides in squares])
        pictures, shapes, least, greatest = pipeline.run()
    except RuntimeError as error:
        del _built[key]  # after an error a pipeline refuses everything
        raise _Failed(str(error)) from error
    give(pictures, numbers)
    shapes, least, greatest = (_on_host(output) for output in (shapes, least, greatest))
    wrong = (_wrong(*row) for row in zip(chosen, shapes, least, greatest, strict=True))
    return {number: why for number, why in zip(numbers, wrong, strict=True) if why is not None}


def _on_host(output: Any) -> list[np.ndarray]:
    return [np.array(row) for row in (output.as_cpu() if hasattr(output, "as_cpu") else output)]


def _wrong(job: Job, shape: np.ndarray, least: np.ndarray, greatest: np.ndarray) -> DecodeError | None:
    """What is wrong with a job's frames, by their shape, and their least and greatest values [T, 3]."""
    absent = np.flatnonzero((least == FILL).all(-1) & (greatest == FILL).all(-1))
    if len(absent):
        return WrongCount(
            f"{job.path}: DALI finds no frame {job.indices[absent[0]]} of {job.info.num_frames}"
        )
    height, width = job.coded_size
    expected = [len(job.indices), height, width, 3]
    if shape.tolist() != expected:
        return UnsupportedVideo(
            f"DALI gives frames {shape.tolist()} of {job.path}, expected {expected}; read it with "
            "the decoder pyav"
        )
    return None


def _build(device: str, number_of_gpu: int | None, most: int, threads: int, size: int) -> Any:
    fn, types = _dali("fn"), _dali("types")
    # One batch at a time: reading ahead is the caller's, who knows what comes next.
    pipeline = _dali("pipeline").Pipeline(
        batch_size=most,
        num_threads=threads,
        device_id=number_of_gpu,
        prefetch_queue_depth=1,
        exec_dynamic=True,
    )
    with pipeline:
        encoded = fn.external_source(name="encoded", ndim=1, dtype=types.UINT8)
        indices = fn.external_source(name="indices", ndim=1, dtype=types.INT32)
        frames = fn.decoders.video(
            encoded,
            device="mixed" if device == "gpu" else "cpu",
            frames=indices,
            pad_mode="constant",
            fill_value=list(FILL),
            # Pinned threads of several processes would crowd on the first cores.
            affine=False,
        )
        least, greatest = fn.reductions.min(frames, axes=(1, 2)), fn.reductions.max(frames, axes=(1, 2))
        pictures = frames
        if size:
            start = fn.external_source(name="start", ndim=1, dtype=types.INT32)
            sides = fn.external_source(name="sides", ndim=1, dtype=types.INT32)
            square = fn.slice(
                frames,
                start=start,
                shape=sides,
                axes=(1, 2),
                out_of_bounds_policy="pad",
                fill_values=PAD_GREY,
            )
            pictures = fn.resize(
                square, size=[size, size], interp_type=types.INTERP_CUBIC, antialias=True, dtype=types.FLOAT
            )
        pipeline.set_outputs(pictures, frames.shape(), least, greatest)
    pipeline.build()
    return pipeline


def _refused(job: Job, error: _Failed) -> DecodeError:
    lines = [line.strip() for line in str(error).splitlines()]
    # The line that says something: the others name the pipeline and DALI's own files.
    asserted = [line for line in lines if line.startswith("Assert on")]
    said = asserted[-1].partition("failed: ")[2] if asserted else ""
    return DecodeError(
        f"DALI does not decode {job.path} ({said or lines[0]}); read it with the decoder pyav, or leave it "
        "out"
    )
