"""Pixels -> patch features -> video tokens."""

from __future__ import annotations

from torch import Tensor, nn
from transformers import SiglipVisionModel

from blip3v.models.configuration import Blip3VideoConfig
from blip3v.models.temporal import READS_PATCHES, build_resampler, build_temporal_encoder
from blip3v.ranges import ranged, stage_range


@ranged(stage_range, "vision")
def encode_frames(encoder: SiglipVisionModel, pixels: Tensor) -> Tensor:
    """pixels [B,T,3,H,W] -> the last hidden state after the final LayerNorm, [B,T,S,dim].

    Calls the parts of SiglipVisionModel rather than its forward, which would also run a pooling head that the
    checkpoint stores and nobody reads.
    """
    batch = pixels.shape[0]
    hidden = encoder.embeddings(pixels.flatten(0, 1))
    hidden = encoder.encoder(inputs_embeds=hidden).last_hidden_state
    return encoder.post_layernorm(hidden).unflatten(0, (batch, -1))


class VisionTokenizer(nn.Module):
    """[B,T,S,dim] patch features -> [B,M,text_dim].

    Resampler, temporal encoder, and only **then** LayerNorm and projection.
    """

    def __init__(self, config: Blip3VideoConfig) -> None:
        super().__init__()
        dim = config.vision_config.hidden_size
        reads_patches = config.temporal_encoder in READS_PATCHES
        self.resampler = None if reads_patches else build_resampler(config, config.num_latents)
        self.temporal_encoder = build_temporal_encoder(config)
        self.norm = nn.LayerNorm(dim)
        self.projection = nn.Linear(dim, config.text_config.hidden_size)

    def forward(self, features: Tensor) -> Tensor:
        tokens = features if self.resampler is None else self.resampler(features)
        with stage_range("temporal encoder"):
            tokens = self.temporal_encoder(tokens)
        with stage_range("projection"):
            return self.projection(self.norm(tokens))
