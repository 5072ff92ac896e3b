"""What the kernels of ttm_read move, counted in the simulator: the half of their speed that needs no GPU.

The floor: every row read once and written once; statistics and parameters are small beside it.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from blip3v.ops.ttm_read import Arguments, compiled
from blip3v.testing import simulator
from blip3v.testing.cases.ttm_read import ReadCase

MODEL = ReadCase(
    "model", videos=1, positions=14, width=1152, memory="group", strided_frame=True, precise=True
)
SMALL = ReadCase("small", videos=2, positions=2, slots=2, width=72, memory="expanded")

pytestmark = pytest.mark.usefixtures("simulator_module")


def bytes_of(*tensors: Tensor) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


@pytest.mark.parametrize("case", [MODEL, SMALL], ids=lambda case: case.name)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
def test_rows_are_read_once_and_written_once(case: ReadCase, dtype: torch.dtype) -> None:
    inputs, module = case.build(dtype), simulator.load()
    arguments = Arguments(*inputs[:5])
    simulator.reset_stats()
    results = compiled.forward(module, 0, *arguments, 1e-5)
    forward = simulator.stats()
    simulator.reset_stats()
    given = (inputs.dgroup, inputs.dnormed, results[0], arguments.norm_weight, results[2], results[3])
    gradients = compiled.backward(module, 0, *given)
    backward = simulator.stats()

    positions, vector = case.videos * case.positions, 4 * case.width
    blocks = module.ttm_read_blocks(positions)
    assert blocks == min(positions, 12)
    stamps = positions * bytes_of(inputs.stamp)  # from the cache, where all blocks find it
    assert (
        forward["global_load_bytes"] == bytes_of(inputs.memory, inputs.frame) + stamps + blocks * 2 * vector
    )
    assert forward["global_store_bytes"] == bytes_of(*results)

    threads = -(-case.width // 128) * 32  # each reads the statistics for itself
    assert backward["global_load_bytes"] == (
        bytes_of(inputs.dgroup, inputs.dnormed, results[0])
        + threads * bytes_of(*results[2:])
        + blocks * vector
    )
    assert backward["global_store_bytes"] == bytes_of(*gradients[:2]) + blocks * 2 * vector


def test_shared_memory_is_used_without_conflicts() -> None:
    inputs, module = MODEL.build(torch.bfloat16), simulator.load()
    simulator.reset_stats()
    compiled.forward(module, 0, *inputs[:5], 1e-5)
    counted = simulator.stats()
    assert counted["shared_conflicts"] <= 0.1 * counted["shared_accesses"]
