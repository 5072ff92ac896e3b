"""What reads a video file into RGB frames, each with the same number of threads.

A reader is called with (path, indices of frames in order, threads) and gives uint8 [n,H,W,3] in main memory.
Opening is part of what is timed, as a training set is millions of files that are opened once. One that is not
installed raises. torchcodec and DALI have been written from their documentation and not been run yet.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

Read = Callable[[Path, Sequence[int], int], np.ndarray]


def blip3v(path: Path, indices: Sequence[int], threads: int) -> np.ndarray:
    """The library's own function.

    Raises:
        ValueError: another number of threads than its one.
    """
    from blip3v.video import read_video

    if threads != 1:
        raise ValueError("blip3v.video.read_video decodes with one thread; its workers are processes")
    return read_video(path, len(indices), lambda total, wanted: np.asarray(indices)).frames


def decord(path: Path, indices: Sequence[int], threads: int) -> np.ndarray:
    import decord as package

    reader = package.VideoReader(str(path), ctx=package.cpu(0), num_threads=threads)
    return reader.get_batch(list(indices)).asnumpy()


def pyav(path: Path, indices: Sequence[int], threads: int) -> np.ndarray:
    """From the start to the last frame asked for: PyAV seeks by time, not by number.

    One converter for all frames, with its threads given: `frame.to_ndarray` makes one for each frame, with as
    many threads as there are cores.
    """
    import av

    wanted, found = set(indices), {}
    converter = av.video.reformatter.VideoReformatter()
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = threads
        for number, frame in enumerate(container.decode(stream)):
            if number in wanted:
                found[number] = converter.reformat(frame, format="rgb24", threads=threads).to_ndarray()
            if number >= max(wanted):
                break
    return np.stack([found[index] for index in indices])


def torchcodec(path: Path, indices: Sequence[int], threads: int) -> np.ndarray:
    from torchcodec.decoders import VideoDecoder

    decoder = VideoDecoder(str(path), dimension_order="NHWC", num_ffmpeg_threads=threads)
    return decoder.get_frames_at(indices=list(indices)).data.numpy()


def dali(path: Path, indices: Sequence[int], threads: int) -> np.ndarray:
    """DALI decodes on the CPU here, so that threads are equal; a pipeline is built for each file."""
    from nvidia.dali import fn, pipeline_def

    @pipeline_def(batch_size=1, num_threads=threads, device_id=None)
    def pipeline():  # type: ignore[no-untyped-def]
        encoded = fn.external_source(source=lambda: [np.fromfile(path, dtype=np.uint8)])
        return fn.decoders.video(encoded, device="cpu", frames=list(indices))

    built = pipeline()
    built.build()
    (output,) = built.run()
    return np.array(output[0])


READERS: dict[str, Read] = {
    "blip3v.video": blip3v,
    "decord": decord,
    "pyav": pyav,
    "torchcodec": torchcodec,
    "dali": dali,
}
PACKAGES = {
    "blip3v.video": "decord",  # what it reads with
    "decord": "decord",
    "pyav": "av",
    "torchcodec": "torchcodec",
    "dali": "nvidia-dali-cuda130",
}


def version_of(reader: str) -> str:
    """`av 18.1.0`; or that it is not installed."""
    package = PACKAGES[reader]
    try:
        return f"{package} {importlib.metadata.version(package)}"
    except importlib.metadata.PackageNotFoundError:
        return f"{package} not installed"
