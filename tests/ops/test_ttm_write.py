"""ttm_write: every backend that runs here, on every case, against float64.

Triton runs on a CPU only in its interpreter, which is a matter of the whole process: the last test waits
for pytest in a process of its own (conftest.py), which runs the tests of this file that name triton.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from blip3v.errors import UserError
from blip3v.models.temporal.token_learner import TokenLearner
from blip3v.ops import registry
from blip3v.ops.ttm_read import ttm_read
from blip3v.ops.ttm_write import (
    Arguments,
    compiled,
    reference,
    ttm_write,
    ttm_write_backward,
    ttm_write_forward,
)
from blip3v.ops.ttm_write.arguments import EPS
from blip3v.ops.ttm_write.exact import exact
from blip3v.testing.cases.ttm_write import CASES, LARGE, MODEL, SMALL, WriteCase, WriteInputs
from blip3v.testing.compare import compare, poisoned_memory

OP = "ttm_write"
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
OPERATOR_BACKENDS = ("triton",) if INTERPRETED else ("formula", "simulator")
"""`formula` is the reference behind the custom operator, `reference` PyTorch's layers and autograd."""

CPU_BACKENDS = OPERATOR_BACKENDS if INTERPRETED else ("reference", *OPERATOR_BACKENDS)
ROUNDINGS = {"reference": 8}
"""PyTorch's layers round every intermediate."""

ADDED_UP_NARROW = tuple(f"dnorm{which}_{what}" for which in ("1", "2", "") for what in ("weight", "bias"))
"""PyTorch's LayerNorm on a CPU adds these up in bfloat16: their error says nothing."""

TINY = WriteCase("tiny", videos=2, positions=2, slots=2, width=16, memory="expanded")


def leaves(inputs: WriteInputs) -> Arguments:
    """Leaves that share the memory and the strides of the inputs; the stamp has no gradient."""
    tensors = {name: None if t is None else t.detach() for name, t in zip(Arguments._fields, inputs)}
    for name, tensor in tensors.items():
        if tensor is not None and name != "stamp":
            tensor.requires_grad_()
    return Arguments(**tensors)


def differentiated(call: Arguments) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in call._asdict().items() if tensor is not None and name != "stamp"}


def cotangents(inputs: WriteInputs) -> list[Tensor]:
    return [tensor for tensor in inputs[12:] if tensor is not None]


def run(backend: str, inputs: WriteInputs) -> dict[str, Tensor]:
    """Results (without statistics from `reference`) and gradients, in memory that was NaN before."""
    call = leaves(inputs)
    with poisoned_memory():
        if backend == "reference":
            found = ttm_write(*call, backend="reference")
            results = dict(zip(("group", "normed"), found if isinstance(found, tuple) else (found,)))
        else:
            name = "reference" if backend == "formula" else backend
            made = dict(zip(("group", "normed", "mean", "rstd"), ttm_write_forward(*call, EPS, name)))
            results = {name: tensor for name, tensor in made.items() if tensor.numel()}
        asked = differentiated(call)
        outputs = [results[name] for name in ("group", "normed") if name in results]
        gradients = torch.autograd.grad(outputs, list(asked.values()), cotangents(inputs))
    results |= {f"d{name}": gradient for name, gradient in zip(asked, gradients)}
    return {name: tensor.detach() for name, tensor in results.items()}


def skip_unless_it_runs(backend: str, inputs: WriteInputs) -> None:
    ok, reason = registry.backend_named(OP, "reference" if backend == "formula" else backend).can_run(
        *inputs[:12]
    )
    if not ok:
        pytest.skip(f"{backend}: {reason}")


def check(backend: str, case: WriteCase, dtype: torch.dtype, device: str) -> None:
    inputs = case.build(dtype, device)
    skip_unless_it_runs(backend, inputs)
    got = run(backend, inputs)
    truth = exact(Arguments(*inputs[:12]), inputs.dgroup, inputs.dnormed)
    narrow = dtype not in (torch.float32, torch.float64)
    roundings = ROUNDINGS.get(backend, 1) if narrow else 1
    verdicts = [
        compare(name, tensor, *truth[name], roundings)
        for name, tensor in got.items()
        if not (narrow and backend == "reference" and name in ADDED_UP_NARROW)
    ]
    assert got.keys() >= {f"d{name}" for name in differentiated(leaves(inputs))}
    assert all(verdict.ok for verdict in verdicts), "\n".join(map(str, verdicts))
    for name, tensor in differentiated(leaves(inputs)).items():
        assert got[f"d{name}"].dtype == tensor.dtype, name


def small_runs() -> Iterator[tuple[str, WriteCase, torch.dtype]]:
    for backend in CPU_BACKENDS:
        for case in SMALL:
            if backend == "triton" and case in MODEL:
                continue  # as the others, slowly
            yield backend, case, torch.float32
            yield backend, case, torch.bfloat16


@pytest.mark.parametrize(
    "backend, case, dtype", list(small_runs()), ids=lambda value: getattr(value, "name", str(value))
)
def test_backend_against_float64(backend: str, case: WriteCase, dtype: torch.dtype) -> None:
    check(backend, case, dtype, "cpu")


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("case", SMALL, ids=lambda case: case.name)
@pytest.mark.parametrize("backend", ["reference", "formula", "triton", "cuda"])
def test_backend_against_float64_on_a_gpu(backend: str, case: WriteCase, dtype: torch.dtype) -> None:
    check(backend, case, dtype, "cuda")


@pytest.mark.gpu
@pytest.mark.parametrize("case", LARGE, ids=lambda case: case.name)
@pytest.mark.parametrize("backend", ["reference", "triton", "cuda"])
def test_large_case_on_a_gpu(backend: str, case: WriteCase) -> None:
    check(backend, case, torch.bfloat16, "cuda")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_it_is_what_the_model_does(dtype: torch.dtype) -> None:
    """The module TokenLearner over the concatenated tokens, then the read of the next step, bit for bit."""
    inputs = replace(CASES["demo"], precise=False).build(dtype)
    learner = TokenLearner(64, 4).to(dtype)
    names = ("norm.weight", "norm.bias", "mlp.0.weight", "mlp.0.bias", "mlp.1.weight", "mlp.3.weight")
    learner.load_state_dict(dict(zip(names, inputs[2:8])))
    memory = learner(torch.cat([inputs.memory, inputs.processed], dim=2))
    assert torch.equal(ttm_write(*inputs[:8]), memory)
    for got, wanted in zip(ttm_write(*inputs[:12]), ttm_read(memory, *inputs[8:12])):
        assert torch.equal(got, wanted)


@pytest.mark.parametrize("frame", [True, False])
@pytest.mark.parametrize("backend", ["reference", "formula"])
def test_gradients_of_the_reference_by_finite_differences(backend: str, frame: bool) -> None:
    call = leaves(WriteCase("tiny", 2, 2, 2, 4, frame=frame).build(torch.float64))
    asked = differentiated(call)

    def write(*tensors: Tensor) -> tuple[Tensor, ...] | Tensor:
        given = call._replace(**dict(zip(asked, tensors)))
        if backend == "reference":
            return reference.write(*given, EPS)
        return ttm_write_forward(*given, EPS, "reference")[: 1 + frame]

    assert torch.autograd.gradcheck(write, list(asked.values()))


@pytest.mark.parametrize("frame", [True, False])
@pytest.mark.parametrize("backend", OPERATOR_BACKENDS)
def test_opcheck(backend: str, frame: bool) -> None:
    inputs = replace(TINY, frame=frame).build(torch.bfloat16)
    skip_unless_it_runs(backend, inputs)
    name = "reference" if backend == "formula" else backend
    torch.library.opcheck(ttm_write_forward, (*leaves(inputs), EPS, name))
    group, normed, mean, rstd = ttm_write_forward(*inputs[:12], EPS, name)
    dnormed = torch.zeros_like(normed) if inputs.dnormed is None else inputs.dnormed
    given = (inputs.dgroup, dnormed, *inputs[:12], group, mean, rstd, EPS, name)
    torch.library.opcheck(ttm_write_backward, given)


@pytest.mark.parametrize("frame", [True, False])
@pytest.mark.parametrize("backend", [None, *OPERATOR_BACKENDS])
def test_compiled_without_graph_breaks(backend: str | None, frame: bool) -> None:
    inputs = replace(TINY, frame=frame).build(torch.float32)
    if backend:
        skip_unless_it_runs(backend, inputs)

    def write(call: Arguments) -> tuple[Tensor, ...]:
        if backend == "formula":
            return ttm_write_forward(*call, EPS, "reference")[: 1 + frame]
        made = ttm_write(*call, backend=backend)
        return made if isinstance(made, tuple) else (made,)

    eager, traced = leaves(inputs), leaves(inputs)
    expected, got = write(eager), torch.compile(write, fullgraph=True, backend="aot_eager")(traced)
    wanted = torch.autograd.grad(expected, list(differentiated(eager).values()), cotangents(inputs))
    found = torch.autograd.grad(got, list(differentiated(traced).values()), cotangents(inputs))
    for one, other in zip((*expected, *wanted), (*got, *found)):
        assert torch.equal(one, other)


def test_fake_tensors_have_the_shapes() -> None:
    inputs = CASES["two_slots"].build(torch.bfloat16)
    with FakeTensorMode() as mode:
        call = Arguments(*(mode.from_tensor(tensor) for tensor in inputs[:12]))
        group, normed, mean, rstd = ttm_write_forward(*call, EPS, "cuda")
        assert group.shape == normed.shape == (1, 5, 3, 128) and group.dtype == torch.bfloat16
        assert mean.shape == rstd.shape == (1, 5, 3) and mean.dtype == torch.float32
        last, *nothing = ttm_write_forward(*call[:8], *[None] * 4, EPS, "cuda")
        assert last.shape == (1, 5, 2, 128) and [tensor.numel() for tensor in nothing] == [0, 0, 0]


@pytest.mark.skipif(INTERPRETED, reason="the interpreter knows no autocast of its own")
@pytest.mark.parametrize("backend", ["reference", "simulator"])
def test_autocast(backend: str) -> None:
    inputs = CASES["demo"].build(torch.float32)
    skip_unless_it_runs(backend, inputs)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        results = ttm_write(*inputs[:12], backend=backend)
    for got, wanted in zip(results, ttm_write(*inputs[:12])):
        torch.testing.assert_close(got.float(), wanted, rtol=3e-2, atol=6e-2)


VECTOR, ROW = torch.zeros(8), torch.zeros(2, 3, 8)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"memory": torch.zeros(2, 3, 8)}, r"memory has shape \(2, 3, 8\), need \[B,S,G,D\]"),
        (
            {"processed": torch.zeros(2, 3, 0, 8)},
            r"processed has shape .*need \[B,S,n,D\] with at least one of each",
        ),
        ({"processed": torch.zeros(2, 4, 5, 8)}, r"processed has shape \(2, 4, 5, 8\), need \(2, 3, 5, 8\)"),
        (
            {"processed": torch.zeros(2, 3, 5, 8).half()},
            "processed is torch.float16 and memory torch.float32",
        ),
        ({"w1": torch.zeros(8)}, r"w1 has shape \(8,\), need \[J,D\]"),
        ({"w2": torch.zeros(4, 7)}, r"w2 has shape \(4, 7\), need \(4, 8\)"),
        ({"norm2_bias": torch.zeros(9)}, r"norm2_bias has shape \(9,\), need \(8,\)"),
        ({"w1": torch.zeros(8, 8, device="meta")}, "w1 is on meta and memory on cpu"),
        ({"frame": ROW}, "frame, norm_weight and norm_bias come together or not at all"),
        ({"stamp": VECTOR}, "there is a stamp and no frame"),
        (
            {
                "frame": ROW,
                "norm_weight": VECTOR,
                "norm_bias": VECTOR,
                "stamp": torch.zeros(8, requires_grad=True),
            },
            "stamp requires a gradient and has none",
        ),
        ({"eps": float("inf")}, "eps is inf, need a finite number above 0"),
    ],
)
def test_wrong_arguments_are_named(changes: dict, message: str) -> None:
    shapes = {"memory": (2, 3, 4, 8), "processed": (2, 3, 5, 8), "w1": (8, 8), "w2": (4, 8)}
    norms = dict.fromkeys(("norm1_weight", "norm1_bias", "norm2_weight", "norm2_bias"), VECTOR)
    call = {name: torch.zeros(shape) for name, shape in shapes.items()} | norms | changes
    with pytest.raises(ValueError, match="ttm_write: .*" + message):
        ttm_write(**call)


class StandIn:
    """What `compiled.accepts` asks of a module."""

    ttm_write_widths = {1: 1536, 2: 1536, 4: 1536, 8: 1024}  # noqa: RUF012
    ttm_write_most_processed = 16
    ttm_write_most_shared_bytes = 1000

    @staticmethod
    def ttm_write_shared_bytes(dtype: str, slots: int, processed: int, width: int) -> tuple[int, int]:
        assert dtype == "bfloat16"
        return 10, width * (slots + processed)


@pytest.mark.parametrize(
    "changes, reason",
    [
        ({"hidden": 16}, "16 hidden channels, need twice the memory slots, 8"),
        ({"processed": 17, "width": 8}, "17 processed rows, need at most 16"),
        ({"slots": 3}, "3 memory slots, need one of 1, 2, 4, 8"),
        ({"processed": 12}, "4 + 12 rows of 64 channels take 1024 bytes, a block has 1000"),
    ],
)
def test_what_the_kernels_refuse(changes: dict, reason: str) -> None:
    plain = WriteCase("plain")
    assert compiled.accepts(StandIn(), *plain.build(torch.bfloat16)[:12]).ok
    answer = compiled.accepts(StandIn(), *replace(plain, **changes).build(torch.bfloat16)[:12])
    assert not answer.ok and reason in answer.reason


def test_a_name_that_cannot_run_is_an_error_that_says_why() -> None:
    with pytest.raises(UserError, match="backend cuda was asked for and cannot run: the tensors are on cpu"):
        ttm_write(*TINY.build(torch.float32)[:12], backend="cuda")


@pytest.mark.skipif(INTERPRETED, reason="this is the process that it starts")
@pytest.mark.interpreted
def test_the_backend_in_tritons_interpreter(passed_in_interpreter: int) -> None:
    assert passed_in_interpreter >= len(SMALL)
