"""Ranges: nothing where they are off, labels where they are on, in the torch profiler and in NVTX."""

from __future__ import annotations

import re
import subprocess
import sys
import timeit
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import blip3v
from blip3v import ranges
from blip3v.ops import registry
from blip3v.ops.ttm_read import ttm_read
from blip3v.ranges import op_range, ranged, stage_range
from blip3v.testing.cases.ttm_read import CASES

PACKAGE = Path(blip3v.__file__).parent


@ranged(stage_range, "outer")
def work(x: torch.Tensor, times: int = 2) -> torch.Tensor:
    """Documented."""
    with op_range("inner reference"):
        x = x * times
    return x + 1


def labels(function: object, *arguments: object) -> list[str]:
    """Labels of ours that the torch profiler hears during one call, in the order in which they begin."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiler:
        function(*arguments)  # type: ignore[operator]
    ours = [event for event in profiler.events() if event.is_user_annotation]
    ours.sort(key=lambda event: (event.time_range.start, -event.time_range.end))
    return [event.name for event in ours if event.name.startswith((ranges.STAGE, ranges.OP))]


def test_off_is_nothing() -> None:
    assert not ranges.are_enabled()
    assert stage_range("vision") is op_range("token_learner cuda")
    assert labels(work, torch.ones(2)) == []


def test_a_range_that_is_off_costs_less_than_a_microsecond() -> None:
    def one() -> None:
        with stage_range("vision"):
            pass

    best = min(timeit.repeat(one, number=2000, repeat=20)) / 2000
    assert best < 1e-6, f"{best * 1e9:.0f} ns"


def test_on_they_are_labels_from_the_outside_in() -> None:
    with ranges.enabled():
        assert labels(work, torch.ones(2)) == ["blip3v.outer", "blip3v::inner reference"]
    assert labels(work, torch.ones(2)) == []


def test_the_decorated_function_is_the_same() -> None:
    assert work.__doc__ == "Documented."
    with ranges.enabled():
        assert work(torch.ones(2), times=3).tolist() == [4, 4]


def test_enabled_ends_as_it_began() -> None:
    with ranges.enabled():
        with pytest.raises(KeyError), ranges.enabled():
            raise KeyError
        assert ranges.are_enabled()
    assert not ranges.are_enabled()


@pytest.mark.parametrize("on", [False, True])
def test_compiles_as_one_graph_without_labels(on: bool) -> None:
    graphs: list[str] = []

    def look(module: torch.fx.GraphModule, inputs: object) -> object:
        graphs.append(module.code)
        return module

    torch.compiler.reset()
    compiled = torch.compile(work, fullgraph=True, backend=look)
    if on:
        with ranges.enabled():
            found = labels(compiled, torch.ones(2))
            assert compiled(torch.ones(2)).tolist() == [3, 3]
    else:
        found = labels(compiled, torch.ones(2))
    assert found == []
    assert len(graphs) == 1
    assert "record_function" not in graphs[0] and "profiler" not in graphs[0]


def test_nvtx_ranges_close_even_when_the_stage_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[str] = []
    nvtx = SimpleNamespace(range_push=heard.append, range_pop=lambda: heard.append("pop"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "nvtx", nvtx)
    with ranges.enabled(), pytest.raises(ValueError, match="broken"), stage_range("vision"):
        with op_range("token_learner cuda forward"):
            pass
        raise ValueError("broken")
    assert heard == ["blip3v.vision", "blip3v::token_learner cuda forward", "pop", "pop"]


@pytest.mark.parametrize("value, on", [("1", "True"), ("0", "False")])
def test_environment_switches_them_on_without_importing_torch(value: str, on: str) -> None:
    code = "import sys; from blip3v import ranges; print(ranges.are_enabled(), 'torch' in sys.modules)"
    environment = {"BLIP3V_RANGES": value, "PYTHONPATH": str(PACKAGE.parent)}
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert run.stdout.split() == [on, "False"], run.stderr


@pytest.fixture
def through_operators(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """`ttm_read` calls its custom operators, as it does for a backend with kernels; the formula computes."""
    reference = registry.backend_named("ttm_read", "reference")
    monkeypatch.setitem(registry.OPS, "ttm_read", (registry.Backend("triton", reference.module),))
    yield


def test_ops_show_backend_and_direction(through_operators: None) -> None:
    memory, frame, stamp, weight, bias, dgroup, dnormed = CASES["narrow"].build(torch.float32)
    memory.requires_grad_()

    def both() -> None:
        outputs = ttm_read(memory, frame, stamp, weight, bias, backend="triton")
        torch.autograd.grad(outputs, memory, (dgroup, dnormed))

    with ranges.enabled():
        found = labels(both)
    assert found == ["blip3v::ttm_read reference forward", "blip3v::ttm_read reference backward"]


def test_a_backend_is_its_own_module_where_ranges_are_off() -> None:
    backend = registry.backend_named("ttm_read", "reference")
    assert backend.load() is sys.modules["blip3v.ops.ttm_read.reference"]
    with ranges.enabled():
        assert backend.load() is not sys.modules["blip3v.ops.ttm_read.reference"]


def test_no_label_means_something_to_the_filters_of_nsight_compute() -> None:
    named = re.compile(r'(?:stage_range\(|op_range\(|stage_range, |op_range, )"([^"]+)"')
    found = [name for path in PACKAGE.rglob("*.py") for name in named.findall(path.read_text())]
    assert {"vision", "resampler", "temporal encoder", "projection", "optimizer", "decode video"} <= set(
        found
    )
    assert not [name for name in found if re.search(r"[/\[\]@+*]", name)]


@pytest.mark.gpu
def test_cuda_graphs_capture_inside_ranges() -> None:
    x = torch.ones(4, device="cuda")
    graph = torch.cuda.CUDAGraph()
    with ranges.enabled():
        work(x)
        with torch.cuda.graph(graph):
            y = work(x)
    graph.replay()
    assert y.tolist() == [3, 3, 3, 3]
