from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from blip3v.models.resampler import PerceiverResampler
from blip3v.models.temporal.joint_perceiver import JointPerceiver


@pytest.mark.parametrize("time_stamp", [False, True])
def test_one_resampler_reads_the_patches_of_all_frames(formulas, randomised, normal, time_stamp):
    encoder = randomised(JointPerceiver(PerceiverResampler(8, 2, 2, 6, 3), time_stamp))
    x = normal(2, 3, 4, 8)
    out = encoder(x)
    assert out.shape == (2, 3, 8)
    for b in range(2):
        tokens = [x[b, t, s] + time_stamp * formulas.time_stamp(t, 8) for t in range(3) for s in range(4)]
        state = encoder.resampler.state_dict()
        expected = formulas.resampler(tokens, [True] * len(tokens), state, heads=2)
        tolerance = 1e-4 if time_stamp else 1e-9
        assert_close(out[b], torch.stack(expected), rtol=tolerance, atol=tolerance)


def test_patches_compete_across_frames(randomised, normal):
    """It is not the per-frame resampler followed by an average."""
    encoder = randomised(JointPerceiver(PerceiverResampler(8, 2, 2, 6, 3), time_stamp=False))
    x = normal(1, 2, 4, 8)
    assert not torch.allclose(encoder(x), encoder.resampler(x).mean(1), atol=1e-3)
