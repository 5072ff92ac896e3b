"""What a measurement ran on."""

from __future__ import annotations

import datetime
import platform
import re
import subprocess
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).parents[1]


def describe_machine() -> dict[str, Any]:
    """CPU, threads, versions, commit and date: what a number means nothing without."""
    return {
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
    """A folder name for the device: `amd-epyc-2-cores`."""
    words = re.sub(r"[^a-z0-9]+", "-", machine["cpu"].lower()).strip("-")
    return f"{words}-{machine['threads']}-cores"


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
