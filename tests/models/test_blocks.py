from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from blip3v.models.blocks import SelfAttention, attend, feed_forward, transformer


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_attention_is_the_formula(formulas, normal, implementation):
    q, k, v = normal(2, 3, 4, 5), normal(2, 3, 6, 5), normal(2, 3, 6, 5)
    out = attend(q, k, v, implementation=implementation).transpose(1, 2).flatten(2)
    for b in range(2):
        rows = [list(x[b].transpose(0, 1).flatten(1)) for x in (q, k, v)]
        assert_close(out[b], torch.stack(formulas.attend(*rows, heads=3)), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_masked_keys_do_not_exist(normal, implementation):
    q, k, v = normal(2, 3, 4, 5), normal(2, 3, 6, 5), normal(2, 3, 6, 5)
    keep = torch.tensor([True, False, True, True, False, True])
    masked = attend(q, k, v, keep[None, None, None], implementation)
    assert_close(masked, attend(q, k[:, :, keep], v[:, :, keep]), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_a_transformer_is_the_formula(formulas, randomised, normal, implementation):
    layers = randomised(transformer(2, 8, heads=2, ff_mult=3, implementation=implementation))
    state = {f"layers.{name}": value for name, value in layers.state_dict().items()}
    x = normal(2, 5, 8)
    expected = torch.stack(
        [torch.stack(formulas.transformer(list(tokens), state, "layers", heads=2)) for tokens in x]
    )
    assert_close(layers(x), expected, rtol=1e-9, atol=1e-10)


def test_self_attention_has_no_biases_and_no_output_projection():
    assert {name: tuple(p.shape) for name, p in SelfAttention(8, 2).named_parameters()} == {
        "norm.weight": (8,),
        "norm.bias": (8,),
        "to_q.weight": (8, 8),
        "to_k.weight": (8, 8),
        "to_v.weight": (8, 8),
    }


def test_feed_forward_has_the_published_names():
    assert {name: tuple(p.shape) for name, p in feed_forward(8, 4).named_parameters()} == {
        "0.weight": (8,),
        "0.bias": (8,),
        "1.weight": (32, 8),
        "3.weight": (8, 32),
    }


def test_heads_must_divide_the_width():
    with pytest.raises(ValueError, match="10 does not divide into 4 heads"):
        SelfAttention(10, 4)
