"""Floors follow from the measured rates, and only a data sheet makes a time a bug."""

from __future__ import annotations

import pytest

from benchmarks.ceilings import Ceilings, measure_ceilings
from benchmarks.measure import against_ceilings

MADE_UP = Ceilings({"bfloat16": 1e12}, 1e9, {"bfloat16": 2e12}, 2e9, "made up")


@pytest.mark.parametrize(
    "flops, moved, floor_ms, bound", [(2e9, 1e5, 2.0, "compute"), (1e8, 5e6, 5.0, "memory")]
)
def test_the_larger_of_both_binds(flops: float, moved: float, floor_ms: float, bound: str) -> None:
    seconds, binding = MADE_UP.floor("bfloat16", flops, moved)
    assert (seconds * 1e3, binding) == (pytest.approx(floor_ms), bound)


@pytest.mark.parametrize("eager, graph, share, bug", [(4.0, 3.0, 2 / 3, False), (4.0, 0.5, 4.0, True)])
def test_the_better_of_eager_and_graph_counts(eager: float, graph: float, share: float, bug: bool) -> None:
    row = {"flops": 2e9, "bytes": 0.0, "median_ms": eager, "graph_median_ms": graph}
    numbers = against_ceilings(row, "bfloat16", MADE_UP)
    assert numbers["floor_ms"] == pytest.approx(2.0)
    assert numbers["roofline_share"] == pytest.approx(share) and ("bug" in numbers) is bug


def test_without_a_data_sheet_nothing_is_a_bug() -> None:
    unknown = Ceilings({"bfloat16": 1e12}, 1e9, {}, None, "made up")
    row = {"flops": 2e9, "bytes": 0.0, "median_ms": 1e-6}
    assert "bug" not in against_ceilings(row, "bfloat16", unknown)


def test_rates_of_this_cpu_are_of_a_cpu() -> None:
    """Between a very slow core and the largest server; a wrong unit is off by a thousand."""
    ceilings = measure_ceilings("cpu", dtypes=("bfloat16", "float32"))
    assert 1e9 < ceilings.flops_per_s["float32"] < 5e13 and 1e8 < ceilings.bytes_per_s < 2e12
    assert ceilings.limit_bytes_per_s is None and "not known" in ceilings.source
