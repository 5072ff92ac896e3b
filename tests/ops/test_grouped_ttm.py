"""grouped_ttm: the recurrence and its back-propagation through time against a formula in float64.

The ops of a step have tests of their own; here every backend of theirs that runs on this machine is put
through the whole recurrence.
"""

from __future__ import annotations

import os

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from blip3v.errors import UserError
from blip3v.ops import registry, use_backend
from blip3v.ops.grouped_ttm import Weights, grouped_ttm, grouped_ttm_forward
from blip3v.ops.grouped_ttm.arguments import Arguments
from blip3v.testing.cases.grouped_ttm import CASES, LONG, SMALL, RecurrenceCase, RecurrenceInputs
from blip3v.testing.compare import poisoned_memory

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
EPS = 1e-5


def formula(inputs: RecurrenceInputs) -> Tensor:
    """The recurrence as the paper writes it, group by group of one position after another."""
    frames, memory, stamps, flat, heads, _ = inputs
    layers, write = Weights.of(flat)
    shape = frames.shape[-1:]
    for step in range(frames.shape[1]):
        frame = frames[:, step] if stamps is None else frames[:, step] + stamps[step]
        x = torch.cat([memory, frame.unsqueeze(2)], dim=2)
        for norm_weight, norm_bias, qkv_weight, ff_weight, ff_bias, w1, w2 in layers:
            qkv = F.layer_norm(x, shape, norm_weight, norm_bias, EPS) @ qkv_weight.T
            q, k, v = (part.unflatten(-1, (heads, -1)) for part in qkv.chunk(3, dim=-1))
            scores = torch.einsum("bsihd,bsjhd->bshij", q, k) * q.shape[-1] ** -0.5
            x = x + torch.einsum("bshij,bsjhd->bsihd", scores.softmax(-1), v).flatten(-2)
            x = x + F.gelu(F.layer_norm(x, shape, ff_weight, ff_bias, EPS) @ w1.T) @ w2.T
        both = torch.cat([memory, x], dim=2)
        normed = F.layer_norm(both, shape, write.norm1_weight, write.norm1_bias, EPS)
        normed = F.layer_norm(normed, shape, write.norm2_weight, write.norm2_bias, EPS)
        logits = F.gelu(normed @ write.w1.T) @ write.w2.T
        memory = logits.softmax(dim=2).transpose(2, 3) @ both
    return memory


def convert(inputs: RecurrenceInputs, dtype: torch.dtype) -> RecurrenceInputs:
    frames, memory, stamps, weights, heads, dmemory = inputs
    stamps = None if stamps is None else stamps.to(dtype)
    return RecurrenceInputs(
        frames.to(dtype), memory.to(dtype), stamps, [w.to(dtype) for w in weights], heads, dmemory.to(dtype)
    )


def leaves(inputs: RecurrenceInputs) -> RecurrenceInputs:
    """The same inputs as leaves of a graph; stamps have no gradient."""
    frames, memory, stamps, weights, heads, dmemory = inputs
    weights = [weight.detach().requires_grad_() for weight in weights]
    frames, memory = frames.detach().requires_grad_(), memory.detach().requires_grad_()
    return RecurrenceInputs(frames, memory, stamps, weights, heads, dmemory)


def gradients(out: Tensor, inputs: RecurrenceInputs) -> list[Tensor]:
    return [out, *torch.autograd.grad(out, (inputs.frames, inputs.memory, *inputs.weights), inputs.dmemory)]


def expected(inputs: RecurrenceInputs) -> list[Tensor]:
    """The memory, and the gradients of frames, memory and weights, in float64."""
    exact = leaves(convert(inputs, torch.float64))
    return gradients(formula(exact), exact)


def computed(inputs: RecurrenceInputs, backend: str, keep: str = "passes") -> list[Tensor]:
    inputs = leaves(inputs)
    frames, memory, stamps, weights, heads, _ = inputs
    with poisoned_memory():
        out = grouped_ttm(
            frames, memory, Weights.of(weights), heads=heads, stamps=stamps, keep=keep, backend=backend
        )
        return gradients(out, inputs)


def errors(got: list[Tensor], exact: list[Tensor]) -> list[float]:
    assert [tuple(t.shape) for t in got] == [tuple(t.shape) for t in exact]
    pairs = [(g.detach().double(), e.detach()) for g, e in zip(got, exact)]
    return [float((g - e).norm() / e.norm().clamp_min(1e-30)) for g, e in pairs]


def skip_unless_it_runs(backend: str, inputs: RecurrenceInputs) -> None:
    ok, reason = registry.backend_named("grouped_ttm", backend).can_run(*Arguments(*inputs[:5]))
    if not ok:
        pytest.skip(f"{backend}: {reason}")


@pytest.mark.parametrize("keep", ["passes", "steps"])
@pytest.mark.parametrize("case", SMALL, ids=lambda case: case.name)
def test_the_recurrence_and_its_gradients_are_the_formula(case: RecurrenceCase, keep: str) -> None:
    inputs = convert(case.build(torch.float32), torch.float64)
    assert max(errors(computed(inputs, "reference", keep), expected(inputs))) < 1e-10


@pytest.mark.parametrize("keep", ["passes", "steps"])
def test_back_propagation_through_64_frames(keep: str) -> None:
    inputs = convert(LONG.build(torch.float32), torch.float64)
    assert max(errors(computed(inputs, "reference", keep), expected(inputs))) < 1e-9


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("backend", ["simulator", "triton", "cuda"])
@pytest.mark.parametrize("case", SMALL, ids=lambda case: case.name)
def test_kernels_are_as_close_to_float64_as_pytorch(case: RecurrenceCase, backend: str, device: str) -> None:
    """bfloat16 rounds dozens of times on the way; PyTorch's own kernels say what that amounts to."""
    places = {"simulator": ["cpu"], "triton": ["cuda", "cpu"] if INTERPRETED else ["cuda"], "cuda": ["cuda"]}
    if device not in places[backend]:
        pytest.skip(f"{backend} does not run on {device} in this process")
    inputs = case.build(torch.bfloat16, device)
    skip_unless_it_runs(backend, inputs)
    exact = expected(inputs)
    ours, theirs = errors(computed(inputs, backend), exact), errors(computed(inputs, "reference"), exact)
    for index, (our, their, tensor) in enumerate(zip(ours, theirs, exact)):
        # A gradient of a few numbers says little about rounding.
        limit = 2 * their + 5e-3 if tensor.numel() >= 64 else 0.1
        assert our < limit, (index, our, their)


def test_a_video_in_two_calls_is_the_video_in_one() -> None:
    frames, memory, stamps, weights, heads, _ = CASES["small"].build(torch.float32)
    assert stamps is not None
    weights = Weights.of(weights)
    whole = grouped_ttm(frames, memory, weights, heads=heads, stamps=stamps)
    first = grouped_ttm(frames[:, :2], memory, weights, heads=heads, stamps=stamps[:2])
    second = grouped_ttm(frames[:, 2:], first, weights, heads=heads, stamps=stamps[2:])
    assert torch.equal(whole, second)


def test_what_is_kept_for_the_backward_is_what_the_documentation_counts() -> None:
    """Tokens of a group nine times a layer; with `steps` once a step; nothing without gradients."""
    case = RecurrenceCase("counted", positions=2, steps=2, depth=3, dim=64, heads=1)
    inputs = case.build(torch.bfloat16)
    unit = case.positions * (case.slots + 1) * case.dim
    for keep, units in (("passes", 2 * (1 + 9 * 3)), ("steps", 2), ("nothing", 0)):
        _, kept = grouped_ttm_forward(*inputs[:5], EPS, keep, "reference")
        tokens = sum(tensor.numel() for tensor in kept if tensor.dtype == torch.bfloat16)
        assert tokens == units * unit, keep


def test_autocast_computes_in_bfloat16_and_returns_gradients_in_the_weights_type() -> None:
    inputs = leaves(CASES["small"].build(torch.float32))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = grouped_ttm(
            inputs.frames, inputs.memory, Weights.of(inputs.weights), heads=inputs.heads, stamps=inputs.stamps
        )
    assert out.dtype == torch.bfloat16
    found = gradients(out, inputs._replace(dmemory=inputs.dmemory.bfloat16()))[1:]
    assert all(gradient.dtype == torch.float32 for gradient in found)
    assert max(errors(found, expected(inputs)[1:])) < 0.1


def test_opcheck() -> None:
    inputs = leaves(CASES["two_slots_one_layer"].build(torch.float32))
    for keep in ("passes", "steps"):
        torch.library.opcheck(grouped_ttm_forward, (*inputs[:5], EPS, keep, "reference"))


def test_it_compiles_as_one_graph() -> None:
    inputs = leaves(CASES["one_frame"].build(torch.float32))
    frames, memory, stamps, weights, heads, _ = inputs

    def call(frames: Tensor, memory: Tensor, weights: list[Tensor]) -> Tensor:
        return grouped_ttm(frames, memory, Weights.of(weights), heads=heads, stamps=stamps)

    out = torch.compile(call, fullgraph=True, backend="aot_eager")(frames, memory, weights)
    for got, want in zip(gradients(out, inputs), gradients(call(frames, memory, weights), inputs)):
        assert torch.equal(got, want)


def test_one_op_of_a_step_may_have_another_backend() -> None:
    inputs = CASES["one_frame"].build(torch.float32)
    call = Arguments(*inputs[:5])
    with use_backend("cuda", op="feed_forward"):
        answer = registry.backend_named("grouped_ttm", "reference").can_run(*call)
    assert not answer.ok and answer.reason.startswith("feed_forward: ")


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda i: {"frames": i.frames[:, :, :1]}, "memory has shape"),
        (lambda i: {"frames": i.frames[0]}, r"need \[B,T,S,D\]"),
        (lambda i: {"frames": i.frames[:, :0], "stamps": None}, "at least one of each"),
        (lambda i: {"stamps": i.stamps[:1]}, "stamps has shape"),
        (lambda i: {"heads": 5}, "does not divide into 5 heads"),
        (lambda i: {"weights": i.weights[-6:]}, "no layer"),
        (lambda i: {"weights": [i.weights[0][:3], *i.weights[1:]]}, "layer 0: norm_weight has shape"),
        (lambda i: {"weights": [*i.weights[:-1], i.weights[-1][:2]]}, "write: w2 has shape"),
        (lambda i: {"frames": i.frames.int()}, "need a float type"),
    ],
)
def test_what_does_not_fit_is_refused(change, message: str) -> None:
    inputs = CASES["small"].build(torch.float32)
    frames, memory, stamps, weights, heads, _ = inputs._replace(**change(inputs))
    with pytest.raises(ValueError, match=f"grouped_ttm: .*{message}"):
        grouped_ttm(frames, memory, Weights.of(weights), heads=heads, stamps=stamps)


def test_an_unknown_way_to_keep_or_backend_is_refused() -> None:
    frames, memory, stamps, weights, heads, _ = CASES["small"].build(torch.float32)
    call = {"heads": heads, "stamps": stamps}
    with pytest.raises(ValueError, match="keep is 'all', need one of steps, passes"):
        grouped_ttm(frames, memory, Weights.of(weights), keep="all", **call)
    with pytest.raises(UserError, match="no backend 'fast'"):
        grouped_ttm(frames, memory, Weights.of(weights), backend="fast", **call)


@pytest.mark.skipif(INTERPRETED, reason="this process is the interpreter's")
@pytest.mark.interpreted(chosen="kernels_are_as_close and triton and cpu")
def test_triton_in_its_interpreter(passed_in_interpreter: int) -> None:
    assert passed_in_interpreter == len(SMALL)
