"""Names for stretches of time, so that a profile says which stage or op they belong to.

Off, the default, a range is nothing: a shared empty context. On, inside `with enabled():` or with
BLIP3V_RANGES=1 in the environment, it is a label of the torch profiler, and an NVTX range where there is a
GPU; Nsight Systems and Nsight Compute read those. What `torch.compile` traces has no ranges either way, so
compiled code is the same with them and without. A CUDA graph keeps none: they stand around its capture.

Autograd runs backward passes of its own, on a GPU in its own thread. Ranges inside one are those of the ops
that have a backward here; the rest of it the torch profiler assigns by autograd's sequence numbers, see
`blip3v.profiling.trace`.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from types import ModuleType
from typing import Any, ParamSpec, TypeVar

VARIABLE = "BLIP3V_RANGES"
STAGE, OP = "blip3v.", "blip3v::"
"""What the labels of stages and of ops begin with. Nsight Compute's filters give / [ ] @ + * a meaning of
their own, so no label holds any of them."""

_NOTHING: AbstractContextManager[None] = nullcontext()
_on = os.environ.get(VARIABLE) == "1"

P = ParamSpec("P")
R = TypeVar("R")


def are_enabled() -> bool:
    return _on


@contextmanager
def enabled() -> Iterator[None]:
    """Inside, ranges are labels, in every thread."""
    global _on
    before, _on = _on, True
    try:
        yield
    finally:
        _on = before


def stage_range(name: str) -> AbstractContextManager[None]:
    """A stage of the model, of training or of reading a video: the label `blip3v.<name>`.

    >>> with stage_range("resampler"):
    ...     tokens = self.resampler(features)
    """
    if not _on:
        return _NOTHING
    return _labelled(STAGE + name)


def op_range(name: str) -> AbstractContextManager[None]:
    """An op: the label `blip3v::<op> <backend> <direction>`."""
    if not _on:
        return _NOTHING
    return _labelled(OP + name)


def ranged(
    kind: Callable[[str], AbstractContextManager[None]], name: str
) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Decorator: every call of the function stands in `kind(name)`, kind being one of the two above."""

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        @functools.wraps(function)
        def inside(*args: P.args, **kwargs: P.kwargs) -> R:
            if not _on:
                return function(*args, **kwargs)
            with kind(name):
                return function(*args, **kwargs)

        return inside

    return decorate


def ranged_module(module: ModuleType, name: str, functions: Sequence[str]) -> ModuleType:
    """A backend's module whose `functions`, those of them that it has, stand in `op_range`s."""
    shown = ModuleType(module.__name__, module.__doc__)
    vars(shown).update(vars(module))
    for function in functions:
        if hasattr(module, function):
            setattr(shown, function, ranged(op_range, f"{name} {function}")(getattr(module, function)))
    return shown


def _labelled(label: str) -> AbstractContextManager[None]:
    # Not above: reading a video needs no torch, and whoever switched ranges on has imported it.
    import torch

    if torch.compiler.is_compiling():
        return _NOTHING
    return _Label(label)


class _Label(AbstractContextManager[None]):
    def __init__(self, label: str) -> None:
        import torch

        self.label = label
        self.nvtx: Any = torch.cuda.nvtx if torch.cuda.is_available() else None
        self.record = torch.profiler.record_function(label)

    def __enter__(self) -> None:
        if self.nvtx is not None:
            self.nvtx.range_push(self.label)
        self.record.__enter__()

    def __exit__(self, *error: object) -> None:
        self.record.__exit__(*error)
        if self.nvtx is not None:
            self.nvtx.range_pop()
