from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from blip3v.data.pack.plan import NO_CLIP, Plan, Settings, key_of, shard_name
from blip3v.errors import UserError
from blip3v.video.sampling import segment_indices


def test_a_clip_is_a_video_and_a_span_however_many_records_are_about_it(plan_of: Callable[..., Plan]) -> None:
    plan = plan_of(clips_per_shard=3, epochs=1)
    numbers: dict[tuple, int] = {}
    expected = []
    for record in plan.records:
        key = (record.media, record.span)
        expected.append(NO_CLIP if record.media is None else numbers.setdefault(key, len(numbers)))
    assert plan.clip_of.tolist() == expected
    assert plan.num_clips == 8 and plan.num_shards == 3
    assert [list(plan.clips_in(shard)) for shard in range(3)] == [[0, 1, 2], [3, 4, 5], [6, 7]]
    for (path, span), number in numbers.items():
        job = plan.job(number)
        assert (job.path, job.span, job.is_image) == (path, span, path.suffix == ".png")
        assert list(job.uses) == [place for place, clip in enumerate(expected) if clip == number]
        assert (job.source, job.key) == (path.name, key_of(number))
    assert (key_of(42), shard_name(3)) == ("00000042", "shard-000003.tar")
    left = list(plan.without({0, 2}))
    assert [clip for _, clip in left] == [clip for clip in expected if clip not in (0, 2)]


@pytest.mark.parametrize("total", [1, 4, 5, 16, 17, 1000])
def test_evenly_spread_frames(plan_of: Callable[..., Plan], total: int) -> None:
    stored = plan_of(frames=5).job(0).stored(total)
    assert len(stored) == min(5, total) and np.all(np.diff(stored) > 0)
    assert stored[0] >= 0 and stored[-1] < total
    # No frame of the clip is further from a stored one than half a fifth of the clip.
    nearest = np.abs(np.arange(total)[:, None] - stored[None]).min(axis=1)
    assert nearest.max() <= total / 10 + 0.5


def test_the_frames_that_training_asks_for(plan_of: Callable[..., Plan]) -> None:
    job = plan_of(frames=4, epochs=3, seed=9).job(0)
    assert len(job.uses) >= 2  # the clip is shared, and its records may stand there twice
    asked = set()
    for epoch in range(3):
        for record in job.uses:
            asked |= set(segment_indices(40, 4, np.random.default_rng([9, epoch, record])).tolist())
    assert job.stored(40).tolist() == sorted(asked)


@pytest.mark.parametrize(
    "wrong", [{"frames": 0}, {"size": -1}, {"quality": 101}, {"format": "gif"}, {"clips_per_shard": 0}]
)
def test_settings_that_mean_nothing(wrong: dict) -> None:
    with pytest.raises(UserError, match="cannot be"):
        Settings(**wrong)
