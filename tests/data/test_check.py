from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from blip3v.data import check
from blip3v.data.check import CRASHED, decode_one, decode_some, text_lengths
from blip3v.data.conversation import Turn
from blip3v.data.records import Record


def record(name: str, video: Path, span: tuple[float, float] | None = None) -> Record:
    return Record(name, (Turn("q", "a" * int(name)),), video, source="s", span=span)


def test_lengths_of_texts() -> None:
    records = [record(str(n), Path("x")) for n in (5, 30, 1, 20)]
    lengths = text_lengths(iter(records), count=2)
    assert lengths.mean == 15 and lengths.longest == [(31, "s", "30"), (21, "s", "20")]
    assert text_lengths([]).mean == 0


@pytest.fixture
def records(put: Callable[..., Path]) -> list[Record]:
    folder = put("1.mp4", "2.avi", "3.gif", "4")
    (folder / "5.mp4").write_bytes(b"no video")
    names = ("1.mp4", "2.avi", "3.gif", "4", "5.mp4", "6.mp4")
    found = [record(name[0], folder / name) for name in names]
    return [*found, record("7", folder / "1.mp4"), record("8", folder / "1.mp4", (5.0, 6.0)), Record("9", ())]


def test_each_video_is_decoded_once_and_the_broken_ones_are_named(records: list[Record]) -> None:
    told: list[check.Decoded] = []
    results = decode_some(records, 100, workers=2, on_done=told.append)
    assert told == results
    errors = {Path(result.media).name: result.error for result in results if result.error is not None}
    assert len(results) == 7 and set(errors) == {"5.mp4", "6.mp4", "1.mp4"}
    assert "cannot open" in errors["5.mp4"] and "no such video" in errors["6.mp4"]
    assert "does not lie in it" in errors["1.mp4"]  # the one with a span
    assert all(result.seconds > 0 for result in results)


def test_a_part_is_chosen_by_the_seed(records: list[Record], monkeypatch: pytest.MonkeyPatch) -> None:
    def in_this_process(chosen: list[Record], workers: int, num_frames: int) -> list[check.Decoded]:
        return [decode_one(one, num_frames) for one in chosen]

    monkeypatch.setattr(check, "_decode_all", in_this_process)
    seeds = [tuple(result.media for result in decode_some(records, 3, seed=seed)) for seed in (0, 0, 1)]
    assert seeds[0] == seeds[1] != seeds[2] and len(seeds[0]) == 3


def die_on_three(one: Record, num_frames: int) -> check.Decoded:
    if one.id == "3":
        os.kill(os.getpid(), signal.SIGKILL)
    return decode_one(one, num_frames)


def test_a_decoder_that_dies_takes_only_its_video(
    records: list[Record], monkeypatch: pytest.MonkeyPatch
) -> None:
    import concurrent.futures
    import multiprocessing

    fork = multiprocessing.get_context("fork")  # so that the workers see the decoder that dies
    monkeypatch.setattr(check, "_pool", lambda n: concurrent.futures.ProcessPoolExecutor(n, mp_context=fork))
    monkeypatch.setattr(check, "decode_one", die_on_three)
    results = {Path(result.media).name: result.error for result in decode_some(records[:4], 100)}
    assert results == {"1.mp4": None, "2.avi": None, "3.gif": CRASHED, "4": None}


def test_whatever_a_decoder_raises_is_a_broken_video(monkeypatch: pytest.MonkeyPatch) -> None:
    def burst(*args: object, **kwargs: object) -> None:
        raise MemoryError("too much")

    monkeypatch.setattr(check, "read_video", burst)
    assert decode_one(record("1", Path("x")), 8).error == "MemoryError: too much"
