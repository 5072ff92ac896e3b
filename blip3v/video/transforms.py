"""From frames to the pixels that the vision encoder takes."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from PIL import Image

PAD_GREY = 127


def frames_to_pixels(frames: Any, size: int) -> torch.Tensor:
    """Pad to a centred square with grey, resize (bicubic, antialias), scale to [-1, 1].

    Pillow does the resizing, because the published pixels are Pillow's: it rounds and clips to uint8 between
    its horizontal and its vertical pass. torch's antialiased bicubic on floats skips that and was 30/255 away
    at sharp edges when enlarging; on uint8 it was 2/255 away.

    Args:
        frames: uint8 [T, H, W, 3], RGB, numpy or torch.
        size: side of the square that the vision encoder takes, in pixels.

    Returns:
        float32 [T, 3, size, size], (x / 255 - 0.5) / 0.5.

    Raises:
        ValueError: frames of another shape or dtype.
    """
    frames = frames.numpy(force=True) if isinstance(frames, torch.Tensor) else np.asarray(frames)
    if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != np.uint8:
        raise ValueError(f"frames must be uint8 [T, H, W, 3], got {frames.dtype} {list(frames.shape)}")
    resized = np.empty((len(frames), size, size, 3), dtype=np.uint8)
    for target, frame in zip(resized, pad_to_square(frames), strict=True):
        target[:] = np.asarray(Image.fromarray(frame).resize((size, size), Image.Resampling.BICUBIC))
    return (
        torch.from_numpy(resized)
        .permute(0, 3, 1, 2)
        .to(torch.float32)
        .div(255)
        .sub(0.5)
        .div(0.5)
        .contiguous()
    )


def pad_to_square(frames: np.ndarray) -> np.ndarray:
    """uint8 [T, H, W, 3] -> [T, S, S, 3], S = max(H, W): centred on grey, the odd pixel right or below."""
    count, height, width, channels = frames.shape
    if height == width:
        return frames
    side = max(height, width)
    top, left = (side - height) // 2, (side - width) // 2
    square = np.full((count, side, side, channels), PAD_GREY, dtype=np.uint8)
    square[:, top : top + height, left : left + width] = frames
    return square
