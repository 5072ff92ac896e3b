"""Traces written by hand, whose pieces are known: nesting, backward passes, a GPU behind its CPU."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from blip3v.errors import UserError
from blip3v.profiling.trace import COMPUTE, COPY, GAP, IDLE, NO_OPERATOR, Piece, read_trace, understand

MAIN, AUTOGRAD = 1, 2


def event(
    name: str, start: float, end: float, category: str = "cpu_op", thread: int = MAIN, **args: Any
) -> dict:
    return {
        "ph": "X", "name": name, "cat": category, "pid": 0, "tid": thread, "ts": start, "dur": end - start,
        "args": args,
    }  # fmt: skip


def step(number: int, start: float, end: float) -> dict:
    return event(f"ProfilerStep#{number}", start, end, "user_annotation")


def mark(label: str, start: float, end: float) -> dict:
    return event(label, start, end, "user_annotation")


def test_each_instant_of_a_cpu_belongs_to_the_innermost_operator_and_range() -> None:
    reading = understand(
        [
            step(3, 100, 200),
            mark("blip3v.vision", 110, 160),
            event("aten::linear", 120, 150),
            event("aten::mm", 130, 145),
            event("aten::copy_", 170, 180),
        ]
    )
    vision = ("blip3v.vision",)
    assert reading.pieces == [
        Piece(100, 110, GAP, NO_OPERATOR, ()),
        Piece(110, 120, GAP, NO_OPERATOR, vision),
        Piece(120, 130, COMPUTE, "aten::linear", vision),
        Piece(130, 145, COMPUTE, "aten::mm", vision),
        Piece(145, 150, COMPUTE, "aten::linear", vision),
        Piece(150, 160, GAP, NO_OPERATOR, vision),
        Piece(160, 170, GAP, NO_OPERATOR, ()),
        Piece(170, 180, COPY, "aten::copy_", ()),
        Piece(180, 200, GAP, NO_OPERATOR, ()),
    ]
    assert (reading.window, reading.iterations, reading.on_gpu) == ((100, 200), 1, False)
    assert reading.entered == ["blip3v.vision"]
    assert reading.called == ["aten::linear", "aten::mm", "aten::copy_"]


def test_the_order_of_events_in_the_file_does_not_matter() -> None:
    assert understand(on_gpu()[::-1]).pieces == understand(on_gpu()).pieces


def test_what_lies_outside_the_active_steps_does_not_count() -> None:
    reading = understand(
        [event("aten::warmup", 0, 90), step(1, 100, 110), step(2, 110, 120), event("aten::after", 121, 130)]
    )
    assert reading.pieces == [Piece(100, 120, GAP, NO_OPERATOR, ())]
    assert reading.called == [] and reading.iterations == 2


def test_other_threads_and_other_peoples_annotations_are_not_stages() -> None:
    reading = understand(
        [
            step(1, 0, 10),
            mark("Optimizer.step#AdamW.step", 2, 6),
            event("aten::mul", 3, 5),
            event("aten::decode", 0, 10, thread=7),
            event("blip3v::token_learner_forward", 7, 9),
        ]
    )
    assert {piece.ranges for piece in reading.pieces} == {()}
    assert [piece.name for piece in reading.pieces if piece.kind == COMPUTE] == [
        "aten::mul",
        "blip3v::token_learner_forward",
    ]


NODE = "autograd::engine::evaluate_function: MmBackward0"


def test_a_backward_pass_belongs_to_the_range_of_its_forward_operator() -> None:
    """Operators that make no node bear the number of the next: the view in `vision` is not the maker of 7."""
    reading = understand(
        [
            step(1, 0, 100),
            mark("blip3v.training step", 0, 100),
            mark("blip3v.vision", 10, 20),
            event("aten::view", 11, 12, **{"Sequence number": 7}),
            mark("blip3v.resampler", 20, 30),
            event("aten::mm", 21, 29, **{"Sequence number": 7}),
            mark("blip3v.backward", 50, 90),
            event(NODE, 60, 80, **{"Sequence number": 7, "Fwd thread id": 1}),
            event("aten::mm", 65, 75, **{"Sequence number": 9}),
        ]
    )
    inside = ("blip3v.training step", "blip3v.backward", "blip3v.resampler (backward)")
    assert Piece(65, 75, COMPUTE, "aten::mm", inside) in reading.pieces
    assert Piece(50, 60, GAP, NO_OPERATOR, inside[:2]) in reading.pieces


def on_gpu() -> list[dict]:
    """Two kernels, the second launched by autograd's thread, a copy that overlaps with it, and a gap."""
    return [
        step(1, 100, 150),
        mark("blip3v.vision", 105, 120),
        event("aten::mm", 110, 118, **{"Sequence number": 4}),
        event("cudaLaunchKernel", 112, 115, "cuda_runtime", correlation=1),
        event(NODE, 121, 130, thread=AUTOGRAD, **{"Sequence number": 4, "Fwd thread id": 1}),
        event("cudaLaunchKernel", 122, 124, "cuda_runtime", AUTOGRAD, correlation=2),
        event("gemm", 130, 140, "kernel", 7, correlation=1),
        event("dgemm", 145, 165, "kernel", 7, correlation=2),
        event("Memcpy HtoD", 160, 170, "gpu_memcpy", 8, correlation=3),
        event("kernel of the warm-up", 80, 99, "kernel", 7, correlation=0),
    ]


def test_a_gpu_has_its_own_time_and_the_ranges_of_the_launch() -> None:
    reading = understand(on_gpu())
    assert reading.on_gpu and reading.window == (100, 170)
    assert reading.pieces == [
        Piece(100, 130, GAP, IDLE, ()),
        Piece(130, 140, COMPUTE, "gemm", ("blip3v.vision",)),
        Piece(140, 145, GAP, IDLE, ()),
        Piece(145, 165, COMPUTE, "dgemm", ("blip3v.vision (backward)",)),
        Piece(165, 170, COPY, "Memcpy HtoD", ()),
    ]
    assert reading.called == ["gemm", "dgemm", "Memcpy HtoD"]


def test_a_trace_of_nothing_but_warm_up_is_refused() -> None:
    with pytest.raises(UserError, match="no active iteration"):
        understand([event("aten::mm", 0, 1)])


@pytest.mark.parametrize("suffix", [".json", ".json.gz"])
def test_reads_what_the_profiler_writes(tmp_path: Path, suffix: str) -> None:
    text = json.dumps({"traceEvents": on_gpu()}).encode()
    path = tmp_path / f"trace{suffix}"
    path.write_bytes(gzip.compress(text) if suffix.endswith("gz") else text)
    assert read_trace(path) == on_gpu()
