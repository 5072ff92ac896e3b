"""Made-up result files: no number here was ever measured."""

from __future__ import annotations

from typing import Any

import pytest


def _machine(**changes: Any) -> dict[str, Any]:
    return {
        "gpu": "NVIDIA H200",
        "gpu_memory_gib": 139.8,
        "multiprocessors": 132,
        "cuda": "13.0",
        "driver_version": "580.65.06",
        "clocks.sm": "1980 MHz",
        "clocks.mem": "3201 MHz",
        "power.limit": "700.00 W",
        "kind": "sm_90",
        "cpu": "A processor",
        "threads": 16,
        "python": "3.12.3",
        "torch": "2.13.0+cu130",
        "commit": "0123456789ab",
        "date": "2026-01-02",
    } | changes


WORK = {
    ("token_learner", "one_video"): (0.23e9, 2.6e6),
    ("token_learner", "sixteen_videos"): (46.8e9, 129e6),
    ("vit", "one_video"): (5.32e12, 0.83e9),
}
"""FLOP and bytes."""


def _row(backend: str, median: float | None, case: str = "one_video", **fields: Any) -> dict[str, Any]:
    """A row of one op on a GPU; `median` in milliseconds, eager, None where it has no time."""
    op, direction = fields.pop("op", "token_learner"), fields.pop("direction", "forward")
    row: dict[str, Any] = {
        "level": "ops",
        "op": op,
        "case": case,
        "dtype": "bfloat16",
        "direction": direction,
        "backend": backend,
        "version": "torch 2.13.0",
        "command": f"blip3v bench ops --device cuda --op {op} --case {case} --dtype bfloat16 "
        f"--peer '{backend}' --direction {direction} --repeats 20",
    }
    if median is not None:
        flops, moved = WORK[op, case]
        compute, memory = flops / 790e9, moved / 4.3e9
        floor, bound = max(compute, memory), "compute" if compute > memory else "memory"
        row |= {"error": 2.1e-3, "ok": True, "flops": flops, "bytes": moved, "floor_ms": floor}
        row |= {"bound": bound, "peak_memory_bytes": 123456789, "roofline_share": floor / (0.8 * median)}
        for prefix, time in (("", median), ("graph_", 0.8 * median)):
            row |= {
                f"{prefix}median_ms": time,
                f"{prefix}p20_ms": 0.99 * time,
                f"{prefix}p80_ms": 1.02 * time,
                f"{prefix}repeats": 20,
                f"{prefix}clock": "CUDA events, L2 flushed",
                f"{prefix}tflops": flops / time / 1e9,
                f"{prefix}gbytes_per_s": moved / time / 1e6,
            }
    return row | fields


@pytest.fixture
def gpu_file() -> dict[str, Any]:
    """Two cases of an op on a GPU, with a wrong, a missing and an impossible peer, and a stage."""
    wrong = {"error": 0.31, "ok": False, "reason": "output [8,729]: BAD, relative error 3.1e-01"}
    impossible = {"bug": "0.004 ms is below the 0.047 ms that the data sheet allows", "roofline_share": 14.8}
    backward = {"case": "sixteen_videos", "direction": "forward+backward"}
    stage = {"level": "stages", "op": "vit"}
    rows = [
        _row("reference", 0.42),
        _row("compile max-autotune", 0.071),
        _row("einsum", None, **wrong),
        _row("flash-attn", None, reason="ModuleNotFoundError: No module named 'flash_attn'"),
        _row("cuda", 0.031),
        _row("reference", 1.9, **backward),
        _row("compile default", 0.005, **backward, **impossible),
        _row("cuda", 0.2, **backward),
        _row("sdpa cudnn", 0.5, **backward),
        _row("blip3v cuda", 9.1, **stage),
        _row("sdpa cudnn", 9.3, **stage),
    ]
    ceilings = {
        "flops_per_s": {"bfloat16": 790e12, "float32": 50e12},
        "bytes_per_s": 4.3e12,
        "limit_flops_per_s": {"bfloat16": 989.4e12, "float32": 66.9e12},
        "limit_bytes_per_s": 4.8e12,
        "source": "measured: product of 8192^3, copy of 1024 MiB; limits: data sheet of H200",
    }
    return {"machine": _machine(), "ceilings": ceilings, "rows": rows}


@pytest.fixture
def cpu_file() -> dict[str, Any]:
    """The same op on a CPU, without graphs and limits."""
    rows = []
    for backend, median in (("reference", 4.0), ("eager", 5.0)):
        row = _row(backend, median, clock="time.perf_counter", tflops=0.06, gbytes_per_s=0.65, floor_ms=0.6)
        rows.append({key: value for key, value in row.items() if not key.startswith("graph_")})
    rows.append(_row("cuda", None, reason="UserError: the tensors are on cpu"))
    rows.append(_row("simulator", None, error=1e-3, ok=True, reason="right; its time says nothing"))
    machine = _machine(kind="cpu", cpu="A processor", threads=2)
    of_a_gpu = ("gpu", "multiprocessors", "cuda", "driver", "power", "clocks")
    machine = {name: value for name, value in machine.items() if not name.startswith(of_a_gpu)}
    ceilings = {
        "flops_per_s": {"bfloat16": 4e11, "float32": 2e11},
        "bytes_per_s": 1e10,
        "limit_flops_per_s": {},
        "limit_bytes_per_s": None,
        "source": "measured: product of 1024^3, copy of 64 MiB; limits: not known",
    }
    return {"machine": machine, "ceilings": ceilings, "rows": rows}
