"""A trace of the torch profiler -> who had each instant: pieces of time that cover it once.

On a CPU an instant belongs to the innermost operator of the thread that makes the steps. On a GPU it belongs
to what runs there, of several the one that began first, and to the range in which that was launched. Each
piece also knows the ranges of `blip3v.ranges` around it; the innermost is its stage. In a backward pass those
around the forward operator with the same sequence number of autograd count too, as `<range> (backward)`.
"""

from __future__ import annotations

import gzip
import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from blip3v.errors import UserError
from blip3v.ranges import OP, STAGE

COMPUTE, COPY, GAP = "compute", "copy", "gap"
NO_OPERATOR, IDLE = "(no operator)", "(GPU idle)"
STEP = "ProfilerStep#"
BACKWARD = "autograd::engine::evaluate_function"
CPU_COPIES = ("aten::copy_", "aten::_to_copy", "aten::clone", "aten::contiguous", "aten::cat")
"""Operators whose own time on a CPU is moving bytes."""

ON_DEVICE = {"kernel": COMPUTE, "gpu_memcpy": COPY, "gpu_memset": COPY}
ON_HOST = ("cpu_op", "user_annotation", "cuda_runtime", "cuda_driver")


class Span(NamedTuple):
    """One event of the trace; times in microseconds."""

    name: str
    category: str
    thread: tuple[Any, Any]
    start: float
    end: float
    args: dict[str, Any]


class Piece(NamedTuple):
    """Time that belongs to one operator, kernel or gap and to nothing else; microseconds. Ranges outermost
    first."""

    start: float
    end: float
    kind: str
    name: str
    ranges: tuple[str, ...]


@dataclass(frozen=True)
class Reading:
    """What the active iterations of a trace hold.

    pieces: cover `window` once, in order. entered: the label of every range that began in the window. called:
    the name of every operator (CPU) or of every kernel and copy (GPU) that began in it.
    """

    window: tuple[float, float]
    on_gpu: bool
    iterations: int
    pieces: list[Piece]
    entered: list[str]
    called: list[str]


def read_trace(path: Path) -> list[dict[str, Any]]:
    """The events of a trace file of the torch profiler, .json or .json.gz."""
    data = path.read_bytes()
    if path.suffix == ".gz":
        data = gzip.decompress(data)
    events: list[dict[str, Any]] = json.loads(data)["traceEvents"]
    return events


def understand(events: Sequence[dict[str, Any]]) -> Reading:
    """Raises: UserError, if the trace holds no step of the profiler."""
    spans = [_span(event) for event in events if event.get("ph") == "X" and "dur" in event]
    steps = [span for span in spans if span.category == "user_annotation" and span.name.startswith(STEP)]
    if not steps:
        raise UserError("the trace holds no active iteration; run more than the warm-up")
    device = sorted((span for span in spans if span.category in ON_DEVICE), key=_by_time)
    start, end = min(step.start for step in steps), max(step.end for step in steps)
    device = [span for span in device if span.end > start]
    if device:
        end = max(end, max(span.end for span in device))
    host = _Host([span for span in spans if span.category in ON_HOST and not span.name.startswith(STEP)])
    pieces = host.of_device(device) if device else host.of_thread(steps[0].thread)
    inside = [span for span in spans if start <= span.start <= end]
    called = device or [span for span in inside if span.category == "cpu_op"]
    return Reading(
        (start, end),
        bool(device),
        len(steps),
        list(_covered(pieces, start, end, IDLE if device else NO_OPERATOR)),
        [span.name for span in inside if span.category == "user_annotation" and _is_ours(span)],
        [span.name for span in called],
    )


class _Host:
    """What the CPU's threads did, and which ranges each moment of theirs lies in."""

    def __init__(self, spans: Sequence[Span]) -> None:
        threads: dict[tuple[Any, Any], list[Span]] = defaultdict(list)
        for span in sorted(spans, key=_by_time):
            threads[span.thread].append(span)
        self.nested = {thread: list(_nested(own)) for thread, own in threads.items()}
        self.made: dict[int, tuple[str, ...]] = {}
        self.made = self._ranges_of_nodes()

    def _ranges_of_nodes(self) -> dict[int, tuple[str, ...]]:
        """Sequence number -> ranges around the forward operator that made this node of autograd's graph.

        Operators that make none bear the number of the next one, so the last to begin with it is the maker.
        """
        began: list[tuple[float, int, tuple[str, ...]]] = []
        for pieces in self.nested.values():
            for start, _, stack in pieces:
                number = stack[-1].args.get("Sequence number") if stack else None
                if number is not None and not any(span.name.startswith(BACKWARD) for span in stack):
                    began.append((start, number, self._ranges(stack)))
        return {number: ranges for _, number, ranges in sorted(began)}

    def _ranges(self, stack: Sequence[Span]) -> tuple[str, ...]:
        ranges: list[str] = []
        for span in stack:
            if _is_ours(span):
                ranges.append(span.name)
            elif span.name.startswith(BACKWARD):
                forward = self.made.get(span.args.get("Sequence number", -1), ())
                # A training step is around both passes.
                ranges += [f"{label} (backward)" for label in forward if label not in ranges]
        return tuple(ranges)

    def of_thread(self, thread: tuple[Any, Any]) -> Iterator[Piece]:
        for start, end, stack in self.nested.get(thread, []):
            operator = next((span.name for span in reversed(stack) if span.category == "cpu_op"), None)
            if operator is None:
                kind = GAP
            else:
                kind = COPY if operator in CPU_COPIES else COMPUTE
            yield Piece(start, end, kind, operator or NO_OPERATOR, self._ranges(stack))

    def of_device(self, device: Sequence[Span]) -> Iterator[Piece]:
        launched: dict[int, tuple[str, ...]] = {}
        for pieces in self.nested.values():
            for _, _, stack in pieces:
                correlation = stack[-1].args.get("correlation") if stack else None
                if correlation is not None and correlation not in launched:
                    launched[correlation] = self._ranges(stack)
        for span in device:
            ranges = launched.get(span.args.get("correlation", -1), ())
            yield Piece(span.start, span.end, ON_DEVICE[span.category], span.name, ranges)


def _nested(spans: Sequence[Span]) -> Iterator[tuple[float, float, tuple[Span, ...]]]:
    """Spans of one thread, by time -> (start, end, the spans around it) without overlaps."""
    stack: list[Span] = []
    cursor = 0.0
    for span in [*spans, None]:
        start = span.start if span is not None else float("inf")
        while stack and stack[-1].end <= start:
            if stack[-1].end > cursor:
                yield cursor, stack[-1].end, tuple(stack)
                cursor = stack[-1].end
            stack.pop()
        if span is None:
            return
        if stack and start > cursor:
            yield cursor, start, tuple(stack)
        cursor = max(cursor, start) if stack else start
        stack.append(span)


def _covered(pieces: Iterator[Piece], start: float, end: float, nothing: str) -> Iterator[Piece]:
    """Clipped to the window and to what came before, with gaps between."""
    cursor = start
    for piece in pieces:
        begin, until = max(piece.start, cursor), min(piece.end, end)
        if until <= begin:
            continue
        if begin > cursor:
            yield Piece(cursor, begin, GAP, nothing, ())
        yield piece._replace(start=begin, end=until)
        cursor = until
    if cursor < end:
        yield Piece(cursor, end, GAP, nothing, ())


def _span(event: dict[str, Any]) -> Span:
    thread = event.get("pid"), event.get("tid")
    # Times in a trace count from the start of the machine, so that the sum of two is exact to 1 ns.
    start = float(event["ts"])
    return Span(
        event["name"], event.get("cat", ""), thread, start, start + float(event["dur"]), event.get("args", {})
    )


def _by_time(span: Span) -> tuple[float, float]:
    return span.start, -span.end


def _is_ours(span: Span) -> bool:
    return span.category == "user_annotation" and span.name.startswith((STAGE, OP))
