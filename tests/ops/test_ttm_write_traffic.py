"""What the kernels of ttm_write move, counted in the simulator: the half of their speed that needs no GPU.

The floor: every row read once and written once; parameters are read once by each block, of which there are as
many as the multiprocessors hold.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from blip3v.ops.ttm_write import Arguments, compiled
from blip3v.testing import simulator
from blip3v.testing.cases.ttm_write import WriteCase

MODEL = WriteCase("model", positions=7, width=1152)
SMALL = WriteCase("small", videos=2, positions=2, slots=2, width=72, memory="expanded")
LAST = WriteCase("last_step", positions=4, width=136, frame=False)

pytestmark = pytest.mark.usefixtures("simulator_module")


def bytes_of(*tensors: Tensor) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def run(case: WriteCase, dtype: torch.dtype):  # type: ignore[no-untyped-def]
    """Counters of forward and backward, what they were given and what they made."""
    inputs, module = case.build(dtype), simulator.load()
    arguments = Arguments(*inputs[:12])
    simulator.reset_stats()
    results = compiled.forward(module, 0, *arguments, 1e-5)
    forward = simulator.stats()
    simulator.reset_stats()
    given = (inputs.dgroup, inputs.dnormed, *arguments, results[0], *results[2:], 1e-5)
    gradients = compiled.backward(module, 0, *given)
    return forward, simulator.stats(), inputs, results, gradients


@pytest.mark.parametrize("case", [MODEL, SMALL, LAST], ids=lambda case: case.name)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
def test_rows_are_read_once_and_written_once(case: WriteCase, dtype: torch.dtype) -> None:
    forward, backward, inputs, results, gradients = run(case, dtype)
    positions, vector = case.videos * case.positions, 4 * case.width
    rows = bytes_of(inputs.memory, inputs.processed)
    learned = 4 * vector + 2 * case.slots * vector + 4 * 2 * case.slots**2
    again = 0
    if case.frame:
        rows += bytes_of(inputs.frame)
        again = positions * (
            bytes_of(inputs.stamp) + 2 * vector
        )  # from the cache, where all blocks find them
    assert forward["global_load_bytes"] == rows + again + min(positions, 6) * learned
    assert forward["global_store_bytes"] == bytes_of(*results)

    blocks = simulator.load().ttm_write_blocks(positions)
    assert blocks == min(positions, 3)
    rows = bytes_of(inputs.memory, inputs.processed, inputs.dgroup)
    again = 0
    if case.frame:
        threads = -(-case.width // 128) * 32  # each reads the statistics for itself
        rows += bytes_of(inputs.dnormed, results[0])
        again = positions * vector + threads * bytes_of(*results[2:])
    at_the_end = 2 * vector + 2 * case.slots * vector
    assert backward["global_load_bytes"] == rows + again + blocks * (learned + at_the_end)
    written = [gradient for gradient in (*gradients[:2], gradients[8]) if gradient is not None]
    sums = (2 * case.slots + 6) * vector + 4 * 2 * case.slots**2
    assert backward["global_store_bytes"] == bytes_of(*written) + blocks * sums


def test_shared_memory_is_used_without_many_conflicts() -> None:
    """Rows and weights are each thread's own, side by side; only the few sums of a row are read out of
    step."""
    forward, backward, *_ = run(MODEL, torch.bfloat16)
    for counted in (forward, backward):
        assert counted["shared_conflicts"] <= 0.2 * counted["shared_accesses"]
