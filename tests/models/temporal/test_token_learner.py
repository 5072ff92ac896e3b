from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from blip3v.models.configuration import blip3_video_tiny
from blip3v.models.modeling import Blip3VideoForConditionalGeneration
from blip3v.models.temporal.token_learner import PerFrameTokenLearner, TokenLearner, TokenLearnerEncoder


def test_equals_the_formula(formulas, randomised, normal):
    learner = randomised(TokenLearner(6, 3))
    x = normal(2, 4, 5, 6)
    out = learner(x)
    assert out.shape == (2, 4, 3, 6)
    state = {f"tl.{name}": value for name, value in learner.state_dict().items()}
    for b in range(2):
        for group in range(4):
            expected = formulas.token_learner(list(x[b, group]), state, "tl")
            assert_close(out[b, group], torch.stack(expected), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("time_stamp", [False, True])
def test_over_all_tokens_of_a_video(formulas, randomised, normal, time_stamp):
    encoder = randomised(TokenLearnerEncoder(6, 4, time_stamp))
    x = normal(2, 3, 2, 6)
    out = encoder(x)
    for b in range(2):
        tokens = [x[b, t, s] + time_stamp * formulas.time_stamp(t, 6) for t in range(3) for s in range(2)]
        expected = formulas.token_learner(tokens, encoder.state_dict(), "final_output")
        tolerance = 1e-5 if time_stamp else 1e-10
        assert_close(out[b], torch.stack(expected), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("time_stamp", [False, True])
def test_per_frame(formulas, randomised, normal, time_stamp):
    encoder = randomised(PerFrameTokenLearner(6, 2, time_stamp))
    x = normal(2, 3, 4, 6)
    out = encoder(x)
    for b in range(2):
        expected = []
        for t in range(3):
            tokens = [x[b, t, s] + time_stamp * formulas.time_stamp(t, 6) for s in range(4)]
            expected += formulas.token_learner(tokens, encoder.state_dict(), "final_output")
        tolerance = 1e-5 if time_stamp else 1e-10
        assert_close(out[b], torch.stack(expected), rtol=tolerance, atol=tolerance)


def test_outputs_are_convex_combinations_of_raw_tokens(randomised, normal):
    """Weights sum to 1, and a constant added to all channels, which the norms take out, arrives unchanged."""
    learner = randomised(TokenLearner(6, 3))
    x = normal(5, 6)
    assert_close(learner(x + 2.5), learner(x) + 2.5, rtol=1e-10, atol=1e-10)


def test_order_of_tokens_does_not_matter(randomised, normal):
    learner = randomised(TokenLearner(6, 3))
    x = normal(5, 6)
    assert_close(learner(x[[3, 0, 4, 1, 2]]), learner(x), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(("tokens", "size"), [(32, 80_384), (128, 332_288)])
def test_published_size_and_names(tokens, size):
    with torch.device("meta"):
        encoder = TokenLearnerEncoder(1152, tokens, time_stamp=False)
    assert sum(p.numel() for p in encoder.parameters()) == size
    assert {name: tuple(value.shape) for name, value in encoder.state_dict().items()} == {
        "final_output.norm.weight": (1152,),
        "final_output.norm.bias": (1152,),
        "final_output.mlp.0.weight": (1152,),
        "final_output.mlp.0.bias": (1152,),
        "final_output.mlp.1.weight": (2 * tokens, 1152),
        "final_output.mlp.3.weight": (tokens, 2 * tokens),
    }


def test_gain_multiplies_the_last_layer():
    torch.manual_seed(3)
    plain = TokenLearner(8, 4)
    torch.manual_seed(3)
    sharp = TokenLearner(8, 4, gain=10.0)
    assert_close(sharp.mlp[3].weight, 10 * plain.mlp[3].weight)
    assert torch.equal(sharp.mlp[1].weight, plain.mlp[1].weight)


@pytest.mark.parametrize("gain", [1.0, 8.0])
def test_gain_survives_the_initialisation_of_a_whole_model(gain: float) -> None:
    """transformers initialises every module of a model again, and only those that own a parameter."""
    config = blip3_video_tiny("token_learner", 32, width=64, token_learner_gain=gain)
    last = Blip3VideoForConditionalGeneration(config).vision_tokenizer.temporal_encoder.final_output.mlp[3]
    bound = gain * last.in_features**-0.5  # of a uniform distribution, whose deviation is bound / sqrt(3)
    assert last.weight.std().item() == pytest.approx(bound / 3**0.5, rel=0.1)
