"""What a number of the demo means nothing without, and figures of longer runs to put beside it."""

from __future__ import annotations

import json
import os
import platform
import re
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

import blip3v
from blip3v.demo.workers import cores

ROOT = Path(blip3v.__file__).parents[1]
RECORDED = "demo_recipe.json"
PACKAGES = ("blip3v", "torch", "transformers", "decord", "av")


def describe_machine() -> dict[str, Any]:
    """Device, cores, load when the demo began, versions and commit."""
    return {
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else _cpu_name(),
        "cores": cores(),
        "load": round(os.getloadavg()[0], 1) if hasattr(os, "getloadavg") else None,
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        **{package: _version(package) for package in PACKAGES},
        "commit": _commit(),
    }


def recorded_results() -> dict[str, Any] | None:
    """The committed results of a longer `blip3v demo`, where the package runs from its repository."""
    for path in sorted((ROOT / "benchmarks" / "results").glob(f"**/{RECORDED}")):
        return {**json.loads(path.read_text(encoding="utf-8")), "path": str(path.relative_to(ROOT))}
    return None


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    names = re.findall(r"model name\s*:\s*(.+)", info.read_text()) if info.exists() else []
    return names[0].strip() if names else platform.processor() or platform.machine()


def _commit() -> str:
    if not (ROOT / ".git").exists():
        return "unknown: not run from a repository"
    asked = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--exclude=*"]
    try:
        answer = subprocess.run(asked, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return "unknown: git does not answer"
    return answer.stdout.strip() or "unknown"
