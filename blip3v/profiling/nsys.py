"""Nsight Systems: the timeline of CPU and GPU with our ranges. Not yet run on a GPU.

Option names: NVIDIA Nsight Systems User Guide, "CLI Profile Command Switch Options".
"""

from __future__ import annotations

from pathlib import Path

SUFFIX = ".nsys-rep"


def command(workload: list[str], output: Path) -> list[str]:
    """Writes output.nsys-rep. `workload` is a command to watch."""
    return [
        "nsys",
        "profile",
        "--trace=cuda,nvtx",
        # What a replayed graph launches, kernel by kernel, instead of the graph as one bar.
        "--cuda-graph-trace=node",
        "--sample=none",
        "--cpuctxsw=none",
        # The active iterations; the process then ends by itself.
        "--capture-range=cudaProfilerApi",
        "--capture-range-end=stop",
        "--force-overwrite=true",
        f"--output={output}",
        *workload,
    ]


def tables(output: Path) -> list[str]:
    """Prints GPU time by range, by kernel, and of memory copies."""
    return [
        "nsys",
        "stats",
        "--report=nvtx_gpu_proj_sum,cuda_gpu_kern_sum,cuda_gpu_mem_time_sum",
        "--force-export=true",
        f"{output}{SUFFIX}",
    ]
