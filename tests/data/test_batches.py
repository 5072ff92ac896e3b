from __future__ import annotations

import pytest
from torch.utils.data import DataLoader, Dataset

from blip3v.data.batches import BatchOrder, Place
from blip3v.errors import UserError


def test_every_epoch_shows_every_sample_once_in_another_order() -> None:
    order = BatchOrder(num_samples=10, batch_size=4, seed=1)
    epochs = [[place for n in range(3 * e, 3 * e + 3) for place in order.batch(n)] for e in range(4)]
    for number, places in enumerate(epochs):
        assert {place.epoch for place in places} == {number}
        assert sorted(place.sample for place in places) == list(range(10))
    assert len({tuple(place.sample for place in places) for places in epochs}) == 4


def test_the_short_batch_is_kept_or_dropped() -> None:
    assert [len(BatchOrder(10, 4, 0).batch(n)) for n in range(4)] == [4, 4, 2, 4]
    assert [len(BatchOrder(10, 4, 0, drop_last=True).batch(n)) for n in range(4)] == [4, 4, 4, 4]
    assert BatchOrder(8, 4, 0).batches_per_epoch == 2


def test_a_batch_depends_on_its_number_alone() -> None:
    straight = [BatchOrder(23, 4, 9).batch(n) for n in range(20)]
    backwards = BatchOrder(23, 4, 9)
    assert [backwards.batch(n) for n in reversed(range(20))][::-1] == straight
    assert list(BatchOrder(23, 4, 9).batches(7, 20)) == straight[7:]
    assert BatchOrder(23, 4, 9).position(13) == (2, 1)


def test_another_seed_is_another_order() -> None:
    assert BatchOrder(50, 50, 0).batch(0) != BatchOrder(50, 50, 1).batch(0)


def test_devices_share_the_batches() -> None:
    order = BatchOrder(40, 4, 2)
    shares = [list(order.batches(rank, 12, 3)) for rank in range(3)]
    merged = [batch for step in zip(*shares, strict=True) for batch in step]
    assert merged == list(order.batches(0, 12))


class Places(Dataset[Place]):
    def __getitem__(self, place: Place) -> Place:
        return place


@pytest.mark.parametrize("workers", [0, 2])
def test_as_batch_sampler_of_a_data_loader(workers: int) -> None:
    order = BatchOrder(9, 4, 3)
    loader = DataLoader(Places(), batch_sampler=order.batches(1, 8), num_workers=workers, collate_fn=list)
    assert list(loader) == [order.batch(n) for n in range(1, 8)]
    assert len(loader) == 7


@pytest.mark.parametrize(("samples", "size", "drop"), [(0, 4, False), (3, 4, True), (5, 0, False)])
def test_no_batch_is_an_error(samples: int, size: int, drop: bool) -> None:
    with pytest.raises(UserError, match="batch"):
        BatchOrder(samples, size, 0, drop)
