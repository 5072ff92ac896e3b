"""Calls that take turns, each timed by the clock and by the processor."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from blip3v.testing.timing import Timing

LEAST = 3
"""Turns of each call, however long they take."""


@dataclass(frozen=True)
class Turns:
    """timing: by the clock. mean: seconds of a call. cpu: the processor's, of all threads of the process."""

    timing: Timing
    mean: float
    cpu: float


def in_turns(
    calls: Mapping[str, Callable[[], object]],
    repeats: int,
    share: float,
    before: Callable[[], object] | None = None,
    warm: bool = False,
) -> dict[str, Turns]:
    """Times of all calls, which run one after the other, round by round.

    Args:
        repeats: rounds at most.
        share: seconds for each call; when all are used up there is no further round after LEAST.
        before: called before each, outside its time.
        warm: a round that does not count comes first.
    """
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    processor = dict.fromkeys(calls, 0.0)
    if warm:
        for call in calls.values():
            call()
    rounds, end = 0, time.perf_counter() + share * len(calls)
    while rounds < repeats and (rounds < LEAST or time.perf_counter() < end):
        rounds += 1
        for name, call in calls.items():
            if before is not None:
                before()
            begin, used = time.perf_counter(), time.process_time()
            call()
            processor[name] += time.process_time() - used
            seconds[name].append(time.perf_counter() - begin)
    return {
        name: Turns(Timing.of(times, "time.perf_counter"), sum(times) / rounds, processor[name] / rounds)
        for name, times in seconds.items()
    }
