"""What the kernels of token_learner move and compute, counted in the simulator.

That is the half of their speed that needs no GPU.

The floors assume that x is read once for the logits and once for the sums, and that outputs are written once.
"""

from __future__ import annotations

from types import ModuleType

import pytest
import torch
from torch import Tensor

from blip3v.ops.token_learner import Arguments, compiled
from blip3v.testing import simulator
from blip3v.testing.cases.token_learner import PoolingCase

TILE, CHUNK, MADE = 128, 64, 64
MODEL = PoolingCase("model", tokens=256, made=32, width=576)
RAGGED = PoolingCase("ragged", videos=2, tokens=200, made=10, width=200, hidden=24)
CASES = [MODEL, RAGGED]

pytestmark = pytest.mark.usefixtures("simulator_module")


def bytes_of(*tensors: Tensor) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def up(size: int, unit: int) -> int:
    return -(-size // unit) * unit


class Counted:
    """The module; the counters of its launches are kept one by one in `forward` and `backward`."""

    def __init__(self, module: ModuleType, case: PoolingCase) -> None:
        inputs = case.build(torch.bfloat16)
        self.inputs, arguments = inputs, Arguments(*inputs[:8])
        simulator.reset_stats()
        self.out, self.lse = compiled.forward(module, 0, *arguments, 1e-5)
        self.forward = simulator.stats()
        simulator.reset_stats()
        self.gradients = compiled.backward(module, 0, inputs.dout, *arguments, self.out, self.lse, 1e-5)
        self.backward = simulator.stats()


@pytest.fixture(params=CASES, ids=lambda case: case.name)
def counted(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> tuple[PoolingCase, Counted]:
    monkeypatch.setattr(compiled, "SPLITS", 1)
    monkeypatch.setattr(compiled, "POOL_SPLITS", 1)
    return request.param, Counted(simulator.load(), request.param)


def weights_of(case: PoolingCase) -> tuple[int, int]:
    """Bytes of Wf and of w2, of which every tile of tokens reads one each; w2 is padded to 64 x 64."""
    return 2 * up(case.inner, 64) * case.width, 2 * MADE * up(case.inner, 64)


def test_x_is_read_once_for_the_logits_and_once_for_the_sums(counted) -> None:
    case, run = counted
    tiles = case.videos * up(case.tokens, TILE) // TILE
    w1, w2 = weights_of(case)
    assert run.forward["launches"] == 3
    assert run.forward["tma_load_bytes"] == 2 * bytes_of(run.inputs.x) + tiles * (w1 + w2)
    logits = 4 * case.videos * MADE * up(case.tokens, TILE)
    parts = 8 * case.videos * 2 * (up(case.tokens, TILE) // TILE) * MADE
    folded = weights_of(case)[0] + w2 + 16 * up(case.inner, 64) + 12 * case.width + 32
    assert run.forward["global_store_bytes"] == bytes_of(run.out, run.lse) + logits + parts + folded


def test_the_backward_reads_x_three_times_and_writes_dx_once(counted) -> None:
    case, run = counted
    tiles = case.videos * up(case.tokens, TILE) // TILE
    w1, w2 = weights_of(case)
    dout = bytes_of(run.inputs.dout)
    made, slices = up(case.made, 8), up(case.width, 192) // 192
    rounded = 2 * case.videos * case.tokens * (made + case.inner)  # A and dh'
    own_w1 = 2 * case.inner * case.width
    per_tile = up(case.tokens, TILE) // TILE
    assert run.backward["launches"] == 4
    assert run.backward["tma_store_bytes"] == bytes_of(run.gradients[0])
    assert run.backward["tma_load_bytes"] == (
        3 * bytes_of(run.inputs.x)
        + tiles * (w1 + w2)  # logits
        + per_tile * dout + tiles * w2  # slopes
        + slices * rounded + per_tile * dout + tiles * own_w1  # inputs
    )  # fmt: skip


def test_the_tensor_cores_multiply_nothing_but_the_tiles(counted) -> None:
    case, run = counted
    tokens, rows = case.videos * up(case.tokens, TILE), case.videos * up(case.tokens, CHUNK)
    slices = up(case.width, 192)  # enough blocks for the few multiprocessors of the simulator
    width, hidden = up(case.width, CHUNK), up(case.inner, 64)
    logits = 2 * tokens * (hidden * width + hidden * MADE)
    assert run.forward["wgmma_flops"] == logits + 2 * rows * MADE * slices
    slopes = 2 * tokens * MADE * (width + hidden)
    inputs = 2 * tokens * (up(case.made, 64) + hidden) * slices
    assert run.backward["wgmma_flops"] == logits + slopes + inputs


@pytest.mark.parametrize("splits", [1, 4])
def test_shared_memory_is_used_without_many_conflicts(splits, monkeypatch, capsys) -> None:
    monkeypatch.setattr(compiled, "SPLITS", splits)
    monkeypatch.setattr(compiled, "POOL_SPLITS", splits)
    run = Counted(simulator.load(), MODEL)
    with capsys.disabled():
        for name, counters in (("forward", run.forward), ("backward", run.backward)):
            share = counters["shared_conflicts"] / counters["shared_accesses"]
            print(
                f"\n{name}: {counters['shared_accesses']} shared accesses, {share:.2f} extra wavefronts each",
                end="",
            )
            assert share <= 0.5, name


def test_counters_do_not_depend_on_the_schedule() -> None:
    seen = []
    for name, seed in (("forward", 1), ("reverse", 1), ("random", 7)):
        with simulator.schedule(name, seed):
            run = Counted(simulator.load(), RAGGED)
        for counters in (run.forward, run.backward):
            for varying in ("switches", "schedule_points", "seconds"):
                del counters[varying]
        seen.append((run.forward, run.backward))
    assert seen[0] == seen[1] == seen[2]
