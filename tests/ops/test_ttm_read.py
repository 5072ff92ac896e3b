"""ttm_read: every backend that runs here, on every case, against float64.

Triton runs on a CPU only in its interpreter, which is a matter of the whole process: the last test waits
for pytest in a process of its own (conftest.py), which runs the tests of this file that name triton.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F

from blip3v.errors import UserError
from blip3v.ops import registry
from blip3v.ops.ttm_read import Arguments, compiled, reference, ttm_read, ttm_read_backward, ttm_read_forward
from blip3v.ops.ttm_read.arguments import EPS
from blip3v.ops.ttm_read.exact import exact
from blip3v.testing.cases.ttm_read import CASES, LARGE, SMALL, ReadCase, ReadInputs
from blip3v.testing.compare import compare, poisoned_memory

OP = "ttm_read"
GRADIENTS = ("dmemory", "dframe", "dnorm_weight", "dnorm_bias")
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
OPERATOR_BACKENDS = ("triton",) if INTERPRETED else ("formula", "simulator")
"""`formula` is the reference behind the custom operator, `reference` PyTorch's layers and autograd."""

CPU_BACKENDS = OPERATOR_BACKENDS if INTERPRETED else ("reference", *OPERATOR_BACKENDS)
REFERENCE_ROUNDS = 4
"""PyTorch's layers round every intermediate."""

ADDED_UP_NARROW = ("dnorm_weight", "dnorm_bias")
"""PyTorch's LayerNorm on a CPU adds these up in bfloat16: their error says nothing."""

TINY = ReadCase("tiny", videos=2, positions=2, slots=2, width=16, memory="expanded", strided_frame=True)


def leaves(inputs: ReadInputs) -> Arguments:
    """Leaves that share the memory and the strides of the inputs; the stamp has no gradient."""
    memory, frame, stamp, weight, bias = inputs[:5]
    tensors = (tensor.detach().requires_grad_() for tensor in (memory, frame, weight, bias))
    memory, frame, weight, bias = tensors
    return Arguments(memory, frame, stamp, weight, bias)


def differentiated(call: Arguments) -> list[Tensor]:
    return [call.memory, call.frame, call.norm_weight, call.norm_bias]


def run(backend: str, inputs: ReadInputs) -> dict[str, Tensor]:
    """Results (without statistics from `reference`) and gradients, in memory that was NaN before."""
    call = leaves(inputs)
    with poisoned_memory():
        if backend == "reference":
            results = dict(zip(("group", "normed"), ttm_read(*call, backend="reference")))
        else:
            name = "reference" if backend == "formula" else backend
            results = dict(zip(("group", "normed", "mean", "rstd"), ttm_read_forward(*call, EPS, name)))
        outputs = [results["group"], results["normed"]]
        gradients = torch.autograd.grad(outputs, differentiated(call), inputs[5:7])
    return {name: tensor.detach() for name, tensor in (results | dict(zip(GRADIENTS, gradients))).items()}


def skip_unless_it_runs(backend: str, inputs: ReadInputs) -> None:
    ok, reason = registry.backend_named(OP, "reference" if backend == "formula" else backend).can_run(
        *inputs[:5]
    )
    if not ok:
        pytest.skip(f"{backend}: {reason}")


def check(backend: str, case: ReadCase, dtype: torch.dtype, device: str) -> None:
    inputs = case.build(dtype, device)
    skip_unless_it_runs(backend, inputs)
    got = run(backend, inputs)
    truth = exact(Arguments(*inputs[:5]), inputs.dgroup, inputs.dnormed)
    loose = backend == "reference" and dtype not in (torch.float32, torch.float64)
    verdicts = [
        compare(name, tensor, *truth[name], REFERENCE_ROUNDS if loose else 1)
        for name, tensor in got.items()
        if not (loose and name in ADDED_UP_NARROW)
    ]
    assert all(verdict.ok for verdict in verdicts), "\n".join(map(str, verdicts))
    assert [got[name].dtype for name in GRADIENTS] == [t.dtype for t in differentiated(leaves(inputs))]


def small_runs() -> Iterator[tuple[str, ReadCase, torch.dtype]]:
    for backend in CPU_BACKENDS:
        for case in SMALL:
            yield backend, case, torch.float32
            yield backend, case, torch.bfloat16


@pytest.mark.parametrize(
    "backend, case, dtype", list(small_runs()), ids=lambda value: getattr(value, "name", str(value))
)
def test_backend_against_float64(backend: str, case: ReadCase, dtype: torch.dtype) -> None:
    check(backend, case, dtype, "cpu")


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("case", SMALL, ids=lambda case: case.name)
@pytest.mark.parametrize("backend", ["reference", "formula", "triton", "cuda"])
def test_backend_against_float64_on_a_gpu(backend: str, case: ReadCase, dtype: torch.dtype) -> None:
    check(backend, case, dtype, "cuda")


@pytest.mark.gpu
@pytest.mark.parametrize("case", LARGE, ids=lambda case: case.name)
@pytest.mark.parametrize("backend", ["reference", "triton", "cuda"])
def test_large_case_on_a_gpu(backend: str, case: ReadCase) -> None:
    check(backend, case, torch.bfloat16, "cuda")


def test_it_is_what_the_model_does() -> None:
    inputs = CASES["demo"].build(torch.float32)
    memory, frame, stamp, weight, bias = inputs[:5]
    group, normed = ttm_read(*inputs[:5])
    expected = torch.cat([memory, (frame + stamp).unsqueeze(2)], dim=2)
    assert torch.equal(group, expected)
    assert torch.equal(normed, F.layer_norm(expected, (64,), weight, bias))


@pytest.mark.parametrize("backend", ["reference", "formula"])
def test_gradients_of_the_reference_by_finite_differences(backend: str) -> None:
    call = leaves(ReadCase("tiny", 2, 2, 2, 4).build(torch.float64))

    def read(memory: Tensor, frame: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, ...]:
        given = Arguments(memory, frame, call.stamp, weight, bias)
        if backend == "reference":
            return reference.read(*given, EPS)
        return ttm_read_forward(*given, EPS, "reference")[:2]

    assert torch.autograd.gradcheck(read, differentiated(call))


@pytest.mark.parametrize("backend", OPERATOR_BACKENDS)
def test_opcheck(backend: str) -> None:
    inputs = TINY.build(torch.bfloat16)
    skip_unless_it_runs(backend, inputs)
    name = "reference" if backend == "formula" else backend
    torch.library.opcheck(ttm_read_forward, (*leaves(inputs), EPS, name))
    group, _, mean, rstd = ttm_read_forward(*inputs[:5], EPS, name)
    given = (inputs.dgroup, inputs.dnormed, group, inputs.norm_weight, mean, rstd, name)
    torch.library.opcheck(ttm_read_backward, given)


@pytest.mark.parametrize("backend", [None, *OPERATOR_BACKENDS])
def test_compiled_without_graph_breaks(backend: str | None) -> None:
    inputs = TINY.build(torch.float32)
    if backend:
        skip_unless_it_runs(backend, inputs)

    def read(call: Arguments) -> tuple[Tensor, ...]:
        if backend == "formula":
            return ttm_read_forward(*call, EPS, "reference")[:2]
        return ttm_read(*call, backend=backend)

    eager, traced = leaves(inputs), leaves(inputs)
    expected, got = read(eager), torch.compile(read, fullgraph=True, backend="aot_eager")(traced)
    wanted = torch.autograd.grad(expected, differentiated(eager), inputs[5:7])
    found = torch.autograd.grad(got, differentiated(traced), inputs[5:7])
    for one, other in zip((*expected, *wanted), (*got, *found)):
        assert torch.equal(one, other)


def test_fake_tensors_have_the_shapes() -> None:
    inputs = CASES["two_slots"].build(torch.bfloat16)
    with FakeTensorMode() as mode:
        call = Arguments(*(mode.from_tensor(tensor) for tensor in inputs[:5]))
        group, normed, mean, rstd = ttm_read_forward(*call, EPS, "cuda")
        assert group.shape == normed.shape == (1, 7, 3, 128) and group.dtype == torch.bfloat16
        assert mean.shape == rstd.shape == (1, 7, 3) and mean.dtype == torch.float32


@pytest.mark.skipif(INTERPRETED, reason="the interpreter knows no autocast of its own")
@pytest.mark.parametrize("backend", ["reference", "simulator"])
def test_autocast(backend: str) -> None:
    inputs = CASES["demo"].build(torch.float32)
    skip_unless_it_runs(backend, inputs)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        group, normed = ttm_read(*inputs[:5], backend=backend)
    expected = ttm_read(*inputs[:5])
    for got, wanted in zip((group, normed), expected):
        torch.testing.assert_close(got.float(), wanted, rtol=2e-2, atol=4e-2)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"memory": torch.zeros(2, 3, 8)}, r"memory has shape \(2, 3, 8\), need \[B,S,G,D\]"),
        ({"memory": torch.zeros(2, 3, 0, 8)}, "need .* with at least one of each"),
        ({"memory": torch.zeros(2, 3, 4, 8).int()}, "memory is torch.int32, need a float type"),
        ({"frame": torch.zeros(2, 4, 8)}, r"frame has shape \(2, 4, 8\), need \(2, 3, 8\)"),
        (
            {"frame": torch.zeros(2, 3, 8).half()},
            "frame is torch.float16 and memory torch.float32, need torch.float32",
        ),
        ({"stamp": torch.zeros(7)}, r"stamp has shape \(7,\), need \(8,\)"),
        ({"stamp": torch.zeros(8, requires_grad=True)}, "stamp requires a gradient and has none"),
        ({"norm_bias": torch.zeros(8, device="meta")}, "norm_bias is on meta and memory on cpu"),
        ({"eps": 0.0}, "eps is 0.0, need a finite number above 0"),
    ],
)
def test_wrong_arguments_are_named(changes: dict, message: str) -> None:
    shapes = {
        "memory": (2, 3, 4, 8),
        "frame": (2, 3, 8),
        "stamp": (8,),
        "norm_weight": (8,),
        "norm_bias": (8,),
    }
    call = {name: torch.zeros(shape) for name, shape in shapes.items()} | changes
    with pytest.raises(ValueError, match="ttm_read: .*" + message):
        ttm_read(**call)


class StandIn:
    """What `compiled.accepts` asks of a module."""

    ttm_read_widths = {1: 1536, 2: 1536, 4: 1536, 8: 1024}  # noqa: RUF012


@pytest.mark.parametrize(
    "memory, frame, reason",
    [
        (torch.zeros(2, 3, 4, 8).double(), None, "torch.float64, need bfloat16 or float32"),
        (torch.zeros(2, 3, 5, 8), None, "5 memory slots, need one of 1, 2, 4, 8"),
        (torch.zeros(2, 3, 4, 12), None, "12 channels, need a multiple of 8 up to 1536"),
        (torch.zeros(1, 1, 8, 1032), None, "1032 channels, need a multiple of 8 up to 1024"),
        (torch.zeros(2, 3, 4, 9)[..., 1:], None, "memory: it starts 4 bytes into its memory"),
        (
            torch.zeros(2, 3, 4, 8),
            torch.zeros(2, 8, 3).transpose(1, 2),
            "frame: its channels are 3 elements apart",
        ),
        (torch.zeros(2, 3, 1, 8).expand(2, 3, 4, 8), None, "memory: stride 0 of axis 2"),
    ],
)
def test_what_the_kernels_refuse(memory: Tensor, frame: Tensor | None, reason: str) -> None:
    width = memory.shape[-1]
    if frame is None:
        frame = torch.zeros(*memory.shape[:2], width, dtype=memory.dtype)
    answer = compiled.accepts(StandIn(), memory, frame, None, torch.zeros(width), torch.zeros(width))
    assert not answer.ok and reason in answer.reason


def test_a_name_that_cannot_run_is_an_error_that_says_why() -> None:
    with pytest.raises(UserError, match="backend cuda was asked for and cannot run: the tensors are on cpu"):
        ttm_read(*TINY.build(torch.float32)[:5], backend="cuda")


@pytest.mark.skipif(INTERPRETED, reason="this is the process that it starts")
@pytest.mark.interpreted
def test_the_backend_in_tritons_interpreter(passed_in_interpreter: int) -> None:
    assert passed_in_interpreter >= len(SMALL)
