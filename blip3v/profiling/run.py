"""`python -m blip3v.profiling.run`: what Nsight watches.

Only the active iterations are between start and stop of the profiler, so that neither tool sees the warm-up.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import torch
import tyro

from blip3v import ranges
from blip3v.errors import UserError
from blip3v.profiling.request import Request
from blip3v.profiling.workloads import build, device_of


def run(request: Request) -> None:
    """Warm-up, then the active iterations inside cudaProfilerStart and cudaProfilerStop.

    Without a GPU there is nothing to start; it runs all the same, so that a command can be tried anywhere.
    """
    request.check()
    on_gpu = device_of(request) == "cuda"
    total = request.warmup + request.iterations

    def after(done: int) -> None:
        if not on_gpu:
            return
        if done == request.warmup:
            torch.cuda.synchronize()
            torch.cuda.profiler.start()
        elif done == total:
            torch.cuda.synchronize()
            torch.cuda.profiler.stop()

    with ranges.enabled():
        build(request).run(total, after)


def main(arguments: Sequence[str]) -> int:
    try:
        run(tyro.cli(Request, prog="python -m blip3v.profiling.run", args=list(arguments)))
    except UserError as error:
        print(f"blip3v.profiling: error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
