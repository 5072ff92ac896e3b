"""Frames against the formulas of the standards in float64, from the planes that the codec stored.

ITU-R BT.601-7 and BT.709-6: Y' = kr R' + kg G' + kb B', chroma (B' - Y') / (2 - 2 kb) and
(R' - Y') / (2 - 2 kr). Limited range puts Y' on 16 to 235 and chroma on 16 to 240 of 255, full range (JFIF)
both on 0 to 255. A file that does not say is taken for BT.601 with limited range, as FFmpeg does.
"""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest

from benchmarks.decode.files.plain import HEVC, VPX
from benchmarks.decode.files.writing import Look, write
from blip3v.video.decoders import DECODERS, UnsupportedVideo

SIZE = (192, 128)
SMOOTH = slice(SIZE[1] // 2 + 4, SIZE[1] - 2), slice(2, SIZE[0] - 2)
"""Rows and columns of the colours, without the numbers above and the edges, where chroma is interpolated."""

MEAN, MOST = 1.5, 6.0
"""Of 255. Chroma is interpolated here by repetition and there linearly, half a step of its slope apart, and
colours are rounded to 8 bits twice."""

LOOKS = {
    "601": Look(size=SIZE),
    "601 full": Look(size=SIZE, full_range=True),
    "709": Look(size=SIZE, bt709=True),
    "709 full": Look(size=SIZE, bt709=True, full_range=True),
    "444": Look(size=SIZE, pix_fmt="yuv444p"),
    "10 bit": Look("libx265", HEVC.options, pix_fmt="yuv420p10le", size=SIZE),
    "vp9 601": Look("libvpx-vp9", VPX, size=SIZE),
    "vp9 709": Look("libvpx-vp9", VPX, size=SIZE, bt709=True),
    "vp9 full": Look("libvpx-vp9", VPX, size=SIZE, full_range=True),
    "mjpeg": Look("mjpeg", pix_fmt="yuvj420p", size=SIZE, full_range=True),
}


def stored(path: Path, number: int) -> np.ndarray:
    """float64 [H, W, 3], Y, Cb and Cr of a frame as its codec stored them, on 0 to 255."""
    with av.open(str(path)) as container:
        frame = next(frame for k, frame in enumerate(container.decode(video=0)) if k == number)
    deep = frame.format.components[0].bits > 8
    planes = []
    for plane in frame.planes:
        values = np.frombuffer(bytes(plane), np.uint16 if deep else np.uint8)
        values = values.reshape(plane.height, -1)[:, : plane.width].astype(np.float64) / (4 if deep else 1)
        factor = frame.height // plane.height
        planes.append(np.repeat(np.repeat(values, factor, axis=0), factor, axis=1))
    return np.stack(planes, axis=-1)


def rgb(values: np.ndarray, kr: float, kb: float, full: bool) -> np.ndarray:
    """float64 [H, W, 3] on 0 to 255, from Y, Cb and Cr."""
    luma, blue, red = values[..., 0], values[..., 1] - 128, values[..., 2] - 128
    if not full:
        luma, blue, red = (luma - 16) * 255 / 219, blue * 255 / 224, red * 255 / 224
    r = luma + (2 - 2 * kr) * red
    b = luma + (2 - 2 * kb) * blue
    g = (luma - kr * r - kb * b) / (1 - kr - kb)
    return np.clip(np.stack([r, g, b], axis=-1), 0, 255)


@pytest.mark.parametrize("name", LOOKS)
@pytest.mark.parametrize("decoder", DECODERS)
def test_colours(decoder: str, name: str, tmp_path: Path) -> None:
    if DECODERS[decoder].available():
        pytest.skip(f"NOT TESTED: {DECODERS[decoder].available()}")
    look = LOOKS[name]
    suffix = {"libvpx-vp9": "webm", "mjpeg": "avi"}.get(look.encoder, "mp4")
    made = write(tmp_path / f"clip.{suffix}", look, numbers=range(6))
    try:
        with DECODERS[decoder].open(made.path) as video:
            frame = video.frames_at([4])[0]
    except UnsupportedVideo:
        pytest.skip(f"{decoder} does not decode this codec here")
    values = stored(made.path, 4)
    kr, kb = (0.2126, 0.0722) if look.bt709 else (0.299, 0.114)
    difference = np.abs(frame - rgb(values, kr, kb, look.full_range))[SMOOTH]
    assert difference.mean() < MEAN and difference.max() < MOST, (difference.mean(), difference.max())
    # The bound tells the matrices and the ranges apart.
    for other in (
        (0.2126, 0.0722, look.full_range),
        (0.299, 0.114, look.full_range),
        (kr, kb, not look.full_range),
    ):
        if other != (kr, kb, look.full_range):
            assert np.abs(frame - rgb(values, *other))[SMOOTH].mean() > 2 * MEAN
