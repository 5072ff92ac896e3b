"""An op on the inputs of a named case, as its public function is called."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from blip3v.errors import UserError
from blip3v.profiling.request import Request
from blip3v.profiling.workloads import dtype_of
from blip3v.ranges import stage_range

DEFAULT_CASE = {"feed_forward": "model_width", "grouped_ttm": "heads_of_the_model"}
"""The published shape, small enough for a CPU; the other ops call it `model`."""

Function = Callable[..., "Tensor | tuple[Tensor, ...]"]


def op_call(request: Request, device: str) -> Callable[[], Any]:
    """-> a call of the op; with gradients of everything that can have one where `direction` says so.

    Raises:
        UserError: no such case or backend; the backend's own refusal comes when it is called.
    """
    op = request.name
    cases: Mapping[str, Any] = importlib.import_module(f"blip3v.testing.cases.{op}").CASES
    case = request.case or DEFAULT_CASE.get(op, "model")
    if case not in cases:
        raise UserError(f"{op} has no case {case!r}: choose one of {', '.join(cases)}")
    inputs = cases[case].build(dtype_of(request, device), device)
    function = _function(op)
    if request.direction == "forward":
        return lambda: _forward(function, inputs, request.backend)
    arguments, cotangents = _parted(inputs)
    return lambda: _both(function, inputs, arguments, cotangents, request.backend)


def _forward(function: Function, inputs: Any, backend: str | None) -> Any:
    with torch.no_grad(), stage_range("forward"):
        return function(inputs, backend)


def _both(
    function: Function,
    inputs: Any,
    arguments: Sequence[str],
    cotangents: Sequence[Tensor],
    backend: str | None,
) -> Any:
    leaves = {name: _require_gradient(getattr(inputs, name)) for name in arguments}
    flat = [tensor for value in leaves.values() for tensor in (value if isinstance(value, list) else [value])]
    with stage_range("forward"):
        outputs = function(inputs._replace(**leaves), backend)
    with stage_range("backward"):
        return torch.autograd.grad(outputs, flat, cotangents)


def _require_gradient(value: Any) -> Any:
    if isinstance(value, list):
        return [tensor.detach().requires_grad_() for tensor in value]
    return value.detach().requires_grad_()


def _parted(inputs: Any) -> tuple[list[str], list[Tensor]]:
    """Names of what has a gradient, and the gradients of the results, whose names begin with d."""
    given = {name: value for name, value in inputs._asdict().items() if value is not None}
    cotangents = {"dout", "dy", "dz", "dgroup", "dnormed", "dmemory"}
    return (
        [
            name
            for name, value in given.items()
            if name not in {*cotangents, "stamp", "stamps"} and _floats(value)
        ],
        [value for name, value in given.items() if name in cotangents],
    )


def _floats(value: Any) -> bool:
    if isinstance(value, list):
        return all(_floats(tensor) for tensor in value)
    return isinstance(value, Tensor) and value.is_floating_point()


def _function(op: str) -> Function:
    """The public function, of the named inputs of a case and the name of a backend or None."""
    public: Callable[..., Any] = getattr(importlib.import_module(f"blip3v.ops.{op}"), op)
    if op == "resampler_attention":
        return lambda i, backend: public(*i[:5], lengths=i.lengths, keep=i.keep, backend=backend)
    if op == "token_learner":
        return lambda i, backend: public(*i[:7], keep=i.keep, backend=backend)
    if op == "grouped_ttm":
        from blip3v.ops.grouped_ttm import Weights

        return lambda i, backend: public(
            i.frames, i.memory, Weights.of(i.weights), heads=i.heads, stamps=i.stamps, backend=backend
        )
    arguments = {"grouped_attention": 4, "feed_forward": 4, "ttm_read": 5, "ttm_write": 12}[op]
    return lambda i, backend: public(*i[:arguments], backend=backend)
