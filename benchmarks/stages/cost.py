"""Predicted time of a computation: its counted operations and moved bytes over the machine's rates."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


@dataclass
class Cost:
    """flops: floating-point operations of matrix products; bytes: read and written by everything else."""

    flops: float = 0
    bytes: float = 0

    def seconds(self, rates: Rates) -> float:
        return self.flops / rates.flops + self.bytes / rates.bytes


@dataclass(frozen=True)
class Rates:
    """What this machine reaches: FLOP/s of a float32 product, bytes/s of an addition."""

    flops: float
    bytes: float


def measure_rates() -> Rates:
    """Under a second: a product of the size of a feed-forward layer, an addition larger than the caches."""
    a, b = torch.randn(1024, 1152), torch.randn(1152, 4608)
    x = torch.randn(16 * 2**20)
    product = _best_of(3, lambda: a @ b)
    addition = _best_of(3, lambda: x + 1)
    return Rates(2 * 1024 * 1152 * 4608 / product, 2 * x.nbytes / addition)


def _best_of(times: int, call: Callable[[], Any]) -> float:
    seconds = []
    for _ in range(times):
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


class CostCounter(TorchDispatchMode):
    """Adds up the cost of every operator that runs inside, autograd's too; views are free."""

    def __init__(self) -> None:
        super().__init__()
        self.cost = Cost()

    def __torch_dispatch__(self, op: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        out = op(*args, **(kwargs or {}))
        name = op.overloadpacket.__name__
        ins = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        if name in ("mm", "addmm", "bmm"):
            left, right = ins[-2:]
            self.cost.flops += 2 * left.numel() * right.shape[-1]
        elif name.startswith("_scaled_dot_product"):
            backward = "backward" in name
            q, k = ins[1:3] if backward else ins[:2]
            # Two products forward; backward recomputes one of them and makes four more.
            self.cost.flops += (5 if backward else 2) * 2 * prod(q.shape) * k.shape[-2]
        elif not op.is_view and name not in ("empty", "detach", "_unsafe_view"):
            outs = [leaf for leaf in tree_leaves(out) if isinstance(leaf, Tensor)]
            self.cost.bytes += sum(tensor.numel() * tensor.element_size() for tensor in ins + outs)
        return out
