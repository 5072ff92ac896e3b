"""From the colours of one matrix to those of another: what to do when YUV was turned into RGB by the wrong
one."""

from __future__ import annotations

import numpy as np

WEIGHTS = {
    1: (0.2126, 0.0722),  # BT.709
    4: (0.30, 0.11),  # FCC
    5: (0.299, 0.114),  # BT.601, 625 lines
    6: (0.299, 0.114),  # BT.601, 525 lines
    7: (0.212, 0.087),  # SMPTE 240M
    9: (0.2627, 0.0593),  # BT.2020
}
"""Share of red and of blue in the brightness, by the number of the matrix in ITU-T H.273, table 4."""

BT601 = 5


def from_bt601(matrix: int) -> np.ndarray | None:
    """float64 [3, 3] that turns RGB decoded as BT.601 into RGB decoded as `matrix`; None where nothing
    changes.

    It holds for full and limited range alike, which scale brightness and colour by the same factors in every
    matrix, and keeps grey as it is.

    Args:
        matrix: a number in WEIGHTS; another one (2: not said) is taken as BT.601, as FFmpeg does.
    """
    if WEIGHTS.get(matrix, WEIGHTS[BT601]) == WEIGHTS[BT601]:
        return None
    return np.linalg.inv(to_ycc(*WEIGHTS[matrix])) @ to_ycc(*WEIGHTS[BT601])


def to_ycc(red: float, blue: float) -> np.ndarray:
    """float64 [3, 3], RGB -> Y, Cb, Cr with Y in 0..1 and the others in -0.5..0.5 (BT.601 section 2.5)."""
    bright = np.array([red, 1 - red - blue, blue])
    return np.stack(
        [
            bright,
            (np.array([0, 0, 1]) - bright) / (2 * (1 - blue)),
            (np.array([1, 0, 0]) - bright) / (2 * (1 - red)),
        ]
    )
