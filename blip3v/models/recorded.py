"""A function of one tensor as CUDA graphs, one for each shape of its input.

Recorded once, a graph starts all its kernels by one call. It reads and writes fixed places: inputs are copied
to where it reads, and its output is copied away before the next replay writes there, so that what a backward
pass has kept stays as it was.

Not yet run on a GPU.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Function = Callable[[Tensor], Tensor]
Record = Callable[[Function, Tensor], Function]

WARMUP = 3
"""Calls before recording: libraries choose and load their kernels, which a recording must not see."""


class RecordedFunction:
    """`function` by replay, without gradients.

    Args:
        function: the same kernels for every input of a shape; no look at values.
        most: recordings kept; the one not used for the longest goes first. Each keeps an input and an output,
            what lies between they share.
        record: (function, an input) -> its replay; CUDA graphs, if not given.
    """

    def __init__(self, function: Function, most: int = 4, record: Record | None = None) -> None:
        self.function, self.most = function, most
        self.record = CudaRecorder() if record is None else record
        self._replays: OrderedDict[tuple[object, ...], Function] = OrderedDict()

    def __len__(self) -> int:
        return len(self._replays)

    def __call__(self, x: Tensor) -> Tensor:
        key = (x.shape, x.dtype)
        if key not in self._replays:
            while len(self._replays) >= self.most:
                # Before recording: its memory serves the next one.
                self._replays.popitem(last=False)
            self._replays[key] = self.record(self.function, x)
        self._replays.move_to_end(key)
        return self._replays[key](x)


class CudaRecorder:
    """Records CUDA graphs that share one pool of memory.

    They may, because they run one after the other on one stream and nothing in the pool is read after a
    replay but its output, which is copied at once.
    """

    def __init__(self) -> None:
        self._pool: Any = None

    def __call__(self, function: Function, x: Tensor) -> Function:
        if self._pool is None:
            self._pool = torch.cuda.graph_pool_handle()
        # Tensors made in inference mode could not be written to outside it.
        with torch.inference_mode(False), torch.no_grad(), torch.cuda.device(x.device):
            static_input = x.clone()
            stream = torch.cuda.Stream()
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                for _ in range(WARMUP):
                    function(static_input)
            torch.cuda.current_stream().wait_stream(stream)
            graph = torch.cuda.CUDAGraph()
            # Threads that load data or write checkpoints may use the GPU meanwhile.
            with torch.cuda.graph(graph, pool=self._pool, stream=stream, capture_error_mode="thread_local"):
                static_output = function(static_input)

        def replay(value: Tensor) -> Tensor:
            static_input.copy_(value, non_blocking=True)
            graph.replay()
            return static_output.clone()

        return replay
