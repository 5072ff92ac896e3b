from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from blip3v.models.temporal.transformer import TransformerEncoder


@pytest.mark.parametrize("time_stamp", [False, True])
@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_last_tokens_of_the_layers_over_the_whole_video(
    formulas, randomised, normal, time_stamp, implementation
):
    encoder = randomised(TransformerEncoder(8, 3, 2, 2, 2, time_stamp, implementation))
    x = normal(2, 3, 2, 8)
    out = encoder(x)
    assert out.shape == (2, 3, 8)
    for b in range(2):
        tokens = [x[b, t, s] + time_stamp * formulas.time_stamp(t, 8) for t in range(3) for s in range(2)]
        expected = formulas.transformer(tokens, encoder.state_dict(), "layers", heads=2)[-3:]
        tolerance = 1e-4 if time_stamp else 1e-9
        assert_close(out[b], torch.stack(expected), rtol=tolerance, atol=tolerance)


def test_every_frame_reaches_the_output(randomised, normal):
    encoder = randomised(TransformerEncoder(8, 2, 2, 2, 2, time_stamp=False))
    x = normal(1, 5, 4, 8).requires_grad_()
    encoder(x).square().sum().backward()
    assert (x.grad.abs().amax(dim=(0, 2, 3)) > 0).all()


def test_without_a_time_stamp_the_order_of_earlier_frames_is_invisible(randomised, normal):
    """The paper gives this encoder no positions: only which frame is last can matter."""
    encoder = randomised(TransformerEncoder(8, 2, 2, 2, 2, time_stamp=False))
    x = normal(1, 4, 3, 8)
    assert_close(encoder(x[:, [2, 0, 1, 3]]), encoder(x), rtol=1e-8, atol=1e-9)


def test_size_at_the_published_widths():
    with torch.device("meta"):
        encoder = TransformerEncoder(1152, 128, 4, 8, 4, time_stamp=False)
    per_layer = 2 * 1152 + 3 * 1152**2 + 2 * 1152 + 2 * 4 * 1152**2
    assert sum(p.numel() for p in encoder.parameters()) == 4 * per_layer
