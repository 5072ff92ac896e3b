"""One Perceiver-Resampler over all patches of all frames."""

from __future__ import annotations

from torch import Tensor, nn

from blip3v.models.resampler import PerceiverResampler
from blip3v.models.temporal.time_stamp import TimeStamp


class JointPerceiver(nn.Module):
    """[B,T,S,dim] patch features -> [B,M,dim]: M latents attend to all T*S patches at once."""

    def __init__(self, resampler: PerceiverResampler, time_stamp: bool) -> None:
        super().__init__()
        self.pos_emb = TimeStamp(resampler.latents.shape[-1]) if time_stamp else None
        self.resampler = resampler

    def forward(self, x: Tensor) -> Tensor:
        if self.pos_emb is not None:
            x = self.pos_emb.stamp(x)
        return self.resampler(x.flatten(1, 2).unsqueeze(1)).squeeze(1)
