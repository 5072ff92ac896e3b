"""What every temporal encoder must do, built from a configuration."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from blip3v.models.configuration import Blip3VideoConfig, blip3_video_tiny
from blip3v.models.temporal import READS_PATCHES, build_temporal_encoder
from blip3v.models.token_count import TEMPORAL_ENCODER_NAMES

VARIANTS = [
    *((name, {}) for name in TEMPORAL_ENCODER_NAMES),
    ("ttm", {"time_stamp": True}),
    ("grouped_ttm", {"ttm_output": "mean", "tokens": 4}),
    ("grouped_ttm", {"time_stamp": False}),
    ("token_learner", {"time_stamp": True}),
    ("token_learner_per_frame", {"time_stamp": True}),
    ("transformer", {"time_stamp": True}),
    ("joint_perceiver", {"time_stamp": True}),
]
FREE = (
    "transformer",
    "token_learner",
    "token_learner_per_frame",
    "space_time_max_pool",
    "joint_perceiver",
    "ttm",
)
every_encoder = pytest.mark.parametrize(
    ("name", "options"),
    VARIANTS,
    ids=["-".join([name, *map(str, options.values())]) for name, options in VARIANTS],
)


def tiny(name: str, options: dict, **overrides) -> Blip3VideoConfig:
    """Width 4, 4 tokens per frame, 2 x 2 patches; 8 tokens where the encoder lets one choose."""
    chosen = 8 if name in (*FREE, "grouped_ttm", "video_llama") else None
    fields = {"tokens": chosen, "frames": 4, "num_latents": 4, "image_size": 16, "width": 4}
    return blip3_video_tiny(name, **(fields | options | overrides))


def tokens_per_frame(config: Blip3VideoConfig) -> int:
    return config.patch_grid**2 if config.temporal_encoder in READS_PATCHES else config.num_latents


@every_encoder
@pytest.mark.parametrize("frames", [1, 2, 5, 8])
def test_any_number_of_frames(randomised, normal, name, options, frames):
    config = tiny(name, options)
    encoder = randomised(build_temporal_encoder(config))
    out = encoder(normal(2, frames, tokens_per_frame(config), 4))
    assert out.shape == (2, config.video_tokens_for(frames), 4)
    assert out.isfinite().all()


@every_encoder
def test_gradients(randomised, normal, name, options):
    config = tiny(name, options)
    encoder = randomised(build_temporal_encoder(config))
    trained = {name: p for name, p in encoder.named_parameters() if p.requires_grad}

    def call(x, *weights):
        return torch.func.functional_call(encoder, dict(zip(trained, weights, strict=True)), (x,))

    x = normal(1, 3, tokens_per_frame(config), 4).requires_grad_()
    assert torch.autograd.gradcheck(call, (x, *trained.values()), fast_mode=True)


@every_encoder
def test_eager_equals_sdpa(randomised, normal, name, options):
    outputs = []
    for implementation in ("eager", "sdpa"):
        config = tiny(name, options, attn_implementation=implementation)
        encoder = randomised(build_temporal_encoder(config))
        chosen = {m.implementation for m in encoder.modules() if hasattr(m, "implementation")}
        assert chosen <= {implementation}
        x = torch.linspace(-2, 2, 2 * 3 * tokens_per_frame(config) * 4, dtype=torch.float64).sin()
        outputs.append(encoder(x.view(2, 3, -1, 4)))
    assert_close(*outputs, rtol=1e-8, atol=1e-9)


@every_encoder
def test_videos_of_a_batch_do_not_mix(randomised, normal, name, options):
    config = tiny(name, options)
    encoder = randomised(build_temporal_encoder(config))
    x = normal(3, 3, tokens_per_frame(config), 4)
    alone = torch.cat([encoder(video[None]) for video in x])
    assert_close(encoder(x), alone, rtol=1e-8, atol=1e-9)


@every_encoder
def test_reset_parameters_leaves_no_weight_unset(name, options):
    """Loading fills missing weights on empty memory through `reset_parameters`, children before parents."""
    config = tiny(name, options)
    with torch.device("meta"):
        encoder = build_temporal_encoder(config)
    encoder = encoder.to_empty(device="cpu")
    for tensor in encoder.state_dict().values():
        tensor.fill_(torch.nan)

    def reset(module: nn.Module) -> None:
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()

    encoder.apply(reset)
    unset = [name for name, tensor in encoder.state_dict().items() if not tensor.isfinite().all()]
    assert not unset


@every_encoder
def test_a_state_dict_reproduces_the_output(randomised, normal, name, options):
    config = tiny(name, options)
    encoder, other = randomised(build_temporal_encoder(config)), build_temporal_encoder(config).double()
    other.load_state_dict(encoder.state_dict())
    x = normal(1, 2, tokens_per_frame(config), 4)
    assert torch.equal(encoder(x), other(x))
