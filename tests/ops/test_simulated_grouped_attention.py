"""The kernels of grouped_attention on the CPU: every schedule, no memory but their own, and what they refuse.

test_grouped_attention.py runs the backend `simulator` on the cases; here is what only a simulator can show.
"""

from __future__ import annotations

from types import ModuleType

import pytest
import torch

from blip3v.ops.grouped_attention import compiled
from blip3v.ops.tensor_description import describe
from blip3v.testing import simulator
from blip3v.testing.cases.grouped_attention import CASES, GroupCase
from tests.ops.problems_grouped_attention import Call

SCHEDULES = [("forward", 1), ("reverse", 1), *(("random", seed) for seed in range(1, 5))]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("backward", [False, True], ids=["forward", "backward"])
@pytest.mark.parametrize(
    "name", ["model", "8_tokens_of_the_demo", "strided", "strided_large_group", "six_channels", "nine_heads"]
)
def test_every_schedule_gives_the_same_bits(
    simulator_module: ModuleType, name: str, backward: bool, dtype: torch.dtype
) -> None:
    call, expected = Call(CASES[name], dtype, backward), None
    for schedule, seed in SCHEDULES:
        with simulator.schedule(schedule, seed):  # type: ignore[arg-type]
            results = {output: pair[0].clone() for output, pair in call(simulator_module).items()}
        expected = results if expected is None else expected
        for output, tensor in results.items():
            assert torch.equal(tensor, expected[output]), (output, schedule, seed)
            assert not tensor.isnan().any()


@pytest.mark.parametrize("blocks", [1, 2, 5])
def test_any_number_of_blocks_makes_the_same_sums(simulator_module: ModuleType, blocks: int) -> None:
    """One row of partial sums per block; dx and dqkv do not depend on who made them."""
    inputs = GroupCase("five_groups", groups=5, heads=2, dim=16).build(torch.float32)
    y, _, mean, rstd = compiled.forward(simulator_module, 0, *inputs[:4], 1e-5)
    dx, dqkv, weight, bias = compiled.backward(
        simulator_module, 0, inputs.dy, inputs.dz, inputs.qkv, inputs.norm_weight, y, mean, rstd
    )
    partials = torch.full((blocks, 2, 32), torch.nan)
    others = [torch.full_like(dx, torch.nan), torch.full_like(dqkv, torch.nan)]
    given = (inputs.dy, inputs.dz, inputs.qkv, inputs.norm_weight, y, mean, rstd, *others, partials)
    described = [describe(simulator_module, tensor) for tensor in given]
    simulator_module.grouped_attention_backward(*described, None, 0)
    assert torch.equal(others[0], dx) and torch.equal(others[1], dqkv)
    torch.testing.assert_close(partials.sum(0), torch.stack((weight, bias)))


@pytest.mark.parametrize("tokens", [5, 9])
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_scores_far_from_zero(simulator_module: ModuleType, tokens: int, sign: float) -> None:
    """exp2 of such a score is infinite or zero: only differences may enter, and none of a key that is not
    there."""
    inputs = GroupCase("loud", groups=1, tokens=tokens, heads=1, dim=16).build(torch.float32)
    qkv = inputs.qkv.clone()
    qkv[:, :, 0] = 8 * sign
    qkv[:, :, 1] = 8 + 0.01 * qkv[:, :, 1]
    y, z, mean, rstd = compiled.forward(simulator_module, 0, inputs.x, qkv, *inputs[2:4], 1e-5)
    gradients = compiled.backward(
        simulator_module, 0, inputs.dy, inputs.dz, qkv, inputs.norm_weight, y, mean, rstd
    )
    assert all(tensor.isfinite().all() for tensor in (y, z, mean, rstd, *gradients))
    q, k, v = qkv[0, :, :, 0].double().unbind(1)
    expected = inputs.x[0] + (q @ k.T / 4).softmax(-1) @ v
    torch.testing.assert_close(y[0].double(), expected, rtol=1e-3, atol=1e-3)


def refusal(module: ModuleType, **changes: torch.Tensor | float) -> str:
    """What the binding says about one wrong argument of the forward."""
    inputs = GroupCase("tiny", 2, 5, 2, 8).build(torch.float32)
    tensors = {
        **dict(zip(("x", "qkv", "norm_weight", "norm_bias"), inputs[:4])),
        "y": torch.empty_like(inputs.x),
        "z": torch.empty_like(inputs.x),
        "mean": torch.empty(2, 5),
        "rstd": torch.empty(2, 5),
    }
    eps = changes.pop("eps", 1e-5)
    tensors |= changes  # type: ignore[arg-type]
    described = [describe(module, tensor) for tensor in tensors.values()]
    with pytest.raises(RuntimeError) as caught:
        module.grouped_attention_forward(*described, eps, 0)
    return str(caught.value)


def test_the_binding_refuses_what_the_kernels_cannot_take(simulator_module: ModuleType) -> None:
    module = simulator_module
    assert (
        refusal(module, qkv=torch.zeros(2, 5, 3, 2, 8).half())
        == "blip3v: grouped_attention: dtype (got float16, need bfloat16 or float32)"
    )
    assert "x has the wrong dtype (got bfloat16, need float32)" in refusal(
        module, x=torch.zeros(2, 5, 16).bfloat16()
    )
    assert "x has the wrong shape (got [2, 5, 14], need [2, 5, 16])" in refusal(
        module, x=torch.zeros(2, 5, 14)
    )
    assert "channels per head (got 7, need an even number)" in refusal(module, qkv=torch.zeros(2, 5, 3, 2, 7))
    assert "tokens of a group (got 65, need 1 to 64)" in refusal(module, qkv=torch.zeros(1, 65, 3, 1, 2))
    assert "x starts at an unaligned address (got 4 bytes past 8" in refusal(
        module, x=torch.zeros(161)[1:].view(2, 5, 16)
    )
    assert "x has an odd stride (got 85, need even ones" in refusal(module, x=torch.zeros(2, 5, 17)[..., :16])
    assert "x has a strided last dimension (got 2, need 1" in refusal(
        module, x=torch.zeros(2, 5, 32)[..., ::2]
    )
    assert "each token of qkv is not contiguous" in refusal(
        module, qkv=torch.zeros(2, 5, 3, 8, 2).transpose(3, 4)
    )
    assert "y is not contiguous" in refusal(module, y=torch.zeros(2, 5, 18)[..., :16])
    assert "mean has the wrong shape" in refusal(module, mean=torch.zeros(2, 4))
    assert "norm_weight has the wrong dtype" in refusal(module, norm_weight=torch.zeros(16).bfloat16())
    assert "eps (got 0.000000, need a finite number above 0)" in refusal(module, eps=0.0)


def test_the_backward_refuses_too_many_blocks_and_missing_sums(simulator_module: ModuleType) -> None:
    for tokens, blocks, reason in (
        (5, 3, "blocks, the rows of partials, .got 3, need 1 to 2"),
        (9, 2, "row_sums"),
    ):
        inputs = GroupCase("tiny", 2, tokens, 2, 8).build(torch.float32)
        statistics = [torch.zeros(2, tokens) for _ in range(2)]
        outputs = (torch.zeros_like(inputs.x), torch.zeros_like(inputs.qkv), torch.zeros(blocks, 2, 16))
        given = (inputs.dy, inputs.dz, inputs.qkv, inputs.norm_weight, inputs.x, *statistics, *outputs)
        described = [describe(simulator_module, tensor) for tensor in given]
        with pytest.raises(RuntimeError, match=reason):
            simulator_module.grouped_attention_backward(*described, None, 0)
