"""Nsight Compute: every metric of each kernel, which is replayed dozens of times. Not yet run on a GPU.

Option names: NVIDIA Nsight Compute CLI, "Command Line Options" and "NVTX Filtering".
"""

from __future__ import annotations

from pathlib import Path

SUFFIX = ".ncu-rep"


def command(workload: list[str], output: Path, inside: str | None = None) -> list[str]:
    """Writes output.ncu-rep. `workload` is a command to watch.

    Args:
        inside: a label of `blip3v.ranges`: only kernels launched within it. A stage's label leaves out its
            backward pass, which autograd launches from its own thread.
    """
    only = [] if inside is None else ["--nvtx-include", f"{inside}/"]
    return [
        "ncu",
        "--set",
        "full",
        "--nvtx",
        *only,
        # The active iterations.
        "--profile-from-start",
        "off",
        # ncu would otherwise lock the clocks: they are read here, never set.
        "--clock-control",
        "none",
        "--target-processes",
        "all",
        "--force-overwrite",
        "--export",
        str(output),
        *workload,
    ]


def tables(output: Path) -> list[str]:
    """Prints a summary of each kernel."""
    return ["ncu", "--import", f"{output}{SUFFIX}", "--print-summary", "per-kernel"]
