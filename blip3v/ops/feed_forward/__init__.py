"""The feed-forward block of a transformer layer, with its residual: two products and a GELU between them.

`feed_forward` is the function to call; below it are the operators of `torch.library` that put the kernels
under autograd, `torch.compile` and CUDA graphs.
"""

from __future__ import annotations

import torch
from torch import Tensor

from blip3v.ops import registry
from blip3v.ops.feed_forward import reference
from blip3v.ops.feed_forward.arguments import Arguments, check, example

__all__ = ["Arguments", "example", "feed_forward"]

NAME = "feed_forward"


def feed_forward(
    z: Tensor, w1: Tensor, w2: Tensor, residual: Tensor, *, backend: str | None = None
) -> Tensor:
    """residual + gelu(z w1^T) w2^T, row by row.

    The formula is the feed-forward block of the Perceiver-Resampler and of the Token Turing Machine in
    xGen-MM-Vid (arXiv 2410.16267): no biases, GELU with the error function. z is the block's input after its
    LayerNorm, residual the same before it. Out and gradients are the same bits in every run on one machine.

    Under autocast, z and residual are cast to its dtype first, so that is the dtype of out; the weights may
    stay in float32. The backend `reference` leaves autocast to PyTorch.

    Args:
        z: [...,D] float; any leading dimensions, also none or zero rows. May be a strided view.
        w1: [J,D].
        w2: [D,J]. The weights are each in z's dtype or in float32, and their gradients like them.
        residual: [...,D], shape and dtype of z.
        backend: a name in `blip3v.ops.registry.OPS`; if left out, what `use_backend` or BLIP3V_BACKEND say,
            and otherwise the fastest that can run and is verified on this kind of device.

    Returns:
        [...,D] in z's dtype. Differentiable once by every backend, any number of times by `reference`.

    Raises:
        ValueError: shapes, dtypes or devices do not fit together.
        UserError: the backend that was asked for does not exist or cannot run this call, and why.
    """
    arguments = Arguments(z, w1, w2, residual)
    name = registry.wished(NAME, backend, str(z.device))
    autocast = torch.is_autocast_enabled(z.device.type)
    check(arguments, mixed=autocast)
    if name == "reference":
        return reference.feed(*arguments)
    if autocast:
        arguments = _as_autocast(arguments)
    if name == registry.AUTO and not torch.compiler.is_compiling():
        name = registry.choose(NAME, arguments).name
        if name == "reference":
            return reference.feed(z, w1, w2, residual)
    # While it is traced, the operator keeps the name `auto` and chooses when it runs, from real tensors.
    return feed_forward_forward(*arguments, name)[0]


def _as_autocast(arguments: Arguments) -> Arguments:
    """z and residual in autocast's dtype; weights stay as they are where the op takes them."""
    z, w1, w2, residual = arguments
    if z.dtype == torch.float64:
        return arguments  # autocast leaves it alone
    dtype = torch.get_autocast_dtype(z.device.type)
    w1, w2 = (weight if weight.dtype in (torch.float32, dtype) else weight.to(dtype) for weight in (w1, w2))
    return Arguments(z.to(dtype), w1, w2, residual.to(dtype))


@torch.library.custom_op("blip3v::feed_forward_forward", mutates_args=())
def feed_forward_forward(
    z: Tensor, w1: Tensor, w2: Tensor, residual: Tensor, backend: str
) -> tuple[Tensor, Tensor]:
    """-> out [...,D] and h = z w1^T [...,J] in z's dtype. h has no gradient."""
    arguments = Arguments(z, w1, w2, residual)
    with torch.autocast(z.device.type, enabled=False):  # what backends compute beside their kernels, too
        out, h = registry.choose(NAME, arguments, backend).load().forward(*arguments)
    return out.contiguous(), h.contiguous()


@torch.library.custom_op("blip3v::feed_forward_backward", mutates_args=())
def feed_forward_backward(
    dout: Tensor, z: Tensor, w1: Tensor, w2: Tensor, h: Tensor, backend: str
) -> tuple[Tensor, Tensor, Tensor]:
    """-> the gradients of z, w1 and w2, each contiguous and in the dtype of what it belongs to."""
    with torch.autocast(z.device.type, enabled=False):
        # dout has the shape and dtype of the residual, which is not kept.
        chosen = registry.choose(NAME, Arguments(z, w1, w2, dout), backend).load()
        dz, dw1, dw2 = chosen.backward(dout, z, w1, w2, h)
    return dz.contiguous(), dw1.contiguous(), dw2.contiguous()


@feed_forward_forward.register_fake
def _(z, w1, w2, residual, backend):  # type: ignore[no-untyped-def]
    return z.new_empty(z.shape), z.new_empty((*z.shape[:-1], w1.shape[0]))


@feed_forward_backward.register_fake
def _(dout, z, w1, w2, h, backend):  # type: ignore[no-untyped-def]
    return tuple(tensor.new_empty(tensor.shape) for tensor in (z, w1, w2))


def _keep_for_backward(ctx, inputs, output) -> None:  # type: ignore[no-untyped-def]
    z, w1, w2, _, backend = inputs
    _, h = output
    ctx.save_for_backward(z, w1, w2, h)
    ctx.mark_non_differentiable(h)
    ctx.backend = backend


def _differentiate(ctx, dout, dh):  # type: ignore[no-untyped-def]
    return *feed_forward_backward(dout, *ctx.saved_tensors, ctx.backend), dout, None


feed_forward_forward.register_autograd(_differentiate, setup_context=_keep_for_backward)
