"""Which frames of a clip lie in a stretch of it, given in seconds."""

from __future__ import annotations

import numpy as np

from blip3v.errors import UserError

Span = tuple[float, float]
SLACK = 1.0
"""Seconds by which a span may reach past the end: annotations are often rounded up to whole seconds."""
EPSILON = 1e-6
"""Seconds; times are sums of binary fractions, and the next frame is never so near."""


def frames_in_span(span: Span, times: np.ndarray, end: float, name: str) -> range:
    """The frames shown first at or after span[0] and before span[1]; at least one.

    A span shorter than one frame gives the frame that is on the screen when it begins.

    Args:
        span: begin and end in seconds.
        times: float64 [N], rising: when each frame of the clip appears, counted from the first one.
        end: seconds at which the clip ends.
        name: of the clip, for the error.

    Raises:
        UserError: not 0 <= begin < end, or the span does not lie in the clip.
    """
    begin, stop = span
    if not 0 <= begin < stop:
        raise UserError(f"{name}: {begin} to {stop} s is no span; give 0 <= begin < end")
    if begin > end - EPSILON or stop > end + SLACK:
        raise UserError(
            f"{name} has {end:.2f} s, so {begin:g} to {stop:g} s does not lie in it; correct the span, or "
            "check that this is the video that was annotated"
        )
    first, last = np.searchsorted(times, [begin - EPSILON, stop - EPSILON])
    if first == last:
        first = max(int(first) - 1, 0)
    return range(int(first), max(int(last), int(first) + 1))
