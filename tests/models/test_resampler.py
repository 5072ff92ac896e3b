from __future__ import annotations

import re

import pytest
import torch
from torch import nn
from torch.testing import assert_close
from transformers import IdeficsConfig
from transformers.models.idefics.perceiver import IdeficsPerceiverResampler

from blip3v.models.resampler import PerceiverResampler

DIM, DEPTH, HEADS, DIM_HEAD, LATENTS = 8, 2, 2, 6, 3
IDEFICS_NAMES = {
    r"^layers\.(\d+)\.1\.0": r"blocks.\1.1.ln",
    r"^layers\.(\d+)\.1\.1": r"blocks.\1.1.fc",
    r"^layers\.(\d+)\.1\.3": r"blocks.\1.1.c_proj",
    r"^layers\.": "blocks.",
    "norm_media": "context_layer_norm",
    "norm_latents": "latents_layer_norm",
    "to_q": "q_proj",
    "to_out": "output_proj",
}


def small(implementation: str = "sdpa") -> PerceiverResampler:
    return PerceiverResampler(DIM, DEPTH, HEADS, DIM_HEAD, LATENTS, implementation=implementation)


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
@pytest.mark.parametrize("masked", [False, True])
def test_every_frame_follows_the_formula(formulas, randomised, normal, implementation, masked):
    resampler = randomised(small(implementation))
    x = normal(2, 2, 5, DIM)
    keep = torch.ones(2, 2, 5, dtype=torch.bool)
    if masked:
        keep[0, 0, 3:], keep[1, 0, 0], keep[1, 1, :] = False, False, False
    out = resampler(x, keep if masked else None)
    assert out.shape == (2, 2, LATENTS, DIM)
    for b in range(2):
        for t in range(2):
            expected = formulas.resampler(list(x[b, t]), keep[b, t].tolist(), resampler.state_dict(), HEADS)
            assert_close(out[b, t], torch.stack(expected), rtol=1e-9, atol=1e-10)


def test_equals_the_perceiver_of_idefics(randomised, normal):
    """transformers' IDEFICS has the same resampler with three projections, ReLU and a norm at the end."""
    dim, heads, dim_head, latents = 24, 3, 10, 7
    ours = randomised(PerceiverResampler(dim, 3, heads, dim_head, latents))
    config = IdeficsConfig(
        vision_config={"embed_dim": dim}, perceiver_config={"qk_layer_norms_perceiver": False}
    )
    theirs = IdeficsPerceiverResampler(config, dim, 3, heads, dim_head, latents).double()
    for _, mlp in theirs.blocks:
        mlp.act = nn.GELU()
    theirs.layer_norm = nn.Identity()
    renamed = {}
    for name, value in ours.state_dict().items():
        for pattern, new in IDEFICS_NAMES.items():
            name = re.sub(pattern, new, name)
        if "to_kv" in name:
            renamed[name.replace("to_kv", "k_proj")], renamed[name.replace("to_kv", "v_proj")] = value.chunk(
                2
            )
        else:
            renamed[name] = value
    theirs.load_state_dict(renamed)
    x = normal(2, 2, 11, dim)
    expected = torch.stack([theirs(frame) for frame in x.unbind(1)], dim=1)
    assert_close(ours(x), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_padded_media_tokens_change_nothing(randomised, normal, implementation):
    resampler = randomised(small(implementation))
    x = normal(1, 2, 5, DIM)
    keep = torch.ones(1, 2, 7, dtype=torch.bool)
    keep[..., 5:] = False
    garbage = 1e6 * normal(1, 2, 2, DIM)
    padded = resampler(torch.cat([x, garbage], dim=2), keep)
    assert_close(padded, resampler(x), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_a_frame_without_any_media_still_has_its_latents(randomised, normal, implementation):
    resampler = randomised(small(implementation)).float()
    x = normal(1, 2, 5, DIM).float().requires_grad_()
    out = resampler(x, torch.tensor([[[False] * 5, [True] * 5]]))
    out.square().sum().backward()
    assert out.isfinite().all()
    assert x.grad.isfinite().all()
    assert not x.grad[:, 0].any()
    assert x.grad[:, 1].any()


def test_eager_and_sdpa_agree_in_values_and_gradients(randomised, normal):
    eager, sdpa = randomised(small("eager")), randomised(small("sdpa"))
    x = normal(2, 2, 5, DIM)
    probe = normal(2, 2, LATENTS, DIM)
    outputs = [resampler(x) for resampler in (eager, sdpa)]
    assert_close(*outputs, rtol=1e-10, atol=1e-12)
    gradients = [
        torch.autograd.grad((out * probe).sum(), list(resampler.parameters()))
        for out, resampler in zip(outputs, (eager, sdpa), strict=True)
    ]
    assert_close(*gradients, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("masked", [False, True])
def test_hoisting_the_media_projection_changes_no_value_and_no_gradient(randomised, normal, masked):
    apart = randomised(small())
    hoisted = PerceiverResampler(DIM, DEPTH, HEADS, DIM_HEAD, LATENTS, hoist_media=True).double()
    hoisted.load_state_dict(apart.state_dict())
    keep = torch.rand(2, 2, 5) > 0.4 if masked else None
    x, probe = normal(2, 2, 5, DIM).requires_grad_(), normal(2, 2, LATENTS, DIM)
    outputs = [resampler(x, keep) for resampler in (apart, hoisted)]
    assert_close(*outputs, rtol=1e-10, atol=1e-12)
    gradients = [
        torch.autograd.grad((out * probe).sum(), [x, *resampler.parameters()])
        for out, resampler in zip(outputs, (apart, hoisted), strict=True)
    ]
    assert_close(*gradients, rtol=1e-9, atol=1e-11)


def test_a_hoisted_resampler_heeds_hooks_on_its_layers(randomised, normal):
    resampler = PerceiverResampler(DIM, DEPTH, HEADS, DIM_HEAD, LATENTS, hoist_media=True)
    x = normal(1, 1, 5, DIM)
    resampler = randomised(resampler)
    plain = resampler(x)
    seen = []
    resampler.layers[1][0].to_kv.register_forward_hook(lambda *call: seen.append(call))
    assert_close(resampler(x), plain, rtol=1e-10, atol=1e-12)
    assert len(seen) == 2  # once for the media tokens, once for the latents


def test_gradients(randomised, normal):
    resampler = randomised(PerceiverResampler(4, 2, 2, 3, 2, ff_mult=2))
    names, weights = zip(*resampler.named_parameters(), strict=True)

    def call(x, *weights):
        return torch.func.functional_call(resampler, dict(zip(names, weights, strict=True)), (x,))

    x = normal(1, 2, 3, 4).requires_grad_()
    assert torch.autograd.gradcheck(call, (x, *weights), fast_mode=True)


def test_low_precision_follows_float32():
    torch.manual_seed(0)
    resampler = small()
    x = torch.randn(2, 2, 5, DIM)
    assert_close(resampler.bfloat16()(x.bfloat16()).float(), resampler.float()(x), rtol=0.05, atol=0.05)


def test_published_names_and_size():
    with torch.device("meta"):
        resampler = PerceiverResampler()
        norm_and_projection = nn.ModuleList([nn.LayerNorm(1152), nn.Linear(1152, 3072)])
    shapes = {"latents": (128, 1152)}
    for i in range(6):
        for norm in (f"{i}.0.norm_media", f"{i}.0.norm_latents", f"{i}.1.0"):
            shapes |= {f"layers.{norm}.weight": (1152,), f"layers.{norm}.bias": (1152,)}
        shapes |= {
            f"layers.{i}.0.to_q.weight": (1536, 1152),
            f"layers.{i}.0.to_kv.weight": (3072, 1152),
            f"layers.{i}.0.to_out.weight": (1152, 1536),
            f"layers.{i}.1.1.weight": (4608, 1152),
            f"layers.{i}.1.3.weight": (1152, 4608),
        }
    assert {name: tuple(value.shape) for name, value in resampler.state_dict().items()} == shapes
    parameters = [*resampler.parameters(), *norm_and_projection.parameters()]
    assert sum(p.numel() for p in parameters) == 109_901_568


def test_latents_start_as_unit_normal():
    torch.manual_seed(0)
    latents = PerceiverResampler(64, 1, 2, 8, 512).latents
    assert latents.mean().abs() < 0.02
    assert abs(latents.std() - 1) < 0.02


@pytest.mark.parametrize("shape", [(2, 5, DIM), (2, 2, 5, DIM + 1)])
def test_a_wrong_shape_is_refused(shape):
    with pytest.raises(ValueError, match=r"needs x \[B,T,S,8\]"):
        small()(torch.zeros(shape))
