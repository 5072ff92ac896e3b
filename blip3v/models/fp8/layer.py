"""One encoder layer of SigLIP with FP8 products."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from blip3v.errors import UserError
from blip3v.models.fp8.fused import gelu_quantised, norm_quantised, quantised
from blip3v.models.fp8.linear import Fp8Linear

ACTIVATION = "gelu_pytorch_tanh"


class Fp8Layer(nn.Module):
    """x + attention(LN(x)), then x + feed-forward(LN(x)); x [N,S,dim] in the tower's dtype.

    q, k and v are one product; attention itself is PyTorch's, in the tower's dtype, without dropout. Made
    from a transformers SiglipEncoderLayer, which it leaves as it is.

    Raises:
        UserError: another activation than SigLIP's, or widths that FP8 products do not take.
    """

    def __init__(self, layer: Any, dtype: torch.dtype, device: torch.device | str | None = None) -> None:
        super().__init__()
        attention, mlp = layer.self_attn, layer.mlp
        if mlp.config.hidden_act != ACTIVATION:
            raise UserError(
                f"FP8 layers have SigLIP's activation {ACTIVATION}, this vision encoder has "
                f"{mlp.config.hidden_act}: leave vision_fp8 off"
            )
        self.heads: int = attention.num_heads
        self.norm1 = _norm(layer.layer_norm1, device)
        self.qkv = Fp8Linear([attention.q_proj, attention.k_proj, attention.v_proj], dtype, device)
        self.out = Fp8Linear([attention.out_proj], dtype, device)
        self.norm2 = _norm(layer.layer_norm2, device)
        self.fc1 = Fp8Linear([mlp.fc1], dtype, device)
        self.fc2 = Fp8Linear([mlp.fc2], dtype, device)

    def forward(self, x: Tensor) -> Tensor:
        images, patches, dim = x.shape
        tokens = norm_quantised(x.flatten(0, 1), self.norm1.weight, self.norm1.bias, self.norm1.eps)
        qkv = self.qkv(tokens).view(images, patches, 3, self.heads, dim // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(-1, dim)
        x = x + self.out(quantised(mixed)).view_as(x)
        tokens = norm_quantised(x.flatten(0, 1), self.norm2.weight, self.norm2.bias, self.norm2.eps)
        return x + self.fc2(gelu_quantised(self.fc1(tokens))).view_as(x)


def _norm(norm: nn.LayerNorm, device: torch.device | str | None) -> nn.LayerNorm:
    """Its copy in float32, which is how norms are computed whatever the tower's dtype is."""
    copy = nn.LayerNorm(norm.normalized_shape, norm.eps, device=device, dtype=torch.float32)
    copy.load_state_dict(norm.state_dict())
    return copy.requires_grad_(False)
