"""The registry: one table, clear refusals, and never a silent fall-back."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from blip3v.errors import UserError
from blip3v.ops import registry, use_backend
from blip3v.ops.registry import AUTO, COMPOSED, EVERYWHERE, OPS, Answer, Backend, choose, wished

ROOT = Path(__file__).resolve().parents[2]
OP = "resampler_attention"
CPU = (torch.zeros(1),)


@pytest.fixture
def table(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, SimpleNamespace]]:
    """A table of its own, whose backends answer what the test says."""
    modules = {
        name: SimpleNamespace(can_run=lambda *_: Answer(True)) for name in ("fast", "slow", "reference")
    }
    monkeypatch.setattr(Backend, "load", lambda self: modules[self.module])
    backends = (
        Backend("fast", "fast"),
        Backend("slow", "slow", {"cpu": "result.json"}),
        Backend("reference", "reference", {EVERYWHERE: "the formula"}),
    )
    monkeypatch.setattr(registry, "OPS", {OP: backends})
    registry._parse.cache_clear()
    yield modules
    registry._parse.cache_clear()


def test_auto_takes_the_first_that_is_verified_and_can_run(table: dict[str, SimpleNamespace]) -> None:
    assert choose(OP, CPU).name == "slow"  # fast can run, but was never verified here
    table["slow"].can_run = lambda *_: Answer(False, "too large")
    assert choose(OP, CPU).name == "reference"
    table["reference"].can_run = lambda *_: Answer(False, "no")
    with pytest.raises(UserError, match=r"slow: too large; reference: no"):
        choose(OP, CPU)


def test_a_name_is_obeyed_or_refused_with_the_reason(table: dict[str, SimpleNamespace]) -> None:
    assert choose(OP, CPU, "fast").name == "fast"
    table["fast"].can_run = lambda *_: Answer(False, "needs a larger boat")
    with pytest.raises(UserError, match="backend fast was asked for and cannot run: needs a larger boat"):
        choose(OP, CPU, "fast")
    with pytest.raises(UserError, match="no backend 'faster': choose auto or one of fast, slow, reference"):
        choose(OP, CPU, "faster")


def test_argument_before_context_before_environment(
    table: dict[str, SimpleNamespace], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert wished(OP, None, "cpu") == AUTO
    monkeypatch.setenv("BLIP3V_BACKEND", "reference")
    assert wished(OP, None, "cpu") == "reference"
    with use_backend("slow"):
        assert wished(OP, None, "cpu") == "slow"
        with use_backend("fast", op=OP):
            assert wished(OP, None, "cpu") == "fast"
            assert wished(OP, "reference", "cpu") == "reference"
            with use_backend(AUTO):
                assert wished(OP, None, "cpu") == AUTO
        assert wished(OP, None, "cpu") == "slow"
    monkeypatch.setenv("BLIP3V_BACKEND", f" {OP} = fast ,")
    assert wished(OP, None, "cpu") == "fast"


def test_only_the_reference_left_means_the_reference(
    table: dict[str, SimpleNamespace], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "kind_of_device", lambda device: "sm_12")
    assert wished(OP, None, "cuda:0") == "reference"


@pytest.mark.parametrize(
    "text, message",
    [
        ("banana", "BLIP3V_BACKEND=banana: no backend 'banana': choose auto or one of cuda, triton"),
        (f"{OP}=banana", f"{OP} has no backend 'banana': choose auto or one of cuda, triton"),
        ("banana=triton", f"no op 'banana', choose one of {OP}"),
    ],
)
def test_a_wrong_environment_lists_the_choices(
    monkeypatch: pytest.MonkeyPatch, text: str, message: str
) -> None:
    monkeypatch.setenv("BLIP3V_BACKEND", text)
    with pytest.raises(UserError, match=message):
        wished(OP, None, "cpu")


def test_a_wrong_context_lists_the_choices() -> None:
    with pytest.raises(UserError, match="no op 'banana'"), use_backend("triton", op="banana"):
        pass
    with pytest.raises(UserError, match="no backend 'banana'"), use_backend("banana"):
        pass
    with pytest.raises(UserError, match="no backend 'banana'"), use_backend("banana", op=OP):
        pass


# --- the table itself -------------------------------------------------------------------------------------


@pytest.mark.parametrize("op", OPS)
def test_every_op_bears_one_name_everywhere(op: str) -> None:
    native = () if op in COMPOSED else (f"csrc/{op}",)
    for path in (
        *native,
        f"blip3v/ops/{op}/__init__.py",
        f"tests/ops/test_{op}.py",
        f"benchmarks/ops/bench_{op}.py",
    ):
        assert (ROOT / path).exists(), path


def test_nothing_named_like_an_op_is_missing_from_the_table() -> None:
    folders = [path.parent.name for path in (ROOT / "blip3v" / "ops").glob("*/__init__.py")]
    native = [path.name for path in (ROOT / "csrc").iterdir() if path.is_dir()]
    benches = [path.stem.removeprefix("bench_") for path in (ROOT / "benchmarks" / "ops").glob("bench_*.py")]
    assert set(folders) == (set(native) - {"common", "sim"}) | COMPOSED == set(benches) == set(OPS)


@pytest.mark.parametrize("op", OPS)
def test_every_op_has_a_reference_that_runs_everywhere_and_every_backend_loads(op: str) -> None:
    assert registry.backend_named(op, "reference").is_verified("any device")
    for backend in OPS[op]:
        module = backend.load()
        assert callable(module.can_run) and callable(module.forward) and callable(module.backward)


@pytest.mark.parametrize("op", OPS)
def test_what_counts_as_verified_is_proven_by_a_result_in_the_repository(op: str) -> None:
    for backend in OPS[op]:
        for kind, proof in backend.verified_on.items():
            if kind != EVERYWHERE:
                report = json.loads((ROOT / proof).read_text())
                assert report["machine"]["kind"] == kind
                assert any(row["backend"] == backend.name and "median_ms" in row for row in report["rows"])


def test_kind_of_device() -> None:
    assert registry.kind_of_device("cpu") == "cpu"
    if not torch.cuda.is_available():
        assert registry.kind_of_device("cuda:0") == "cuda"


@pytest.mark.gpu
def test_kind_of_a_gpu() -> None:
    major, minor = torch.cuda.get_device_capability()
    assert registry.kind_of_device("cuda") == f"sm_{major}{minor}"
