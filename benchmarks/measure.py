"""From a subject and a peer to the numbers of a row: error first, and times only where it is right."""

from __future__ import annotations

import importlib.metadata
import subprocess
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from benchmarks.ceilings import Ceilings
from benchmarks.subject import Subject
from blip3v.testing.timing import Timing, time_call

SIMULATED = "right; the simulator's time says nothing about a GPU"
PACKAGES = {"triton": "triton", "flash-attn": "flash_attn", "cuda": "blip3v", "simulator": "blip3v"}
"""Backend -> the package whose version it has; for all others it is torch's."""


class Calls:
    """One peer on one case: `forward()` without autograd, `both()` with the gradients of all inputs."""

    def __init__(self, function: Callable[..., Tensor | tuple[Tensor, ...]], subject: Subject) -> None:
        self.function, self.cotangents = function, subject.cotangents
        self.plain = subject.inputs
        self.leaves = [tensor.detach().requires_grad_() for tensor in subject.inputs]

    def forward(self) -> tuple[Tensor, ...]:
        with torch.no_grad():
            return _tuple(self.function(*self.plain))

    def both(self) -> tuple[Tensor, ...]:
        outputs = _tuple(self.function(*self.leaves))
        return *outputs, *torch.autograd.grad(outputs, self.leaves, self.cotangents)

    def call(self, direction: str) -> Callable[[], tuple[Tensor, ...]]:
        return self.forward if direction == "forward" else self.both


def _tuple(outputs: Tensor | Sequence[Tensor]) -> tuple[Tensor, ...]:
    return (outputs,) if isinstance(outputs, Tensor) else tuple(outputs)


def measure(
    calls: Calls | str,
    subject: Subject,
    backend: str,
    direction: str,
    device: str,
    dtype: str,
    repeats: int,
    ceilings: Ceilings | None = None,
) -> dict[str, Any]:
    """The measured part of a row; or, where there is no time, the reason.

    calls: the peer, or why it could not be built. ceilings: for floor and roofline; without them the row has
    none.
    """
    if isinstance(calls, str):
        return {"reason": calls}
    call = calls.call(direction)
    cuda = torch.device(device).type == "cuda"
    try:
        before = _reset_peak() if cuda else 0
        results = call()
        peak = torch.cuda.max_memory_allocated() - before if cuda else None
    except Exception as error:  # a peer may fail in any way; the reason is what the row is for
        return {"reason": reason(error)}
    verdicts = subject.verdicts(backend, results)
    row: dict[str, Any] = {
        "error": max(verdict.relative for verdict in verdicts),
        "ok": all(verdict.ok for verdict in verdicts),
    }
    if not row["ok"]:
        return row | {"reason": "; ".join(str(verdict) for verdict in verdicts if not verdict.ok)}
    if backend == "simulator":
        return row | {"reason": SIMULATED}
    del results, verdicts
    if peak is not None:
        row["peak_memory_bytes"] = peak
    flops, moved = subject.work(direction)
    row |= {"flops": flops, "bytes": moved}
    row |= _times("", time_call(call, device, repeats), flops, moved)
    if cuda:
        try:
            row |= _times("graph_", time_call(call, device, repeats, graph=True), flops, moved)
        except Exception as error:
            row["graph_reason"] = reason(error)
        row |= clocks(device)
    return row if ceilings is None else row | against_ceilings(row, dtype, ceilings)


def _times(prefix: str, timing: Timing, flops: float, moved: float) -> dict[str, Any]:
    return {
        f"{prefix}median_ms": timing.median * 1e3,
        f"{prefix}p20_ms": timing.p20 * 1e3,
        f"{prefix}p80_ms": timing.p80 * 1e3,
        f"{prefix}tflops": flops / timing.median / 1e12,
        f"{prefix}gbytes_per_s": moved / timing.median / 1e9,
        f"{prefix}repeats": timing.repeats,
        f"{prefix}clock": timing.clock,
    }


def against_ceilings(row: dict[str, Any], dtype: str, ceilings: Ceilings) -> dict[str, Any]:
    """Floor, what binds, share of the roofline; and `bug` where a time is below what the device can do.

    row: with flops, bytes and median_ms; the better of eager and graph counts.
    """
    best = min(row["median_ms"], row.get("graph_median_ms", row["median_ms"]))
    floor, bound = ceilings.floor(dtype, row["flops"], row["bytes"])
    numbers: dict[str, Any] = {
        "floor_ms": floor * 1e3,
        "bound": bound,
        "roofline_share": floor * 1e3 / best,
    }
    limit = ceilings.limit(dtype, row["flops"], row["bytes"]) * 1e3
    if best < limit:
        numbers["bug"] = f"{best:.4g} ms is below the {limit:.4g} ms that the data sheet allows"
    return numbers


def version_of(backend: str) -> str:
    """Package and version behind a backend's name: `triton 3.6.0`."""
    package = PACKAGES.get(backend, "torch")
    try:
        # torch's own word has the build in it, such as +cu130, which the package's may not.
        version = torch.__version__ if package == "torch" else importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        version = "not installed"
    if "cudnn" in backend and torch.backends.cudnn.is_available():
        return f"torch {version}, cuDNN {torch.backends.cudnn.version()}"
    return f"{package} {version}"


def clocks(device: str) -> dict[str, float]:
    """The clocks as they are now, in MHz; nobody sets them here."""
    query = ["nvidia-smi", "--query-gpu=clocks.sm,clocks.mem", "--format=csv,noheader,nounits"]
    query.append(f"--id={torch.device(device).index or 0}")
    try:
        answer = subprocess.run(query, capture_output=True, text=True, check=True, timeout=10).stdout
        core, memory = (float(value) for value in answer.strip().split(","))
    except (OSError, subprocess.SubprocessError, ValueError):
        return {}
    return {"sm_clock_mhz": core, "memory_clock_mhz": memory}


def reason(error: Exception) -> str:
    """The first line of what it said, not its traceback."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0].strip() if lines else 'without a message'}"[:300]


def _reset_peak() -> int:
    """Bytes in use now; from here on the peak is counted anew."""
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    return torch.cuda.memory_allocated()
