from __future__ import annotations

from typing import Any

import pytest
import torch

from blip3v.data.batches import PLACEHOLDER, Place
from blip3v.data.guard import Blackboard, Guard, LeftOut, without_labels
from blip3v.errors import UserError


class Numbers:
    """Sample n is [n], its label too; some are broken in various ways."""

    def __init__(self, broken: dict[int, Exception], length: int = 10) -> None:
        self.broken, self.length = broken, length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, place: Place) -> dict[str, torch.Tensor]:
        if place.sample in self.broken:
            raise self.broken[place.sample]
        return {"input_ids": torch.tensor([place.sample]), "labels": torch.tensor([place.sample])}


def _guard(broken: dict[int, Exception], length: int = 10, **banned: str) -> Guard:
    places = {Place(0, int(name[1:])): reason for name, reason in banned.items()}
    return Guard(Numbers(broken, length), lambda samples: {"rows": samples}, Blackboard(0), places)


def _rows(delivery: Any) -> list[tuple[int, int]]:
    return [(int(row["input_ids"]), int(row["labels"])) for row in delivery.batch["rows"]]


def test_a_broken_sample_is_reported_and_a_mute_one_stands_in() -> None:
    guard = _guard({2: UserError("no such video; look"), 5: OSError("torn\nfile")}, n7="hangs")
    delivery = guard([Place(0, n) for n in (2, 4, 5, 7, 8)])
    assert _rows(delivery) == [(4, -100), (4, 4), (4, -100), (4, -100), (8, 8)]
    assert delivery.skipped == [
        LeftOut(Place(0, 2), "no such video; look"),
        LeftOut(Place(0, 5), "OSError: torn file"),
        LeftOut(Place(0, 7), "hangs"),
    ]
    assert guard.dataset[Place(0, 4)]["labels"] == 4  # the good one keeps its own


def test_a_batch_with_nothing_good_takes_the_next_sample_of_the_data_set() -> None:
    guard = _guard({8: ValueError("x"), 9: ValueError("y"), 0: ValueError("z")})
    delivery = guard([Place(3, 8), Place(3, 8)])
    assert _rows(delivery) == [(1, -100), (1, -100)]
    assert [place for place, _ in delivery.skipped] == [Place(3, 8)] * 2  # not 9 and 0: their turn comes
    for places in ([], [PLACEHOLDER]):
        delivery = guard(places)
        assert _rows(delivery) == [(1, -100)]
        assert delivery.skipped == []


def test_a_data_set_without_a_good_sample_is_an_error() -> None:
    delivery = _guard({n: ValueError(f"bad {n}") for n in range(3)}, length=3)([Place(0, 1)])
    assert delivery.batch is None
    assert "none of 3 samples in a row can be read (ValueError: bad 1); check the data" in delivery.error


def test_samples_that_do_not_make_a_batch_are_an_error_and_mistakes_are_raised() -> None:
    def refuse(samples: list[Any]) -> Any:
        raise UserError("they differ")

    guard = _guard({})
    guard.collate = refuse
    assert guard([Place(0, 1)]).error == "they differ"
    guard.collate = lambda samples: samples[7]
    with pytest.raises(IndexError):
        guard([Place(0, 1)])


def test_only_labels_go() -> None:
    sample = {"labels": torch.tensor([1, -100]), "video_features": torch.ones(1, 2)}
    mute = without_labels(sample)
    assert mute["labels"].tolist() == [-100, -100] and mute["labels"].dtype == torch.int64
    assert mute["video_features"] is sample["video_features"]
    assert sample["labels"].tolist() == [1, -100]


def test_the_blackboard_tells_who_works_on_what() -> None:
    board = Blackboard(3)
    assert board.pids() == [] and board.at_work() == []
    board.take_row(1)
    (pid,) = board.pids()
    board.begin(Place(4, 1_800_000))
    ((found, place, seconds),) = board.at_work()
    assert (found, place) == (pid, Place(4, 1_800_000))
    assert 0 <= seconds < 5
    board.end()
    assert board.at_work() == []
