"""FP8 through all of SigLIP: how far features may be off.

The rounding of a factor to 4 significant bits is off by 2.6% in the mean square, a product's two factors by
3.7%. Two products and two roundings follow each other in the feed-forward: 5.3%. Residual branches of 27
layers add up with independent errors, so the features at the end are off by about as much as one branch,
and grow on their way through the next ones. Hence the gate of 9%. bfloat16, whose steps are 16 times finer
but which rounds everything and not only the products' factors, has 1.2% here; FP8 may have twelve times that.

No pretrained SigLIP is at hand, so weights are random, made as hard for a number format as trained vision
transformers are known to be: a few channels whose LayerNorm gains are 20 times the others', three channels
of the residual stream 100 times larger than the rest in some patches, and uneven rows of weights. Attention
logits have a standard deviation of 1.3; at 5, where one patch gets all the weight, errors of 35% were seen in
FP8 and 6% in bfloat16: a network that magnifies errors does so in every number format.
"""

from __future__ import annotations

import copy
from functools import cache

import pytest
import torch
from torch import Tensor, nn
from transformers import SiglipVisionModel

from blip3v.errors import UserError
from blip3v.models.configuration import siglip_so400m_384
from blip3v.models.fp8 import Fp8Layer
from blip3v.models.frozen_vision import VisionTower

LAYERS, DIFFERENT, SIDE = 27, 2, 6
"""Depth of SigLIP so400m, how many of the layers have weights of their own here, and patches a side."""

GATE, TIMES_BFLOAT16 = 0.09, 12


def relative(got: Tensor, exact: Tensor) -> float:
    return float((got.float() - exact.float()).norm() / exact.float().norm())


@cache
def hard_siglip() -> tuple[SiglipVisionModel, Tensor]:
    """SigLIP's widths and depth with outliers, and two small images for it."""
    config = siglip_so400m_384()
    config.image_size, config.num_hidden_layers, config.vision_use_head = 14 * SIDE, DIFFERENT, False
    torch.manual_seed(0)
    encoder = SiglipVisionModel(config).eval().requires_grad_(False)
    dim = config.hidden_size
    patches = encoder.embeddings.position_embedding.weight
    patches[:: SIDE + 1, torch.tensor([17, 500, 1100])] = torch.tensor([90.0, -120.0, 60.0])
    for layer in encoder.encoder.layers:
        for norm in (layer.layer_norm1, layer.layer_norm2):
            norm.weight.copy_((torch.randn(dim) * 0.5).exp())
            norm.weight[torch.randperm(dim)[:6]] *= 20
            norm.bias.normal_(std=0.3)
        for part in layer.modules():
            if isinstance(part, nn.Linear):
                part.weight.mul_((torch.randn(len(part.weight), 1) * 0.5).exp())
                part.bias.normal_(std=0.1)
        for part in (layer.self_attn.q_proj, layer.self_attn.k_proj):
            part.weight.mul_(0.5)
            part.bias.mul_(0.5)
    encoder.encoder.layers = nn.ModuleList([encoder.encoder.layers[i % DIFFERENT] for i in range(LAYERS)])
    return encoder, torch.randn(2, 3, 14 * SIDE, 14 * SIDE)


@torch.no_grad()
def test_features_of_the_whole_tower_pass_the_gate() -> None:
    encoder, images = hard_siglip()
    cpu = torch.device("cpu")
    exact = VisionTower(encoder, cpu, torch.float32, fp8=False)
    rounded = VisionTower(encoder, cpu, torch.float32, fp8=True)
    bfloat = VisionTower(encoder, cpu, torch.bfloat16, fp8=False)
    got, want = rounded(images), exact(images)
    error, usual = relative(got, want), relative(bfloat(images.bfloat16()), want)
    print(f"the features are off by {error:.4f} in FP8, by {usual:.4f} in bfloat16")
    assert error < GATE and error < TIMES_BFLOAT16 * usual
    assert error > usual, "nothing was rounded to FP8"
    each = (got - want).norm(dim=-1) / want.norm(dim=-1)
    assert each.max() < 3 * GATE, "some patch is lost in the mean"


@torch.no_grad()
def test_every_layer_passes_on_the_true_input() -> None:
    encoder, images = hard_siglip()
    hidden = encoder.embeddings(images)
    for index, layer in enumerate(encoder.encoder.layers[:4]):
        after = layer(hidden, attention_mask=None)
        branch, exact = Fp8Layer(layer, torch.float32)(hidden) - hidden, after - hidden
        bfloat = copy.deepcopy(layer).bfloat16()(hidden.bfloat16(), attention_mask=None).float() - hidden
        error, usual = relative(branch, exact), relative(bfloat, exact)
        print(f"layer {index}: FP8 {error:.4f}, bfloat16 {usual:.4f}")
        assert error < GATE and error < TIMES_BFLOAT16 * usual
        hidden = after


def test_other_activations_are_refused() -> None:
    layer = copy.deepcopy(hard_siglip()[0].encoder.layers[0])
    layer.mlp.config = copy.deepcopy(layer.mlp.config)
    layer.mlp.config.hidden_act = "gelu"
    with pytest.raises(UserError, match="vision_fp8 off"):
        Fp8Layer(layer, torch.float32)


@torch.no_grad()
@pytest.mark.gpu
def test_the_gpu_passes_the_gate() -> None:
    encoder, images = hard_siglip()
    device = torch.device("cuda", 0)
    exact = VisionTower(encoder, torch.device("cpu"), torch.float32, fp8=False)(images)
    rounded = VisionTower(encoder, device, torch.bfloat16, fp8=True)(images.bfloat16().to(device))
    assert relative(rounded.cpu(), exact) < GATE
