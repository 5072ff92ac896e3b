from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from blip3v.models.temporal.pooling import AllFrameTokens, SpaceTimeMaxPool, TemporalPool

OVER_TIME = {
    "sum": lambda values: sum(values),
    "mean": lambda values: sum(values) / len(values),
    "max": lambda values: max(values),
}


@pytest.mark.parametrize("mode", ["sum", "mean", "max"])
@pytest.mark.parametrize("frames", [1, 3])
def test_pooling_over_time(normal, mode, frames):
    x = normal(2, frames, 3, 4)
    out = TemporalPool(mode)(x)
    assert out.shape == (2, 3, 4)
    for b, s, c in torch.cartesian_prod(torch.arange(2), torch.arange(3), torch.arange(4)).tolist():
        expected = OVER_TIME[mode]([float(x[b, t, s, c]) for t in range(frames)])
        assert float(out[b, s, c]) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    ("frames", "tokens", "times", "per_time"), [(8, 6, 4, 3), (5, 7, 2, 3), (1, 4, 3, 2)]
)
def test_space_time_max_is_the_maximum_of_each_cell(normal, frames, tokens, times, per_time):
    """Cell i of n covers floor(i * size / n) up to ceil((i + 1) * size / n)."""
    x = normal(2, frames, tokens, 4)
    out = SpaceTimeMaxPool(times, per_time)(x)
    assert out.shape == (2, times * per_time, 4)
    for i in range(times):
        for j in range(per_time):
            t0, t1 = i * frames // times, -(-(i + 1) * frames // times)
            s0, s1 = j * tokens // per_time, -(-(j + 1) * tokens // per_time)
            cell = [x[:, t, s] for t in range(t0, t1) for s in range(s0, s1)]
            assert_close(out[:, i * per_time + j], torch.stack(cell).amax(0))


def test_no_temporal_encoder_keeps_frames_in_order(normal):
    x = normal(2, 3, 4, 5)
    out = AllFrameTokens()(x)
    for t in range(3):
        assert torch.equal(out[:, 4 * t : 4 * t + 4], x[:, t])
