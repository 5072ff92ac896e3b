"""The configuration of a BLIP-3-Video model and the named presets."""

# No `from __future__ import annotations` here: `@strict` checks values against their types and skips
# annotations that are strings.
from typing import Any, ClassVar, Literal

from huggingface_hub.dataclasses import strict
from transformers import Phi3Config, PreTrainedConfig, SiglipVisionConfig

from blip3v.models.token_count import TEMPORAL_ENCODER_NAMES, check_token_count, video_token_count


@strict
class Blip3VideoConfig(PreTrainedConfig):
    r"""Dimensions of every stage between pixels and text.

    Args:
        vision_config: SigLIP vision tower (transformers).
        text_config: Phi-3 language model (transformers).
        num_frames: frames sampled from one video.
        video_tokens: M, the tokens that one video of `num_frames` frames becomes.
        temporal_encoder: one of `blip3v.models.token_count.TEMPORAL_ENCODER_NAMES`.
        time_stamp: add the sinusoidal code of the frame index to every token of the frame.
        ttm_output: how the grouped TTM reads its memory out: `mean` over the slots, or `attention`, TL(M).
        num_latents, resampler_*: the Perceiver-Resampler that runs on each frame.
        temporal_*: depth, heads and feed-forward multiple of the transformer layers inside temporal encoders.
        memory_slots: memory tokens per token position in the grouped TTM.
        ttm_keep: what the grouped TTM's operator keeps for the backward, a frame and video of the 4B model in
            bf16: `passes` 54.6 MB, `steps` 1.5 MB for a third more work. PyTorch's modules, which run where
            no kernel is verified, keep what autograd keeps.
        token_learner_gain: factor on the initial weights of a TokenLearner's last linear layer. 1 is
            PyTorch's default, which starts as an almost uniform average over all tokens.
        base_vocab_size: text tokens of the original tokenizer; logits keep this many columns of the head.
        additional_vocab_size: tokens added behind them (`<image>`, `<image placeholder>`, `<|endofchunk|>`).
        image_token_id: id of `<image>`, whose positions receive the video tokens.

    Raises:
        ValueError: unknown encoder, or a token count that it cannot make (the message lists what it can).
    """

    model_type = "blip3_video"
    sub_configs: ClassVar[dict[str, type]] = {"text_config": Phi3Config, "vision_config": SiglipVisionConfig}

    vision_config: dict | PreTrainedConfig | None = None
    text_config: dict | PreTrainedConfig | None = None
    num_frames: int = 8
    video_tokens: int = 32
    temporal_encoder: str = "grouped_ttm"
    time_stamp: bool = True
    ttm_output: Literal["mean", "attention"] = "attention"
    num_latents: int = 128
    resampler_depth: int = 6
    resampler_heads: int = 16
    resampler_dim_head: int = 96
    resampler_ff_mult: int = 4
    resampler_hoist_media: bool = False
    temporal_depth: int = 4
    temporal_heads: int = 8
    temporal_ff_mult: int = 4
    memory_slots: int = 4
    ttm_keep: Literal["passes", "steps"] = "passes"
    token_learner_gain: float | int = 1.0
    base_vocab_size: int = 32012
    additional_vocab_size: int = 3
    image_token_id: int = 32012
    tie_word_embeddings: bool = False

    def __post_init__(self, **kwargs: Any) -> None:
        if self.vision_config is None:
            self.vision_config = siglip_so400m_384()
        elif isinstance(self.vision_config, dict):
            self.vision_config = SiglipVisionConfig(**self.vision_config)
        if self.text_config is None:
            self.text_config = phi3_mini_4k()
        elif isinstance(self.text_config, dict):
            self.text_config = Phi3Config(**self.text_config)
        super().__post_init__(**kwargs)
        check_token_count(self.video_token_spec())

    @property
    def patch_grid(self) -> int:
        """Patches along one side of a frame."""
        return int(self.vision_config.image_size) // int(self.vision_config.patch_size)

    def video_token_spec(self) -> dict[str, Any]:
        """The plain values that decide how many tokens a video becomes (stored by the processor)."""
        return {
            "temporal_encoder": self.temporal_encoder,
            "video_tokens": self.video_tokens,
            "num_frames": self.num_frames,
            "num_latents": self.num_latents,
            "time_stamp": self.time_stamp,
            "ttm_output": self.ttm_output,
            "patch_grid": self.patch_grid,
        }

    def video_tokens_for(self, frames: int) -> int:
        """Language-model tokens for one video of `frames` frames."""
        return video_token_count(self.video_token_spec(), frames)


def siglip_so400m_384() -> SiglipVisionConfig:
    """SigLIP so400m, patch 14, 384 x 384. The checkpoint stores a pooling head that nothing here runs."""
    return SiglipVisionConfig(
        hidden_size=1152,
        intermediate_size=4304,
        num_hidden_layers=27,
        num_attention_heads=16,
        image_size=384,
        patch_size=14,
    )


def phi3_mini_4k() -> Phi3Config:
    """Phi-3-mini-4k-instruct; the pad token is `<pad>`, 32011."""
    return Phi3Config(
        vocab_size=32064,
        hidden_size=3072,
        intermediate_size=8192,
        num_hidden_layers=32,
        num_attention_heads=32,
        max_position_embeddings=4096,
        sliding_window=2047,
        eos_token_id=32007,
        pad_token_id=32011,
    )


def temporal_fields(
    temporal: str, tokens: int | None, num_latents: int, frames: int, grid: int
) -> dict[str, Any]:
    """Fields that follow from the paper's name of an encoder; `tokens=None` takes its natural count."""
    if temporal not in TEMPORAL_ENCODER_NAMES:
        raise ValueError(
            f"no temporal encoder named {temporal!r}; choose one of {', '.join(TEMPORAL_ENCODER_NAMES)}"
        )
    fields: dict[str, Any] = {
        "temporal_encoder": temporal,
        "num_frames": frames,
        "num_latents": num_latents,
        "time_stamp": temporal == "grouped_ttm",
        "ttm_output": "mean" if tokens == num_latents else "attention",
    }
    if tokens is None:
        spec = fields | {"video_tokens": 32, "patch_grid": grid}
        tokens = video_token_count(spec, frames)
    return fields | {"video_tokens": tokens}


def blip3_video_4b(
    temporal: str = "grouped_ttm", tokens: int | None = 32, frames: int = 8, **overrides: Any
) -> Blip3VideoConfig:
    """BLIP-3-Video as published: SigLIP so400m, six-layer resampler, Phi-3-mini (4.4 billion parameters).

    `tokens=None` takes the encoder's natural count. With `grouped_ttm`, 128 tokens are the mean over the
    memory slots (the released 128-token model) and any other count is TL(M) over the final memory.
    """
    return Blip3VideoConfig(**(temporal_fields(temporal, tokens, 128, frames, grid=27) | overrides))


def blip3_video_tiny(
    temporal: str = "grouped_ttm",
    tokens: int | None = 8,
    frames: int = 4,
    *,
    vocab_size: int = 64,
    width: int = 32,
    num_latents: int = 8,
    image_size: int = 32,
    patch_size: int = 8,
    **overrides: Any,
) -> Blip3VideoConfig:
    """The same classes at a size for tests: milliseconds on a CPU, random weights.

    The vocabulary has `vocab_size` text tokens (1 begins a text, 2 ends an answer, 0 pads) and the three
    added ones behind them; `<image>` is id `vocab_size`.
    """
    fields = temporal_fields(temporal, tokens, num_latents, frames, grid=image_size // patch_size)
    fields |= {
        "vision_config": SiglipVisionConfig(
            hidden_size=width,
            intermediate_size=2 * width,
            num_hidden_layers=2,
            num_attention_heads=2,
            image_size=image_size,
            patch_size=patch_size,
            vision_use_head=False,
        ),
        "text_config": Phi3Config(
            vocab_size=vocab_size,
            hidden_size=width,
            intermediate_size=2 * width,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=1024,
            bos_token_id=1,
            eos_token_id=2,
            pad_token_id=0,
        ),
        "resampler_depth": 2,
        "resampler_heads": 2,
        "resampler_dim_head": width // 2,
        "temporal_depth": 2,
        "temporal_heads": 2,
        "base_vocab_size": vocab_size,
        "image_token_id": vocab_size,
    }
    return Blip3VideoConfig(**(fields | overrides))
