"""The Triton backend: any recent NVIDIA GPU, and CPU tensors in Triton's interpreter.

The interpreter is a matter of the process: set TRITON_INTERPRET=1 before anything imports triton.

Forward two kernels, logits and pooling. Backward the logits again, then one kernel down to the hidden units
and one through both norms; around them stand four plain matrix products of torch over all tokens.
"""

from __future__ import annotations

import functools
from contextlib import AbstractContextManager, nullcontext
from importlib.util import find_spec
from typing import Any, NamedTuple

import torch
from torch import Tensor

from blip3v.ops.registry import Answer
from blip3v.ops.token_learner.arguments import Arguments

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
MOST_MADE = 256
"""All k logits of a token lie in one tile."""

LARGEST_WIDTH = 8192
"""The kernel of the norms holds whole rows in registers."""

OLDEST = (8, 0)

PARTIALS = 256
"""Programs of the kernel of the norms, at most: so many rows of partial sums, whatever the GPU."""

NORM_WARPS = 8
"""Of the kernel of the norms: no spills up to 2048 channels."""


class Tiles(NamedTuple):
    """Sizes of a tile and how the compiler spreads it; starting values, not yet tuned on a GPU."""

    tokens: int
    channels: int
    hidden: int
    made: int
    warps: int
    stages: int

    @property
    def options(self) -> dict[str, int]:
        blocks = {"BLOCK_N": self.tokens, "BLOCK_D": self.channels, "BLOCK_K": self.made}
        return blocks | {"num_warps": self.warps, "num_stages": self.stages}


def tiles(dtype: torch.dtype, made: int) -> Tiles:
    """Such that the tiles fit the 99 KiB of shared memory that the smallest supported GPUs have."""
    made = max(16, padded(made))
    if dtype == torch.float32:
        return Tiles(32, 32, 32, made, 8, 1)
    return Tiles(32 if made <= 128 else 16, 64, 64, made, 8, 2)


def padded(size: int) -> int:
    """Triton's tiles are powers of two."""
    return 1 << (size - 1).bit_length()


def rows_of_norms(width: int) -> int:
    """Rows that a program of the kernel of the norms holds at a time, in the registers of `NORM_WARPS`."""
    return max(1, 2048 // padded(width))


@functools.cache
def _is_installed() -> bool:
    return find_spec("triton") is not None


@functools.cache
def _kernels() -> Any:
    """The module of kernels; triton is imported with it, when first needed."""
    from blip3v.ops.token_learner import triton_kernels

    return triton_kernels


def _is_interpreted() -> bool:
    return type(_kernels().logits_kernel).__name__ == "InterpretedFunction"


def can_run(*arguments: Tensor | None) -> Answer:
    x, *_, w2 = Arguments(*arguments).floating  # type: ignore[arg-type]
    if not _is_installed():
        return Answer(False, "triton is not installed: it comes with a CUDA build of torch")
    if x.device.type == "cuda":
        if _is_interpreted():
            return Answer(False, "TRITON_INTERPRET is set, which is for CPU tensors: unset it")
        capability = torch.cuda.get_device_capability(x.device)
        if capability < OLDEST:
            return Answer(False, f"compute capability {capability}, need {OLDEST} or newer")
    elif x.device.type != "cpu" or not _is_interpreted():
        return Answer(False, f"the tensors are on {x.device}, need a CUDA device (or TRITON_INTERPRET=1)")
    if x.dtype not in DTYPES:
        return Answer(False, f"{x.dtype}, need float32, bfloat16 or float16")
    if w2.shape[0] > MOST_MADE:
        return Answer(False, f"{w2.shape[0]} tokens to make, need at most {MOST_MADE}")
    if x.shape[-1] > LARGEST_WIDTH:
        return Answer(False, f"{x.shape[-1]} channels, need at most {LARGEST_WIDTH}")
    if x.shape[-1] > 1 and x.stride(-1) != 1:
        return Answer(False, f"the channels of x are {x.stride(-1)} elements apart, need 1")
    return Answer(True)


def forward(*inputs_and_eps: Any) -> tuple[Tensor, Tensor]:
    """The eight `Arguments` and eps -> out [B,k,D], lse [B,k] float32."""
    *inputs, eps = inputs_and_eps
    call = _Call(Arguments(*inputs), eps)
    logits, _ = call.logits(with_hidden=False)
    out = torch.empty((call.videos, call.made, call.width), dtype=call.x.dtype, device=call.x.device)
    lse = torch.empty((call.videos, call.made), dtype=torch.float32, device=call.x.device)
    with call.device():
        _kernels().pool_kernel[call.videos * _blocks(call.width, call.tiles.channels),](
            *(call.x, logits, out, lse, call.tokens, call.width, call.made),
            *call.x.stride()[:2],
            **call.tiles.options,
        )
    return out.to(inputs[0].dtype), lse


def backward(dout: Tensor, *inputs_and_rest: Any) -> tuple[Tensor, ...]:
    """dout, the eight `Arguments`, out, lse, eps -> the gradients of the seven that have one."""
    *inputs, out, lse, eps = inputs_and_rest
    arguments = Arguments(*inputs)
    call = _Call(arguments, eps)
    x, dout = call.x, dout.to(call.x.dtype).contiguous()
    # Gradients of hidden units may be too small for float16.
    narrow = torch.float32 if x.dtype == torch.float16 else x.dtype
    w1, w2 = call.w1.to(narrow), call.w2.to(narrow)
    delta = (dout.float() * out.float()).sum(-1)
    logits, hidden = call.logits(with_hidden=True)
    weights = torch.empty(logits.shape, dtype=x.dtype, device=x.device)
    dlogits = torch.empty(logits.shape, dtype=narrow, device=x.device)
    dhidden, activation = (torch.empty(hidden.shape, dtype=narrow, device=x.device) for _ in range(2))
    with call.device():
        _kernels().mlp_gradient_kernel[call.tiles_of_tokens,](
            *(x, w2, dout, logits, hidden, lse.contiguous(), delta, weights, dlogits, dhidden, activation),
            *call.sizes,
            *x.stride()[:2],
            BLOCK_J=call.tiles.hidden,
            **call.tiles.options,
        )
    dlogits, dhidden, activation = (t.flatten(0, 1) for t in (dlogits, dhidden, activation))
    dx, normed, partials = call.through_norms(dhidden @ w1, torch.bmm(weights, dout))
    # Outputs of a custom operator share no memory: each sum is one of its own.
    norms = (partials[:, index].sum(0) for index in range(4))
    gradients = (dx, *norms, dhidden.T @ normed, dlogits.T @ activation)
    return tuple(g.to(t.dtype) for g, t in zip(gradients, arguments.floating))


class _Call:
    """What the kernels take, and the launches of two of them."""

    def __init__(self, arguments: Arguments, eps: float) -> None:
        x = arguments.x
        if _is_interpreted() and x.dtype == torch.bfloat16:
            # The interpreter multiplies bfloat16 wrongly and truncates instead of rounding to it.
            x = x.float()
        self.x, self.eps = x, eps
        # The kernels step through these as if they were contiguous. They are small.
        self.norms = [parameter.contiguous() for parameter in arguments.floating[1:5]]
        self.w1, self.w2 = (weight.to(x.dtype).contiguous() for weight in arguments.floating[5:])
        self.keep = None if arguments.keep is None else arguments.keep.contiguous().view(torch.uint8)
        self.videos, self.tokens, self.width = x.shape
        self.made, inner = self.w2.shape
        self.sizes = (self.tokens, self.width, inner, self.made)
        self.tiles = tiles(x.dtype, self.made)
        if _is_interpreted():  # which takes its time by the operation, not by the element
            self.tiles = self.tiles._replace(tokens=64, channels=128, hidden=64)
        self.tiles_of_tokens = self.videos * _blocks(self.tokens, self.tiles.tokens)

    def device(self) -> AbstractContextManager[Any]:
        """Triton launches on the current device."""
        return torch.cuda.device(self.x.device) if self.x.is_cuda else nullcontext()

    def logits(self, with_hidden: bool) -> tuple[Tensor, Tensor]:
        """-> logits [B,N,k], and h [B,N,J] or something never looked at, in float32."""
        x, inner = self.x, self.sizes[2]
        logits = torch.empty((self.videos, self.tokens, self.made), dtype=torch.float32, device=x.device)
        hidden = logits
        if with_hidden:
            hidden = torch.empty((self.videos, self.tokens, inner), dtype=torch.float32, device=x.device)
        # A mask that is not there is never read, but a kernel wants a pointer.
        keep = logits if self.keep is None else self.keep
        with self.device():
            _kernels().logits_kernel[self.tiles_of_tokens,](
                *(x, *self.norms, self.w1, self.w2, keep, logits, hidden),
                *self.sizes,
                *x.stride()[:2],
                self.eps,
                HAS_KEEP=self.keep is not None,
                STORES_HIDDEN=with_hidden,
                BLOCK_J=self.tiles.hidden,
                **self.tiles.options,
            )
        return logits, hidden

    def through_norms(self, dnormed: Tensor, pooled: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """dz [B*N,D], A dout [B,N,D] -> dx, z [B*N,D], and partial sums [programs,4,D] for the norms."""
        x, rows = self.x, rows_of_norms(self.width)
        all_rows = self.videos * self.tokens
        programs = min(PARTIALS, _blocks(all_rows, rows))
        dx = torch.empty(x.shape, dtype=x.dtype, device=x.device)
        normed = torch.empty(dnormed.shape, dtype=dnormed.dtype, device=x.device)
        partials = torch.empty((programs, 4, self.width), dtype=torch.float32, device=x.device)
        with self.device():
            _kernels().norms_gradient_kernel[programs,](
                *(x, *self.norms, dnormed, pooled, dx, normed, partials),
                *(all_rows, self.tokens, self.width, *x.stride()[:2], self.eps),
                ROWS=rows,
                PADDED=padded(self.width),
                num_warps=NORM_WARPS,
            )
        return dx, normed, partials


def _blocks(rows: int, block: int) -> int:
    return -(-rows // block)
