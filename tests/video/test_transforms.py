"""The pixels against Pillow's own pipeline and against the bicubic formula written out in float64."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from PIL import Image

from blip3v.video import frames_to_pixels
from blip3v.video.transforms import square_frames

SHAPES = [(37, 53, 32), (53, 37, 96), (101, 48, 33), (7, 5, 16), (64, 64, 64), (1, 9, 8), (200, 31, 24)]


def _frames(height: int, width: int, count: int = 2) -> np.ndarray:
    """Noise over black and white blocks: edges at which bicubic overshoots and has to be clipped."""
    frames = np.random.default_rng(height * width).integers(0, 256, (count, height, width, 3), dtype=np.uint8)
    frames[:, : height // 2] = 255 * (frames[:, : height // 2] > 127)
    return frames


def _bytes(pixels: torch.Tensor) -> np.ndarray:
    return (pixels.double().permute(0, 2, 3, 1).numpy() * 0.5 + 0.5) * 255


def _cubic(x: float) -> float:
    x = abs(x)
    if x < 1:
        return 1.5 * x**3 - 2.5 * x**2 + 1
    return -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2 if x < 2 else 0.0


def _weights(source: int, target: int) -> np.ndarray:
    """[target, source]: the cubic kernel (a = -0.5), widened by the scale when shrinking, rows sum to one."""
    scale = source / target
    widening = max(scale, 1.0)
    matrix = np.zeros((target, source))
    for i in range(target):
        centre = (i + 0.5) * scale
        first = max(math.floor(centre - 2 * widening + 0.5), 0)
        last = min(math.floor(centre + 2 * widening + 0.5), source)
        for j in range(first, last):
            matrix[i, j] = _cubic((j + 0.5 - centre) / widening)
    return matrix / matrix.sum(1, keepdims=True)


def _square(frame: np.ndarray) -> np.ndarray:
    height, width = frame.shape[:2]
    side = max(height, width)
    square = np.full((side, side, 3), 127, dtype=np.uint8)
    for y in range(height):
        square[y + (side - height) // 2, (side - width) // 2 : (side - width) // 2 + width] = frame[y]
    return square


@pytest.mark.parametrize(("height", "width", "size"), SHAPES)
def test_against_pillow(height: int, width: int, size: int) -> None:
    frames = _frames(height, width)
    pixels = frames_to_pixels(frames, size)
    assert pixels.shape == (2, 3, size, size) and pixels.dtype == torch.float32
    side = max(height, width)
    for frame, got in zip(frames, _bytes(pixels)):
        canvas = Image.new("RGB", (side, side), (127, 127, 127))
        canvas.paste(Image.fromarray(frame), ((side - width) // 2, (side - height) // 2))
        expected = np.asarray(canvas.resize((size, size), Image.Resampling.BICUBIC)).astype(float)
        assert np.abs(got - expected).max() < 1


@pytest.mark.parametrize(("height", "width", "size"), SHAPES)
def test_against_the_formula(height: int, width: int, size: int) -> None:
    frames = _frames(height, width)
    for frame, got in zip(frames, _bytes(frames_to_pixels(frames, size))):
        square = _square(frame).astype(np.float64)
        weights = _weights(len(square), size)
        rows = np.clip(np.rint(np.einsum("xj,yjc->yxc", weights, square)), 0, 255)
        expected = np.clip(np.rint(np.einsum("yj,jxc->yxc", weights, rows)), 0, 255)
        # Half a step from a tie rounded the other way in the first pass can grow to just over one in the
        # second.
        assert np.abs(got - expected).max() <= 1 + 1e-3
        assert (np.abs(got - expected) > 0.5).mean() < 0.01


def test_range_and_grey() -> None:
    frames = np.stack([np.zeros((4, 8, 3), np.uint8), np.full((4, 8, 3), 255, np.uint8)])
    pixels = frames_to_pixels(frames, 8)
    assert pixels[0, :, 4].unique().tolist() == [-1.0]
    assert pixels[1, :, 4].unique().tolist() == [1.0]
    assert torch.allclose(pixels[:, :, 0], torch.tensor(127 / 255 * 2 - 1), atol=1e-6)


def test_tensor_strided_and_array_agree() -> None:
    frames = _frames(20, 30, count=6)
    strided = torch.from_numpy(frames)[::2].flip(2)
    assert torch.equal(frames_to_pixels(strided, 16), frames_to_pixels(frames[::2, :, ::-1], 16))


def test_squares_first_and_pixels_later_are_pixels_at_once() -> None:
    """What packed clips rest on: to the last bit, for every byte."""
    frames = _frames(37, 53)
    squares = square_frames(frames, 32)
    assert squares.shape == (2, 32, 32, 3) and squares.dtype == np.uint8
    squares.flags.writeable = False
    assert torch.equal(frames_to_pixels(squares, 32), frames_to_pixels(frames, 32))
    every = np.arange(256, dtype=np.uint8).repeat(3).reshape(1, 16, 16, 3)
    formula = (torch.arange(256, dtype=torch.float32) / 255 - 0.5) / 0.5
    assert torch.equal(frames_to_pixels(every, 16)[0], formula.reshape(1, 16, 16).expand(3, 16, 16))


@pytest.mark.parametrize("frames", [np.zeros((2, 8, 8, 3), np.float32), np.zeros((8, 8, 3), np.uint8)])
def test_wrong_input_is_refused(frames: np.ndarray) -> None:
    with pytest.raises(ValueError, match="uint8"):
        frames_to_pixels(frames, 8)
