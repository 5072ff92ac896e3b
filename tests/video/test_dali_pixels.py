from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("nvidia.dali", reason="NOT TESTED: needs the dali extra")
av = pytest.importorskip("av")

from benchmarks.decode.files.writing import Look, write  # noqa: E402
from blip3v.video import frames_to_pixels  # noqa: E402
from blip3v.video.dali_pixels import DaliPixels, PixelBatch  # noqa: E402
from blip3v.video.decoders.dali import Request, read_batch  # noqa: E402

FAST = {"deadline": "realtime", "cpu-used": "8", "g": "8"}
LOOKS = {
    "wide.webm": Look("libvpx-vp9", FAST, size=(160, 96)),
    "odd.webm": Look("libvpx-vp9", FAST, size=(97, 130)),
    "turned.mp4": Look("libvpx-vp9", FAST, size=(90, 128), rotation=90),
    "bt709.webm": Look("libvpx-vp9", FAST, size=(128, 128), bt709=True),
    "mjpeg.avi": Look("mjpeg", pix_fmt="yuvj420p", size=(176, 144)),
}
INDICES = np.array([0, 5, 11, 7])


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> list[Request]:
    folder = tmp_path_factory.mktemp("clips")
    return [(write(folder / name, look, range(12)).path, INDICES) for name, look in LOOKS.items()]


# The largest differences lie beside edges between black and white: they overshoot, and Pillow clips them
# between its horizontal and its vertical pass.
@pytest.mark.parametrize(("size", "mean", "most"), [(48, 0.2, 12), (64, 0.2, 12), (224, 0.3, 16)])
def test_pixels_are_those_of_pillow(clips: list[Request], size: int, mean: float, most: float) -> None:
    batch = DaliPixels(size, "cpu").read(clips)
    assert batch.errors == {} and batch.pixels.shape == (5, 4, 3, size, size)
    assert batch.pixels.dtype == torch.float32 and batch.pixels.is_contiguous()
    for pixels, frames, (path, _) in zip(batch.pixels, read_batch(clips, "cpu"), clips, strict=True):
        assert isinstance(frames, np.ndarray)
        apart = (pixels - frames_to_pixels(frames, size)).abs() * 127.5
        assert apart.mean() <= mean and apart.max() <= most, path.name


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_dtypes(clips: list[Request], dtype: torch.dtype) -> None:
    pixels = DaliPixels(32, "cpu", dtype).read(clips).pixels
    assert pixels.dtype == dtype
    assert torch.equal(pixels, DaliPixels(32, "cpu").read(clips).pixels.to(dtype))


def test_pixels_outlive_the_next_run(clips: list[Request]) -> None:
    reader = DaliPixels(48, "cpu")
    first = reader.read(clips[:2]).pixels
    kept = first.clone()
    for _ in range(3):
        second = reader.read(clips[2:4]).pixels
    assert torch.equal(first, kept) and not torch.equal(first, second)


def test_broken_and_foreign_files(clips: list[Request], tmp_path: Path) -> None:
    h264 = write(tmp_path / "a.mp4", Look(options={"preset": "ultrafast"}), range(12)).path
    (tmp_path / "broken.webm").write_bytes(b"\x1a\x45\xdf\xa3" + bytes(500))
    requests = [clips[0], (tmp_path / "broken.webm", INDICES), (h264, INDICES), clips[1]]
    batch = DaliPixels(48, "cpu").read(requests)
    assert list(batch.errors) == [1] and "broken.webm" in str(batch.errors[1])
    assert not batch.pixels[1].any()
    whole = DaliPixels(48, "cpu").read(clips[:2]).pixels
    assert torch.equal(batch.pixels[0], whole[0]) and torch.equal(batch.pixels[3], whole[1])
    frames = read_batch([requests[2]], "cpu")[0]
    assert torch.equal(batch.pixels[2], frames_to_pixels(frames, 48))


def test_one_length_for_all(clips: list[Request]) -> None:
    with pytest.raises(ValueError, match=r"\[1, 4\]"):
        DaliPixels(32, "cpu").read([clips[0], (clips[1][0], np.array([0]))])
    with pytest.raises(ValueError, match="one number of frames"):
        DaliPixels(32, "cpu").read([])


def test_batches_are_read_ahead_and_not_further(
    clips: list[Request], monkeypatch: pytest.MonkeyPatch
) -> None:
    reader, asked = DaliPixels(32, "cpu"), []

    def batches() -> Iterator[list[Request]]:
        for number in range(8):
            asked.append(number)
            yield [clips[number % 2]]

    expected = [reader.read([clip]).pixels for clip in clips[:2]]
    ready = reader.batches(batches(), ahead=2)
    assert torch.equal(next(ready).pixels, expected[0])
    _wait_for(lambda: len(asked) == 4)  # one taken, two that wait, one in the thread's hand
    time.sleep(0.3)
    assert len(asked) == 4
    for number, batch in enumerate(ready, start=1):
        assert torch.equal(batch.pixels, expected[number % 2])
    assert number == 7 and len(asked) == 8


def test_an_error_comes_where_its_batch_would_have(clips: list[Request]) -> None:
    outside = [(clips[0][0], np.array([99]))]
    ready = DaliPixels(32, "cpu").batches([[clips[0]], outside, [clips[0]]])
    assert isinstance(next(ready), PixelBatch)
    with pytest.raises(IndexError):
        next(ready)


def test_leaving_early_ends_the_thread(clips: list[Request]) -> None:
    ready = DaliPixels(32, "cpu").batches([[clips[0]]] * 50, ahead=1)
    next(ready)
    ready.close()  # type: ignore[attr-defined]
    _wait_for(lambda: not any(thread.name == "blip3v-dali" for thread in threading.enumerate()))


def _wait_for(what: object) -> None:
    end = time.monotonic() + 10
    while not what():  # type: ignore[operator]
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.mark.gpu
def test_gpu_gives_the_pixels_of_the_cpu(clips: list[Request]) -> None:
    reader = DaliPixels(64, "gpu", torch.bfloat16)
    first = reader.read(clips).pixels
    kept = first.clone()
    reader.read(clips[::-1])
    assert first.is_cuda and torch.equal(first, kept)
    apart = (first.float().cpu() - DaliPixels(64, "cpu").read(clips).pixels).abs() * 127.5
    assert apart.mean() < 3
