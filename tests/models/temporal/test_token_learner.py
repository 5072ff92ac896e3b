from __future__ import annotations

import os

import pytest
import torch
from torch.testing import assert_close

from blip3v.errors import UserError
from blip3v.models.configuration import blip3_video_tiny
from blip3v.models.modeling import Blip3VideoForConditionalGeneration
from blip3v.models.temporal import build_temporal_encoder
from blip3v.models.temporal.token_learner import PerFrameTokenLearner, TokenLearner, TokenLearnerEncoder
from blip3v.ops import use_backend
from blip3v.ops.registry import backend_named
from blip3v.ops.token_learner import example, token_learner


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


# --- through the op ---------------------------------------------------------------------------------------


def by_layers(learner: TokenLearner, x: torch.Tensor) -> torch.Tensor:
    """The module as it reads on paper: what the op's reference must equal to the last bit."""
    weights = learner.mlp(learner.norm(x)).softmax(dim=-2)
    return weights.transpose(-1, -2).to(x.dtype) @ x


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(2, 70, 64), (2, 3, 9, 64), (1, 1, 64)])
def test_the_same_bits_as_its_layers_on_a_cpu(shape, dtype, autocast):
    torch.manual_seed(0)
    learner = TokenLearner(64, 8, gain=4.0).to(dtype)
    wide = torch.randn(*shape[:-1], 96).to(dtype)
    for x in (torch.randn(shape).to(dtype), wide[..., 8:72]):
        leaf, other = x.detach().requires_grad_(), x.detach().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            out, expected = learner(leaf), by_layers(learner, other)
        assert out.dtype == expected.dtype and torch.equal(out, expected)
        parameters = list(learner.parameters())
        gradients = torch.autograd.grad(out.float().square().sum(), [leaf, *parameters])
        wanted = torch.autograd.grad(expected.float().square().sum(), [other, *parameters])
        for one, two in zip(gradients, wanted, strict=True):
            assert torch.equal(one, two)


def test_videos_of_different_length_in_one_batch(randomised, normal):
    encoder = randomised(TokenLearnerEncoder(6, 4, time_stamp=True))
    x = normal(3, 5, 2, 6)
    out = encoder(x, lengths=torch.tensor([5, 2, 0]))
    assert_close(out[:1], encoder(x[:1]), rtol=1e-12, atol=1e-14)
    assert_close(out[1:2], encoder(x[1:2, :2]), rtol=1e-12, atol=1e-14)
    assert not out[2].any()


def test_a_mask_over_groups_of_tokens(randomised, normal):
    learner = randomised(TokenLearner(6, 3))
    x, keep = normal(2, 4, 5, 6), torch.rand(2, 4, 5, generator=torch.Generator().manual_seed(0)) < 0.6
    out = learner(x, keep)
    for b in range(2):
        for group in range(4):
            tokens = x[b, group][keep[b, group]]
            assert_close(out[b, group], learner(tokens), rtol=1e-12, atol=1e-14)


ENCODERS = {
    "token_learner": 1,
    "token_learner_per_frame": 1,
    "ttm": 3 * 4,  # read, write and output of 4 frames
    "grouped_ttm": 4 + 1,  # the write of 4 frames, and the output
}
"""A configuration's encoder -> how often it calls the op."""


def encoder_of(name: str) -> torch.nn.Module:
    config = blip3_video_tiny(name, 16, width=64, ttm_output="attention", token_learner_gain=4.0)
    torch.manual_seed(0)
    encoder = build_temporal_encoder(config)
    assert config.num_frames == 4
    return encoder


@pytest.mark.parametrize("name", ENCODERS)
def test_every_encoder_goes_through_the_op(monkeypatch, name):
    calls = []

    def counted(*arguments, **options):
        calls.append(arguments[0].shape)
        return token_learner(*arguments, **options)

    monkeypatch.setattr("blip3v.models.temporal.token_learner.token_learner", counted)
    encoder = encoder_of(name)
    encoder(torch.randn(2, 4, latents_of(encoder), 64))
    assert len(calls) == ENCODERS[name], calls


def latents_of(encoder: torch.nn.Module) -> int:
    """Tokens per frame: the grouped machine has memory for so many, the others take any number."""
    memory = getattr(encoder, "initial_memory", torch.empty(0))
    return memory.shape[0] if memory.ndim == 3 else 6


INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
"""Then tests/ops/test_token_learner.py has started this file for Triton on the CPU."""

BACKENDS = [
    pytest.param("simulator", "cpu"),
    pytest.param("triton", "cpu") if INTERPRETED else pytest.param("triton", "cuda", marks=pytest.mark.gpu),
    pytest.param("cuda", "cuda", marks=pytest.mark.gpu),
]


@pytest.mark.parametrize("backend, device", BACKENDS)
@pytest.mark.parametrize("name", ENCODERS)
def test_every_backend_gives_the_outputs_of_the_reference(name, backend, device):
    ok, reason = backend_named("token_learner", backend).can_run(*example(device))
    if not ok:
        pytest.skip(f"{backend}: {reason}")
    encoder = encoder_of(name).to(device, torch.bfloat16)
    x = torch.randn(1, 4, latents_of(encoder), 64, device=device).bfloat16()
    with use_backend(backend, op="token_learner"):
        results = out_and_gradients(encoder, x)
    by_reference = out_and_gradients(encoder, x)
    exact = out_and_gradients(encoder.float(), x.float())
    # Four steps of bfloat16 one after the other are as far off as they are, whoever pools the tokens.
    for got, other, value in zip(results, by_reference, exact, strict=True):
        assert (got - value).norm() <= 1.5 * (other - value).norm() + 0.03 * value.norm() + 1e-6


def out_and_gradients(encoder, x):
    """The output and the gradients of all parameters that have one, in float32."""
    out = encoder(x).float()
    parameters = [parameter for parameter in encoder.parameters() if parameter.requires_grad]
    return [out.detach(), *(g.float() for g in torch.autograd.grad(out.square().sum(), parameters))]


def test_compiled_without_graph_breaks(normal):
    encoder = TokenLearnerEncoder(64, 8, time_stamp=True)
    x = normal(2, 3, 5, 64).float()
    compiled = torch.compile(encoder, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(x), encoder(x))


# --- adapters and hooks -----------------------------------------------------------------------------------


class Doubled(torch.nn.Linear):
    """Something put in the place of a layer, as adapters do."""

    def forward(self, x):
        return 2 * super().forward(x)


def test_what_stands_in_for_a_layer_is_called(randomised, normal):
    learner = randomised(TokenLearner(6, 3))
    x = normal(2, 5, 6)
    adapter = Doubled(6, 6, bias=False)
    adapter.weight = learner.mlp[1].weight
    learner.mlp[1] = adapter
    assert torch.equal(learner(x), by_layers(learner, x))
    with torch.no_grad():
        plain = TokenLearner(6, 3).double()
        plain.load_state_dict(learner.state_dict())
        plain.mlp[1].weight *= 2
    assert_close(learner(x), plain(x), rtol=1e-12, atol=1e-14)


def test_hooks_are_heard(randomised, normal):
    learner = randomised(TokenLearner(6, 3))
    heard = []
    for layer in (learner.norm, learner.mlp, learner.mlp[3]):
        layer.register_forward_hook(lambda *_: heard.append(1))
    learner(normal(2, 5, 6))
    assert len(heard) == 3


def test_a_named_backend_does_not_pass_over_an_adapter(randomised, normal):
    learner = randomised(TokenLearner(6, 3))
    learner.mlp[1] = Doubled(6, 6, bias=False).double()
    with use_backend("triton"), pytest.raises(UserError, match="adapters or hooks run on the reference only"):
        learner(normal(2, 5, 6))
    with use_backend("reference"):
        learner(normal(2, 5, 6))
