"""What a device can reach at all: two rates measured in the same run, and the limits of its data sheet.

Floors and shares of the roofline in the tables refer to the measured rates, because nobody gets more. A time
that even the data sheet does not allow is no success but a bug of the measurement, and is reported as one.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch

from blip3v.models.cost.data_sheet import data_sheet_of
from blip3v.testing.timing import time_call

PRODUCT = {"cuda": 8192, "cpu": 1024}
COPIED = {"cuda": 2**30, "cpu": 2**26}
"""Sides of the matrix product; bytes of the copy, many times the caches."""


@dataclass(frozen=True)
class Ceilings:
    """Rates in FLOP/s by dtype and in bytes/s, read plus written.

    limit_*: the data sheet's, absent where it is not known.
    """

    flops_per_s: dict[str, float]
    bytes_per_s: float
    limit_flops_per_s: dict[str, float]
    limit_bytes_per_s: float | None
    source: str

    def floor(self, dtype: str, flops: float, moved: float) -> tuple[float, str]:
        """(seconds that nobody can beat here, "compute" or "memory")."""
        compute, memory = flops / self.flops_per_s[dtype], moved / self.bytes_per_s
        return max(compute, memory), "compute" if compute >= memory else "memory"

    def limit(self, dtype: str, flops: float, moved: float) -> float:
        """Seconds below which a measured time is a bug; 0 where no data sheet is known."""
        compute = flops / self.limit_flops_per_s[dtype] if dtype in self.limit_flops_per_s else 0.0
        return max(compute, moved / self.limit_bytes_per_s if self.limit_bytes_per_s else 0.0)

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def measure_ceilings(device: str, dtypes: tuple[str, ...] = ("bfloat16", "float32")) -> Ceilings:
    """A square product of random numbers in each dtype, and a copy; a few seconds.

    On a CPU the copy is of main memory: what stays in a cache may exceed it, and the limits are unknown.
    """
    kind = torch.device(device).type
    flops = {name: _product_rate(device, getattr(torch, name), PRODUCT[kind]) for name in dtypes}
    flops.setdefault("float16", flops["bfloat16"])
    source = torch.empty(COPIED[kind], dtype=torch.uint8, device=device).fill_(1)
    target = torch.empty_like(source)
    copied = 2 * COPIED[kind] / time_call(lambda: target.copy_(source), device, 10).median
    limits, bandwidth, sheet = _data_sheet(device)
    measured = f"measured: product of {PRODUCT[kind]}^3, copy of {COPIED[kind] >> 20} MiB"
    return Ceilings(flops, copied, limits, bandwidth, f"{measured}; limits: {sheet}")


def _product_rate(device: str, dtype: torch.dtype, side: int) -> float:
    left, right = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    return 2 * side**3 / time_call(lambda: left @ right, device, 10).median


def _data_sheet(device: str) -> tuple[dict[str, float], float | None, str]:
    if torch.device(device).type == "cuda":
        found = data_sheet_of(torch.cuda.get_device_name(device))
        if found is not None:
            part, (tensor, plain, moved) = found
            limits = {"bfloat16": tensor, "float16": tensor, "float32": plain}
            return limits, moved, f"data sheet of {part}"
    return {}, None, "not known"
