"""The frozen vision encoder at full speed: pixels -> features, outside the model and its autograd.

    vision = FrozenVision(model.vision_encoder, mode="graph", fp8=True, device="cuda", dtype=torch.bfloat16)
    features = vision(batch.pop("pixel_values_videos"))
    loss = model(**batch, video_features=features, use_cache=False).loss

Half of a training step is this forward, and nothing of it changes: shapes are fixed, weights too.

`graph` and FP8 have not run on a GPU yet; their tests there are marked `gpu`.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from transformers import SiglipVisionModel

from blip3v.errors import UserError
from blip3v.models.fp8 import Fp8Layer
from blip3v.models.fp8.check import check_gpu
from blip3v.models.recorded import RecordedFunction
from blip3v.ranges import ranged, stage_range

Mode = Literal["eager", "compile", "graph"]


class FrozenVision:
    """pixels [n,T,3,H,W] -> features [n,T,S,dim], what `encode_frames` computes, without gradients.

    The features are ordinary tensors that a backward pass may keep. This is no module: as an attribute of a
    model it adds nothing to parameters, checkpoints or exports, which hold the encoder's own weights.

    It runs on copies of the encoder's weights in `dtype`, or on the weights themselves where they have that
    dtype and device already. So make it after a checkpoint was loaded, and again if weights change.

    Args:
        encoder: frozen; plain tensors on any device, the host too (copies then serve alone on the GPU).
        mode: `eager`; `compile`, each layer by torch.compile; `graph`, one CUDA graph for each number of
            videos, the last few of them kept. The last two run on a few numbers of videos only, the next
            larger of 1, 2, 3, 4, 6, 8, 12, 16, 24, ..., and drop what is too many: whoever trains on one of
            these wastes nothing.
        fp8: products in FP8, see `blip3v.models.fp8`. On a CPU emulated, which is slow and for tests.
        device, dtype: of the computation; the encoder's own if not given. On a GPU, FP8 has bfloat16.

    Raises:
        UserError: an encoder that is trained, or sharded; `graph` without a GPU; FP8 on a GPU that has none
            or computes it wrong, in another dtype than bfloat16 there, or of widths that it does not take.
    """

    def __init__(
        self,
        encoder: SiglipVisionModel,
        *,
        mode: Mode = "eager",
        fp8: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        weights = dict(encoder.named_parameters())
        some = next(iter(weights.values()))
        # By being used, "cuda" becomes "cuda:0", which is what the devices of tensors are compared with.
        device = torch.empty(0, device=some.device if device is None else device).device
        dtype = some.dtype if dtype is None else dtype
        _refuse(weights.values(), mode, fp8, device, dtype)
        self.device, self.dtype, self.mode = device, dtype, mode
        self.tower = VisionTower(encoder, device, dtype, fp8)
        if mode == "compile":
            for layer in self.tower.layers:
                layer.compile(dynamic=False)
        self._run = RecordedFunction(self.tower) if mode == "graph" else self.tower

    @ranged(stage_range, "vision")
    def __call__(self, pixels: Tensor) -> Tensor:
        videos, frames = pixels.shape[:2]
        images = pixels.flatten(0, 1).to(self.device, self.dtype, non_blocking=True)
        if self.mode != "eager":
            missing = padded(videos) * frames - len(images)
            images = torch.cat([images, images.new_zeros(missing, *images.shape[1:])]) if missing else images
        # The tower has its dtype already; no_grad, because a backward pass cannot keep inference tensors.
        with torch.no_grad(), torch.autocast(self.device.type, enabled=False):
            return self._run(images)[: videos * frames].unflatten(0, (videos, frames))


class VisionTower(nn.Module):
    """images [N,3,H,W] -> features [N,S,dim]: the parts of a SigLIP that `encode_frames` runs.

    Weights are the encoder's where dtype and device agree, else copies; with `fp8` its layers are Fp8Layers.
    """

    def __init__(
        self, encoder: SiglipVisionModel, device: torch.device, dtype: torch.dtype, fp8: bool
    ) -> None:
        super().__init__()
        # Tensors listed here are taken instead of being copied, and the configuration is one for all.
        taken: dict[int, Any] = {id(encoder.config): encoder.config}

        def part(module: nn.Module) -> nn.Module:
            for parameter in module.parameters():
                taken[id(parameter)] = _in(parameter, device, dtype)
            for buffer in module.buffers():
                taken[id(buffer)] = buffer.to(device)
            return copy.deepcopy(module, taken).eval()

        self.embeddings = part(encoder.embeddings)
        layers = encoder.encoder.layers
        self.layers = nn.ModuleList(
            Fp8Layer(layer, dtype, device) if fp8 else SiglipLayer(part(layer)) for layer in layers
        )
        self.post_layernorm = part(encoder.post_layernorm)

    def forward(self, images: Tensor) -> Tensor:
        hidden = self.embeddings(images)
        for layer in self.layers:
            hidden = layer(hidden)
        features: Tensor = self.post_layernorm(hidden)
        return features


class SiglipLayer(nn.Module):
    """A layer of transformers' SigLIP, of one tensor: no image is masked."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, hidden: Tensor) -> Tensor:
        out: Tensor = self.layer(hidden, attention_mask=None)
        return out


def padded(videos: int) -> int:
    """The least number of the form 2^k or 3 * 2^k that is not below."""
    power = 1 << (videos - 1).bit_length()
    return power // 4 * 3 if power >= 4 and power // 4 * 3 >= videos else power


def _in(parameter: Tensor, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Itself where nothing changes, else a frozen copy."""
    if parameter.device == device and parameter.dtype == dtype:
        return parameter
    return nn.Parameter(parameter.detach().to(device, dtype), requires_grad=False)


def _refuse(
    weights: Iterable[Tensor], mode: Mode, fp8: bool, device: torch.device, dtype: torch.dtype
) -> None:
    weights = list(weights)
    if any(weight.requires_grad for weight in weights):
        raise UserError(
            "the vision encoder is trained, which needs its gradients: add vision_encoder to the recipe's "
            "`frozen`, or train it with vision eager and without vision_fp8"
        )
    if any(isinstance(weight, DTensor) for weight in weights):
        raise UserError(
            "the frozen vision encoder is sharded: leave its parameters out of fully_shard, because every "
            "process runs all of it"
        )
    if mode == "graph" and device.type != "cuda":
        raise UserError(
            f"vision graph is a CUDA graph and needs a GPU, not a {device.type}: use vision eager or compile"
        )
    if fp8 and device.type == "cuda":
        if dtype != torch.bfloat16:
            raise UserError(
                f"FP8 results are bfloat16 on a GPU, not {dtype}: train with bf16, or without FP8"
            )
        check_gpu(device)
