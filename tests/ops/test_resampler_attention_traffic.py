"""What the kernels move and compute, counted in the simulator: the half of their speed that needs no GPU.

The floors of resampler_attention assume that keys and values are read once and outputs written once.
"""

from __future__ import annotations

import pytest
import torch

from blip3v.ops.resampler_attention import Arguments, compiled
from blip3v.testing import simulator
from blip3v.testing.cases.resampler_attention import AttentionCase

TILE = 64
MODEL = AttentionCase("model", frames=2, heads=2)
RAGGED = AttentionCase("ragged", frames=1, queries=100, heads=1, media=70, latents=10)
SPLIT = AttentionCase("split", frames=1, heads=1)
CASES = [MODEL, RAGGED, SPLIT]


pytestmark = pytest.mark.usefixtures("simulator_module")


def bytes_of(*tensors: torch.Tensor) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def tiles_of(keys: int) -> int:
    return -(-keys // TILE)


def products(case: AttentionCase, count: int) -> int:
    """FLOPs of `count` products of all 128 query rows with every tile of keys."""
    tiles = tiles_of(case.media) + tiles_of(case.latents)
    return count * 2 * case.frames * case.heads * 128 * TILE * tiles * case.dim


def run(case: AttentionCase, splits: int):
    """Counters of the forward and of the backward kernel, and what they were given and made."""
    inputs = case.build(torch.bfloat16)
    arguments = Arguments(*inputs[:7])
    scale, module, cpu_stream = case.dim**-0.5, simulator.load(), 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compiled, "SPLITS", splits)
        simulator.reset_stats()
        out, lse = compiled.forward(module, cpu_stream, *arguments, scale)
        forward = simulator.stats()
        simulator.reset_stats()
        gradients = compiled.backward(module, cpu_stream, inputs.dout, *arguments, out, lse, scale)
        return forward, simulator.stats(), inputs, out, lse, gradients


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_everything_is_read_once_and_written_once(case):
    splits = 2 if case is SPLIT else 1
    forward, backward, inputs, out, lse, gradients = run(case, splits)
    queries, keys_values = bytes_of(inputs.q), bytes_of(*inputs[1:5])

    # A split block needs all the queries, whichever keys it has.
    assert forward["tma_load_bytes"] == splits * queries + keys_values
    assert forward["global_load_bytes"] == 0
    assert forward["tma_store_bytes"] + forward["global_store_bytes"] == bytes_of(out, lse)
    assert forward["wgmma_flops"] == products(case, 2)

    assert backward["tma_load_bytes"] == 2 * splits * queries + keys_values
    # out and lse, for the row sums; the four threads of a quad each ask for the lse of their rows.
    assert backward["global_load_bytes"] == splits * (bytes_of(out) + 4 * bytes_of(lse))
    assert backward["tma_store_bytes"] + backward["global_store_bytes"] == bytes_of(*gradients)
    assert backward["wgmma_flops"] == products(case, 5)


def test_shared_memory_is_used_without_many_conflicts(capsys):
    forward, backward, *_ = run(MODEL, 1)
    with capsys.disabled():
        for name, counted in (("forward", forward), ("backward", backward)):
            share = counted["shared_conflicts"] / counted["shared_accesses"]
            accesses = counted["shared_accesses"]
            print(f"\n{name}: {accesses} shared accesses, {share:.2f} extra wavefronts each", end="")
            assert share <= 1, name


def test_counters_do_not_depend_on_the_schedule():
    seen = []
    for name, seed in (("forward", 1), ("reverse", 1), ("random", 7)):
        with simulator.schedule(name, seed):
            counters = run(RAGGED, 1)[:2]
        for counted in counters:
            for varying in ("switches", "schedule_points", "seconds"):
                del counted[varying]
        seen.append(counters)
    assert seen[0] == seen[1] == seen[2]
