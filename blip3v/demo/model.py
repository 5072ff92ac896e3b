"""The demo's model: the classes of the 4B model at a size that learns in minutes on two cores."""

from __future__ import annotations

from importlib.resources import files

import torch
from safetensors.torch import load
from transformers import Phi3Config, SiglipVisionConfig

from blip3v.demo.render import SIZE
from blip3v.demo.scenes import vocabulary
from blip3v.models.configuration import Blip3VideoConfig
from blip3v.models.modeling import Blip3VideoForConditionalGeneration
from blip3v.models.processing import Blip3VideoProcessor
from blip3v.models.resampler import PerceiverAttention
from blip3v.models.tokenizer import END, word_tokenizer

WIDTH, GRID, LATENT_GRID = 128, 6, 4
FRAMES = 8
STAGE1_WEIGHTS = "stage1.safetensors"


def demo_config(temporal: str, tokens: int, frames: int = FRAMES) -> Blip3VideoConfig:
    """Width 128: 3 ViT layers on 48 x 48 pixels, 16 resampler latents, 2 layers of Phi-3, about 1 M
    parameters.
    """
    tokenizer = word_tokenizer(vocabulary())
    words = len(tokenizer) - 3
    return Blip3VideoConfig(
        vision_config=SiglipVisionConfig(
            hidden_size=WIDTH,
            intermediate_size=2 * WIDTH,
            num_hidden_layers=3,
            num_attention_heads=4,
            image_size=SIZE,
            patch_size=SIZE // GRID,
            vision_use_head=False,
        ),
        text_config=Phi3Config(
            vocab_size=words,
            hidden_size=WIDTH,
            intermediate_size=2 * WIDTH,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=1024,
            initializer_range=0.05,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.convert_tokens_to_ids(END),
            pad_token_id=tokenizer.pad_token_id,
        ),
        num_frames=frames,
        video_tokens=tokens,
        temporal_encoder=temporal,
        # No time without it: TokenLearner alone gives the same tokens whatever the order of the frames.
        time_stamp=temporal in ("token_learner", "token_learner_per_frame", "grouped_ttm"),
        num_latents=LATENT_GRID**2,
        resampler_depth=1,
        resampler_heads=4,
        resampler_dim_head=WIDTH // 4,
        resampler_ff_mult=2,
        temporal_depth=1,
        temporal_heads=4,
        temporal_ff_mult=2,
        token_learner_gain=4.0,
        base_vocab_size=words,
        image_token_id=words,
    )


def demo_processor(config: Blip3VideoConfig) -> Blip3VideoProcessor:
    """A word-level tokenizer over the demo's vocabulary, and prompts without a system message."""
    return Blip3VideoProcessor.from_config(config, word_tokenizer(vocabulary()), system_prompt="")


def _grid_code(side: int) -> torch.Tensor:
    """Sines and cosines of the places of a side x side grid: [side^2, WIDTH]; each head's channels hold x
    and y.
    """
    rates = 100.0 ** (-torch.arange(WIDTH // 4) / (WIDTH // 4))
    axis = torch.linspace(0, GRID - 1, side)
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    angles = torch.stack([x, y], dim=-1).flatten(0, 1)[:, None, :] * rates[:, None]  # [places, rates, 2]
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1)


@torch.no_grad()
def start_stage1(model: Blip3VideoForConditionalGeneration) -> None:
    """Initial weights that let a small model find positions at once.

    Random latents and random positions sit on a plateau for thousands of steps: no latent prefers any place.
    Here positions and latents begin as codes of the same plane, and queries and keys near the identity, so
    that each latent begins by looking at its own part of the frame. Everything is trained from there.
    """
    model.vision_encoder.embeddings.position_embedding.weight.copy_(_grid_code(GRID))
    resampler = model.vision_tokenizer.resampler
    assert resampler is not None
    resampler.latents.copy_(_grid_code(LATENT_GRID) + 0.3 * torch.randn_like(resampler.latents))
    for attention in (m for m in resampler.modules() if isinstance(m, PerceiverAttention)):
        near_identity = [torch.eye(WIDTH) + 0.02 * torch.randn(WIDTH, WIDTH) for _ in range(2)]
        attention.to_q.weight.copy_(near_identity[0])
        attention.to_kv.weight[:WIDTH].copy_(near_identity[1])


def stage1_weights() -> dict[str, torch.Tensor]:
    """The shipped result of `blip3v train demo-images`, float32 (float16 on disk)."""
    stored = load(files("blip3v.demo").joinpath(STAGE1_WEIGHTS).read_bytes())
    return {name: tensor.float() for name, tensor in stored.items()}


def demo_model(temporal: str, tokens: int, seed: int) -> Blip3VideoForConditionalGeneration:
    """Stage-1 weights everywhere but in the temporal encoder, which starts fresh, as in the paper."""
    torch.manual_seed(seed)
    model = Blip3VideoForConditionalGeneration(demo_config(temporal, tokens))
    result = model.load_state_dict(stage1_weights(), strict=False)
    fresh = [name for name in result.missing_keys if ".temporal_encoder." not in name]
    if fresh or result.unexpected_keys:
        raise RuntimeError(
            f"{STAGE1_WEIGHTS} does not fit the demo's model (missing {fresh}, unexpected "
            f"{result.unexpected_keys}); remake it with `blip3v train demo-images`"
        )
    return model
