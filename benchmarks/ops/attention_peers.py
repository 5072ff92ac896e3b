"""What a user would pick instead of resampler_attention, each with the concatenation that it needs.

A peer is built for one case: `build(inputs, scale)` returns a function of (q, k_media, v_media, k_latents,
v_latents) -> out [F,Q,H,d]. Masks are made ready beforehand and cost no time; concatenating keys and values
is part of the function. A peer that cannot do a case raises, and its row carries the reason.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from benchmarks.stages.einsum_modules import einsum_attention
from blip3v.ops.resampler_attention import reference, resampler_attention
from blip3v.testing.cases.resampler_attention import AttentionInputs

Attend = Callable[..., Tensor]


def ours(name: str, inputs: AttentionInputs, scale: float) -> Attend:
    """One of our backends, through the public function."""
    masks = {"lengths": inputs.lengths, "keep": inputs.keep}
    return lambda *floating: resampler_attention(*floating, **masks, scale=scale, backend=name)


def sdpa(kernel: SDPBackend, inputs: AttentionInputs, scale: float) -> Attend:
    """scaled_dot_product_attention with one kernel forced; without forcing it is our `reference`."""

    def attend(*floating: Tensor) -> Tensor:
        with sdpa_kernel(kernel):
            return reference.attend(*floating, inputs.lengths, inputs.keep, scale)

    return attend


def einsum(inputs: AttentionInputs, scale: float) -> Attend:
    """The module that people copy from public repositories."""
    if inputs.lengths is not None or inputs.keep is not None:
        raise ValueError("it has no masks")

    def attend(q: Tensor, k_media: Tensor, v_media: Tensor, k_latents: Tensor, v_latents: Tensor) -> Tensor:
        k, v = torch.cat((k_media, k_latents), 1), torch.cat((v_media, v_latents), 1)
        # einsum_attention scales by d^-0.5 itself.
        q = q * (scale * q.shape[-1] ** 0.5) if scale != q.shape[-1] ** -0.5 else q
        return einsum_attention(*(t.transpose(1, 2) for t in (q, k, v))).transpose(1, 2)

    return attend


def compiled(build: Callable[..., Attend], mode: str, inputs: AttentionInputs, scale: float) -> Attend:
    """Another peer under torch.compile."""
    torch.compiler.reset()
    return torch.compile(build(inputs, scale), fullgraph=True, dynamic=False, mode=mode)


def plain_sdpa(inputs: AttentionInputs, scale: float) -> Attend:
    return lambda *floating: reference.attend(*floating, inputs.lengths, inputs.keep, scale)


def flex(inputs: AttentionInputs, scale: float) -> Attend:
    """FlexAttention, compiled, with the masks as a block mask."""
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    torch.compiler.reset()
    seen = reference.visible(inputs.k_media, inputs.k_latents, inputs.lengths, inputs.keep)
    frames, queries = inputs.q.shape[:2]
    keys = inputs.k_media.shape[1] + inputs.k_latents.shape[1]
    mask = None
    if seen is not None:
        mask = create_block_mask(
            lambda frame, head, query, key: seen[frame, key],
            *(frames, None, queries, keys),
            device=str(inputs.q.device),
        )
    kernel = torch.compile(flex_attention, dynamic=False)

    def attend(q: Tensor, k_media: Tensor, v_media: Tensor, k_latents: Tensor, v_latents: Tensor) -> Tensor:
        k, v = torch.cat((k_media, k_latents), 1), torch.cat((v_media, v_latents), 1)
        heads_first = (t.transpose(1, 2) for t in (q, k, v))
        return kernel(*heads_first, block_mask=mask, scale=scale).transpose(1, 2)

    return attend


def flash_attn(inputs: AttentionInputs, scale: float) -> Attend:
    """The flash-attn package, which takes our layout as it is."""
    if inputs.lengths is not None or inputs.keep is not None:
        raise ValueError("a mask would need its variable-length form and a copy of the keys")
    from flash_attn import flash_attn_func

    def attend(q: Tensor, k_media: Tensor, v_media: Tensor, k_latents: Tensor, v_latents: Tensor) -> Tensor:
        k, v = torch.cat((k_media, k_latents), 1), torch.cat((v_media, v_latents), 1)
        return flash_attn_func(q, k, v, softmax_scale=scale)

    return attend


OURS = ("cuda", "triton", "reference", "simulator")

PEERS: dict[str, Callable[[AttentionInputs, float], Any]] = {
    **{name: partial(ours, name) for name in OURS},
    "sdpa cudnn": partial(sdpa, SDPBackend.CUDNN_ATTENTION),
    "sdpa flash": partial(sdpa, SDPBackend.FLASH_ATTENTION),
    "sdpa efficient": partial(sdpa, SDPBackend.EFFICIENT_ATTENTION),
    "sdpa math": partial(sdpa, SDPBackend.MATH),
    "flash-attn": flash_attn,
    "flex": flex,
    "einsum": einsum,
    "compile sdpa": partial(compiled, plain_sdpa, "default"),
    "compile einsum": partial(compiled, einsum, "default"),
    "compile max-autotune sdpa": partial(compiled, plain_sdpa, "max-autotune-no-cudagraphs"),
    "compile max-autotune einsum": partial(compiled, einsum, "max-autotune-no-cudagraphs"),
}
"""Best layout for each. CUDA graphs are a column of their own, for everybody."""
