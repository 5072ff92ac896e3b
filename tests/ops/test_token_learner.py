"""token_learner: every backend that runs here, on every case, against float64.

Triton runs on a CPU only in its interpreter, which is a matter of the whole process: the last test waits
for pytest in a process of its own (conftest.py), which runs the tests of this file that name triton.
"""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F

from blip3v.errors import UserError
from blip3v.ops import registry, use_backend
from blip3v.ops.token_learner import (
    Arguments,
    reference,
    token_learner,
    token_learner_backward,
    token_learner_forward,
)
from blip3v.ops.token_learner.arguments import EPS, NAMES
from blip3v.ops.token_learner.exact import Exact, exact
from blip3v.testing.cases.token_learner import CASES, LARGE, RAGGED, SMALL, PoolingCase, PoolingInputs
from blip3v.testing.compare import Verdict, compare, poisoned_memory

OP = "token_learner"
GRADIENTS = tuple(f"d{name}" for name in NAMES[:7])
MODEL_TESTS = Path(__file__).parents[1] / "models/temporal/test_token_learner.py"
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
OPERATOR_BACKENDS = ("triton",) if INTERPRETED else ("formula", "simulator")
"""`formula` is the reference behind the custom operator, `reference` PyTorch's layers and autograd."""

CPU_BACKENDS = OPERATOR_BACKENDS if INTERPRETED else ("reference", *OPERATOR_BACKENDS)
SLOW_TO_INTERPRET = {
    *("model", "model_masked", "long_video", "read_of_the_ttm", "write_of_the_ttm", "output_of_the_ttm"),
    *("one_more_than_a_large_tile", "lengths", "length_zero"),
}
"""Of these others take the same paths: as wide, masked by length, or one row more than a tile."""

REFERENCE_ROUNDS = 5
"""PyTorch's layers round more often than kernels do: LN1's output, h, logits, gradients of all of these."""

ADDED_UP_NARROW = GRADIENTS[1:5]
"""PyTorch's LayerNorm on a CPU adds these up over all tokens in bfloat16: their error says nothing."""


def arguments(inputs: PoolingInputs) -> Arguments:
    """Leaves that share the memory and the strides of the inputs."""
    return Arguments(*(tensor.detach().requires_grad_() for tensor in inputs[:7]), inputs.keep)


def run(backend: str, inputs: PoolingInputs, eps: float = EPS) -> dict[str, Tensor]:
    """out, lse (not from `reference`) and the gradients, in memory that was NaN before."""
    call = arguments(inputs)
    with poisoned_memory():
        if backend == "reference":
            results = {"out": token_learner(*call.floating, keep=call.keep, eps=eps, backend="reference")}
        else:
            out, lse = token_learner_forward(*call, eps, "reference" if backend == "formula" else backend)
            results = {"out": out, "lse": lse}
        gradients = torch.autograd.grad(results["out"], call.floating, inputs.dout)
    return {name: tensor.detach() for name, tensor in (results | dict(zip(GRADIENTS, gradients))).items()}


def skip_unless_it_runs(backend: str, inputs: PoolingInputs) -> None:
    name = "reference" if backend == "formula" else backend
    ok, reason = registry.backend_named(OP, name).can_run(*inputs[:8])
    if not ok:
        pytest.skip(f"{backend}: {reason}")


@functools.lru_cache(maxsize=64)
def truth_of(case: PoolingCase, dtype: torch.dtype, device: str) -> dict[str, Exact]:
    inputs = case.build(dtype, device)
    return exact(Arguments(*inputs[:8]), inputs.dout)


def verdicts(backend: str, got: dict[str, Tensor], truth: dict[str, Exact]) -> list[Verdict]:
    rounds = REFERENCE_ROUNDS if backend == "reference" else 1
    narrow = backend == "reference" and got["out"].dtype != torch.float32
    return [
        compare(name, tensor, *truth[name], rounds)
        for name, tensor in got.items()
        if not (narrow and name in ADDED_UP_NARROW)
    ]


def check(backend: str, case: PoolingCase, dtype: torch.dtype, device: str) -> None:
    inputs = case.build(dtype, device)
    skip_unless_it_runs(backend, inputs)
    got = run(backend, inputs)
    for name, tensor in zip(GRADIENTS, inputs):
        assert got[name].dtype == tensor.dtype, name
    found = verdicts(backend, got, truth_of(case, dtype, device))
    assert all(verdict.ok for verdict in found), "\n".join(map(str, found))


def small_runs() -> Iterator[tuple[str, PoolingCase, torch.dtype]]:
    for backend in CPU_BACKENDS:
        for case in SMALL:
            if backend == "triton" and case.name in SLOW_TO_INTERPRET:
                continue
            if backend != "simulator":
                yield backend, case, torch.float32
            # Interpreted, Triton computes bfloat16 in float32 and rounds at the end: two cases show that.
            if backend != "triton" or case in RAGGED[:2]:
                yield backend, case, torch.bfloat16


@pytest.mark.parametrize(
    "backend, case, dtype", list(small_runs()), ids=lambda value: getattr(value, "name", str(value))
)
def test_backend_against_float64(backend: str, case: PoolingCase, dtype: torch.dtype) -> None:
    check(backend, case, dtype, "cpu")


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("case", SMALL, ids=lambda case: case.name)
@pytest.mark.parametrize("backend", ["reference", "formula", "triton", "cuda"])
def test_backend_against_float64_on_a_gpu(backend: str, case: PoolingCase, dtype: torch.dtype) -> None:
    check(backend, case, dtype, "cuda")


@pytest.mark.gpu
@pytest.mark.parametrize("case", LARGE, ids=lambda case: case.name)
@pytest.mark.parametrize("backend", ["reference", "triton", "cuda"])
def test_large_case_on_a_gpu(backend: str, case: PoolingCase) -> None:
    check(backend, case, torch.bfloat16, "cuda")


# --- the reference against formulas written differently ---------------------------------------------------


def test_the_formula_against_loops() -> None:
    case = PoolingCase("tiny", 2, 5, 3, 4, hidden=6, keep="random", seed=2)
    x, gamma1, beta1, gamma2, beta2, w1, w2, keep, _ = case.build(torch.float64)
    out, lse = reference.forward(x, gamma1, beta1, gamma2, beta2, w1, w2, keep, EPS)

    def norm(row: list[float], gamma: Tensor, beta: Tensor) -> list[float]:
        mean = sum(row) / len(row)
        deviation = math.sqrt(sum((v - mean) ** 2 for v in row) / len(row) + EPS)
        return [(v - mean) / deviation * float(g) + float(b) for v, g, b in zip(row, gamma, beta)]

    for b in range(2):
        seen = [n for n in range(5) if keep[b, n]]
        powers = {}
        for n in seen:
            z = norm(norm(x[b, n].tolist(), gamma1, beta1), gamma2, beta2)
            h = [sum(v * float(w) for v, w in zip(z, row)) for row in w1]
            a = [0.5 * v * (1 + math.erf(v / math.sqrt(2))) for v in h]
            powers[n] = [math.exp(sum(v * float(w) for v, w in zip(a, row))) for row in w2]
        for i in range(3):
            total = sum(powers[n][i] for n in seen)
            assert math.isclose(lse[b, i], math.log(total), rel_tol=1e-12)
            for d in range(4):
                mean = sum(powers[n][i] * float(x[b, n, d]) for n in seen) / total
                assert math.isclose(out[b, i, d], mean, rel_tol=1e-11, abs_tol=1e-14)


@pytest.mark.parametrize("keep", [None, "first_nothing"])
@pytest.mark.parametrize("backend", ["reference", "formula"])
def test_gradients_of_the_reference_by_finite_differences(backend: str, keep: str | None) -> None:
    call = arguments(PoolingCase("tiny", 2, 5, 3, 4, hidden=6, keep=keep).build(torch.float64))

    def pool(*floating: Tensor) -> Tensor:
        if backend == "reference":
            return reference.pool(*floating, call.keep, EPS)
        return token_learner_forward(*floating, call.keep, EPS, "reference")[0]

    assert torch.autograd.gradcheck(pool, call.floating)


@pytest.mark.parametrize("case", SMALL, ids=lambda case: case.name)
def test_both_forms_of_the_reference_agree_in_float64(case: PoolingCase) -> None:
    check("reference", case, torch.float64, "cpu")


def test_the_bounds_notice_what_is_missing() -> None:
    """A bound that passes everything is none: a tenth of a result, a little of lse, a term of dx."""
    case = CASES["hidden_not_twice"]
    inputs = case.build(torch.bfloat16)
    truth = truth_of(case, torch.bfloat16, "cpu")
    got = run("formula", inputs)
    for name in ("out", *GRADIENTS):
        assert not compare(name, 0.9 * got[name], *truth[name]).ok, name
    assert not compare("lse", got["lse"] + 0.02, *truth["lse"]).ok
    logits = reference.hidden(Arguments(*(tensor.double() for tensor in inputs[:7])), EPS).logits
    pooled = reference.softmax(logits, truth["lse"].value) @ inputs.dout.double()
    assert not compare("dx", (got["dx"] - pooled).bfloat16(), *truth["dx"]).ok


# --- masks, types, determinism ----------------------------------------------------------------------------


@pytest.mark.parametrize("backend", CPU_BACKENDS)
def test_what_is_masked_changes_nothing(backend: str) -> None:
    inputs = CASES["keep"].build(torch.bfloat16)
    skip_unless_it_runs(backend, inputs)
    before = run(backend, inputs)
    loud = inputs.x.clone()
    loud[~inputs.keep] = 100.0
    after = run(backend, inputs._replace(x=loud))
    for name, tensor in before.items():
        assert torch.equal(tensor, after[name]), name
    assert not before["dx"][~inputs.keep].any()
    assert before["dx"][inputs.keep].any(1).all(), "a token that is seen has a gradient"


@pytest.mark.parametrize("backend", CPU_BACKENDS)
def test_two_runs_give_the_same_bits(backend: str) -> None:
    inputs = CASES["transposed"].build(torch.bfloat16)
    skip_unless_it_runs(backend, inputs)
    first, second = run(backend, inputs), run(backend, inputs)
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name]), name


@pytest.mark.parametrize("backend", CPU_BACKENDS)
def test_a_mask_of_ones_is_no_mask(backend: str) -> None:
    inputs = CASES["ragged"].build(torch.bfloat16)
    skip_unless_it_runs(backend, inputs)
    plain, masked = (
        run(backend, inputs),
        run(backend, inputs._replace(keep=torch.ones(2, 77).bool())),
    )
    for name, tensor in plain.items():
        assert torch.equal(tensor, masked[name]), name


@pytest.mark.parametrize("backend", CPU_BACKENDS)
def test_eps_counts(backend: str) -> None:
    """Rows of a deviation below sqrt(eps): another eps, another result, and still that of the formula."""
    case = PoolingCase("faint", 2, 20, 8, 64, keep="random")
    inputs = case.build(torch.bfloat16)
    inputs = inputs._replace(x=inputs.x * 1e-3)
    skip_unless_it_runs(backend, inputs)
    truth = exact(Arguments(*inputs[:8]), inputs.dout, eps=1e-4)
    found = verdicts(backend, run(backend, inputs, eps=1e-4), truth)
    assert all(verdict.ok for verdict in found), "\n".join(map(str, found))
    assert not compare("out", run(backend, inputs, eps=1e-7)["out"], *truth["out"]).ok


@pytest.mark.parametrize("backend", CPU_BACKENDS)
def test_autocast_over_precise_parameters(backend: str) -> None:
    """As if x had been cast to bfloat16 before, with gradients in the types of what they belong to."""
    inputs = PoolingCase("autocast", 2, 40, 8, 64, keep="random", precise=True).build(torch.float32)
    narrow = inputs._replace(x=inputs.x.bfloat16())
    name = "reference" if backend == "formula" else backend
    skip_unless_it_runs(backend, narrow)
    call = arguments(inputs)
    with torch.autocast("cpu", torch.bfloat16):
        if backend == "formula":  # the public function runs `reference` by PyTorch's layers
            out = token_learner_forward(call.x.bfloat16(), *call[1:], EPS, name)[0]
        else:
            out = token_learner(*call.floating, keep=call.keep, backend=name)
    assert out.dtype == torch.bfloat16
    gradients = torch.autograd.grad(out, call.floating, inputs.dout.bfloat16())
    assert {gradient.dtype for gradient in gradients} == {torch.float32}
    truth = exact(Arguments(*narrow[:8]), inputs.dout.bfloat16())
    found = verdicts(backend, {"out": out.detach()} | dict(zip(GRADIENTS[5:], gradients[5:])), truth)
    assert all(verdict.ok for verdict in found), "\n".join(map(str, found))


# --- torch.library ----------------------------------------------------------------------------------------


TINY = PoolingCase("tiny", 2, 20, 8, 64, keep="random", layout="sliced")


@pytest.mark.parametrize("precise", [False, True])
@pytest.mark.parametrize("backend", OPERATOR_BACKENDS)
def test_opcheck(backend: str, precise: bool) -> None:
    inputs = replace(TINY, precise=precise).build(torch.bfloat16)
    skip_unless_it_runs(backend, inputs)
    name = "reference" if backend == "formula" else backend
    call = arguments(inputs)
    torch.library.opcheck(token_learner_forward, (*call, EPS, name))
    with torch.no_grad():
        out, lse = token_learner_forward(*call, EPS, name)
    plain = Arguments(*inputs[:8])
    torch.library.opcheck(token_learner_backward, (inputs.dout, *plain, out, lse, EPS, name))


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("backend", [None, *OPERATOR_BACKENDS])
def test_compiled_without_graph_breaks(backend: str | None, autocast: bool) -> None:
    inputs = TINY.build(torch.bfloat16)
    if backend:
        skip_unless_it_runs(backend, inputs)

    def pool(call: Arguments) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16) if autocast else nullcontext():
            if backend == "formula":
                return token_learner_forward(*call, EPS, "reference")[0]
            return token_learner(*call.floating, keep=call.keep, backend=backend)

    eager, traced = arguments(inputs), arguments(inputs)
    expected, got = pool(eager), torch.compile(pool, fullgraph=True, backend="aot_eager")(traced)
    assert torch.equal(expected, got)
    for one, other in zip(
        torch.autograd.grad(expected, eager.floating, inputs.dout),
        torch.autograd.grad(got, traced.floating, inputs.dout),
    ):
        assert torch.equal(one, other)


def test_compiled_by_inductor_with_any_number_of_tokens() -> None:
    def pool(*call: Tensor) -> Tensor:
        # The name `auto`, as on a device with several backends: the operator chooses when it runs.
        return token_learner_forward(*call, None, EPS, "auto")[0] * 2

    compiled = torch.compile(pool, fullgraph=True, dynamic=True)
    for tokens in (5, 9):
        call = arguments(PoolingCase("tiny", 2, tokens, 3, 8).build(torch.float32)).floating
        torch.testing.assert_close(compiled(*call), pool(*call))


def test_fake_tensors_have_the_shapes() -> None:
    inputs = CASES["precise_parameters"].build(torch.bfloat16)
    with FakeTensorMode() as mode:
        fake = (None if tensor is None else mode.from_tensor(tensor) for tensor in inputs)
        call = arguments(PoolingInputs(*fake))
        out, lse = token_learner_forward(*call, EPS, "cuda")
        assert (out.shape, out.dtype) == ((2, 8, 64), torch.bfloat16)
        assert (lse.shape, lse.dtype) == ((2, 8), torch.float32)
        gradients = torch.autograd.grad(out, call.floating, torch.empty_like(out))
        assert [(g.shape, g.dtype) for g in gradients] == [(t.shape, t.dtype) for t in call.floating]


@pytest.mark.gpu
@pytest.mark.parametrize("backend", ["reference", "triton", "cuda"])
def test_a_cuda_graph_replays_forward_and_backward(backend: str) -> None:
    inputs = CASES["model_masked"].build(torch.bfloat16, "cuda")
    skip_unless_it_runs(backend, inputs)
    expected = run(backend, inputs)
    call = arguments(inputs)

    def step() -> tuple[Tensor, ...]:
        out = token_learner(*call.floating, keep=call.keep, backend=backend)
        return out, *torch.autograd.grad(out, call.floating, inputs.dout)

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
    for name, tensor in zip(("out", *GRADIENTS), captured):
        assert torch.equal(tensor, expected[name]), name


# --- choosing and refusing --------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_auto_on_a_cpu_is_pytorchs_layers_bit_for_bit(dtype: torch.dtype) -> None:
    inputs = CASES["one_more_than_a_tile"].build(dtype)
    x, gamma1, beta1, gamma2, beta2, w1, w2, *_ = inputs
    z = F.layer_norm(F.layer_norm(x, (136,), gamma1, beta1), (136,), gamma2, beta2)
    weights = F.linear(F.gelu(F.linear(z, w1)), w2).softmax(dim=-2)
    assert torch.equal(token_learner(*inputs[:7]), weights.transpose(-1, -2) @ x)


def test_a_name_that_cannot_run_is_an_error_that_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = CASES["ragged"].build(torch.float32)
    reason = "backend cuda was asked for and cannot run: the tensors are on cpu, need a CUDA device"
    with pytest.raises(UserError, match=reason):
        token_learner(*inputs[:7], backend="cuda")
    with use_backend("cuda"), pytest.raises(UserError, match=reason):
        token_learner(*inputs[:7])
    monkeypatch.setenv("BLIP3V_BACKEND", f"{OP}=cuda")
    with pytest.raises(UserError, match=reason):
        token_learner(*inputs[:7])
    with pytest.raises(UserError, match="no backend 'metal': choose auto or one of cuda, triton, reference"):
        token_learner(*inputs[:7], backend="metal")


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"x": torch.zeros(5, 8)}, "x has shape .5, 8., need 3 dimensions"),
        ({"x": torch.zeros(2, 0, 8)}, "need at least one of each"),
        ({"x": torch.zeros(2, 5, 8).int()}, "x is torch.int32, need a float type"),
        ({"norm1_bias": torch.zeros(7)}, r"norm1_bias has shape \(7,\), need \(8,\)"),
        ({"w1": torch.zeros(6, 7)}, r"w1 has shape \(6, 7\), need \(6, 8\)"),
        ({"w2": torch.zeros(3, 5)}, r"w2 has shape \(3, 5\), need \(3, 6\)"),
        ({"w1": torch.zeros(6)}, r"w1 has shape \(6,\) and w2 \(3, 6\), need 2 dimensions each"),
        ({"w2": torch.zeros(3, 6).half()}, "w2 is torch.float16 and x torch.float32"),
        ({"norm2_weight": torch.zeros(8, device="meta")}, "norm2_weight is on meta and x on cpu"),
        ({"keep": torch.zeros(2, 5)}, "keep is torch.float32 .2, 5., need bool .2, 5."),
        ({"keep": torch.zeros(2, 5, dtype=torch.bool, device="meta")}, "keep is on meta"),
        ({"eps": 0.0}, "eps is 0.0, need a finite number above 0"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_wrong_arguments_are_named(changes: dict, message: str) -> None:
    inputs = PoolingCase("tiny", 2, 5, 3, 8).build(torch.float32)
    call = {**inputs._asdict(), **changes}
    call.pop("dout")
    with pytest.raises(ValueError, match=message):
        token_learner(**call)


# --- Triton in its own process ----------------------------------------------------------------------------


@pytest.mark.skipif(not INTERPRETED, reason="only in the process that the next test starts")
@pytest.mark.parametrize(
    "case, reason",
    [
        (PoolingCase("many", tokens=2, made=257, width=8), "257 tokens to make, need at most 256"),
        (PoolingCase("wide", tokens=2, made=1, width=8200), "8200 channels, need at most 8192"),
    ],
    ids=["triton_many", "triton_wide"],
)
def test_triton_refuses_what_does_not_fit(case: PoolingCase, reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        token_learner(*case.build(torch.float32)[:7], backend="triton")


@pytest.mark.skipif(INTERPRETED, reason="this is the process that it starts")
@pytest.mark.interpreted(files=[MODEL_TESTS])
def test_the_backend_in_tritons_interpreter(passed_in_interpreter: int) -> None:
    assert passed_in_interpreter >= len(SMALL)
