"""resampler_attention: every backend that runs here, on every case, against float64.

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
from blip3v.ops.resampler_attention import (
    Arguments,
    reference,
    resampler_attention,
    resampler_attention_backward,
    resampler_attention_forward,
)
from blip3v.ops.resampler_attention.exact import exact
from blip3v.testing.cases.resampler_attention import (
    CASES,
    LARGE,
    RAGGED,
    SMALL,
    AttentionCase,
    AttentionInputs,
)
from blip3v.testing.compare import compare, poisoned_memory

OP = "resampler_attention"
GRADIENTS = ("dq", "dk_media", "dv_media", "dk_latents", "dv_latents")
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
OPERATOR_BACKENDS = ("triton",) if INTERPRETED else ("formula", "simulator")
"""`formula` is the reference behind the custom operator, `reference` the same through SDPA and autograd."""

CPU_BACKENDS = OPERATOR_BACKENDS if INTERPRETED else ("reference", *OPERATOR_BACKENDS)

ROUNDINGS = {"reference": 2}
"""SDPA on a CPU keeps partial sums of dv in bfloat16, and has a fast exponential in float32."""


def arguments(inputs: AttentionInputs) -> Arguments:
    """Leaves that share the memory and the strides of the inputs."""
    return Arguments(*(tensor.detach().requires_grad_() for tensor in inputs[:5]), *inputs[5:7])


def run(backend: str, inputs: AttentionInputs, scale: float | None = None) -> dict[str, Tensor]:
    """out, lse (not from `reference`) and the gradients, in memory that was NaN before."""
    call = arguments(inputs)
    with poisoned_memory():
        if backend == "reference":
            out = resampler_attention(
                *call.floating, lengths=call.lengths, keep=call.keep, scale=scale, backend="reference"
            )
            results = {"out": out}
        else:
            scale = inputs.q.shape[-1] ** -0.5 if scale is None else scale
            name = "reference" if backend == "formula" else backend
            out, lse = resampler_attention_forward(*call, scale, name)
            results = {"out": out, "lse": lse}
        gradients = torch.autograd.grad(out, call.floating, inputs.dout)
    return {name: tensor.detach() for name, tensor in (results | dict(zip(GRADIENTS, gradients))).items()}


def skip_unless_it_runs(backend: str, inputs: AttentionInputs) -> None:
    name = "reference" if backend == "formula" else backend
    ok, reason = registry.backend_named(OP, name).can_run(*inputs[:7])
    if not ok:
        pytest.skip(f"{backend}: {reason}")


def check(backend: str, case: AttentionCase, dtype: torch.dtype, device: str) -> None:
    inputs = case.build(dtype, device)
    skip_unless_it_runs(backend, inputs)
    got = run(backend, inputs, case.scale)
    truth = exact(Arguments(*inputs[:7]), inputs.dout, case.scale)
    verdicts = [
        compare(name, tensor, *truth[name], ROUNDINGS.get(backend, 1)) for name, tensor in got.items()
    ]
    assert all(verdict.ok for verdict in verdicts), "\n".join(map(str, verdicts))


def small_runs() -> Iterator[tuple[str, AttentionCase, torch.dtype]]:
    for backend in CPU_BACKENDS:
        for case in SMALL:
            if backend == "triton" and case.name == "model":
                continue  # sixteen times the same, slowly: model_masked has as many keys
            if backend != "simulator":
                yield backend, case, torch.float32
            # Interpreted, Triton computes bfloat16 in float32 and rounds at the end: two cases show that.
            if backend != "triton" or case in RAGGED[:2]:
                yield backend, case, torch.bfloat16


@pytest.mark.parametrize(
    "backend, case, dtype", list(small_runs()), ids=lambda value: getattr(value, "name", str(value))
)
def test_backend_against_float64(backend: str, case: AttentionCase, dtype: torch.dtype) -> None:
    check(backend, case, dtype, "cpu")


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("case", SMALL, ids=lambda case: case.name)
@pytest.mark.parametrize("backend", ["reference", "formula", "triton", "cuda"])
def test_backend_against_float64_on_a_gpu(backend: str, case: AttentionCase, dtype: torch.dtype) -> None:
    check(backend, case, dtype, "cuda")


@pytest.mark.gpu
@pytest.mark.parametrize("case", LARGE[:2], ids=lambda case: case.name)
@pytest.mark.parametrize("backend", ["reference", "triton", "cuda"])
def test_large_case_on_a_gpu(backend: str, case: AttentionCase) -> None:
    check(backend, case, torch.bfloat16, "cuda")


# --- the reference against formulas written differently ---------------------------------------------------


def test_the_formula_against_loops() -> None:
    case = AttentionCase("tiny", 2, 3, 2, 4, 5, 2, lengths=(5, 2), keep="random")
    inputs = case.build(torch.float64)
    q, k_media, v_media, k_latents, v_latents, lengths, keep, _ = inputs
    out, lse = reference.forward(*inputs[:7], 0.3)
    for f in range(2):
        for h in range(2):
            for i in range(3):
                seen = [j for j in range(5) if j < lengths[f] and keep[f, j]]
                pairs = [(k_media[f, j, h], v_media[f, j, h]) for j in seen]
                pairs += [(k_latents[f, j, h], v_latents[f, j, h]) for j in range(2)]
                weights = [math.exp(0.3 * float(sum(a * b for a, b in zip(q[f, i, h], k)))) for k, _ in pairs]
                assert math.isclose(lse[f, h, i], math.log(sum(weights)), rel_tol=1e-12)
                for c in range(4):
                    mean = sum(w * float(v[c]) for w, (_, v) in zip(weights, pairs)) / sum(weights)
                    assert math.isclose(out[f, i, h, c], mean, rel_tol=1e-11, abs_tol=1e-14)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("latents", [0, 3])
@pytest.mark.parametrize("backend", ["reference", "formula"])
def test_gradients_of_the_reference_by_finite_differences(backend: str, latents: int, masked: bool) -> None:
    lengths, keep = ((0, 3), "random") if masked else (None, None)
    case = AttentionCase("tiny", 2, 2, 2, 3, 4, latents, lengths, keep)
    call = arguments(case.build(torch.float64))

    def attend(*floating: Tensor) -> Tensor:
        if backend == "reference":
            return reference.attend(*floating, *call[5:], 0.5)
        return resampler_attention_forward(*floating, *call[5:], 0.5, "reference")[0]

    assert torch.autograd.gradcheck(attend, call.floating)


@pytest.mark.parametrize("case", SMALL, ids=lambda case: case.name)
def test_both_forms_of_the_reference_agree_in_float64(case: AttentionCase) -> None:
    check("reference", case, torch.float64, "cpu")


# --- masks, determinism -----------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", CPU_BACKENDS)
def test_what_is_masked_changes_nothing(backend: str) -> None:
    case = CASES["lengths_and_keep"]
    inputs = case.build(torch.bfloat16)
    skip_unless_it_runs(backend, inputs)
    before = run(backend, inputs)
    inside = torch.arange(case.media) < inputs.lengths[:, None]
    hidden = ~(inputs.keep & inside)
    loud = [tensor.clone() for tensor in (inputs.k_media, inputs.v_media)]
    for tensor in loud:
        tensor[hidden] = 1000.0
    after = run(backend, inputs._replace(k_media=loud[0], v_media=loud[1]))
    for name, tensor in before.items():
        assert torch.equal(tensor, after[name]), name
    assert not before["dk_media"][hidden].any() and not before["dv_media"][hidden].any()
    assert before["dv_media"][~hidden].all(), "a key that is seen has a gradient"


@pytest.mark.parametrize("backend", CPU_BACKENDS)
def test_two_runs_give_the_same_bits(backend: str) -> None:
    inputs = CASES["hoisted_masked"].build(torch.bfloat16)
    skip_unless_it_runs(backend, inputs)
    first, second = run(backend, inputs), run(backend, inputs)
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name]), name


# --- torch.library ----------------------------------------------------------------------------------------


TINY = AttentionCase("tiny", 2, 9, 1, 64, 20, 5, lengths=(20, 7), keep="random")


@pytest.mark.parametrize("layout", ["own", "hoisted"])
@pytest.mark.parametrize("backend", OPERATOR_BACKENDS)
def test_opcheck(backend: str, layout: str) -> None:
    inputs = replace(TINY, layout=layout).build(torch.bfloat16)
    skip_unless_it_runs(backend, inputs)
    name = "reference" if backend == "formula" else backend
    call = arguments(inputs)
    torch.library.opcheck(resampler_attention_forward, (*call, 0.2, name))
    with torch.no_grad():
        out, lse = resampler_attention_forward(*call, 0.2, name)
    plain = Arguments(*inputs[:7])
    torch.library.opcheck(resampler_attention_backward, (inputs.dout, *plain, out, lse, 0.2, name))


@pytest.mark.parametrize("backend", [None, *OPERATOR_BACKENDS])
def test_compiled_without_graph_breaks(backend: str | None) -> None:
    inputs = TINY.build(torch.bfloat16)
    if backend:
        skip_unless_it_runs(backend, inputs)

    def attend(call: Arguments) -> Tensor:
        if backend == "formula":
            return resampler_attention_forward(*call, 64**-0.5, "reference")[0]
        return resampler_attention(*call.floating, lengths=call.lengths, keep=call.keep, backend=backend)

    eager, traced = arguments(inputs), arguments(inputs)
    expected, got = attend(eager), torch.compile(attend, fullgraph=True, backend="aot_eager")(traced)
    assert torch.equal(expected, got)
    for one, other in zip(
        torch.autograd.grad(expected, eager.floating, inputs.dout),
        torch.autograd.grad(got, traced.floating, inputs.dout),
    ):
        assert torch.equal(one, other)


def test_compiled_by_inductor_with_any_number_of_frames() -> None:
    def attend(*call: Tensor) -> Tensor:
        # The name `auto`, as on a device with several backends: the operator chooses when it runs.
        return resampler_attention_forward(*call, None, None, 0.2, "auto")[0] * 2

    compiled = torch.compile(attend, fullgraph=True, dynamic=True)
    for frames in (2, 3):
        call = arguments(AttentionCase("tiny", frames, 5, 2, 8, 7, 3).build(torch.float32)).floating
        torch.testing.assert_close(compiled(*call), attend(*call))


def test_fake_tensors_have_the_shapes() -> None:
    inputs = CASES["lengths_and_keep"].build(torch.bfloat16)
    with FakeTensorMode() as mode:
        call = arguments(AttentionInputs(*(mode.from_tensor(tensor) for tensor in inputs)))
        out, lse = resampler_attention_forward(*call, 0.2, "cuda")
        assert (out.shape, out.dtype) == (inputs.q.shape, torch.bfloat16)
        assert (lse.shape, lse.dtype) == ((3, 2, 17), torch.float32)
        gradients = torch.autograd.grad(out, call.floating, torch.empty_like(out))
        assert [g.shape for g in gradients] == [t.shape for t in call.floating]


@pytest.mark.gpu
@pytest.mark.parametrize("backend", ["reference", "triton", "cuda"])
def test_a_cuda_graph_replays_forward_and_backward(backend: str) -> None:
    case = CASES["hoisted_masked"]
    inputs = case.build(torch.bfloat16, "cuda")
    skip_unless_it_runs(backend, inputs)
    expected = run(backend, inputs)
    call = arguments(inputs)

    def step() -> tuple[Tensor, ...]:
        out = resampler_attention(*call.floating, keep=call.keep, backend=backend)
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


def test_auto_on_a_cpu_is_the_reference() -> None:
    inputs = CASES["ragged"].build(torch.float32)
    expected = reference.attend(*inputs[:7], 96**-0.5)
    assert torch.equal(resampler_attention(*inputs[:5]), expected)


def test_a_name_that_cannot_run_is_an_error_that_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = CASES["ragged"].build(torch.float32)
    reason = "backend cuda was asked for and cannot run: the tensors are on cpu, need a CUDA device"
    with pytest.raises(UserError, match=reason):
        resampler_attention(*inputs[:5], backend="cuda")
    with use_backend("cuda"), pytest.raises(UserError, match=reason):
        resampler_attention(*inputs[:5])
    monkeypatch.setenv("BLIP3V_BACKEND", f"{OP}=cuda")
    with pytest.raises(UserError, match=reason):
        resampler_attention(*inputs[:5])
    with pytest.raises(UserError, match="no backend 'metal': choose auto or one of cuda, triton, reference"):
        resampler_attention(*inputs[:5], backend="metal")


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"q": torch.zeros(2, 5, 8)}, "q has shape .2, 5, 8., need 4 dimensions"),
        ({"q": torch.zeros(2, 0, 2, 8)}, "need at least one of each"),
        ({"v_media": torch.zeros(2, 6, 2, 8)}, r"v_media has shape \(2, 6, 2, 8\), need \(2, 7, 2, 8\)"),
        ({"k_latents": torch.zeros(2, 3, 1, 8)}, r"k_latents has shape .*need \(2, 3, 2, 8\)"),
        ({"k_media": torch.zeros(2, 7, 2, 8).half()}, "k_media is torch.float16 and q torch.float32"),
        ({"q": torch.zeros(2, 5, 2, 8).int()}, "need one float type"),
        ({"lengths": torch.zeros(3).int()}, "lengths is torch.int32 .3,., need int32 .2,."),
        ({"lengths": torch.zeros(2)}, "lengths is torch.float32"),
        ({"keep": torch.zeros(2, 7)}, "keep is torch.float32 .2, 7., need bool .2, 7."),
        ({"v_latents": torch.zeros(2, 3, 2, 8, device="meta")}, "v_latents is on meta and q on cpu"),
        ({"scale": 0.0}, "scale is 0.0, need a finite number above 0"),
        (
            {name: torch.zeros(2, 0, 2, 8) for name in ("k_media", "v_media", "k_latents", "v_latents")},
            "neither a media key nor a latent key",
        ),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_wrong_arguments_are_named(changes: dict, message: str) -> None:
    inputs = AttentionCase("tiny", 2, 5, 2, 8, 7, 3).build(torch.float32)
    call = {**inputs._asdict(), **changes}
    call.pop("dout")
    with pytest.raises(ValueError, match=message):
        resampler_attention(**call)


def test_lengths_may_be_int64() -> None:
    inputs = CASES["lengths"].build(torch.float32)
    narrow = resampler_attention(*inputs[:5], lengths=inputs.lengths)
    assert torch.equal(narrow, resampler_attention(*inputs[:5], lengths=inputs.lengths.long()))


# --- Triton in its own process ----------------------------------------------------------------------------


@pytest.mark.skipif(INTERPRETED, reason="this is the process that it starts")
@pytest.mark.interpreted
def test_the_backend_in_tritons_interpreter(passed_in_interpreter: int) -> None:
    assert passed_in_interpreter > len(SMALL)
