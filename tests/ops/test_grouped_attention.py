"""grouped_attention: every backend that runs here, on every case, against float64.

Triton runs on a CPU only in its interpreter, which is a matter of the whole process: the last test waits
for pytest in a process of its own (conftest.py), which runs the tests of this file that name triton.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from blip3v.errors import UserError
from blip3v.ops import registry, use_backend
from blip3v.ops.grouped_attention import (
    Arguments,
    grouped_attention,
    grouped_attention_backward,
    grouped_attention_forward,
    reference,
)
from blip3v.ops.grouped_attention.exact import exact
from blip3v.testing.cases.grouped_attention import CASES, LARGE, SMALL, GroupCase, GroupInputs
from blip3v.testing.compare import compare, poisoned_memory

OP = "grouped_attention"
EPS = 1e-5
GRADIENTS = ("dx", "dqkv", "dnorm_weight", "dnorm_bias")
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
OPERATOR_BACKENDS = ("triton",) if INTERPRETED else ("formula", "simulator")
"""`formula` is the reference behind the custom operator, `reference` the same through SDPA and autograd."""

CPU_BACKENDS = OPERATOR_BACKENDS if INTERPRETED else ("reference", *OPERATOR_BACKENDS)
BOTH_DTYPES = ("model", "demo_64", "64_tokens", "strided", "no_groups")
"""Cases that Triton is interpreted on in bfloat16 too: there it computes in float32 and rounds at the end."""

ROUNDINGS = {"reference": 5}
"""PyTorch rounds the attention, the sum, and the gradient of the LayerNorm one after the other."""

ADDED_UP_NARROW = ("dnorm_weight", "dnorm_bias")
"""PyTorch's LayerNorm on a CPU adds these up over all rows in bfloat16: their error says nothing."""


def arguments(inputs: GroupInputs) -> Arguments:
    """Leaves that share the memory and the strides of the inputs."""
    return Arguments(*(tensor.detach().requires_grad_() for tensor in inputs[:4]))


def run(backend: str, inputs: GroupInputs, eps: float = EPS) -> dict[str, Tensor]:
    """y, z, mean and rstd (not from `reference`) and the gradients, in memory that was NaN before."""
    call = arguments(inputs)
    with poisoned_memory():
        if backend == "reference":
            results = dict(zip(("y", "z"), grouped_attention(*call, eps=eps, backend="reference")))
        else:
            name = "reference" if backend == "formula" else backend
            results = dict(zip(("y", "z", "mean", "rstd"), grouped_attention_forward(*call, eps, name)))
        gradients = torch.autograd.grad((results["y"], results["z"]), call, (inputs.dy, inputs.dz))
    return {name: tensor.detach() for name, tensor in (results | dict(zip(GRADIENTS, gradients))).items()}


def skip_unless_it_runs(backend: str, inputs: GroupInputs) -> None:
    name = "reference" if backend == "formula" else backend
    ok, reason = registry.backend_named(OP, name).can_run(*inputs[:4])
    if not ok:
        pytest.skip(f"{backend}: {reason}")


def check(backend: str, case: GroupCase, dtype: torch.dtype, device: str) -> None:
    inputs = case.build(dtype, device)
    skip_unless_it_runs(backend, inputs)
    got = run(backend, inputs)
    truth = exact(Arguments(*inputs[:4]), got["y"], EPS, inputs.dy, inputs.dz)
    assert {name: got[name].dtype for name in GRADIENTS} == {
        name: tensor.dtype for name, tensor in zip(GRADIENTS, inputs[:4])
    }
    unfair = ADDED_UP_NARROW if backend == "reference" and dtype != torch.float64 else ()
    verdicts = [
        compare(name, tensor, *truth[name], ROUNDINGS.get(backend, 1))
        for name, tensor in got.items()
        if name not in unfair
    ]
    assert all(verdict.ok for verdict in verdicts), "\n".join(map(str, verdicts))


def small_runs() -> Iterator[tuple[str, GroupCase, torch.dtype]]:
    for backend in CPU_BACKENDS:
        for case in SMALL:
            yield backend, case, torch.float32
            if backend != "triton" or case.name in BOTH_DTYPES:
                yield backend, case, torch.bfloat16


@pytest.mark.parametrize(
    "backend, case, dtype", list(small_runs()), ids=lambda value: getattr(value, "name", str(value))
)
def test_backend_against_float64(backend: str, case: GroupCase, dtype: torch.dtype) -> None:
    check(backend, case, dtype, "cpu")


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("case", SMALL, ids=lambda case: case.name)
@pytest.mark.parametrize("backend", ["reference", "formula", "triton", "cuda"])
def test_backend_against_float64_on_a_gpu(backend: str, case: GroupCase, dtype: torch.dtype) -> None:
    check(backend, case, dtype, "cuda")


@pytest.mark.gpu
@pytest.mark.parametrize("case", LARGE, ids=lambda case: case.name)
@pytest.mark.parametrize("backend", ["reference", "triton", "cuda"])
def test_large_case_on_a_gpu(backend: str, case: GroupCase) -> None:
    check(backend, case, torch.bfloat16, "cuda")


# --- the reference against formulas written differently ---------------------------------------------------


def test_the_formula_against_loops() -> None:
    x, qkv, weight, bias, _, _ = GroupCase("tiny", 2, 3, 2, 2).build(torch.float64)
    y, z, mean, rstd = reference.forward(x, qkv, weight, bias, 0.1)
    for r in range(2):
        for i in range(3):
            row = []
            for h in range(2):
                q, keys, values = qkv[r, i, 0, h], qkv[r, :, 1, h], qkv[r, :, 2, h]
                weights = [math.exp(sum(float(a * b) for a, b in zip(q, k)) / math.sqrt(2)) for k in keys]
                for c in range(2):
                    answer = sum(w * float(v[c]) for w, v in zip(weights, values)) / sum(weights)
                    row.append(float(x[r, i, 2 * h + c]) + answer)
            middle = sum(row) / 4
            spread = math.sqrt(sum((value - middle) ** 2 for value in row) / 4 + 0.1)
            assert math.isclose(mean[r, i], middle, rel_tol=1e-10, abs_tol=1e-12)
            assert math.isclose(rstd[r, i], 1 / spread, rel_tol=1e-10)
            for c, value in enumerate(row):
                assert math.isclose(y[r, i, c], value, rel_tol=1e-10, abs_tol=1e-12)
                normed = (value - middle) / spread * float(weight[c]) + float(bias[c])
                assert math.isclose(z[r, i, c], normed, rel_tol=1e-10, abs_tol=1e-12)


@pytest.mark.parametrize("backend", ["reference", "formula"])
def test_gradients_of_the_reference_by_finite_differences(backend: str) -> None:
    call = arguments(GroupCase("tiny", 2, 3, 2, 3).build(torch.float64))

    def attend(*tensors: Tensor) -> tuple[Tensor, ...]:
        if backend == "reference":
            return reference.attend(*tensors, 0.1)
        return grouped_attention_forward(*tensors, 0.1, "reference")[:2]

    assert torch.autograd.gradcheck(attend, tuple(call))


@pytest.mark.parametrize("case", SMALL, ids=lambda case: case.name)
def test_both_forms_of_the_reference_agree_in_float64(case: GroupCase) -> None:
    if not case.wide_norm:
        check("reference", case, torch.float64, "cpu")


def test_the_transformer_layer_of_today() -> None:
    from blip3v.models.blocks import TransformerLayer

    torch.manual_seed(0)
    layer = TransformerLayer(64, 4, 2)
    attention, feed_forward = layer
    norm, *rest = feed_forward
    x = torch.randn(3, 5, 64)
    normed = attention.norm(x)
    projections = (attention.to_q, attention.to_k, attention.to_v)
    qkv = torch.stack([linear(normed).unflatten(-1, (4, 16)) for linear in projections], 2)
    y, z = grouped_attention(x, qkv, norm.weight, norm.bias, eps=norm.eps, backend="reference")
    for part in rest:
        z = part(z)
    torch.testing.assert_close(y + z, layer(x))


# --- determinism, one output alone ------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["model", "64_tokens", "strided"])
@pytest.mark.parametrize("backend", CPU_BACKENDS)
def test_two_runs_give_the_same_bits(backend: str, name: str) -> None:
    inputs = CASES[name].build(torch.bfloat16)
    skip_unless_it_runs(backend, inputs)
    first, second = run(backend, inputs), run(backend, inputs)
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name]), name


@pytest.mark.parametrize("used", ["y", "z"])
@pytest.mark.parametrize("backend", CPU_BACKENDS)
def test_one_output_alone_has_gradients(backend: str, used: str) -> None:
    inputs = CASES["demo_128"].build(torch.float32)
    skip_unless_it_runs(backend, inputs)
    dy = inputs.dy if used == "y" else torch.zeros_like(inputs.dy)
    dz = inputs.dz if used == "z" else torch.zeros_like(inputs.dz)
    call = arguments(inputs)
    outputs = dict(zip("yz", grouped_attention(*call, backend=backend.replace("formula", "reference"))))
    got = torch.autograd.grad(outputs[used], call, getattr(inputs, f"d{used}"), allow_unused=True)
    truth = exact(Arguments(*inputs[:4]), outputs["y"].detach(), EPS, dy, dz)
    for name, tensor in zip(GRADIENTS, got):
        tensor = torch.zeros_like(truth[name].value).float() if tensor is None else tensor
        verdict = compare(name, tensor, *truth[name], ROUNDINGS.get(backend, 1))
        assert verdict.ok, verdict


def test_the_simulated_kernels_leave_strided_neighbours_alone() -> None:
    """Between the tokens of strided inputs there is NaN, which any read would spread."""
    inputs = CASES["strided"].build(torch.bfloat16)
    skip_unless_it_runs("simulator", inputs)
    expected = run("simulator", inputs)
    wide = torch.full((3, 5, 2, inputs.x.shape[-1] + 8), torch.nan, dtype=torch.bfloat16)
    x = wide[:, :, 1, 8:]
    x.copy_(inputs.x)
    got = run("simulator", inputs._replace(x=x))
    for name, tensor in expected.items():
        assert torch.equal(tensor, got[name]), name


# --- torch.library ----------------------------------------------------------------------------------------

TINY = GroupCase("tiny", 2, 5, 2, 8)


@pytest.mark.parametrize("layout", ["own", "strided"])
@pytest.mark.parametrize("backend", OPERATOR_BACKENDS)
def test_opcheck(backend: str, layout: str) -> None:
    inputs = replace(TINY, layout=layout).build(torch.bfloat16)
    skip_unless_it_runs(backend, inputs)
    name = "reference" if backend == "formula" else backend
    call = arguments(inputs)
    torch.library.opcheck(grouped_attention_forward, (*call, EPS, name))
    with torch.no_grad():
        y, _, mean, rstd = grouped_attention_forward(*call, EPS, name)
    saved = (inputs.qkv, inputs.norm_weight, y, mean, rstd)
    torch.library.opcheck(grouped_attention_backward, (inputs.dy, inputs.dz, *saved, name))


@pytest.mark.parametrize("backend", [None, *OPERATOR_BACKENDS])
def test_compiled_without_graph_breaks(backend: str | None) -> None:
    inputs = TINY.build(torch.bfloat16)
    if backend:
        skip_unless_it_runs(backend, inputs)

    def attend(call: Arguments) -> tuple[Tensor, ...]:
        if backend == "formula":
            return grouped_attention_forward(*call, EPS, "reference")[:2]
        return grouped_attention(*call, backend=backend)

    eager, traced = arguments(inputs), arguments(inputs)
    expected, got = attend(eager), torch.compile(attend, fullgraph=True, backend="aot_eager")(traced)
    slopes = (inputs.dy, inputs.dz)
    both = (*expected, *torch.autograd.grad(expected, eager, slopes))
    for one, other in zip(both, (*got, *torch.autograd.grad(got, traced, slopes))):
        assert torch.equal(one, other)


def test_compiled_by_inductor_with_any_number_of_groups() -> None:
    def attend(*call: Tensor) -> Tensor:
        # The name `auto`, as on a device with several backends: the operator chooses when it runs.
        return grouped_attention_forward(*call, EPS, "auto")[1] * 2

    compiled = torch.compile(attend, fullgraph=True, dynamic=True)
    for groups in (2, 3):
        call = arguments(replace(TINY, groups=groups).build(torch.float32))
        torch.testing.assert_close(compiled(*call), attend(*call))


def test_fake_tensors_have_the_shapes() -> None:
    inputs = TINY.build(torch.bfloat16)
    with FakeTensorMode() as mode:
        call = arguments(GroupInputs(*(mode.from_tensor(tensor) for tensor in inputs)))
        y, z, mean, rstd = grouped_attention_forward(*call, EPS, "cuda")
        assert (y.shape, y.dtype) == (z.shape, z.dtype) == (inputs.x.shape, torch.bfloat16)
        assert (mean.shape, mean.dtype) == (rstd.shape, rstd.dtype) == ((2, 5), torch.float32)
        gradients = torch.autograd.grad((y, z), call, (torch.empty_like(y), torch.empty_like(z)))
        assert [g.shape for g in gradients] == [t.shape for t in call]


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["model", "64_tokens"])
@pytest.mark.parametrize("backend", ["reference", "triton", "cuda"])
def test_a_cuda_graph_replays_forward_and_backward(backend: str, name: str) -> None:
    inputs = CASES[name].build(torch.bfloat16, "cuda")
    skip_unless_it_runs(backend, inputs)
    expected = run(backend, inputs)
    call = arguments(inputs)

    def step() -> tuple[Tensor, ...]:
        outputs = grouped_attention(*call, backend=backend)
        return *outputs, *torch.autograd.grad(outputs, call, (inputs.dy, inputs.dz))

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
    for name, tensor in zip(("y", "z", *GRADIENTS), captured):
        assert torch.equal(tensor, expected[name]), name


@pytest.mark.parametrize("backend", [None, *CPU_BACKENDS])
def test_under_autocast(backend: str | None) -> None:
    inputs = TINY.build(torch.float32)
    if backend:
        skip_unless_it_runs(backend, inputs)
    mixed = (inputs.x, inputs.qkv.bfloat16(), inputs.norm_weight, inputs.norm_bias)
    with torch.autocast("cpu", torch.bfloat16):
        if backend == "formula":
            y, z = grouped_attention(*mixed, backend="reference")
        else:
            y, z = grouped_attention(*mixed, backend=backend)
    # The reference leaves the residual as it is, the others are given bfloat16.
    expected = torch.float32 if backend in (None, "reference", "formula") else torch.bfloat16
    assert y.dtype == z.dtype == expected
    truth = exact(Arguments(*mixed), y, EPS)
    for name, tensor in (("y", y), ("z", z)):
        assert compare(name, tensor.bfloat16(), *truth[name], roundings=2).ok


# --- choosing and refusing --------------------------------------------------------------------------------


def test_auto_on_a_cpu_is_the_reference() -> None:
    inputs = TINY.build(torch.float32)
    for got, expected in zip(grouped_attention(*inputs[:4]), reference.attend(*inputs[:4], EPS)):
        assert torch.equal(got, expected)


def test_a_name_that_cannot_run_is_an_error_that_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = TINY.build(torch.float32)
    reason = "backend cuda was asked for and cannot run: the tensors are on cpu, need a CUDA device"
    with pytest.raises(UserError, match=reason):
        grouped_attention(*inputs[:4], backend="cuda")
    with use_backend("cuda"), pytest.raises(UserError, match=reason):
        grouped_attention(*inputs[:4])
    monkeypatch.setenv("BLIP3V_BACKEND", f"{OP}=cuda")
    with pytest.raises(UserError, match=reason):
        grouped_attention(*inputs[:4])


@pytest.mark.skipif(INTERPRETED, reason="about the compiled kernels")
@pytest.mark.parametrize(
    "case, dtype, change, reason",
    [
        (TINY, torch.float16, {}, "torch.float16, need bfloat16 or float32"),
        (replace(TINY, dim=7), torch.float32, {}, "7 channels per head, need an even number"),
        (replace(TINY, dim=258), torch.float32, {}, "258 channels per head, need .* at most 256"),
        (TINY, torch.float32, {"x": torch.zeros(2, 5, 17)[:, :, 1:]}, "x: it starts 1 elements into"),
        (
            TINY,
            torch.float32,
            {"x": torch.zeros(2, 5, 17)[:, :, :16]},
            "x: stride 85 of axis 0, need an even",
        ),
        (TINY, torch.float32, {"x": torch.zeros(2, 5, 32)[:, :, ::2]}, "x: stride 2 of axis 2, need 1"),
        (
            TINY,
            torch.float32,
            {"qkv": torch.zeros(2, 5, 3, 8, 2).transpose(3, 4)},
            "qkv: stride 2 of axis 4, need 1",
        ),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_what_the_kernels_do_not_take_is_said(case, dtype, change, reason, request) -> None:
    request.getfixturevalue("simulator_module")
    inputs = case.build(dtype)._replace(**change)
    with pytest.raises(UserError, match=reason):
        grouped_attention(*inputs[:4], backend="simulator")


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"x": torch.zeros(2, 16)}, r"x has shape \(2, 16\), need 3 dimensions"),
        ({"x": torch.zeros(2, 0, 16)}, "x has 0 tokens in a group, need 1 to 64"),
        ({"x": torch.zeros(2, 65, 16)}, "x has 65 tokens in a group, need 1 to 64"),
        ({"qkv": torch.zeros(2, 5, 3, 2, 7)}, r"qkv has shape .* need \[2, 5, 3, H, d\] with H \* d = 16"),
        ({"qkv": torch.zeros(2, 4, 3, 2, 8)}, r"qkv has shape \(2, 4, 3, 2, 8\)"),
        ({"qkv": torch.zeros(2, 5, 3, 2, 8).half()}, "qkv is torch.float16 and x torch.float32"),
        ({"norm_weight": torch.zeros(15)}, r"norm_weight has shape \(15,\), need \[16\]"),
        ({"norm_weight": torch.zeros(16).half()}, "norm_weight is torch.float16, need float32"),
        ({"norm_bias": torch.zeros(16, device="meta")}, "norm_bias is on meta and x on cpu"),
        ({"x": torch.zeros(2, 5, 16).int()}, "need float32 or the torch.int32 of x|need a float type"),
        ({"eps": 0.0}, "eps is 0.0, need a finite number above 0"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_wrong_arguments_are_named(changes: dict, message: str) -> None:
    call = {**TINY.build(torch.float32)._asdict(), **changes}
    del call["dy"], call["dz"]
    with pytest.raises(ValueError, match=message):
        grouped_attention(**call)


# --- Triton in its own process ----------------------------------------------------------------------------


@pytest.mark.skipif(INTERPRETED, reason="this is the process that it starts")
@pytest.mark.interpreted
def test_the_backend_in_tritons_interpreter(passed_in_interpreter: int) -> None:
    assert passed_in_interpreter > len(SMALL)
