"""The torch profiler: a trace, and what it says in numbers. On a CPU or a GPU, without further tools."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile, schedule

from blip3v import ranges
from blip3v.files import written_aside
from blip3v.profiling.request import Request
from blip3v.profiling.summary import summarise
from blip3v.profiling.trace import read_trace, understand
from blip3v.profiling.workloads import build, device_of
from blip3v.train.metrics import peak_memory

TRACE, SUMMARY = "trace.json.gz", "summary.json"


def run_torch(request: Request, folder: Path) -> dict[str, Any]:
    """Profiles the active iterations into folder/trace.json.gz and folder/summary.json; -> the summary.

    The trace opens in Perfetto or chrome://tracing. Beside `summarise`'s values the summary holds the request
    and peak_memory_bytes with memory_of, what that is the memory of.
    """
    # Without this the profiler writes its own progress to stderr.
    os.environ.setdefault("KINETO_LOG_LEVEL", "6")
    device = device_of(request)
    on_gpu = device == "cuda"
    with ranges.enabled(), written_aside(folder / TRACE) as trace:
        workload = build(request)
        total = request.warmup + request.iterations
        with profile(
            activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])],
            # The profiler's own first iteration is slow; it is the last of the warm-up.
            schedule=schedule(wait=request.warmup - 1, warmup=1, active=request.iterations, repeat=1),
            on_trace_ready=lambda done: done.export_chrome_trace(str(trace)),
            # Otherwise each event of the export is made a second time in Python.
            acc_events=False,
        ) as profiler:

            def after(done: int) -> None:
                if on_gpu and done in (request.warmup, total):
                    # Neither work of the warm-up in the profile, nor the last iteration's outside it.
                    torch.cuda.synchronize()
                if on_gpu and done == request.warmup:
                    torch.cuda.reset_peak_memory_stats()
                profiler.step()

            workload.run(total, after)
        summary = {
            "request": request.arguments(),
            **summarise(understand(read_trace(trace))),
            **_peak_memory(on_gpu),
        }
    with written_aside(folder / SUMMARY) as aside:
        aside.write_text(json.dumps(summary, indent=2) + "\n")
    return summary


def _peak_memory(on_gpu: bool) -> dict[str, Any]:
    if on_gpu:
        return {"peak_memory_bytes": torch.cuda.max_memory_allocated(), "memory_of": "tensors on the GPU"}
    return {"peak_memory_bytes": peak_memory(None), "memory_of": "the whole process"}
