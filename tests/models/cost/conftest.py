"""What the real modules compute and hold, counted on tensors without memory."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode


@pytest.fixture
def fake() -> Iterator[None]:
    """Tensors have shapes and no numbers, so the 4B model's stages fit anywhere."""
    with FakeTensorMode():
        yield


@pytest.fixture
def counted() -> Callable[[Callable[[], Any]], tuple[int, Any]]:
    """counted(call) -> FLOPs, result.

    Attention is spelled out as two products, because the counter knows no fused attention of the CPU.
    """

    def count(call: Callable[[], Any]) -> tuple[int, Any]:
        with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
            out = call()
        return counter.get_total_flops(), out

    return count


class Held(TorchDispatchMode):
    """Bytes of all tensors that were made inside and are alive; `peak` is the most there were at once."""

    def __init__(self) -> None:
        super().__init__()
        self.now, self.peak = 0, 0
        self.known: set[int] = set()

    def __torch_dispatch__(self, op: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        before = {leaf.untyped_storage()._cdata for leaf in tree_leaves(args) if isinstance(leaf, Tensor)}
        out = op(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, Tensor) and leaf.untyped_storage()._cdata not in before | self.known:
                self._notice(leaf.untyped_storage())
        self.peak = max(self.peak, self.now)
        return out

    def _notice(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        self.known.add(key)
        self.now += size
        weakref.finalize(storage, self._forget, key, size)

    def _forget(self, key: int, size: int) -> None:
        self.known.discard(key)
        self.now -= size


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], Any]], int]:
    """held(call) -> most bytes that the call holds at once beside its arguments.

    Attention is replaced by its output's shape, as on a device whose fused kernels keep no scores.
    """
    attention = "scaled_dot_product_attention"
    monkeypatch.setattr(torch.nn.functional, attention, lambda q, k, v, **kwargs: torch.empty_like(q))

    def measure(call: Callable[[], Any]) -> int:
        with torch.inference_mode(False), torch.no_grad(), Held() as mode:
            call()
        return mode.peak

    return measure
