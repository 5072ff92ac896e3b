"""Seconds of calls that take from a millisecond to many seconds, as a user waits for them."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch

from blip3v.testing.timing import Timing

FEWEST = 2
"""Repeats, however long a call takes."""

PATIENCE = 1.0
"""Seconds after which a point gets no further repeats, once it has the fewest."""

CLOCK = "time.perf_counter, device synchronised"


def seconds(call: Callable[[], Any], device: str) -> tuple[float, Any]:
    """Seconds until what the call queued on the device is done, and its result."""
    _synchronise(device)
    begin = time.perf_counter()
    result = call()
    _synchronise(device)
    return time.perf_counter() - begin, result


def repeated(call: Callable[[], tuple[float, ...]], repeats: int, device: str) -> list[Timing]:
    """Timings of each of the durations that `call` returns, from `repeats` calls or as many as there is
    PATIENCE for.

    The first call warms up and does not count; but on a CPU, which has no kernels to load first, it does
    where it took long.
    """
    first = call()
    counts = torch.device(device).type == "cpu" and sum(first) > PATIENCE
    runs = [first] if counts else []
    begin = time.perf_counter()
    while len(runs) < repeats and (len(runs) < FEWEST or time.perf_counter() - begin < PATIENCE):
        runs.append(call())
    return [Timing.of(list(durations), CLOCK) for durations in zip(*runs)]


def _synchronise(device: str) -> None:
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)
