"""Every op, with the inputs and gradients of its case."""

from __future__ import annotations

import importlib
from typing import Any

import pytest
import torch

from blip3v.errors import UserError
from blip3v.ops.registry import OPS
from blip3v.ops.resampler_attention import resampler_attention
from blip3v.ops.token_learner import token_learner
from blip3v.profiling.ops import op_call
from blip3v.profiling.request import Request

SMALL = {
    "resampler_attention": "lengths_and_keep",
    "token_learner": "keep",
    "grouped_attention": "two_channels",
    "feed_forward": "one_token",
    "ttm_read": "narrow",
    "ttm_write": "narrow",
    "grouped_ttm": "small",
}
DIFFERENTIABLE = {
    "resampler_attention": "q k_media v_media k_latents v_latents",
    "token_learner": "x norm1_weight norm1_bias norm2_weight norm2_bias w1 w2",
    "grouped_attention": "x qkv norm_weight norm_bias",
    "feed_forward": "z w1 w2 residual",
    "ttm_read": "memory frame norm_weight norm_bias",
    "ttm_write": "memory processed norm1_weight norm1_bias norm2_weight norm2_bias w1 w2 "
    "frame norm_weight norm_bias",
    "grouped_ttm": "frames memory weights",
}


@pytest.mark.parametrize("op", list(OPS))
def test_every_op_gives_a_gradient_of_everything_that_has_one(op: str) -> None:
    gradients = op_call(Request("op", op, case=SMALL[op], direction="forward+backward"), "cpu")()
    inputs = importlib.import_module(f"blip3v.testing.cases.{op}").CASES[SMALL[op]].build(torch.float32)
    expected: list[torch.Size] = []
    for name in DIFFERENTIABLE[op].split():
        value: Any = getattr(inputs, name)
        expected += [tensor.shape for tensor in (value if isinstance(value, list) else [value])]
    assert [gradient.shape for gradient in gradients] == expected
    assert all(gradient.abs().sum() > 0 for gradient in gradients)


@pytest.mark.parametrize("op", list(OPS))
def test_the_default_case_exists(op: str) -> None:
    from blip3v.profiling.ops import DEFAULT_CASE

    assert DEFAULT_CASE.get(op, "model") in importlib.import_module(f"blip3v.testing.cases.{op}").CASES


def test_forward_is_the_op_itself_without_gradients() -> None:
    from blip3v.testing.cases.token_learner import CASES

    inputs = CASES["keep"].build(torch.float32)
    out = op_call(Request("op", "token_learner", case="keep"), "cpu")()
    assert torch.equal(out, token_learner(*inputs[:7], keep=inputs.keep))
    assert not out.requires_grad


def test_masks_reach_the_op() -> None:
    from blip3v.testing.cases.resampler_attention import CASES

    inputs = CASES["lengths_and_keep"].build(torch.float32)
    out = op_call(Request("op", "resampler_attention", case="lengths_and_keep"), "cpu")()
    assert torch.equal(out, resampler_attention(*inputs[:5], lengths=inputs.lengths, keep=inputs.keep))
    assert not torch.equal(out, resampler_attention(*inputs[:5], lengths=inputs.lengths))


def test_refusals() -> None:
    with pytest.raises(UserError, match="token_learner has no case 'modell': choose one of model, "):
        op_call(Request("op", "token_learner", case="modell"), "cpu")
    with pytest.raises(UserError, match="has no backend 'cudnn'"):
        op_call(Request("op", "token_learner", case="narrow", backend="cudnn"), "cpu")()
