from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from blip3v.data import check
from blip3v.data.check import decode_some, text_lengths
from blip3v.data.conversation import Turn
from blip3v.data.isolated import Outcome
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
    def nothing_is_wrong(function: object, items: Iterable[Record], *limits: object) -> list[Any]:
        return [Outcome(item, None, "", 0.1) for item in items]

    monkeypatch.setattr(check, "run_isolated", nothing_is_wrong)
    seeds = [tuple(result.media for result in decode_some(records, 3, seed=seed)) for seed in (0, 0, 1)]
    assert seeds[0] == seeds[1] != seeds[2] and len(seeds[0]) == 3


def a_trap(one: Record, num_frames: int) -> None:
    """In the place of `decode_one`, as the processes find it by its name."""
    if one.id == "1":
        time.sleep(60)
    elif one.id == "2":
        np.ones(1 << 30, np.uint8)
    elif one.id == "3":
        os.kill(os.getpid(), signal.SIGKILL)


def test_a_decoder_that_dies_or_takes_too_much_takes_only_its_video(
    records: list[Record], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(check, "decode_one", a_trap)
    results = decode_some(records[:4], 100, timeout=1.0, memory=256 << 20)
    errors = {Path(result.media).name: result.error for result in results}
    folder, rest = records[0].media.parent, "; leave it out, or convert it to H.264 with ffmpeg"
    assert errors == {
        "1.mp4": f"{folder / '1.mp4'}: took longer than 1 s{rest}",
        "2.avi": f"{folder / '2.avi'}: asked for more than 0.25 GiB of memory{rest}",
        "3.gif": f"{folder / '3.gif'}: its process died (signal 9){rest}",
        "4": None,
    }
