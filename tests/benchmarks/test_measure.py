"""Error first, then times; or the reason why there are none."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks.ceilings import Ceilings
from benchmarks.measure import Calls, measure, reason, version_of
from benchmarks.rows import DIRECTIONS, describe
from benchmarks.subject import Subject

CEILINGS = Ceilings({"float32": 1e12}, 1e10, {"float32": 2e12}, 2e10, "made up")


class Doubling(Subject):
    """out = 2 x, whose right gradient is twice the cotangent."""

    def __init__(self) -> None:
        x, self.cotangents = torch.randn(64), [torch.randn(64)]
        self.inputs = [x]
        exact = {"out": 2 * x.double(), "dx": 2 * self.cotangents[0].double()}
        self.truth = {name: (value, value.abs()) for name, value in exact.items()}
        self.moved = 512.0

    def peer(self, backend: str) -> Callable[..., Tensor]:
        peers: dict[str, Callable[..., Tensor]] = {
            "right": lambda x: 2 * x,
            "simulator": lambda x: 2 * x,
            "wrong": lambda x: 2.01 * x,
            "wrong gradient": lambda x: 2 * x.detach() + 0 * x,
            "not a number": lambda x: 2 * x * float("nan"),
        }
        return peers[backend]

    def work(self, direction: str) -> tuple[float, float]:
        return 64.0, self.moved


def row(backend: str, direction: str = "forward", **values: Any) -> dict[str, Any]:
    subject = Doubling()
    for name, value in values.items():
        setattr(subject, name, value)
    calls = Calls(subject.peer(backend), subject)
    return measure(calls, subject, backend, direction, "cpu", "float32", 3, CEILINGS)


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_a_right_peer_has_times_and_its_place_below_the_roofline(direction: str) -> None:
    measured = row("right", direction)
    assert measured["ok"] and measured["error"] < 1e-6 and "reason" not in measured
    assert 0 < measured["p20_ms"] <= measured["median_ms"] <= measured["p80_ms"]
    assert measured["bound"] == "memory" and measured["floor_ms"] == pytest.approx(512 / 1e10 * 1e3)
    assert measured["roofline_share"] == pytest.approx(measured["floor_ms"] / measured["median_ms"])
    assert "bug" not in measured


@pytest.mark.parametrize(
    "backend, direction",
    [("wrong", "forward"), ("not a number", "forward"), ("wrong gradient", "forward+backward")],
)
def test_a_wrong_peer_is_failed_and_untimed(backend: str, direction: str) -> None:
    measured = row(backend, direction)
    assert measured["ok"] is False and "BAD" in measured["reason"]
    assert not any(name.endswith("_ms") or name == "tflops" for name in measured)


def test_a_wrong_gradient_shows_in_the_backward_only() -> None:
    assert row("wrong gradient", "forward")["ok"]


def test_the_simulator_is_judged_but_not_timed() -> None:
    measured = row("simulator")
    assert measured["ok"] and "median_ms" not in measured and "simulator" in measured["reason"]


def test_a_time_that_no_device_reaches_is_a_bug() -> None:
    measured = row("right", moved=1e15)
    assert "below" in measured["bug"] and measured["roofline_share"] > 1
    names = {"op": "x", "case": "c", "dtype": "float32", "direction": "forward", "backend": "right"}
    assert "BUG" in describe(names | measured)


def test_a_peer_that_raises_is_a_reason() -> None:
    def broken(x: Tensor) -> Tensor:
        raise RuntimeError("\nthe first line\nthe second")

    subject = Doubling()
    measured = measure(Calls(broken, subject), subject, "x", "forward", "cpu", "float32", 3, CEILINGS)
    assert measured == {"reason": "RuntimeError: the first line"}
    assert reason(ValueError()) == "ValueError: without a message"


def test_versions_are_those_of_the_packages() -> None:
    assert version_of("einsum") == f"torch {torch.__version__}"
    assert version_of("simulator").startswith("blip3v ")
    assert version_of("flash-attn").startswith("flash_attn ")
