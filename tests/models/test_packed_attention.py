"""Attention inside the segments of a packed row, against the formula in float64, one query after another."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
import torch.nn.attention.varlen as varlen
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F

from blip3v.models.packed_attention import PackedCausalMask, packed_attention

ENDS = [0, 3, 4, 9, 14]
HEADS, WIDTH, LENGTH = 2, 8, ENDS[-1]
WINDOWS = (None, 3, 100)


def mask(window: int | None = None, ends: list[int] = ENDS, device: str = "cpu") -> PackedCausalMask:
    longest = max(end - start for start, end in pairwise(ends))
    return PackedCausalMask.of(
        torch.tensor(ends, dtype=torch.int32, device=device), longest, ends[-1], window
    )


def random_qkv(normal: Callable[..., Tensor], length: int = LENGTH, width: int = WIDTH) -> list[Tensor]:
    return [normal(1, HEADS, length, width) for _ in range(3)]


def formula(q: Tensor, k: Tensor, v: Tensor, ends: list[int], window: int | None, scale: float) -> Tensor:
    """[1,H,L,D], in float64."""
    q, k, v = q.double(), k.double(), v.double()
    out = torch.zeros_like(v)
    for head in range(q.shape[1]):
        for start, end in pairwise(ends):
            for i in range(start, end):
                first = start if window is None else max(start, i - window + 1)
                powers = [(scale * (q[0, head, i] * k[0, head, j]).sum()).exp() for j in range(first, i + 1)]
                out[0, head, i] = sum(
                    p / sum(powers) * v[0, head, j] for p, j in zip(powers, range(first, i + 1), strict=True)
                )
    return out


@pytest.mark.parametrize("window", WINDOWS)
def test_formula_and_gradients(normal: Callable[..., Tensor], window: int | None) -> None:
    q, k, v = (x.requires_grad_() for x in random_qkv(normal))
    weights = normal(1, HEADS, LENGTH, WIDTH)
    found = F.scaled_dot_product_attention(q, k, v, mask(window), scale=0.3)
    expected = formula(q, k, v, ENDS, window, 0.3)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    for a, b in zip(
        torch.autograd.grad((found * weights).sum(), (q, k, v)),
        torch.autograd.grad((expected * weights).sum(), (q, k, v)),
        strict=True,
    ):
        torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-12)


def test_nothing_leaks_from_one_segment_into_another(normal: Callable[..., Tensor]) -> None:
    q, k, v = random_qkv(normal)
    before = F.scaled_dot_product_attention(q, k, v, mask())
    for x in (q, k, v):
        x[:, :, 4:9] += 1
    after = F.scaled_dot_product_attention(q, k, v, mask())
    assert torch.equal(after[:, :, :4], before[:, :, :4]) and torch.equal(after[:, :, 9:], before[:, :, 9:])
    assert not torch.equal(after[:, :, 4:9], before[:, :, 4:9])


def test_the_mask_takes_no_memory_and_is_only_a_mask() -> None:
    made = mask()
    assert made.shape == (1, 1, LENGTH, LENGTH)
    assert made.untyped_storage().nbytes() == 1
    assert not made.any(), "taken as numbers it must hide everything rather than let segments meet"


@pytest.mark.parametrize("window", WINDOWS)
def test_one_compiled_graph_serves_all_segments(normal: Callable[..., Tensor], window: int | None) -> None:
    graphs: list[Any] = []

    def count(graph: Any, inputs: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q, k, v, mask, scale=0.3)

    compiled = torch.compile(attend, fullgraph=True, backend=count, dynamic=True)
    for ends in (ENDS, [0, 6, 14], [0, 5, 6, 11, 20]):
        q, k, v = random_qkv(normal, ends[-1])
        expected = formula(q, k, v, ends, window, 0.3)
        torch.testing.assert_close(compiled(q, k, v, mask(window, ends)), expected, rtol=1e-12, atol=1e-12)
    torch._dynamo.reset()
    assert len(graphs) <= 2, "another packing compiled another graph"


def documented_varlen(
    query: Tensor, key: Tensor, value: Tensor, cu_seq_q: Tensor, cu_seq_k: Tensor, max_q: int, max_k: int,
    *, scale: float | None = None, window_size: tuple[int, int] = (-1, -1),
) -> Tensor:  # fmt: skip
    """`varlen_attn` as torch 2.11 to 2.13 document it: [T,H,D], window (left, right)."""
    left, right = window_size
    assert right == 0 and cu_seq_q is cu_seq_k and cu_seq_q.dtype == torch.int32
    assert max_q == max_k == int(cu_seq_q.diff().max())
    assert query.dtype == key.dtype == value.dtype == torch.bfloat16 and query.stride(-1) == 1
    q, k, v = (x.transpose(0, 1)[None] for x in (query, key, value))
    found = formula(q, k, v, cu_seq_q.tolist(), None if left < 0 else left + 1, scale or WIDTH**-0.5)
    return found[0].transpose(0, 1).to(query.dtype)


@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("autocast", [False, True])
def test_how_flash_attention_is_called(
    normal: Callable[..., Tensor], monkeypatch: pytest.MonkeyPatch, window: int | None, autocast: bool
) -> None:
    calls: list[dict[str, Any]] = []

    def called(*args: Any, **kwargs: Any) -> Tensor:
        calls.append(kwargs)
        return documented_varlen(*args, **kwargs)

    monkeypatch.setattr(varlen, "varlen_attn", called)
    q, k, v = (x.to(torch.bfloat16) for x in random_qkv(normal))
    made = mask(window)
    made.on_flash_device = True
    with torch.autocast("cpu", torch.bfloat16, autocast):
        # Under autocast the rotated queries and keys are float32 beside values in bf16.
        found = F.scaled_dot_product_attention(*((q.float(), k.float(), v) if autocast else (q, k, v)), made)
    assert len(calls) == 1 and calls[0]["window_size"] == ((2, 0) if window == 3 else (-1, 0))
    expected = formula(q, k, v, ENDS, window, WIDTH**-0.5)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.double(), expected, rtol=1e-2, atol=1e-2)


def test_the_installed_flash_attention_takes_the_call() -> None:
    """Shapes and signature of the real operator, without running it."""
    made = mask(3)
    with FakeTensorMode(allow_non_fake_inputs=True):
        q, k, v = (
            torch.empty(1, LENGTH, HEADS, 96, dtype=torch.bfloat16, requires_grad=True).transpose(1, 2)
            for _ in range(3)
        )
        made.on_flash_device = True
        found = packed_attention(q, k, v, made)
        assert found.shape == (1, HEADS, LENGTH, 96) and found.dtype == torch.bfloat16
        assert "varlen" in str(found.grad_fn.next_functions[0][0].next_functions[0][0])


def test_flash_attention_in_a_compiled_graph() -> None:
    graphs: list[str] = []

    def record(graph: Any, inputs: Any) -> Any:
        graphs.append(str(graph.code))
        return lambda *inputs: (torch.zeros(1, HEADS, LENGTH, 96, dtype=torch.bfloat16),)

    made = mask()
    made.on_flash_device = True
    q = torch.zeros(1, HEADS, LENGTH, 96, dtype=torch.bfloat16)
    torch.compile(packed_attention, fullgraph=True, backend=record)(q, q, q, made)
    torch._dynamo.reset()
    assert len(graphs) == 1 and "torch_attn._varlen_attn" in graphs[0]


@pytest.mark.parametrize(
    ("dtype", "width"), [(torch.float32, 8), (torch.bfloat16, 12), (torch.bfloat16, 264)]
)
def test_what_flash_attention_does_not_take_goes_the_other_way(
    normal: Callable[..., Tensor], dtype: torch.dtype, width: int
) -> None:
    q, k, v = (x.to(dtype) for x in random_qkv(normal, width=width))
    made = mask()
    made.on_flash_device = True  # a call to the kernel would fail here
    found = F.scaled_dot_product_attention(q, k, v, made)
    torch.testing.assert_close(
        found.double(), formula(q, k, v, ENDS, None, width**-0.5), rtol=0.05, atol=0.05
    )


@pytest.mark.gpu
@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_on_a_gpu(normal: Callable[..., Tensor], dtype: torch.dtype, window: int | None) -> None:
    q, k, v = (x.to("cuda", dtype).requires_grad_() for x in random_qkv(normal, width=96))
    weights = normal(1, HEADS, LENGTH, 96).cuda()
    found = F.scaled_dot_product_attention(q, k, v, mask(window, device="cuda"))
    expected = formula(q, k, v, ENDS, window, 96**-0.5)
    limit = 2e-2 if dtype == torch.bfloat16 else 1e-5
    assert (found.double() - expected).norm() < limit * expected.norm()
    got = torch.autograd.grad((found.double() * weights).sum(), (q, k, v))
    want = torch.autograd.grad((expected * weights).sum(), (q, k, v))
    for a, b in zip(got, want, strict=True):
        assert (a.double() - b.double()).norm() < limit * b.double().norm()
