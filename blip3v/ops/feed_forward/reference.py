"""The formula of feed_forward in plain PyTorch.

    h = z w1^T,  out = residual + gelu(h) w2^T,  gelu(h) = h Phi(h) with the normal distribution Phi

`feed` is the backend `reference` of the public function, differentiable by autograd. `forward`, `backward`
and `input_backward` are what the custom operators and the recurrence of the Token Turing Machine run when
they are asked for this backend. Products are made in z's dtype, as the modules of the model make them.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from blip3v.ops.registry import Answer
from blip3v.ranges import op_range, ranged


def can_run(*arguments: Tensor) -> Answer:
    """It runs whatever passed the op's own checks."""
    return Answer(True)


@ranged(op_range, "feed_forward reference")
def feed(z: Tensor, w1: Tensor, w2: Tensor, residual: Tensor) -> Tensor:
    """Shapes as in `Arguments` -> out [...,D]."""
    return forward(z, w1, w2, residual)[0]


def forward(z: Tensor, w1: Tensor, w2: Tensor, residual: Tensor) -> tuple[Tensor, Tensor]:
    """-> out [...,D] and h [...,J], what GELU is taken of."""
    h = F.linear(z, w1.to(z.dtype))
    return residual + F.linear(F.gelu(h), w2.to(z.dtype)), h


def backward(dout: Tensor, z: Tensor, w1: Tensor, w2: Tensor, h: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """-> dz, dw1, dw2. The residual's gradient is dout itself.

    dw1 = dh^T z;  dw2 = dout^T gelu(h);  dz and dh as in `input_backward`.
    """
    dz, dh, a = input_backward(dout, w1, w2, h)
    return dz, *weight_gradients(dout, z, dh, a, w1, w2)


def input_backward(dout: Tensor, w1: Tensor, w2: Tensor, h: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """-> dz [...,D], dh [...,J], a [...,J]: all that depends on the step, in back-propagation through time.

    a = gelu(h);  dh = (dout w2) * gelu'(h), gelu'(h) = Phi(h) + h exp(-h^2 / 2) / sqrt(2 pi);  dz = dh w1.
    """
    dh = (dout @ w2.to(dout.dtype)).to(torch.promote_types(h.dtype, torch.float32)) * dgelu(h)
    dh = dh.to(h.dtype)
    return dh @ w1.to(h.dtype), dh, F.gelu(h)


def dgelu(h: Tensor) -> Tensor:
    """gelu'(h), in float32 or better."""
    h = h.to(torch.promote_types(h.dtype, torch.float32))
    below = (1 + torch.erf(h * 0.5**0.5)) / 2
    return below + h * torch.exp(-h * h / 2) / (2 * torch.pi) ** 0.5


def weight_gradients(
    dout: Tensor, z: Tensor, dh: Tensor, a: Tensor, w1: Tensor, w2: Tensor
) -> tuple[Tensor, Tensor]:
    """-> dw1 = dh^T z [J,D] and dw2 = dout^T a [D,J], summed over all rows, each in its weight's dtype."""
    dout, z, dh, a = (tensor.reshape(-1, tensor.shape[-1]) for tensor in (dout, z, dh, a))
    return (dh.t() @ z).to(w1.dtype), (dout.t() @ a).to(w2.dtype)
