"""How long a call takes: CUDA events with a cold L2 cache, or a monotonic clock on the CPU."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class Timing:
    """Median, 20th and 80th percentile in seconds."""

    median: float
    p20: float
    p80: float
    repeats: int
    clock: str

    @classmethod
    def of(cls, seconds: list[float], clock: str) -> Timing:
        values = torch.tensor(seconds, dtype=torch.float64)
        low, middle, high = values.quantile(torch.tensor([0.2, 0.5, 0.8], dtype=torch.float64)).tolist()
        return cls(middle, low, high, len(seconds), clock)


def time_call(
    call: Callable[[], Any], device: str = "cpu", repeats: int = 20, warmup: int = 3, graph: bool = False
) -> Timing:
    """Times `call` after `warmup` runs that do not count.

    On a GPU each repeat starts with an L2 cache that holds none of the call's data, and stands between two
    events. With `graph` the call is captured once and replayed: what is timed is then the GPU alone, without
    the launches that the CPU queues. The call must then allocate and synchronise as captures allow.

    Raises:
        ValueError: a graph of something that runs on the CPU, or no repeats.
    """
    if repeats < 1:
        raise ValueError(f"repeats is {repeats}, need at least 1")
    if torch.device(device).type != "cuda":
        if graph:
            raise ValueError("a CUDA graph needs a CUDA device")
        return Timing.of(_cpu_seconds(call, repeats, warmup), "time.perf_counter")
    with torch.cuda.device(device):
        if graph:
            call = _captured(call, warmup)
        clock = "CUDA events, L2 flushed" + (", graph replay" if graph else "")
        return Timing.of(_gpu_seconds(call, repeats, warmup), clock)


def _cpu_seconds(call: Callable[[], Any], repeats: int, warmup: int) -> list[float]:
    for _ in range(warmup):
        call()
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    return seconds


def _gpu_seconds(call: Callable[[], Any], repeats: int, warmup: int) -> list[float]:
    for _ in range(warmup):
        call()
    size = 2 * torch.cuda.get_device_properties(torch.cuda.current_device()).L2_cache_size
    flush = torch.empty(size, dtype=torch.int8, device="cuda")
    pairs = [
        (torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)) for _ in range(repeats)
    ]
    torch.cuda.synchronize()
    for start, end in pairs:
        # Writing the buffer also keeps the GPU busy while the CPU queues the call.
        flush.zero_()
        start.record()
        call()
        end.record()
    torch.cuda.synchronize()
    return [start.elapsed_time(end) / 1e3 for start, end in pairs]


def _captured(call: Callable[[], Any], warmup: int) -> Callable[[], Any]:
    """A replay of `call`. Warmed up on a side stream first, as captures ask."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(max(1, warmup)):
            call()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    return graph.replay
