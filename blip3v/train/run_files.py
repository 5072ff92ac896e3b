"""`run.json` beside each run: what was started, with what, on what; one entry more for every resume."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import shlex
import subprocess
import sys
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch

import blip3v
from blip3v.files import written_aside
from blip3v.models.configuration import Blip3VideoConfig
from blip3v.models.cost.step import MFU_FORMULA
from blip3v.train.metrics import device_peak
from blip3v.train.parallel import Parallel
from blip3v.train.recipe import Recipe

RUN = "run.json"
PACKAGES = ("torch", "transformers", "safetensors", "numpy", "av", "decord")


def record_start(
    out: Path,
    recipe: Recipe,
    data: Path,
    fingerprint: str,
    config: Blip3VideoConfig,
    parallel: Parallel,
    step: int = 0,
) -> None:
    """Write `out/run.json`, or add this start to it; every process may call it, the first one writes.

    The file holds the resolved recipe, the data (path, digest), the configuration of the model and how MFU is
    counted, as of the newest start, and for each start: time, step, command line, versions, commit of the
    package's repository if it is one, devices, and what differs from the recipe of the start before.

    A file that cannot be read is kept under another name.

    Args:
        data: the annotation file or mixture; fingerprint: of its records.
        step: 0, or where the run goes on.
    """
    if parallel.rank != 0:
        return
    path = out / RUN
    earlier = _read(path)
    run = {
        "recipe": recipe.to_json(),
        "data": {"path": str(data.resolve()), "fingerprint": fingerprint},
        "model": config.to_dict(),
        "mfu": {"formula": MFU_FORMULA, **_peak(parallel)},
        "starts": [*earlier.get("starts", []), _start(recipe, earlier.get("recipe"), parallel, step)],
    }
    with written_aside(path) as aside:
        aside.write_text(json.dumps(run, indent=1, default=str), encoding="utf-8")


def _read(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    try:
        run = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(run, dict) and isinstance(run.get("starts", []), list):
            return run
    except ValueError:
        pass
    os.replace(path, path.with_name(f"{RUN}.unreadable"))
    return {}


def _start(recipe: Recipe, before: dict[str, Any] | None, parallel: Parallel, step: int) -> dict[str, Any]:
    now = recipe.to_json()
    return {
        "time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "step": step,
        "command": shlex.join(sys.argv),
        "world_size": parallel.world_size,
        "device": _device_name(parallel.device),
        "host": platform.node(),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "versions": {"blip3v": blip3v.__version__} | _versions(),
        "commit": _commit(),
        "recipe_changes": {}
        if before is None
        else {key: [before.get(key), value] for key, value in now.items() if before.get(key) != value},
    }


def _versions() -> dict[str, str]:
    found = {}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found | ({"cuda": torch.version.cuda} if torch.version.cuda else {})


def _commit() -> str | None:
    """Of the checkout that the package runs from, with "+changes" where its files differ from it."""
    root = Path(blip3v.__file__).parents[1]
    if not (root / ".git").exists():
        return None
    try:
        commit, changes = (
            subprocess.run(
                ["git", "-C", str(root), *arguments], capture_output=True, text=True, timeout=20, check=True
            ).stdout.strip()
            for arguments in (["rev-parse", "HEAD"], ["status", "--porcelain", "--untracked-files=no"])
        )
    except (OSError, subprocess.SubprocessError):
        return None  # no git here, or not this user's repository
    return f"{commit}+changes" if changes else commit


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"


def _peak(parallel: Parallel) -> dict[str, Any]:
    peak = device_peak(parallel.device)
    source = "no data sheet: MFU is null" if peak is None else "data sheet, dense bfloat16, per device"
    return {"peak_flops_per_second": peak, "peak_is": source}
