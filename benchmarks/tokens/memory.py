"""What a device has in memory, and what a measurement takes of it."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import torch


def memory_of(device: str) -> int:
    """Bytes of the GPU's memory, or of the machine's for a CPU."""
    if torch.device(device).type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def allocated(device: str) -> int | None:
    """Bytes that tensors take now; None on a CPU, where nobody keeps count."""
    if torch.device(device).type != "cuda":
        return None
    return int(torch.cuda.memory_allocated(device))


def extra(call: Callable[[], Any], device: str) -> int | None:
    """Bytes that a call takes at most beside what was allocated before; None on a CPU."""
    before = allocated(device)
    if before is None:
        return None
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    call()
    torch.cuda.synchronize(device)
    return int(torch.cuda.max_memory_allocated(device)) - before
