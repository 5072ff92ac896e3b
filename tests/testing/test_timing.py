"""Timing measures what it says, as often as it says."""

from __future__ import annotations

import time

import pytest
import torch

from blip3v.testing.timing import Timing, time_call


def test_quantiles() -> None:
    timing = Timing.of([float(n) for n in range(11)], "none")
    assert (timing.p20, timing.median, timing.p80, timing.repeats) == (2.0, 5.0, 8.0, 11)


def test_a_sleep_on_the_cpu() -> None:
    calls = []

    def call() -> None:
        calls.append(1)
        time.sleep(0.002)

    timing = time_call(call, repeats=5, warmup=2)
    assert len(calls) == 7 and timing.repeats == 5
    assert 0.002 <= timing.p20 <= timing.median <= timing.p80
    assert timing.clock == "time.perf_counter"


def test_refusals() -> None:
    with pytest.raises(ValueError, match="a CUDA graph needs a CUDA device"):
        time_call(lambda: None, graph=True)
    with pytest.raises(ValueError, match="repeats is 0"):
        time_call(lambda: None, repeats=0)


@pytest.mark.gpu
@pytest.mark.parametrize("graph", [False, True])
def test_a_copy_on_a_gpu_takes_longer_than_its_bytes_allow(graph: bool) -> None:
    source = torch.ones(2**26, device="cuda")
    target = torch.empty_like(source)
    timing = time_call(lambda: target.copy_(source), "cuda", graph=graph)
    assert timing.repeats == 20 and "L2 flushed" in timing.clock
    assert 2 * source.nbytes / 10e12 < timing.median < 0.1
