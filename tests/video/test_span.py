from __future__ import annotations

import numpy as np
import pytest

from blip3v.errors import UserError
from blip3v.video.span import SLACK, frames_in_span

TIMES = np.array([0.0, 0.1, 0.2, 0.5, 1.0])
"""Frames of different durations; the last one ends at 1.5 s."""


@pytest.mark.parametrize(
    ("span", "expected"),
    [
        ((0, 1.5), range(5)),
        ((0.1, 0.5), range(1, 3)),
        ((0.15, 0.55), range(2, 4)),
        ((0.3, 0.4), range(2, 3)),  # between two frames: the one on the screen
        ((1.4, 1.5), range(4, 5)),
        ((0.6, 1.5 + SLACK), range(4, 5)),
        ((0.0, 0.05), range(1)),
    ],
)
def test_frames(span: tuple[float, float], expected: range) -> None:
    assert frames_in_span(span, TIMES, 1.5, "x.mp4") == expected


def test_rounding_of_times_does_not_move_a_frame() -> None:
    times = np.arange(300) / 29.97
    assert frames_in_span((times[30], times[60]), times, 10.01, "x") == range(30, 60)


@pytest.mark.parametrize(
    ("span", "message"),
    [
        ((1, 1), "no span"),
        ((-1, 1), "no span"),
        ((float("nan"), 1), "no span"),
        ((1.5, 1.6), r"x\.mp4 has 1\.50 s, so 1\.5 to 1\.6 s does not lie in it"),
        ((0, 3), "does not lie in it"),
    ],
)
def test_outside(span: tuple[float, float], message: str) -> None:
    with pytest.raises(UserError, match=message):
        frames_in_span(span, TIMES, 1.5, "x.mp4")
