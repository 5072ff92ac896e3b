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
    resized = torch.from_numpy(square_frames(frames, size))
    # Put in order as bytes, and scaled in place: half the time of this was once the writing of floats.
    return resized.permute(0, 3, 1, 2).contiguous().to(torch.float32).div_(255).sub_(0.5).div_(0.5)


def square_frames(frames: Any, size: int) -> np.ndarray:
    """The first half of `frames_to_pixels`, which packed clips have behind them: pad and resize.

    Frames that are squares of this size already come back as they are.

    Returns:
        uint8 [T, size, size, 3].

    Raises:
        ValueError: as `frames_to_pixels`.
    """
    frames = frames.numpy(force=True) if isinstance(frames, torch.Tensor) else np.asarray(frames)
    if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != np.uint8:
        raise ValueError(f"frames must be uint8 [T, H, W, 3], got {frames.dtype} {list(frames.shape)}")
    if frames.shape[1:3] == (size, size):
        return np.require(frames, requirements=("C_CONTIGUOUS", "WRITEABLE"))  # what torch takes
    resized = np.empty((len(frames), size, size, 3), dtype=np.uint8)
    # One by one: the squares of a large video's frames would take more memory than the frames.
    for target, frame in zip(resized, frames, strict=True):
        square = Image.fromarray(pad_to_square(frame))
        target[:] = np.asarray(square.resize((size, size), Image.Resampling.BICUBIC))
    return resized


def pad_to_square(frame: np.ndarray) -> np.ndarray:
    """uint8 [H, W, 3] -> [S, S, 3], S = max(H, W): centred on grey, the odd pixel right or below."""
    height, width, channels = frame.shape
    if height == width:
        return frame
    side = max(height, width)
    top, left = (side - height) // 2, (side - width) // 2
    square = np.full((side, side, channels), PAD_GREY, dtype=np.uint8)
    square[top : top + height, left : left + width] = frame
    return square
