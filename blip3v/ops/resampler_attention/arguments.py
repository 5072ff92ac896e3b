"""What a call of resampler_attention is made of, and what every backend may rely on."""

from __future__ import annotations

from typing import NamedTuple, NoReturn

import torch
from torch import Tensor


class Arguments(NamedTuple):
    """The tensors of a call.

    q [F,Q,H,d]; k_media, v_media [F,S,H,d]; k_latents, v_latents [F,L,H,d]; lengths [F] int32 or None;
    keep [F,S] bool or None.
    """

    q: Tensor
    k_media: Tensor
    v_media: Tensor
    k_latents: Tensor
    v_latents: Tensor
    lengths: Tensor | None = None
    keep: Tensor | None = None

    @property
    def floating(self) -> tuple[Tensor, ...]:
        """Those that have gradients."""
        return self[:5]

    def with_floating(self, *tensors: Tensor) -> Arguments:
        return self._replace(**dict(zip(NAMES, tensors)))


NAMES = Arguments._fields


def check(arguments: Arguments, scale: float) -> None:
    """Raises: ValueError, if shapes, dtypes or devices do not fit together, or scale is not positive."""
    if not 0 < scale < float("inf"):
        _refuse(f"scale is {scale}, need a finite number above 0")
    q, k_media, _, k_latents, _, lengths, keep = arguments
    for name, tensor in zip(NAMES, arguments.floating):
        if tensor.ndim != 4:
            _refuse(f"{name} has shape {tuple(tensor.shape)}, need 4 dimensions")
        if tensor.dtype != q.dtype or not tensor.dtype.is_floating_point:
            _refuse(f"{name} is {tensor.dtype} and q {q.dtype}, need one float type")
        _check_device(name, tensor, q)
    frames, queries, heads, dim = q.shape
    media, latents = k_media.shape[1], k_latents.shape[1]
    if frames < 1 or queries < 1 or heads < 1 or dim < 1:
        _refuse(f"q has shape {tuple(q.shape)}, need at least one of each")
    for name, tensor, keys in zip(NAMES[1:], arguments.floating[1:], (media, media, latents, latents)):
        if tensor.shape != (frames, keys, heads, dim):
            _refuse(f"{name} has shape {tuple(tensor.shape)}, need {(frames, keys, heads, dim)}")
    if media + latents < 1:
        _refuse("there is neither a media key nor a latent key, need at least one")
    if lengths is not None:
        if lengths.shape != (frames,) or lengths.dtype not in (torch.int32, torch.int64):
            _refuse(f"lengths is {lengths.dtype} {tuple(lengths.shape)}, need int32 {(frames,)}")
        _check_device("lengths", lengths, q)
    if keep is not None:
        if keep.shape != (frames, media) or keep.dtype != torch.bool:
            _refuse(f"keep is {keep.dtype} {tuple(keep.shape)}, need bool {(frames, media)}")
        _check_device("keep", keep, q)


def _refuse(what: str) -> NoReturn:
    raise ValueError(f"resampler_attention: {what}")


def _check_device(name: str, tensor: Tensor, q: Tensor) -> None:
    if tensor.device != q.device:
        _refuse(f"{name} is on {tensor.device} and q on {q.device}, need one device")


def example(device: str) -> Arguments:
    """One frame at the shape of the 4B model in bfloat16: what `blip3v doctor` asks the backends about."""
    shapes = [(1, keys, 16, 96) for keys in (128, 729, 729, 128, 128)]
    return Arguments(*(torch.zeros(shape, dtype=torch.bfloat16, device=device) for shape in shapes))
