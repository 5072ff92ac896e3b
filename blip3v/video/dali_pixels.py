"""From files to what the vision encoder takes, decoded, padded and resized by DALI on the device that the
model is on.

The same steps as `blip3v.video.frames_to_pixels`. Against it, on the same frames: 0.1 of 255 apart on
average, 3 at most in photographs, and 16 beside edges between black and white, which overshoot: Pillow clips
and rounds between its horizontal and its vertical pass, DALI does not. From file to pixels the decoders'
difference is added (`blip3v.video.decoders.dali`), 0.4 to 0.9 of 255 on average.

The GPU path is written by DALI's documentation and has not run on one.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from blip3v.video.decoders.dali import Request, decode_requests
from blip3v.video.decoders.dali_job import Job
from blip3v.video.decoders.dali_run import device_named
from blip3v.video.decoders.protocol import DecodeError, Limits
from blip3v.video.transforms import frames_to_pixels


@dataclass(frozen=True, eq=False)
class PixelBatch:
    """What came of a batch of files.

    Attributes:
        pixels: [B, T, 3, S, S], -1 to 1; 0 for files that do not decode.
        errors: what is wrong with these, by their place in the batch.
    """

    pixels: torch.Tensor
    errors: dict[int, DecodeError]


class DaliPixels:
    """Batches of (path, indices) -> pixels on the device; nothing but the file goes through the host.

    A file that DALI does not decode is read by PyAV, resized by Pillow and sent to the device.

    Args:
        size: S, side of the square, in pixels.
        device: "gpu", which is CUDA's current device, "cpu", or "auto": a GPU where there is one.
        dtype: of the pixels: float32, float16 or bfloat16. DALI has no bfloat16, so torch makes them.
        threads: of the CPU; on one, each decodes a file.
        limits: what a file may ask for.

    Raises:
        UserError: DALI is missing, or the device.
    """

    def __init__(
        self,
        size: int,
        device: str = "auto",
        dtype: torch.dtype = torch.float32,
        threads: int = 4,
        limits: Limits | None = None,
    ) -> None:
        self.size, self.dtype = size, dtype
        self._on = device_named(device)
        self._threads, self._limits = threads, limits or Limits()

    def read(self, requests: Sequence[Request]) -> PixelBatch:
        """One batch.

        Args:
            requests: files, and int [T] frames of each; T is the same for all.

        Raises:
            IndexError: an index outside a file's frames.
            ValueError: no request, or different T.
        """
        lengths = {len(indices) for _, indices in requests}
        if len(lengths) != 1:
            raise ValueError(f"a batch has one number of frames for all files, got {sorted(lengths)}")
        device = torch.device("cpu")
        if self._on == "gpu":
            device = torch.device("cuda", torch.cuda.current_device())
        shape = (len(requests), lengths.pop(), 3, self.size, self.size)
        pixels = torch.zeros(shape, dtype=self.dtype, device=device)

        def keep(output: Any, numbers: Sequence[int], jobs: Sequence[Job], places: Sequence[int]) -> None:
            for row, number in enumerate(numbers):
                squares = torch.from_dlpack(output[row])
                pixels[places[number]] = self._pixels(squares, jobs[number])
            if device.type == "cuda":
                # DALI takes its memory back when it is no longer referred to, which is now, and on a stream
                # of its own: torch has to be done with it.
                torch.cuda.current_stream(device).synchronize()

        others = decode_requests(requests, self._on, self._limits, self._threads, self.size, keep)
        errors = {}
        for place, other in others.items():
            if isinstance(other, DecodeError):
                errors[place] = other
                pixels[place] = 0
            else:
                pixels[place] = frames_to_pixels(other, self.size).to(device, self.dtype)
        return PixelBatch(pixels, errors)

    def batches(self, batches: Iterable[Sequence[Request]], ahead: int = 2) -> Iterator[PixelBatch]:
        """`read` of each, in a thread that may be `ahead` batches in front of who takes them."""
        return _read_ahead(self.read, batches, ahead)

    def _pixels(self, squares: torch.Tensor, job: Job) -> torch.Tensor:
        """float32 [T, S, S, 3] of 0..255, not upright -> [T, 3, S, S] of -1..1 in memory of torch's own."""
        if job.colours is not None:
            matrix: np.ndarray = job.colours.astype(np.float32)
            squares = squares @ torch.from_numpy(matrix.T.copy()).to(squares.device)
        # Bicubic overshoots at edges; Pillow's pixels are whole numbers within 0..255.
        whole = squares.round().clamp(0, 255)
        upright = whole.rot90(job.info.rotation, dims=(1, 2))
        return upright.permute(0, 3, 1, 2).mul(2 / 255).sub(1)


def _read_ahead(
    read: Callable[[Sequence[Request]], PixelBatch], batches: Iterable[Sequence[Request]], ahead: int
) -> Generator[PixelBatch, None, None]:
    ready: queue.Queue[PixelBatch | BaseException | None] = queue.Queue(maxsize=ahead)
    stopped = threading.Event()
    current = torch.cuda.current_device() if torch.cuda.is_available() else None

    def put(item: PixelBatch | BaseException | None) -> None:
        while not stopped.is_set():
            try:
                ready.put(item, timeout=0.1)
            except queue.Full:
                continue
            return

    def work() -> None:
        try:
            if current is not None:
                torch.cuda.set_device(current)  # each thread has its own
            for batch in batches:
                if stopped.is_set():
                    return
                put(read(batch))
            put(None)
        except BaseException as error:  # raised where its batch would have come
            put(error)

    thread = threading.Thread(target=work, name="blip3v-dali", daemon=True)
    thread.start()
    try:
        while (item := ready.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        stopped.set()
        thread.join()
