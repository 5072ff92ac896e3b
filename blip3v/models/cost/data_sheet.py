"""What a GPU can do at most, by its maker: the denominator of MFU, and a bound under every measured time."""

from __future__ import annotations

DATA_SHEET = {
    # device name contains: (dense bf16/fp16 FLOP/s, float32 FLOP/s outside the tensor cores, bytes/s)
    "H200": (989.4e12, 66.9e12, 4.8e12),
    "H100 PCIe": (756e12, 51e12, 2.0e12),
    "H100 NVL": (835e12, 60e12, 3.9e12),
    "H100": (989.4e12, 66.9e12, 3.35e12),
    "A100": (312e12, 19.5e12, 2.04e12),
}
"""NVIDIA's data sheets, dense (no sparsity); the first name that fits."""


def data_sheet_of(device_name: str) -> tuple[str, tuple[float, float, float]] | None:
    """The entry of `DATA_SHEET` for a device's full name ("NVIDIA H100 80GB HBM3"); None if none fits."""
    return next(((part, rates) for part, rates in DATA_SHEET.items() if part in device_name), None)


def peak_flops(device_name: str) -> float | None:
    """Dense bfloat16 FLOP/s of a device, None where no data sheet is known."""
    found = data_sheet_of(device_name)
    return None if found is None else found[1][0]
