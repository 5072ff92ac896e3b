from __future__ import annotations

import itertools

import numpy as np
import pytest

from blip3v.data.balance import share_evenly


def heaviest(lengths: np.ndarray, shares: list[np.ndarray]) -> int:
    return max(int(lengths[share].sum()) for share in shares)


def least_heaviest(lengths: np.ndarray) -> int:
    """Of all ways to make two shares of equal numbers, by trying them."""
    everything, half = set(range(len(lengths))), len(lengths) // 2
    ways = itertools.combinations(range(len(lengths)), half)
    return min(heaviest(lengths, [np.array(way), np.array(list(everything - set(way)))]) for way in ways)


def test_every_sample_has_one_share_and_numbers_differ_by_one() -> None:
    shares = share_evenly(np.arange(100, 107), np.array([9, 1, 1, 1, 1, 1, 1]), 3)
    assert sorted(np.concatenate(shares)) == list(range(100, 107))
    assert sorted(map(len, shares)) == [2, 2, 3]
    assert 100 in shares[0] and len(shares[0]) == 2


def test_the_heaviest_is_first_and_the_empty_are_last() -> None:
    lengths = np.array([0, 3, 5])
    assert [share.tolist() for share in share_evenly(np.arange(3), lengths, 5)] == [[2], [1], [0], [], []]
    assert [share.tolist() for share in share_evenly(np.arange(0), np.arange(0), 2)] == [[], []]


@pytest.mark.parametrize("seed", range(5))
def test_near_the_best_of_all_ways(seed: int) -> None:
    lengths = np.random.default_rng(seed).lognormal(4, 0.8, 10).astype(int)
    assert heaviest(lengths, share_evenly(np.arange(10), lengths, 2)) <= 1.02 * least_heaviest(lengths)


@pytest.mark.parametrize("seed", range(5))
def test_a_step_of_eight_devices_is_as_even_as_its_longest_sample_allows(seed: int) -> None:
    generator = np.random.default_rng(seed)
    lengths = np.where(generator.random(32) < 0.7, 80, 90 + generator.lognormal(4, 0.8, 32)).astype(int)
    # No sharing is better than the mean, nor than the longest sample with the three shortest.
    bound = max(lengths.sum() / 8, np.sort(lengths)[[-1, 0, 1, 2]].sum())
    assert heaviest(lengths, share_evenly(np.arange(32), lengths, 8)) <= 1.03 * bound
