"""Which backends an op has, which of them may be chosen, and how a user forces one.

A backend is a module with `can_run(*arguments) -> Answer`: whether it can run this very call on this machine,
and if not, why. `OPS` is the one table of all of them. `auto` takes the first, that is the fastest, that can
run *and* is verified on that kind of device by a result that is in the repository; what has only ever been
compiled or simulated is never taken by default. A backend that was asked for by name and cannot run is an
error that says why.

A name is asked for, strongest first, by the argument `backend=` of an op, by `use_backend`, or by the
environment variable BLIP3V_BACKEND: `reference`, or `resampler_attention=triton,...` per op.
"""

from __future__ import annotations

import functools
import importlib
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any, NamedTuple

import torch

from blip3v import ranges
from blip3v.errors import UserError

AUTO = "auto"
EVERY_OP = "*"
EVERYWHERE = "*"
"""Stands in `verified_on` of a reference: it is what the others are verified against."""

VARIABLE = "BLIP3V_BACKEND"


class Answer(NamedTuple):
    """Whether a backend can run a call; if not, the reason."""

    ok: bool
    reason: str = ""


COMPUTES = ("forward", "backward", "input_backward")
"""What a profile shows of a backend's module."""


@dataclass(frozen=True)
class Backend:
    """One way to compute an op.

    Args:
        module: where it is; imported when first needed.
        verified_on: kind of device (`kind_of_device`) -> result file, from the repository's root, that proves
            this backend right there.
    """

    name: str
    module: str
    verified_on: Mapping[str, str] = field(default_factory=dict)

    def load(self) -> ModuleType:
        module = importlib.import_module(self.module)
        if not ranges.are_enabled():
            return module
        return ranges.ranged_module(module, " ".join(self.module.split(".")[-2:]), COMPUTES)

    def can_run(self, *arguments: Any) -> Answer:
        answer: Answer = self.load().can_run(*arguments)
        return answer

    def is_verified(self, kind: str) -> bool:
        return kind in self.verified_on or EVERYWHERE in self.verified_on


VERIFIED_ON: dict[tuple[str, str], Mapping[str, str]] = {}
"""(op, backend) -> its `verified_on`, for what has run on a GPU."""


def _backends(op: str) -> tuple[Backend, ...]:
    """The backends that every op has, fastest first; the simulator is for tests, only ever by name."""
    verified = {(op, "reference"): {EVERYWHERE: "the formula itself"}} | VERIFIED_ON
    return tuple(
        Backend(name, f"blip3v.ops.{op}.{name}", verified.get((op, name), {}))
        for name in ("cuda", "triton", "reference", "simulator")
    )


OPS: dict[str, tuple[Backend, ...]] = {
    op: _backends(op)
    for op in (
        "resampler_attention",
        "token_learner",
        "grouped_attention",
        "feed_forward",
        "ttm_read",
        "ttm_write",
        "grouped_ttm",
    )
}


COMPOSED = frozenset({"grouped_ttm"})
"""Ops that are made of other ops and have no kernels of their own."""


def kind_of_device(device: torch.device | str) -> str:
    """`cpu`, or `sm_90` for a CUDA device of compute capability 9.0."""
    device = torch.device(device)
    if device.type == "cuda" and torch.cuda.is_available():
        major, minor = torch.cuda.get_device_capability(device)
        return f"sm_{major}{minor}"
    return device.type


def backend_named(op: str, name: str) -> Backend:
    """Raises: UserError, if the op has no such backend; the message lists those it has."""
    for backend in OPS[op]:
        if backend.name == name:
            return backend
    raise UserError(f"{op} has no backend {name!r}: choose {AUTO} or one of {_names(op)}")


def choose(op: str, arguments: tuple[Any, ...], wish: str = AUTO) -> Backend:
    """The backend for this call; `arguments[0]` is a tensor on the device that decides.

    Raises:
        UserError: `wish` names a backend that does not exist or cannot run this call.
    """
    if wish != AUTO:
        backend = backend_named(op, wish)
        ok, reason = backend.can_run(*arguments)
        if not ok:
            raise UserError(f"{op}: backend {wish} was asked for and cannot run: {reason}")
        return backend
    kind = kind_of_device(arguments[0].device)
    refusals = []
    for backend in OPS[op]:
        if backend.is_verified(kind):
            ok, reason = backend.can_run(*arguments)
            if ok:
                return backend
            refusals.append(f"{backend.name}: {reason}")
    raise UserError(f"{op}: no verified backend can run this call on {kind}: {'; '.join(refusals)}")


@torch.compiler.assume_constant_result
def wished(op: str, argument: str | None, device: str) -> str:
    """The name that was asked for, or `auto`; `reference` where `auto` could only mean that.

    Under `torch.compile` it is asked once, while the call is traced: a context or an environment that changes
    later does not change what was compiled.
    """
    name = argument if argument is not None else _from_context(op)
    if name is None:
        name = _from_environment(op)
    if name != AUTO:
        return backend_named(op, name).name
    kind = kind_of_device(device)
    candidates = [backend.name for backend in OPS[op] if backend.is_verified(kind)]
    return "reference" if candidates == ["reference"] else AUTO


_forced: ContextVar[Mapping[str, str] | None] = ContextVar("blip3v_forced_backend", default=None)


@contextmanager
def use_backend(name: str, op: str | None = None) -> Iterator[None]:
    """Inside, `op` (or every op) runs on the backend `name`, or on what `auto` takes; the innermost holds.

    >>> with use_backend("triton", op="resampler_attention"):
    ...     model(video)

    Raises:
        UserError: no such op, or no such backend. That it cannot run is said by the op when it is called.
    """
    if op is not None and op not in OPS:
        raise UserError(f"no op {op!r}: choose one of {', '.join(OPS)}")
    _check(name, op)
    # For every op: what an outer context says of single ops does not hold inside.
    outer = (_forced.get() or {}) if op is not None else {}
    token = _forced.set({**outer, (op or EVERY_OP): name})
    try:
        yield
    finally:
        _forced.reset(token)


def _from_context(op: str) -> str | None:
    forced = _forced.get() or {}
    return forced.get(op, forced.get(EVERY_OP))


def _from_environment(op: str) -> str:
    forced = _parse(os.environ.get(VARIABLE, ""))
    return forced.get(op, forced.get(EVERY_OP, AUTO))


@functools.cache
def _parse(text: str) -> Mapping[str, str]:
    """`reference` or `op=backend,op=backend` -> {op or EVERY_OP: backend}."""
    forced: dict[str, str] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        op, equals, name = (word.strip() for word in part.partition("="))
        if not equals:
            op, name = EVERY_OP, op
        elif op not in OPS:
            raise UserError(f"{VARIABLE}={text}: no op {op!r}, choose one of {', '.join(OPS)}")
        try:
            _check(name, None if op == EVERY_OP else op)
        except UserError as error:
            raise UserError(f"{VARIABLE}={text}: {error}") from None
        forced[op] = name
    return forced


def wished_of_one(op: str) -> str | None:
    """What `use_backend` or the environment ask of this op alone; None where they say nothing of it."""
    return (_forced.get() or {}).get(op) or _parse(os.environ.get(VARIABLE, "")).get(op)


def _check(name: str, op: str | None) -> None:
    """A name for one op must be one of its backends; a name for every op, a backend of at least one."""
    if name == AUTO:
        return
    if op is not None:
        backend_named(op, name)
        return
    known = list(dict.fromkeys(backend.name for backends in OPS.values() for backend in backends))
    if name not in known:
        raise UserError(f"no backend {name!r}: choose {AUTO} or one of {', '.join(known)}")


def _names(op: str) -> str:
    return ", ".join(backend.name for backend in OPS[op])
