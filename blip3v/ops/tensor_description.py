"""How a compiled module that knows no torch is told of a tensor: address, type, sizes and strides."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

NAMES = {
    torch.bfloat16: "bfloat16",
    torch.float16: "float16",
    torch.float32: "float32",
    torch.int32: "int32",
    torch.uint8: "uint8",
    torch.bool: "uint8",  # one byte each, 0 or 1
}


def describe(module: Any, tensor: Tensor | None) -> Any:
    """`module.Tensor(data_ptr, dtype, device, device_index, sizes, strides)`; strides in elements.

    None stays None. The description does not keep the memory alive: the tensor must live until the call that
    uses it returns.
    """
    if tensor is None:
        return None
    index = tensor.device.index or 0
    dtype, device = NAMES[tensor.dtype], tensor.device.type
    return module.Tensor(tensor.data_ptr(), dtype, device, index, tuple(tensor.shape), tuple(tensor.stride()))
