"""A thread that reads as fast as frames come, and a reader that may be slower."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator

import numpy as np
import pytest

from blip3v.errors import UserError
from blip3v.video.pacing import LatestFrames
from blip3v.video.stream import TimedFrame

IMAGE = np.zeros((2, 2, 3), np.uint8)


def clock(times: list[float], closed: Callable[[], None] = lambda: None) -> Generator[TimedFrame, None, None]:
    try:
        for moment in times:
            yield TimedFrame(moment, IMAGE)
    finally:
        closed()


def threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "blip3v-frames"]


def wait_until_read(live: LatestFrames) -> None:
    """The thread has come to the end of its source."""
    live._thread.join(timeout=5)
    assert not live._thread.is_alive()


def test_a_reader_that_keeps_up_misses_nothing() -> None:
    live = LatestFrames(clock([0.0, 0.1, 0.2]), keep=3)
    assert [frame.time for frame in live] == [0.0, 0.1, 0.2]
    assert live.dropped == 0


def test_a_slow_reader_gets_the_newest_frames() -> None:
    live = LatestFrames(clock([float(n) for n in range(10)]), keep=3)
    wait_until_read(live)
    assert [frame.time for frame in live] == [7.0, 8.0, 9.0]
    assert live.dropped == 7


def test_paced_frames_come_at_their_times() -> None:
    begin, arrived = time.monotonic(), []
    for frame in LatestFrames(clock([0.0, 0.2, 0.4]), pace=True):
        arrived.append((frame.time, time.monotonic() - begin))
    assert [moment for moment, _ in arrived] == [0.0, 0.2, 0.4]
    assert all(-0.01 < seen - moment < 2.0 for moment, seen in arrived)


def test_an_error_of_the_source_comes_behind_its_frames() -> None:
    def failing() -> Generator[TimedFrame, None, None]:
        yield TimedFrame(0.0, IMAGE)
        raise UserError("the cable is out")

    frames = iter(LatestFrames(failing()))
    assert next(frames).time == 0.0
    with pytest.raises(UserError, match="the cable is out"):
        next(frames)


def test_close_ends_the_thread_and_the_source() -> None:
    closed = threading.Event()
    live = LatestFrames(clock([0.0, 3600.0], closed.set), pace=True)
    assert next(iter(live)).time == 0.0
    live.close()
    assert closed.is_set() and not threads()
