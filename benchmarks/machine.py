"""What a measurement ran on."""

from __future__ import annotations

import datetime
import platform
import re
import subprocess
from pathlib import Path
from typing import Any

import torch

from blip3v.ops.registry import kind_of_device

ROOT = Path(__file__).parents[1]


def describe_machine(device: str = "cpu") -> dict[str, Any]:
    """Device, threads, versions, commit and date: what a number means nothing without."""
    gpu = _describe_gpu(torch.device(device)) if torch.device(device).type == "cuda" else {}
    return gpu | {
        "kind": kind_of_device(device),
        "cpu": _cpu_name(),
        "threads": torch.get_num_threads(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "blas": "MKL" if torch.backends.mkl.is_available() else "other",
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "commit": _git("rev-parse", "--short=12", "HEAD") + ("+changes" if _git("status", "--short") else ""),
        "date": datetime.date.today().isoformat(),
    }


def slug(machine: dict[str, Any]) -> str:
    """A folder name for the device: `nvidia-h200`, or `amd-epyc-2-threads`."""
    words = re.sub(r"[^a-z0-9]+", "-", machine.get("gpu", machine["cpu"]).lower()).strip("-")
    return words if "gpu" in machine else f"{words}-{machine['threads']}-threads"


def _describe_gpu(device: torch.device) -> dict[str, Any]:
    """Name, memory, driver, and the clocks as they are; nobody sets them here."""
    properties = torch.cuda.get_device_properties(device)
    fields = "driver_version,clocks.sm,clocks.mem,clocks.max.sm,power.limit"
    query = ["nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader", f"--id={device.index or 0}"]
    answer = subprocess.run(query, capture_output=True, text=True, check=False).stdout.strip()
    return {
        "gpu": properties.name,
        "gpu_memory_gib": round(properties.total_memory / 2**30, 1),
        "multiprocessors": properties.multi_processor_count,
        "cuda": torch.version.cuda,
        **dict(zip(fields.split(","), answer.split(", "))),
    }


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = re.findall(r"model name\s*:\s*(.+)", info.read_text())
        if names:
            return names[0].strip()
    return platform.processor() or platform.machine()


def _git(*args: str) -> str:
    answer = subprocess.run(["git", *args], cwd=ROOT, capture_output=True, text=True, check=False)
    return answer.stdout.strip() or ("unknown" if answer.returncode else "")
