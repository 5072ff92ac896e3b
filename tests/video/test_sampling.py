from __future__ import annotations

from functools import partial

import numpy as np
import pytest

from blip3v.video import segment_indices, single_frame_indices, uniform_indices
from blip3v.video.sampling import training_sampler


@pytest.mark.parametrize(("total", "n"), [(9, 8), (16, 8), (120, 8), (250, 16), (5301, 8), (132, 2)])
def test_uniform_is_the_published_formula(total: int, n: int) -> None:
    step = (total - n) / (n - 1)
    expected = [int(n / 2 + i * step + 1e-9) for i in range(n)]
    assert uniform_indices(total, n).tolist() == expected


def test_uniform_known_values() -> None:
    assert uniform_indices(100, 8).tolist() == [4, 17, 30, 43, 56, 69, 82, 96]


@pytest.mark.parametrize(
    ("total", "n", "expected"),
    [
        (8, 8, [0, 1, 2, 3, 4, 5, 6, 7]),
        (4, 8, [0, 0, 1, 1, 2, 2, 3, 3]),
        (3, 8, [0, 0, 0, 1, 1, 1, 2, 2]),
        (1, 4, [0, 0, 0, 0]),
        (10, 1, [5]),
    ],
)
def test_uniform_on_short_clips_shows_everything_in_order(total: int, n: int, expected: list[int]) -> None:
    assert uniform_indices(total, n).tolist() == expected


def test_segments_hold_one_frame_each_and_cover_the_segment() -> None:
    generator = np.random.default_rng(0)
    draws = np.stack([segment_indices(80, 8, generator) for _ in range(400)])
    for segment in range(8):
        assert set(draws[:, segment]) == set(range(10 * segment, 10 * segment + 10))


def test_segments_follow_the_generator() -> None:
    first, again, other = (segment_indices(500, 8, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert first.tolist() == again.tolist() != other.tolist()


def test_training_draws_by_seed_epoch_and_index_alone() -> None:
    drawn = segment_indices(1000, 8, np.random.default_rng([1, 2, 3]))
    assert training_sampler(1, 2, 3)(1000, 8).tolist() == drawn.tolist()
    others = {
        tuple(training_sampler(*place)(1000, 8)) for place in [(0, 2, 3), (1, 0, 3), (1, 2, 0), (1, 2, 3)]
    }
    assert len(others) == 4


@pytest.mark.parametrize("total", [1, 3, 8, 9, 1000])
@pytest.mark.parametrize("n", [1, 2, 8])
def test_every_sampler_stays_inside_and_in_order(total: int, n: int) -> None:
    samplers = (
        uniform_indices,
        single_frame_indices,
        partial(segment_indices, generator=np.random.default_rng(0)),
    )
    for sampler in samplers:
        indices = sampler(total, n)
        assert indices.shape == (n,) and indices.dtype == np.int64
        assert indices.min() >= 0 and indices.max() < total
        assert (np.diff(indices) >= 0).all()


def test_single_frame_is_the_middle_one() -> None:
    assert single_frame_indices(9, 3).tolist() == [4, 4, 4]


@pytest.mark.parametrize(("total", "n"), [(0, 8), (8, 0)])
def test_nothing_to_sample_is_refused(total: int, n: int) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        uniform_indices(total, n)
