"""feed_forward: every backend that runs here, on every case, against float64.

Triton runs on a CPU only in its interpreter, which is a matter of the whole process: the last test waits
for pytest in a process of its own (conftest.py), which runs the tests of this file that name triton.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from types import ModuleType

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from blip3v.errors import UserError
from blip3v.ops import registry, use_backend
from blip3v.ops.feed_forward import (
    Arguments,
    feed_forward,
    feed_forward_backward,
    feed_forward_forward,
    reference,
)
from blip3v.ops.feed_forward.exact import exact
from blip3v.testing.cases.feed_forward import (
    CASES,
    LARGE,
    ODD,
    RAGGED,
    SMALL,
    FeedForwardCase,
    FeedForwardInputs,
)
from blip3v.testing.compare import compare, poisoned_memory

OP = "feed_forward"
GRADIENTS = ("dz", "dw1", "dw2", "dresidual")
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
OPERATOR_BACKENDS = ("triton",) if INTERPRETED else ("formula", "simulator")
"""`formula` is the reference behind the custom operator, `reference` the same through autograd."""

CPU_BACKENDS = OPERATOR_BACKENDS if INTERPRETED else ("reference", *OPERATOR_BACKENDS)

ROUNDINGS = {"reference": 2, "formula": 2}
"""Their products are tensors of their own, and rounded before the residual or gelu' comes to them."""


def arguments(inputs: FeedForwardInputs) -> Arguments:
    """Leaves that share the memory and the strides of the inputs."""
    return Arguments(*(tensor.detach().requires_grad_() for tensor in inputs[:4]))


def named(backend: str) -> str:
    return "reference" if backend == "formula" else backend


def run(backend: str, inputs: FeedForwardInputs) -> dict[str, Tensor]:
    """out, h (not from `reference`) and the gradients, in memory that was NaN before."""
    call = arguments(inputs)
    with poisoned_memory():
        if backend == "reference":
            out = feed_forward(*call, backend="reference")
            results = {"out": out}
        else:
            out, h = feed_forward_forward(*call, named(backend))
            results = {"out": out, "h": h}
        gradients = torch.autograd.grad(out, call, inputs.dout)
        if backend != "reference":
            plain = (tensor.detach() for tensor in (inputs.dout, inputs.w1, inputs.w2, h))
            step = registry.backend_named(OP, named(backend)).load().input_backward(*plain)
            results |= dict(zip(("dz of a step", "dh", "a"), step))
    for name, tensor, gradient in zip(Arguments._fields, call, gradients):
        assert gradient.dtype == tensor.dtype and gradient.shape == tensor.shape, name
    return {name: tensor.detach() for name, tensor in (results | dict(zip(GRADIENTS, gradients))).items()}


def skip_unless_it_runs(backend: str, inputs: FeedForwardInputs) -> None:
    ok, reason = registry.backend_named(OP, named(backend)).can_run(*inputs[:4])
    if not ok:
        pytest.skip(f"{backend}: {reason}")


def check(backend: str, case: FeedForwardCase, dtype: torch.dtype, device: str) -> None:
    inputs = case.build(dtype, device)
    skip_unless_it_runs(backend, inputs)
    got = run(backend, inputs)
    assert torch.equal(got.pop("dresidual"), inputs.dout)
    truth = exact(Arguments(*inputs[:4]), inputs.dout)
    # Gradients of wide weights are compared as what they were before they were widened.
    verdicts = [
        compare(name, tensor.to(dtype), *truth[name.split()[0]], ROUNDINGS.get(backend, 1))
        for name, tensor in got.items()
    ]
    assert all(verdict.ok for verdict in verdicts), "\n".join(map(str, verdicts))


def small_runs() -> Iterator[tuple[str, FeedForwardCase, torch.dtype]]:
    for backend in CPU_BACKENDS:
        for case in SMALL:
            if backend == "simulator" and case in ODD:
                continue
            if backend == "triton" and case.name in ("model_width", "many_rows"):
                continue  # the same as others, in minutes
            if backend != "simulator":
                yield backend, case, torch.float32
            # Interpreted, Triton computes bfloat16 in float32 and rounds at the end: two cases show that.
            if backend != "triton" or case in RAGGED[:2]:
                yield backend, case, torch.bfloat16


@pytest.mark.parametrize(
    "backend, case, dtype", list(small_runs()), ids=lambda value: getattr(value, "name", str(value))
)
def test_backend_against_float64(backend: str, case: FeedForwardCase, dtype: torch.dtype) -> None:
    check(backend, case, dtype, "cpu")


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("case", SMALL, ids=lambda case: case.name)
@pytest.mark.parametrize("backend", ["reference", "formula", "triton", "cuda"])
def test_backend_against_float64_on_a_gpu(backend: str, case: FeedForwardCase, dtype: torch.dtype) -> None:
    check(backend, case, dtype, "cuda")


@pytest.mark.gpu
@pytest.mark.parametrize("case", LARGE, ids=lambda case: case.name)
@pytest.mark.parametrize("backend", ["reference", "triton", "cuda"])
def test_large_case_on_a_gpu(backend: str, case: FeedForwardCase) -> None:
    check(backend, case, torch.bfloat16, "cuda")


# --- the reference against formulas written differently ---------------------------------------------------


def test_the_formula_against_loops() -> None:
    inputs = FeedForwardCase("tiny", (3,), 4, 6).build(torch.float64)
    z, w1, w2, residual, _ = inputs
    out, h = reference.forward(*inputs[:4])
    for r in range(3):
        hidden = [sum(float(z[r, d] * w1[j, d]) for d in range(4)) for j in range(6)]
        gelu = [x * (1 + math.erf(x / math.sqrt(2))) / 2 for x in hidden]
        for j in range(6):
            assert math.isclose(h[r, j], hidden[j], rel_tol=1e-12, abs_tol=1e-14)
        for d in range(4):
            total = float(residual[r, d]) + sum(gelu[j] * float(w2[d, j]) for j in range(6))
            assert math.isclose(out[r, d], total, rel_tol=1e-12, abs_tol=1e-14)


@pytest.mark.parametrize("backend", ["reference", "formula"])
def test_gradients_of_the_reference_by_finite_differences(backend: str) -> None:
    call = arguments(FeedForwardCase("tiny", (2, 3), 4, 6).build(torch.float64))

    def feed(*tensors: Tensor) -> Tensor:
        if backend == "reference":
            return feed_forward(*tensors, backend="reference")
        return feed_forward_forward(*tensors, "reference")[0]

    assert torch.autograd.gradcheck(feed, tuple(call))


def test_the_steps_of_back_propagation_add_up() -> None:
    """dz step by step, dw1 and dw2 once for all steps: what back-propagation through time makes of it."""
    inputs = FeedForwardCase("steps", (4, 3), 8, 16).build(torch.float64)
    _, h = reference.forward(*inputs[:4])
    dz, dw1, dw2 = reference.backward(inputs.dout, *inputs[:3], h)
    steps = [reference.input_backward(d, inputs.w1, inputs.w2, own) for d, own in zip(inputs.dout, h)]
    dz_steps, dh, a = (torch.stack(parts) for parts in zip(*steps))
    torch.testing.assert_close(dz_steps, dz)
    torch.testing.assert_close(dh.flatten(0, 1).t() @ inputs.z.flatten(0, 1), dw1)
    torch.testing.assert_close(inputs.dout.flatten(0, 1).t() @ a.flatten(0, 1), dw2)


# --- determinism, autocast --------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", CPU_BACKENDS)
def test_two_runs_give_the_same_bits(backend: str) -> None:
    inputs = CASES["ragged"].build(torch.bfloat16)
    skip_unless_it_runs(backend, inputs)
    first, second = run(backend, inputs), run(backend, inputs)
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name]), name


@pytest.mark.parametrize("backend", ["reference", *OPERATOR_BACKENDS])
def test_under_autocast_the_weights_stay_wide(backend: str) -> None:
    inputs = CASES["wide_weights"].build(torch.float32)
    narrow = CASES["wide_weights"].build(torch.bfloat16)
    skip_unless_it_runs(backend, narrow)
    call = arguments(inputs)
    with torch.autocast("cpu", torch.bfloat16):
        out = feed_forward(*call, backend=named(backend))
    gradients = torch.autograd.grad(out, call, inputs.dout.to(out.dtype))
    assert [gradient.dtype for gradient in gradients] == [torch.float32] * 4
    truth = exact(Arguments(*narrow[:4]), inputs.dout)
    for name, tensor in zip(("out", "dz", "dw1", "dw2"), (out, *gradients)):
        verdict = compare(name, tensor.detach().bfloat16(), *truth[name], 3)  # inputs are rounded, too
        assert verdict.ok, verdict


# --- torch.library ----------------------------------------------------------------------------------------


TINY = FeedForwardCase("tiny", (2, 9), 16, 24)


@pytest.mark.parametrize("backend", OPERATOR_BACKENDS)
def test_opcheck(backend: str) -> None:
    inputs = TINY.build(torch.bfloat16)
    skip_unless_it_runs(backend, inputs)
    call = arguments(inputs)
    torch.library.opcheck(feed_forward_forward, (*call, named(backend)))
    with torch.no_grad():
        _, h = feed_forward_forward(*call, named(backend))
    torch.library.opcheck(feed_forward_backward, (inputs.dout, *inputs[:3], h, named(backend)))


@pytest.mark.parametrize("backend", [None, *OPERATOR_BACKENDS])
def test_compiled_without_graph_breaks(backend: str | None) -> None:
    inputs = TINY.build(torch.bfloat16)
    if backend:
        skip_unless_it_runs(backend, inputs)

    def feed(call: Arguments) -> Tensor:
        if backend == "formula":
            return feed_forward_forward(*call, "reference")[0]
        return feed_forward(*call, backend=backend)

    eager, traced = arguments(inputs), arguments(inputs)
    expected, got = feed(eager), torch.compile(feed, fullgraph=True, backend="aot_eager")(traced)
    assert torch.equal(expected, got)
    for one, other in zip(
        torch.autograd.grad(expected, eager, inputs.dout), torch.autograd.grad(got, traced, inputs.dout)
    ):
        assert torch.equal(one, other)


def test_compiled_by_inductor_with_any_number_of_rows() -> None:
    def feed(*call: Tensor) -> Tensor:
        # The name `auto`, as on a device with several backends: the operator chooses when it runs.
        return feed_forward_forward(*call, "auto")[0] * 2

    compiled = torch.compile(feed, fullgraph=True, dynamic=True)
    for rows in (2, 3):
        call = arguments(FeedForwardCase("tiny", (rows, 5), 8, 16).build(torch.float32))
        torch.testing.assert_close(compiled(*call), feed(*call))


def test_fake_tensors_have_the_shapes() -> None:
    inputs = CASES["demo"].build(torch.bfloat16)
    with FakeTensorMode() as mode:
        call = arguments(FeedForwardInputs(*(mode.from_tensor(tensor) for tensor in inputs)))
        out, h = feed_forward_forward(*call, "cuda")
        assert (out.shape, out.dtype) == (inputs.z.shape, torch.bfloat16)
        assert (h.shape, h.dtype) == ((2, 16, 5, 384), torch.bfloat16)
        gradients = torch.autograd.grad(out, call, torch.empty_like(out))
        assert [g.shape for g in gradients] == [t.shape for t in call]


@pytest.mark.gpu
@pytest.mark.parametrize("backend", ["reference", "triton", "cuda"])
def test_a_cuda_graph_replays_forward_and_backward(backend: str) -> None:
    inputs = CASES["several_tiles"].build(torch.bfloat16, "cuda")
    skip_unless_it_runs(backend, inputs)
    expected = run(backend, inputs)
    call = arguments(inputs)

    def step() -> tuple[Tensor, ...]:
        out = feed_forward(*call, backend=backend)
        return out, *torch.autograd.grad(out, call[:3], inputs.dout)

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = step()
    for tensor in captured:
        tensor.detach().fill_(math.nan)
    graph.replay()
    for name, tensor in zip(("out", *GRADIENTS[:3]), captured):
        assert torch.equal(tensor, expected[name]), name


# --- choosing and refusing --------------------------------------------------------------------------------


def test_auto_on_a_cpu_is_the_reference() -> None:
    inputs = CASES["ragged"].build(torch.float32)
    assert torch.equal(feed_forward(*inputs[:4]), reference.feed(*inputs[:4]))


def test_a_name_that_cannot_run_is_an_error_that_says_why() -> None:
    inputs = CASES["ragged"].build(torch.float32)
    reason = "backend cuda was asked for and cannot run: the tensors are on cpu, need a CUDA device"
    with pytest.raises(UserError, match=reason):
        feed_forward(*inputs[:4], backend="cuda")
    with use_backend("cuda", op=OP), pytest.raises(UserError, match=reason):
        feed_forward(*inputs[:4])


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"z": torch.zeros(())}, "z has shape .., need at least one channel"),
        ({"w1": torch.zeros(12)}, "w1 has shape .12,., need 2 dimensions"),
        ({"w1": torch.zeros(12, 7)}, r"w1 has shape \(12, 7\), need \(12, 8\)"),
        ({"w2": torch.zeros(12, 8)}, r"w2 has shape \(12, 8\), need \(8, 12\)"),
        ({"residual": torch.zeros(4, 8)}, r"residual has shape \(4, 8\), need \(2, 2, 8\)"),
        (
            {"residual": torch.zeros(2, 2, 8).half()},
            "residual is torch.float16 and z torch.float32, need one",
        ),
        ({"w1": torch.zeros(12, 8).bfloat16()}, "w1 is torch.bfloat16 and z torch.float32, need z's type"),
        ({"w2": torch.zeros(8, 12).int()}, "w2 is torch.int32, need a float type"),
        ({"w1": torch.zeros(12, 8, device="meta")}, "w1 is on meta and z on cpu"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_wrong_arguments_are_named(changes: dict, message: str) -> None:
    call = {
        "z": torch.zeros(2, 2, 8),
        "w1": torch.zeros(12, 8),
        "w2": torch.zeros(8, 12),
        "residual": torch.zeros(2, 2, 8),
    }
    with pytest.raises(ValueError, match=message):
        feed_forward(**call | changes)


@pytest.mark.parametrize(
    "case, dtype, reason",
    [
        (CASES["odd_widths"], torch.bfloat16, "33 channels, need a multiple of 8"),
        (FeedForwardCase("odd", (3,), 32, 20), torch.bfloat16, "20 hidden channels, need a multiple of 8"),
        (CASES["demo"], torch.float16, "torch.float16, need bfloat16"),
    ],
    ids=["width", "hidden", "dtype"],
)
def test_what_the_compiled_kernels_do_not_take(
    simulator_module: ModuleType, case: FeedForwardCase, dtype: torch.dtype, reason: str
) -> None:
    with pytest.raises(UserError, match=reason):
        feed_forward(*case.build(dtype)[:4], backend="simulator")


def test_rows_that_tma_cannot_read_are_copied(simulator_module: ModuleType) -> None:
    inputs = CASES["ragged"].build(torch.bfloat16)
    memory = torch.zeros(inputs.z.numel() + 1, dtype=torch.bfloat16)
    off = memory[1:].view(inputs.z.shape).copy_(inputs.z)  # contiguous, two bytes past an aligned address
    apart = torch.zeros(*inputs.residual.shape, 2, dtype=torch.bfloat16)[..., 0].copy_(inputs.residual)
    out = feed_forward(off, inputs.w1, inputs.w2, apart, backend="simulator")
    assert torch.equal(out, feed_forward(*inputs[:4], backend="simulator"))


# --- Triton in its own process ----------------------------------------------------------------------------


@pytest.mark.skipif(INTERPRETED, reason="this is the process that it starts")
@pytest.mark.interpreted
def test_the_backend_in_tritons_interpreter(passed_in_interpreter: int) -> None:
    assert passed_in_interpreter >= len(SMALL)
