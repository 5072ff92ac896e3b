from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from blip3v.errors import UserError
from blip3v.video.decoders.protocol import (
    DecodeError,
    OpenVideo,
    UnsupportedVideo,
    VideoInfo,
    WrongCount,
    asked_frames,
)

UNEVEN = [0.0, 0.04, 0.14, 0.16, 0.66, 0.69]


def _info(times: list[float] | np.ndarray, duration: float) -> VideoInfo:
    return VideoInfo(Path("clip.mp4"), "mov", "h264", 96, 64, 0, np.asarray(times, dtype=float), duration)


def test_number_and_rate_of_frames() -> None:
    info = _info(UNEVEN, 0.75)
    assert info.num_frames == 6 and info.fps == pytest.approx(8.0)
    assert _info([0.0], 0.04).fps == pytest.approx(25)


def test_a_frame_is_shown_until_the_next_one_comes() -> None:
    info = _info(UNEVEN, 0.75)
    assert info.indices_at(UNEVEN).tolist() == [0, 1, 2, 3, 4, 5]
    behind = [next_time - 1e-4 for next_time in [*UNEVEN[1:], 0.75]]
    assert info.indices_at(behind).tolist() == [0, 1, 2, 3, 4, 5]
    assert info.indices_at(np.array([0.75, 0.0, 0.5, 0.5])).tolist() == [5, 0, 3, 3]


def test_indices_at_against_a_search_by_hand() -> None:
    random = np.random.default_rng(1)
    times = np.cumsum(random.choice([0.01, 0.05, 2.0], size=50)) - 0.0
    times -= times[0]
    info = _info(times, float(times[-1]) + 0.1)
    for asked in random.uniform(0, info.duration, size=200):
        (found,) = info.indices_at([asked])
        assert found == max(k for k in range(50) if times[k] <= asked)


def test_frames_of_one_time_give_the_last_of_them() -> None:
    assert _info([0.0, 0.1, 0.1, 0.1, 0.2], 0.3).indices_at([0.1, 0.15]).tolist() == [3, 3]


@pytest.mark.parametrize(
    "rate", [Fraction(30), Fraction(25), Fraction(30000, 1001), Fraction(60), Fraction(3)]
)
def test_sums_of_fractions_find_their_frame(rate: Fraction) -> None:
    """Sums of 1/30 come out a hair below the time of the frame, or above it."""
    count = 5000
    info = _info([float(k / rate) for k in range(count)], float(count / rate))
    added, clock = [], 0.0
    for _ in range(count):
        added.append(clock)
        clock += float(1 / rate)
    assert info.indices_at(added).tolist() == list(range(count))
    products = np.arange(count) * float(1 / rate)
    assert info.indices_at(products).tolist() == list(range(count))


@pytest.mark.parametrize("asked", [[-0.01], [0.2, 0.76], [float("nan")], [0.1, float("inf")]])
def test_times_that_the_video_has_not(asked: list[float]) -> None:
    with pytest.raises(UserError, match=r"asked of clip\.mp4, which lasts 0\.75 s; ask for times inside"):
        _info(UNEVEN, 0.75).indices_at(asked)


def test_no_times_give_no_indices() -> None:
    found = _info(UNEVEN, 0.75).indices_at([])
    assert found.shape == (0,) and found.dtype == np.int64


def test_asked_frames() -> None:
    info = _info(UNEVEN, 0.75)
    asked = asked_frames((5, 0, 0), info)
    assert asked.dtype == np.int64 and asked.tolist() == [5, 0, 0]
    assert asked_frames(np.array([3], dtype=np.uint8), info).tolist() == [3]
    assert asked_frames([], info).shape == (0,)
    for wrong in ([6], [-1], [0, 1, 6]):
        with pytest.raises(IndexError, match=r"clip\.mp4 has frames 0 to 5, asked for"):
            asked_frames(wrong, info)


def test_the_block_closes_the_video_and_lets_errors_out() -> None:
    class Opened(OpenVideo):
        closed = 0

        def close(self) -> None:
            self.closed += 1

    video = Opened()
    with video as entered:
        assert entered is video and not video.closed
    assert video.closed == 1
    with pytest.raises(KeyError), video:
        raise KeyError("inside")
    assert video.closed == 2


def test_errors_that_one_handler_catches() -> None:
    assert issubclass(UnsupportedVideo, DecodeError) and issubclass(WrongCount, DecodeError)
    assert issubclass(DecodeError, UserError) and not issubclass(UnsupportedVideo, WrongCount)
