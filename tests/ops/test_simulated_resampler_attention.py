"""The Hopper kernels of resampler_attention on the CPU: every schedule, every split, no memory but their own.

test_resampler_attention.py runs the backend `simulator` on the cases; here is what only a simulator can show.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from blip3v.ops.resampler_attention import Arguments
from blip3v.ops.resampler_attention.exact import exact
from blip3v.ops.tensor_description import describe
from blip3v.testing import simulator
from blip3v.testing.cases.resampler_attention import CASES, AttentionCase, AttentionInputs
from blip3v.testing.compare import compare

SCHEDULES = [("forward", 1), ("reverse", 1), *(("random", seed) for seed in range(1, 5))]


class Results(NamedTuple):
    out: Tensor
    lse: Tensor
    dq: Tensor
    dk_media: Tensor
    dv_media: Tensor
    dk_latents: Tensor
    dv_latents: Tensor


def launch(
    simulator_module: ModuleType,
    case: AttentionCase,
    inputs: AttentionInputs,
    splits: int,
    gradients: Sequence[Tensor] | None = None,
) -> tuple[Results, list[float]]:
    """Forward and backward into memory that was NaN, and the bytes that each loaded by TMA.

    A touch of memory that is not the call's is an error. gradients: where they go, if not into own memory.
    """
    scale = case.dim**-0.5
    out = torch.full(inputs.q.shape, torch.nan, dtype=torch.bfloat16)
    lse = torch.full((case.frames, case.heads, case.queries), torch.nan)
    if gradients is None:
        gradients = [torch.full(tensor.shape, torch.nan, dtype=tensor.dtype) for tensor in inputs[:5]]
    keep = None if inputs.keep is None else inputs.keep.view(torch.uint8)
    call = (*inputs[:6], keep, out, lse)
    loaded = []
    for function, tensors in (
        (simulator_module.resampler_attention_forward, call),
        (simulator_module.resampler_attention_backward, (*call, inputs.dout, *gradients)),
    ):
        simulator.reset_stats()
        with simulator.only(*(tensor for tensor in tensors if tensor is not None)):
            function(*(describe(simulator_module, tensor) for tensor in tensors), scale, splits, 0)
        loaded.append(simulator.stats()["tma_load_bytes"])
    return Results(out, lse, *gradients), loaded


@pytest.mark.parametrize("name", ["model", "hoisted_masked", "lengths_and_keep", "ragged"])
@pytest.mark.parametrize("splits", [0, 3])
def test_every_schedule_gives_the_same_bits(simulator_module: ModuleType, name: str, splits: int) -> None:
    case = CASES[name]
    inputs = case.build(torch.bfloat16)
    expected = None
    for schedule, seed in SCHEDULES:
        with simulator.schedule(schedule, seed):
            results, _ = launch(simulator_module, case, inputs, splits)
        expected = results if expected is None else expected
        for field, tensor, other in zip(Results._fields, results, expected):
            assert torch.equal(tensor, other), (field, schedule, seed)
    assert not any(tensor.isnan().any() for tensor in expected)


@pytest.mark.parametrize("splits", range(1, 9))
@pytest.mark.parametrize("name", ["ragged", "lengths", "nothing_seen", "one_latent_key", "hoisted_masked"])
def test_any_number_of_splits_is_right(simulator_module: ModuleType, name: str, splits: int) -> None:
    case = CASES[name]
    inputs = case.build(torch.bfloat16)
    results, _ = launch(simulator_module, case, inputs, splits)
    truth = exact(Arguments(*inputs[:7]), inputs.dout)
    verdicts = [compare(name, tensor, *truth[name]) for name, tensor in results._asdict().items()]
    assert all(verdict.ok for verdict in verdicts), "\n".join(map(str, verdicts))


@pytest.mark.parametrize("splits", [1, 3])
@pytest.mark.parametrize("name", ["hoisted_masked", "lengths", "dim_72_of_the_vit"])
def test_gradients_go_into_views_of_one_tensor(simulator_module: ModuleType, name: str, splits: int) -> None:
    case = CASES[name]
    inputs = case.build(torch.bfloat16)
    expected, _ = launch(simulator_module, case, inputs, splits)
    frames, heads, dim = case.frames, case.heads, case.dim
    # As the fused key/value projection of one layer among six would want them.
    media = torch.full((frames, case.media, 6, 2, heads, dim), torch.nan, dtype=torch.bfloat16)
    latents = torch.full((frames, case.latents, 2, heads, dim), torch.nan, dtype=torch.bfloat16)
    dq = torch.full((frames, heads, case.queries, dim), torch.nan, dtype=torch.bfloat16)
    views = [dq.transpose(1, 2), *media[:, :, 4].unbind(2), *latents.unbind(2)]
    results, _ = launch(simulator_module, case, inputs, splits, views)
    for field, tensor, other in zip(Results._fields, results, expected):
        assert torch.equal(tensor, other), field
    assert media[:, :, [0, 1, 2, 3, 5]].isnan().all(), "written between the rows"


@pytest.mark.parametrize("name", ["lengths", "lengths_zero"])
def test_keys_past_the_length_are_not_read_by_whole_tiles(simulator_module: ModuleType, name: str) -> None:
    case = CASES[name]
    full = AttentionCase(**{**case.__dict__, "lengths": None})
    _, some = launch(simulator_module, case, case.build(torch.bfloat16), splits=1)
    _, every = launch(simulator_module, full, full.build(torch.bfloat16), splits=1)
    assert some[0] < every[0] and some[1] < every[1]
