"""Recordings: which are kept, and that a replay writes over nobody's results."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from blip3v.models.recorded import CudaRecorder, Function, RecordedFunction


class Recorder:
    """Replays by calling, and knows what it has recorded."""

    def __init__(self) -> None:
        self.shapes: list[int] = []

    def __call__(self, function: Function, x: Tensor) -> Function:
        self.shapes.append(len(x))
        return function


def test_one_recording_a_shape_and_the_unused_one_goes_first() -> None:
    recorder = Recorder()
    run = RecordedFunction(lambda x: 2 * x, most=2, record=recorder)
    for count in (3, 3, 5, 3, 7, 3, 5):
        assert torch.equal(run(torch.ones(count)), torch.full((count,), 2.0))
        assert len(run) <= 2
    # 7 took the place of 5, which was recorded again at the end.
    assert recorder.shapes == [3, 5, 7, 5]


def test_dtypes_are_told_apart() -> None:
    recorder = Recorder()
    run = RecordedFunction(lambda x: x, record=recorder)
    run(torch.ones(3))
    assert run(torch.ones(3, dtype=torch.bfloat16)).dtype == torch.bfloat16
    assert recorder.shapes == [3, 3]


@pytest.mark.gpu
def test_graphs_replay_on_new_input_and_leave_earlier_results() -> None:
    torch.manual_seed(0)
    layer = torch.nn.Linear(64, 64, device="cuda").requires_grad_(False)
    run = RecordedFunction(lambda x: layer(x).relu(), most=2, record=CudaRecorder())
    inputs = [torch.randn(count, 64, device="cuda") for count in (4, 4, 8, 4, 16, 8, 4)]
    results = [run(x) for x in inputs]
    for x, result in zip(inputs, results, strict=True):
        assert torch.equal(result, layer(x).relu())
        assert not result.is_inference()
