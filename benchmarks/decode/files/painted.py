"""Frames that carry their own number in black and white blocks, which survive compression."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

UNREADABLE = -1


def paint(number: int, width: int, height: int, bits: int = 8) -> np.ndarray:
    """uint8 [height, width, 3], RGB: the number in the upper half, colours that move in the lower one.

    The blocks hold the bits of the number, lowest first, row by row, and behind them the same bits inverted;
    so a picture that is mirrored, turned or torn reads as another number or as none. 16x16 pixels are enough
    for 8 bits.

    Raises:
        ValueError: the number needs more bits.
    """
    if not 0 <= number < 1 << bits:
        raise ValueError(f"{number} does not fit into {bits} bits")
    frame = np.empty((height, width, 3), dtype=np.uint8)
    y, x = np.mgrid[0:height, 0:width]
    # Strong colours: a wrong matrix or range moves them by much more than compression does. Of small pictures
    # less of the scale, as decoders interpolate colour in different ways, which shows where it is steep.
    frame[..., 0] = 20 + min(210, 6 * width) * x / max(width - 1, 1)
    frame[..., 1] = 20 + min(210, 6 * height) * y / max(height - 1, 1)
    frame[..., 2] = 125 + 90 * np.cos(number * 0.7)
    for bit, (rows, columns) in enumerate(_blocks(width, height, bits)):
        one = (number >> bit & 1) if bit < bits else 1 - (number >> bit - bits & 1)
        frame[rows, columns] = 255 * one
    return frame


def read_number(frame: np.ndarray, bits: int = 8) -> int:
    """The number painted into uint8 [H, W, 3] or [H, W]; UNREADABLE where blocks contradict one another."""
    height, width = frame.shape[:2]
    light = []
    for rows, columns in _blocks(width, height, bits):
        block = frame[_inner(rows), _inner(columns)].astype(np.float64)
        light.append(bool(block.mean() > 127))
    straight, inverted = light[:bits], light[bits:]
    if any(one == other for one, other in zip(straight, inverted, strict=True)):
        return UNREADABLE
    return sum(one << bit for bit, one in enumerate(straight))


def read_numbers(frames: Sequence[np.ndarray] | np.ndarray, bits: int = 8) -> list[int]:
    return [read_number(frame, bits) for frame in frames]


def _blocks(width: int, height: int, bits: int) -> list[tuple[slice, slice]]:
    """Rows and columns of each of 2 * bits blocks, which fill the upper half of a picture."""
    across = 4 if bits <= 8 else 8
    down = -(-2 * bits // across)
    x = np.linspace(0, width, across + 1).astype(int)
    y = np.linspace(0, -(-height // 2), down + 1).astype(int)
    places = [(j, i) for j in range(down) for i in range(across)][: 2 * bits]
    return [(slice(y[j], y[j + 1]), slice(x[i], x[i + 1])) for j, i in places]


def _inner(edge: slice) -> slice:
    """Without its border, where there is more than border: codecs smear edges."""
    trim = (edge.stop - edge.start) // 4
    return slice(edge.start + trim, edge.stop - trim)
