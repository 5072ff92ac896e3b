from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from blip3v.data.batches import PLACEHOLDER, Place
from blip3v.data.loader import SampleLoader
from blip3v.errors import UserError

Hook = Callable[[Place], None]


class Numbers:
    """Sample n is [n, n], its label n; `hook` may do what it likes first."""

    def __init__(self, hook: Hook | None = None, length: int = 40) -> None:
        self.hook, self.length = hook, length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, place: Place) -> dict[str, torch.Tensor]:
        if self.hook is not None:
            self.hook(place)
        return {"input_ids": torch.full((2,), place.sample), "labels": torch.tensor([place.sample])}


def stack(samples: list[dict[str, torch.Tensor]]) -> dict[str, Any]:
    return {key: torch.stack([sample[key] for sample in samples]) for key in samples[0]} | {"longest": 2}


PLACES = [[Place(0, 2 * n), Place(0, 2 * n + 1)] for n in range(20)]
ORDER = [[2 * n, 2 * n + 1] for n in range(20)]


def labels(batches: Any) -> list[list[int]]:
    return [batch["labels"].flatten().tolist() for batch in batches]


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_come_in_their_order_and_waiting_is_counted(workers: int) -> None:
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    loader = SampleLoader(Numbers(lambda place: time.sleep(0.005)), PLACES, stack, workers)
    first = next(loader)
    assert first["longest"] == 2 and first["input_ids"].tolist() == [[0, 0], [1, 1]]
    assert labels(loader) == ORDER[1:]
    assert loader.stall_seconds >= (20 * 2 * 0.005 if workers == 0 else 0.005)
    assert torch.equal(torch.rand(1), expected)  # the model's generator is left alone
    with pytest.raises(StopIteration):
        next(loader)


def test_workers_fetch_ahead_but_not_without_bound() -> None:
    drawn = []

    def draw() -> Any:
        for places in PLACES:
            drawn.append(places)
            yield places

    loader = SampleLoader(Numbers(), draw(), stack, workers=2, prefetch=3)
    next(loader)
    assert len(drawn) == 2 * 3 + 1
    loader.close()
    assert list(loader) == []


def _pids() -> list[int]:
    return [process.pid for process in multiprocessing.active_children() if process.pid]


def test_a_killed_worker_costs_no_batch_and_no_order(capfd: pytest.CaptureFixture[str]) -> None:
    loader = SampleLoader(Numbers(lambda place: time.sleep(0.01)), PLACES, stack, workers=2)
    found = []
    for batch in loader:
        found += labels([batch])
        if len(found) in (3, 11):
            before = set(_pids())
            os.kill(loader._board.pids()[len(found) % 2], signal.SIGKILL)
            time.sleep(0.05)  # torch would raise about it in here
    assert found == ORDER
    assert not before & set(_pids())
    assert capfd.readouterr().err.count("WARNING: data workers: 1 died; starting them again") == 2
    assert loader.skipped == 0


def test_a_sample_that_kills_workers_counts_as_broken() -> None:
    def die(place: Place) -> None:
        if place.sample == 13:
            os.kill(os.getpid(), signal.SIGKILL)

    skipped = []
    loader = SampleLoader(
        Numbers(die), PLACES, stack, workers=2, on_skip=lambda *report: skipped.append(report)
    )
    assert labels(loader) == [[12, -100] if row == [12, 13] else row for row in ORDER]
    assert skipped == [(Place(0, 13), "a worker died on it twice")]


def test_a_sample_that_hangs_counts_as_broken() -> None:
    def hang(place: Place) -> None:
        if place.sample == 13:
            signal.signal(signal.SIGALRM, signal.SIG_IGN)
            time.sleep(60)

    skipped = []
    loader = SampleLoader(
        Numbers(hang), PLACES, stack, workers=2, timeout=0.3, on_skip=lambda *report: skipped.append(report)
    )
    began = time.monotonic()
    assert labels(loader) == [[12, -100] if row == [12, 13] else row for row in ORDER]
    assert skipped == [(Place(0, 13), "took longer than 0.3 seconds")]
    assert time.monotonic() - began < 30


def test_a_sample_that_asks_for_too_much_memory_counts_as_broken() -> None:
    def devour(place: Place) -> None:
        if place.sample == 13:
            np.ones(1 << 30, np.uint8)

    skipped = []
    loader = SampleLoader(
        Numbers(devour), PLACES, stack, workers=2, memory=256 << 20,
        on_skip=lambda *report: skipped.append(report),
    )  # fmt: skip
    first = next(loader)
    pids = set(_pids())
    assert labels([first, *loader]) == [[12, -100] if row == [12, 13] else row for row in ORDER]
    assert [place for place, _ in skipped] == [Place(0, 13)] and "Unable to allocate" in skipped[0][1]
    assert pids and loader._board.pids() and set(loader._board.pids()) <= pids  # nobody died of it


def test_a_worker_that_leaks_is_replaced_and_costs_no_sample(capfd: pytest.CaptureFixture[str]) -> None:
    leaked = []

    def leak(place: Place) -> None:
        # Above the largest size that malloc takes from memory that something freed before.
        leaked.append(np.ones(40 << 20, np.uint8))

    loader = SampleLoader(Numbers(leak), PLACES, stack, workers=1, memory=512 << 20)
    assert labels(loader) == ORDER  # 40 samples, 1.6 GB
    assert loader.skipped == 0 and leaked == []
    assert capfd.readouterr().err.count("WARNING: data workers: 1 died; starting them again") >= 2


def test_a_batch_that_never_comes_together_stops_the_run() -> None:
    def hang(samples: Any) -> Any:
        time.sleep(60)

    loader = SampleLoader(Numbers(), PLACES, hang, workers=1, timeout=0.2, restarts=1)
    with pytest.raises(UserError, match=r"data workers failed 2 times in a row \(no batch"):
        next(loader)


def test_workers_that_always_die_stop_the_run(tmp_path: Path) -> None:
    def die(samples: Any) -> Any:
        os.kill(os.getpid(), signal.SIGKILL)

    loader = SampleLoader(Numbers(), PLACES, die, workers=1, restarts=2)
    with pytest.raises(UserError, match=r"data workers failed 3 times in a row.*too little memory"):
        next(loader)
    assert _pids() == []


@pytest.mark.parametrize("workers", [0, 1])
def test_broken_samples_are_counted_and_too_many_stop_the_run(workers: int) -> None:
    def tear(place: Place) -> None:
        if place.sample % 5 == 0 and (place.epoch or place.sample):
            raise OSError(f"torn {place.sample}")

    def run(epoch: int) -> tuple[SampleLoader, list[Any], int]:
        skipped: list[Any] = []
        places = [[Place(epoch, n), Place(epoch, n + 1)] for _ in range(8) for n in range(0, 40, 2)]
        loader = SampleLoader(
            Numbers(tear), places, stack, workers, on_skip=lambda *report: skipped.append(report)
        )
        return loader, skipped, len(places)

    loader, skipped, number = run(0)  # 7 of 40
    assert len(labels(loader)) == number
    assert loader.skipped == len(skipped) == 7 * 8
    assert skipped[0] == (Place(0, 5), "OSError: torn 5")
    loader, _, _ = run(1)  # 8 of 40, no more than a fifth until 200 are seen
    with pytest.raises(
        UserError, match=r"41 of 202 samples cannot be read.*OSError: torn \d+; check the data"
    ):
        labels(loader)


@pytest.mark.parametrize("workers", [0, 1])
def test_errors_and_placeholders_come_through(workers: int) -> None:
    def refuse(samples: Any) -> Any:
        raise UserError("they differ")

    with pytest.raises(UserError, match=r"^they differ$"):
        next(SampleLoader(Numbers(), PLACES, refuse, workers))
    loader = SampleLoader(Numbers(), [[], [PLACEHOLDER], [Place(0, 3)]], stack, workers)
    assert labels(loader) == [[-100], [-100], [3]]


@pytest.mark.gpu
def test_batches_can_be_pinned() -> None:
    loader = SampleLoader(Numbers(), PLACES, stack, workers=2, pin_memory=True)
    batches = list(loader)
    assert labels(batches) == ORDER
    assert all(batch["input_ids"].is_pinned() and batch["longest"] == 2 for batch in batches)
