"""What reads a video file into RGB frames, each with the same number of threads.

A reader is called with (path, indices of frames in order, threads) and gives uint8 [n,H,W,3] in main memory.
Opening is part of what is timed, as a training set is millions of files that are opened once. One that is not
installed, or does not decode a file, raises.

The plain ones are what their manuals show, no more and no less. All have run on a CPU; those of `ON_GPU` are
written by DALI's documentation and have never run on one.
"""

from __future__ import annotations

import functools
import importlib.metadata
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

Read = Callable[[Path, Sequence[int], int], np.ndarray]


def blip3v_by(decoder: str) -> Read:
    """The library's own function; of a packed clip the path is `shard.tar/clip`."""

    def read(path: Path, indices: Sequence[int], threads: int) -> np.ndarray:
        from blip3v.video import read_video

        asked = np.asarray(indices)
        return read_video(
            path, len(asked), lambda total, wanted: asked, decoder=decoder, threads=threads
        ).frames

    return read


def blip3v_dali(device: str) -> Read:
    """The library's DALI decoder on "cpu" or "gpu", wherever there is a GPU."""

    def read(path: Path, indices: Sequence[int], threads: int) -> np.ndarray:
        from blip3v.video.decoders.dali import DaliDecoder

        with DaliDecoder(device).open(path, threads) as video:
            return video.frames_at(indices)

    return read


def decord(path: Path, indices: Sequence[int], threads: int) -> np.ndarray:
    import decord as package

    package.logging.set_level(package.logging.QUIET)
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


def pyav_seeking(path: Path, indices: Sequence[int], threads: int) -> np.ndarray:
    """To the key frame before each frame, and on to its time, which is taken for number / frame rate.

    That is right where the frame rate is constant, is what the header says, and the container has a table of
    its key frames; and where a group of pictures holds several of the frames, it decodes its beginning for
    each of them.
    """
    import av

    converter = av.video.reformatter.VideoReformatter()
    frames = []
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = threads
        each = 1 / (stream.average_rate * stream.time_base)
        for index in indices:
            time = (stream.start_time or 0) + round(index * each)
            container.seek(time, stream=stream)
            frame = next(frame for frame in container.decode(stream) if frame.pts > time - each / 2)
            frames.append(converter.reformat(frame, format="rgb24", threads=threads).to_ndarray())
    return np.stack(frames)


def torchcodec(path: Path, indices: Sequence[int], threads: int) -> np.ndarray:
    from torchcodec.decoders import VideoDecoder

    decoder = VideoDecoder(str(path), dimension_order="NHWC", num_ffmpeg_threads=threads)
    return decoder.get_frames_at(indices=list(indices)).data.numpy()


def dali_on(device: str) -> Read:
    """`fn.decoders.video`; the pipeline is built once, and fed a file at a time.

    Args:
        device: of the operator, "cpu" (VP8, VP9 and MJPEG; one thread a file, whatever is asked for) or
            "mixed", a GPU.
    """

    def read(path: Path, indices: Sequence[int], threads: int) -> np.ndarray:
        pipeline = _dali_pipeline(device, threads)
        pipeline.feed_input("encoded", [np.fromfile(path, dtype=np.uint8)])
        pipeline.feed_input("frames", [np.asarray(indices, dtype=np.int32)])
        try:
            (output,) = pipeline.run()
        except RuntimeError as error:
            _dali_pipeline.cache_clear()  # after an error it takes nothing any more
            # Many lines, of which one says what is wrong.
            raise RuntimeError(f"DALI: {str(error).rpartition('failed: ')[2]}") from error
        return np.array(output[0].as_cpu() if device == "mixed" else output[0])

    return read


@functools.lru_cache(maxsize=4)
def _dali_pipeline(device: str, threads: int) -> Any:
    from nvidia.dali import fn, pipeline_def

    @pipeline_def(batch_size=1, num_threads=threads, device_id=0 if device == "mixed" else None)
    def pipeline():  # type: ignore[no-untyped-def]
        encoded = fn.external_source(name="encoded", ndim=1)
        frames = fn.external_source(name="frames", ndim=1)
        return fn.decoders.video(encoded, device=device, frames=frames)

    built = pipeline(prefetch_queue_depth=1)
    built.build()
    return built


READERS: dict[str, Read] = {
    "blip3v pyav": blip3v_by("pyav"),
    "blip3v decord": blip3v_by("decord"),
    "blip3v dali": blip3v_dali("cpu"),
    "blip3v packed": blip3v_by("pyav"),
    "decord": decord,
    "pyav": pyav,
    "pyav seeking": pyav_seeking,
    "torchcodec": torchcodec,
    "dali": dali_on("cpu"),
}
ON_GPU: dict[str, Read] = {"blip3v dali": blip3v_dali("gpu"), "dali": dali_on("mixed")}
"""In place of those of the same name with `--device cuda`; the rest decodes on the CPU always."""

PACKED = "blip3v packed"
SPARSE = (PACKED, "pyav seeking")
"""Readers of a few frames; all frames in order are not what they are for."""
INDEXED = ("blip3v pyav", "blip3v decord", "blip3v dali")
"""Readers that remember where the frames of a file lie, see `forget`."""

PACKAGES = {
    "blip3v pyav": "av",
    "blip3v decord": "decord",
    "blip3v dali": "nvidia-dali-cuda130",
    "blip3v packed": "pillow",
    "decord": "decord",
    "pyav": "av",
    "pyav seeking": "av",
    "torchcodec": "torchcodec",
    "dali": "nvidia-dali-cuda130",
}


def reader_named(name: str, device: str) -> Read:
    """device: as in `blip3v bench --device`; a GPU changes DALI alone."""
    return ON_GPU[name] if device.startswith("cuda") and name in ON_GPU else READERS[name]


def forget() -> None:
    """What the library remembers of files, so that the next opening is a first one."""
    from blip3v.video.decoders import dali_job, packet_index

    packet_index.forget_indices()
    dali_job._stream_facts.cache_clear()


def version_of(reader: str) -> str:
    """`av 18.1.0`; or that it is not installed."""
    package = PACKAGES[reader]
    try:
        return f"{package} {importlib.metadata.version(package)}"
    except importlib.metadata.PackageNotFoundError:
        return f"{package} not installed"
