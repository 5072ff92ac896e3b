"""Causal attention inside each segment of a packed row, handed to Phi-3 in the place of its mask."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F


class PackedCausalMask(Tensor):
    """Stands for the mask [1, 1, L, L] of a packed row, and takes no memory.

    transformers passes a mask of 4 dimensions on to every layer as it is, where it reaches PyTorch's
    `scaled_dot_product_attention`; there this class answers with `packed_attention`. So the language model
    stays as it is, nothing global is changed, and a layer that is computed again in the backward pass sees
    the same. It is a mask for `scaled_dot_product_attention` only: as a plain tensor it hides everything.

    Attributes:
        cu_seqlens: int32 [n + 1], where each segment begins, and L.
        max_seqlen: length of the longest segment.
        window: a token sees itself and the window - 1 tokens before it; None is all of them.
        on_flash_device: the device runs FlashAttention 2.
    """

    cu_seqlens: Tensor
    max_seqlen: int
    window: int | None
    on_flash_device: bool
    _ends: list[int] | None

    @staticmethod
    def of(cu_seqlens: Tensor, max_seqlen: int, length: int, window: int | None = None) -> PackedCausalMask:
        """The mask of a row of `length` tokens."""
        nothing = torch.zeros((), dtype=torch.bool, device=cu_seqlens.device).expand(1, 1, length, length)
        mask = nothing.as_subclass(PackedCausalMask)
        mask.cu_seqlens, mask.max_seqlen = cu_seqlens, max_seqlen
        mask.window = None if window is None or window >= max_seqlen else window
        device = cu_seqlens.device
        mask.on_flash_device = cu_seqlens.is_cuda and torch.cuda.get_device_capability(device) >= (8, 0)
        mask._ends = None
        return mask

    def ends(self) -> list[int]:
        """cu_seqlens on the host: a GPU waits for it once, not in every layer."""
        if self._ends is None:
            self._ends = self.cu_seqlens.tolist()
        return self._ends

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is F.scaled_dot_product_attention:
            return packed_attention(*args, **(kwargs or {}))
        return super().__torch_function__(func, types, args, kwargs or {})


def packed_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: PackedCausalMask,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
) -> Tensor:
    """softmax(q k^T scale) v over the tokens of the same segment up to the own one.

    On a GPU in bf16 or fp16 it is PyTorch's variable-length FlashAttention, whose backward pass adds in no
    fixed order (that path has not run on a GPU yet); elsewhere one call per segment; in a compiled CPU or
    float32 graph, where segments must not decide the graph, one call with a mask [L, L].

    Args:
        query, key, value: [1, H, L, D].
        attn_mask: the segments.
        dropout_p, is_causal, scale: as in `scaled_dot_product_attention`; the mask is causal anyway.

    Returns:
        [1, H, L, D].
    """
    if torch.is_autocast_enabled(query.device.type):
        # The rotation of queries and keys leaves them in float32 beside values in bf16.
        half = torch.get_autocast_dtype(query.device.type)
        query, key, value = query.to(half), key.to(half), value.to(half)
    if dropout_p == 0.0 and attn_mask.on_flash_device and _flash_takes(query):
        return _flash(query, key, value, attn_mask, scale)
    if torch.compiler.is_compiling():
        seen = _dense(attn_mask.cu_seqlens, query.shape[2], attn_mask.window)
        return F.scaled_dot_product_attention(query, key, value, seen, dropout_p, scale=scale)
    ends = attn_mask.ends()
    parts = []
    for start, end in pairwise(ends):
        own = slice(start, end)
        q, k, v = query[:, :, own], key[:, :, own], value[:, :, own]
        near = None if attn_mask.window is None else _window(end - start, attn_mask.window, query.device)
        parts.append(F.scaled_dot_product_attention(q, k, v, near, dropout_p, near is None, scale=scale))
    return torch.cat(parts, dim=2)


def _flash_takes(query: Tensor) -> bool:
    """Half precision, heads of at most 256 in steps of 8."""
    width = query.shape[-1]
    return query.dtype in (torch.bfloat16, torch.float16) and width % 8 == 0 and width <= 256


def _flash(query: Tensor, key: Tensor, value: Tensor, mask: PackedCausalMask, scale: float | None) -> Tensor:
    # Imported here: it registers operators that only a GPU runs.
    from torch.nn.attention.varlen import varlen_attn

    q, k, v = (x[0].transpose(0, 1) for x in (query, key, value))
    # (-1, 0) is causal; (left, 0) sees `left` tokens before the own one.
    window = (-1, 0) if mask.window is None else (mask.window - 1, 0)
    ends, longest = mask.cu_seqlens, mask.max_seqlen
    mixed = varlen_attn(q, k, v, ends, ends, longest, longest, scale=scale, window_size=window)
    return mixed.transpose(0, 1)[None]


def _window(length: int, window: int, device: torch.device) -> Tensor:
    """bool [length, length], True where a token sees another."""
    distance = torch.arange(length, device=device)[:, None] - torch.arange(length, device=device)
    return (distance >= 0) & (distance < window)


def _dense(cu_seqlens: Tensor, length: int, window: int | None) -> Tensor:
    """bool [length, length] of the whole row."""
    place = torch.arange(length, device=cu_seqlens.device)
    segment = torch.searchsorted(cu_seqlens, place.int(), right=True)
    return (segment[:, None] == segment) & _window(length, window or length, place.device)
