"""Which frames of a clip the model sees.

A sampler maps (frames in the clip, frames wanted) to sorted frame indices, int64 [n], all inside the clip.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np

Sampler = Callable[[int, int], np.ndarray]


def uniform_indices(total: int, n: int) -> np.ndarray:
    """The frames used at inference: linspace(n/2, total - n/2, n), truncated to integers.

    The formula is the published one and is kept as it stands for every clip longer than n frames. At n frames
    it would give the middle frame n times, and below that it runs backwards; there the whole clip is shown in
    order instead, each frame once, or repeated as evenly as n allows.

    Args:
        total: frames in the clip, at least 1.
        n: frames wanted, at least 1.

    Returns:
        int64 [n], sorted.

    Raises:
        ValueError: total or n below 1.
    """
    _check(total, n)
    if total <= n:
        return np.arange(n, dtype=np.int64) * total // n
    # For n = 1 numpy returns the start of the range, frame 0; the formula's range is [0.5, total - 0.5], and
    # one frame stands for it best from its centre.
    return (
        np.linspace(n / 2, total - n / 2, n).astype(np.int64)
        if n > 1
        else np.array([total // 2], dtype=np.int64)
    )


def segment_indices(total: int, n: int, generator: np.random.Generator) -> np.ndarray:
    """The frames used in training: n equal segments of the clip, one frame at a random place in each.

    Bind the generator to make a sampler: `functools.partial(segment_indices, generator=generator)`. Equal
    generator states give equal indices. A clip shorter than n frames repeats frames and keeps their order.

    Returns:
        int64 [n], sorted.

    Raises:
        ValueError: total or n below 1.
    """
    _check(total, n)
    places = (np.arange(n) + generator.random(n)) * (total / n)
    return np.minimum(places.astype(np.int64), total - 1)


def training_sampler(seed: int, epoch: int, index: int) -> Sampler:
    """`segment_indices` as training draws it for record number `index` in one pass over the data."""
    return partial(segment_indices, generator=np.random.default_rng([seed, epoch, index]))


def single_frame_indices(total: int, n: int = 1) -> np.ndarray:
    """The middle frame n times: the same model and input shape without any view of time.

    Returns:
        int64 [n], all equal.

    Raises:
        ValueError: total or n below 1.
    """
    _check(total, n)
    return np.full(n, total // 2, dtype=np.int64)


def _check(total: int, n: int) -> None:
    if total < 1 or n < 1:
        raise ValueError(f"cannot sample {n} frames from a clip of {total}: both must be at least 1")
