from __future__ import annotations

import time

import numpy as np
import pytest
from torch.utils.data import DataLoader, Dataset

from blip3v.data.batches import PLACEHOLDER, Place, SampleOrder
from blip3v.errors import UserError

SHARES = [(1, 1), (1, 3), (2, 1), (2, 3), (5, 2)]
"""(ranks, accumulation)"""


def lengths(count: int) -> np.ndarray:
    """Mostly short, some long, as questions with short and with long answers are."""
    generator = np.random.default_rng(7)
    return np.where(generator.random(count) < 0.7, 80, 90 + generator.lognormal(4, 0.8, count)).astype(int)


def flat(step: list[list[list[Place]]]) -> list[Place]:
    return [place for rank in step for micro_batch in rank for place in micro_batch]


def run(order: SampleOrder, count: int, steps: int) -> list[list[Place]]:
    """The samples of a whole run on one device."""
    return list(order.micro_batches(0, steps, count))


def test_every_epoch_shows_every_sample_once_in_another_order() -> None:
    order = SampleOrder(num_samples=10, seed=1)
    steps = run(order, 4, 12)
    epochs = [[place for step in steps[3 * e : 3 * e + 3] for place in step] for e in range(4)]
    for number, places in enumerate(epochs):
        assert {place.epoch for place in places} == {number}
        assert sorted(place.sample for place in places) == list(range(10))
    assert len({tuple(place.sample for place in places) for places in epochs}) == 4


def test_the_short_step_is_kept_or_dropped() -> None:
    kept, dropped = SampleOrder(10, 0), SampleOrder(10, 0, drop_last=True)
    assert [len(step) for step in run(kept, 4, 5)] == [4, 4, 2, 4, 4]
    assert [len(step) for step in run(dropped, 4, 5)] == [4, 4, 4, 4, 4]
    assert (kept.steps_per_epoch(4), dropped.steps_per_epoch(4), kept.steps_per_epoch(5)) == (3, 2, 2)


@pytest.mark.parametrize("drop_last", [False, True])
def test_positions_of_steps(drop_last: bool) -> None:
    order = SampleOrder(10, 0, drop_last=drop_last)
    position = 0
    for step in range(9):
        assert order.first_sample(step, 4) == position
        position = order.after(position, 4)
    assert position == (40 if drop_last else 30) + (4 if drop_last else 0)


def test_a_step_depends_on_its_position_alone() -> None:
    straight = run(SampleOrder(23, 9), 4, 20)
    order = SampleOrder(23, 9)
    starts = [order.first_sample(step, 4) for step in range(20)]
    assert [flat(order.step(start, 4)) for start in reversed(starts)][::-1] == straight
    assert list(order.micro_batches(starts[7], 13, 4)) == straight[7:]


@pytest.mark.parametrize("balanced", [False, True])
@pytest.mark.parametrize(("ranks", "accumulation"), SHARES)
def test_the_samples_of_a_step_do_not_depend_on_who_computes_them(
    ranks: int, accumulation: int, balanced: bool
) -> None:
    alone = SampleOrder(97, 3)
    order = SampleOrder(97, 3, lengths(97) if balanced else None)
    for number in range(9):  # two epochs; the last step of each has 7 samples
        start = order.first_sample(number, 30)
        step = order.step(start, 30, ranks, accumulation)
        assert sorted(flat(step)) == sorted(flat(alone.step(start, 30)))
        assert [len(rank) for rank in step] == [accumulation] * ranks
        sizes = [len(micro_batch) for rank in step for micro_batch in rank]
        assert max(sizes) - min(sizes) <= 1


def test_without_lengths_samples_are_shared_in_their_order() -> None:
    whole = flat(SampleOrder(48, 2).step(0, 24))
    step = SampleOrder(48, 2).step(0, 24, ranks=3, accumulation=2)
    assert [place for turn in range(2) for rank in step for place in rank[turn]] == whole


def test_a_run_resumes_anywhere_on_other_ranks() -> None:
    sizes = lengths(50)
    straight = [
        flat(SampleOrder(50, 5, sizes).step(SampleOrder(50, 5).first_sample(n, 12), 12)) for n in range(12)
    ]
    for stop in range(12):
        start = SampleOrder(50, 5).first_sample(stop, 12)
        shares = [
            list(SampleOrder(50, 5, sizes).micro_batches(start, 12 - stop, 12, rank, 3, 2))
            for rank in range(3)
        ]
        for number, expected in enumerate(straight[stop:]):
            own = slice(2 * number, 2 * number + 2)
            found = [place for share in shares for micro_batch in share[own] for place in micro_batch]
            assert sorted(p for p in found if p != PLACEHOLDER) == sorted(expected)


def test_a_step_of_fewer_samples_than_micro_batches_has_placeholders_at_its_end() -> None:
    for sizes in (None, lengths(5)):
        order = SampleOrder(5, 0, sizes)
        shares = [list(order.micro_batches(0, 1, 8, rank, 4, 2)) for rank in range(4)]
        assert all(len(share) == 2 and len(batch) == 1 for share in shares for batch in share)
        assert [share[0] for share in shares].count([PLACEHOLDER]) == 0
        assert [share[1] for share in shares].count([PLACEHOLDER]) == 3


def imbalance(order: SampleOrder, sizes: np.ndarray, ranks: int, batch: int, accumulation: int) -> float:
    """Tokens of the heaviest device over the mean, in the mean over micro-batches: who waits for whom."""
    count, ratios = ranks * batch * accumulation, []
    for number in range(40):
        step = order.step(order.first_sample(number, count), count, ranks, accumulation)
        for turn in range(accumulation):
            tokens = [sum(int(sizes[place.sample]) for place in rank[turn]) for rank in step]
            ratios.append(max(tokens) / np.mean(tokens))
    return float(np.mean(ratios))


@pytest.mark.parametrize(
    ("ranks", "batch", "accumulation", "most"),
    [(8, 16, 1, 1.015), (8, 4, 1, 1.23), (8, 4, 4, 1.09), (2, 4, 2, 1.04)],
)
def test_balance(ranks: int, batch: int, accumulation: int, most: float) -> None:
    sizes = lengths(20_000)
    before = imbalance(SampleOrder(20_000, 1), sizes, ranks, batch, accumulation)
    after = imbalance(SampleOrder(20_000, 1, sizes), sizes, ranks, batch, accumulation)
    print(f"{ranks} ranks, batch {batch} x {accumulation}: heaviest over mean {before:.3f} -> {after:.3f}")
    # With 4 samples per device a long one alone is heavier than the mean, and no sharing helps.
    assert after < most and after - 1 < 0.6 * (before - 1)


def test_no_rank_always_gets_the_heaviest_micro_batches() -> None:
    sizes = lengths(20_000)
    order, totals = SampleOrder(20_000, 1, sizes), np.zeros(8)
    for number in range(40):
        step = order.step(order.first_sample(number, 128), 128, 8, 4)
        totals += [sum(int(sizes[place.sample]) for turn in rank for place in turn) for rank in step]
    assert totals.max() / totals.mean() < 1.08  # 1.10 if every row of micro-batches were sorted alike


def test_another_seed_is_another_order() -> None:
    assert SampleOrder(50, 0).step(0, 50) != SampleOrder(50, 1).step(0, 50)


def test_a_step_of_a_large_run_is_quick() -> None:
    order = SampleOrder(1_800_000, 0, np.tile(lengths(1000), 1800))
    order.step(0, 512, 32)
    start = time.perf_counter()
    for number in range(20):
        order.step(number * 512, 512, 32)
    assert (time.perf_counter() - start) / 20 < 0.05  # about 1 ms; room for a busy machine


class Places(Dataset[Place]):
    def __getitem__(self, place: Place) -> Place:
        return place


@pytest.mark.parametrize("workers", [0, 2])
def test_as_batch_sampler_of_a_data_loader(workers: int) -> None:
    batches = SampleOrder(9, 3).micro_batches(4, 7, 4)
    loader = DataLoader(Places(), batch_sampler=batches, num_workers=workers, collate_fn=list)
    assert list(loader) == list(batches)
    assert len(loader) == 7


def test_what_makes_no_step_is_an_error() -> None:
    with pytest.raises(UserError, match="no batch"):
        SampleOrder(0, 0)
    with pytest.raises(UserError, match="make no step of 4"):
        SampleOrder(3, 0, drop_last=True).steps_per_epoch(4)
    with pytest.raises(UserError, match="not possible"):
        SampleOrder(3, 0).steps_per_epoch(0)
    with pytest.raises(UserError, match="lengths of 2 samples for 3"):
        SampleOrder(3, 0, [1, 2])
