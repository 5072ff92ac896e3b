"""A choice becomes parts; names that do not exist are refused with those that do."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.levels import LEVELS, Choice, bench_of, parts
from blip3v.errors import UserError
from blip3v.ops.registry import OPS


def choice(**values: Any) -> Choice:
    return Choice(**({"level": "ops", "device": "cpu", "preset": "small"} | values))


@pytest.mark.parametrize("preset", ["small", "4b"])
def test_every_op_has_cases_in_every_preset(preset: str) -> None:
    names = [part.name.split()[0] for part in parts(choice(preset=preset), None)]
    assert list(dict.fromkeys(names)) == list(OPS)


def test_a_part_measures_what_was_asked_for() -> None:
    (part,) = parts(choice(op=["ttm_read"], case=["demo"], peer=["reference"], repeats=1), None)
    rows = list(part.measure())
    assert [row["direction"] for row in rows] == ["forward", "forward+backward"]
    assert {row["backend"] for row in rows} == {"reference"} and all(row["ok"] for row in rows)


def test_nobody_compiles_for_a_cpu_without_being_asked() -> None:
    bench = bench_of("ttm_read")
    assert not any("compile" in peer for peer in bench.default_peers("small"))
    assert set(bench.default_peers("4b")) == set(bench.peers)


@pytest.mark.parametrize("level, op", [("ops", "ttm_read"), ("stages", "token_learner")])
def test_what_takes_minutes_to_compile_comes_last(level: str, op: str) -> None:
    peers = ["compile default", "eager reference" if level == "stages" else "reference"]
    found = parts(choice(level=level, op=[op], preset="4b", peer=peers), None)
    compiled = [part.name.endswith(", compiled") for part in found]
    assert compiled == sorted(compiled) and compiled.count(True) == compiled.count(False) > 1


@pytest.mark.parametrize("preset", ["small", "4b"])
@pytest.mark.parametrize("level", list(LEVELS))
def test_every_level_has_parts_with_names_of_their_own(level: str, preset: str) -> None:
    names = [part.name for part in parts(choice(level=level, preset=preset), None)]
    assert names and len(names) == len(set(names))


@pytest.mark.parametrize(
    "level, wrong, named",
    [
        ("stages", {"op": ["nothing"]}, "resampler"),
        ("stages", {"peer": ["nothing"]}, "eager reference"),
        ("tokens", {"op": ["nothing"]}, "grouped_ttm"),
        ("tokens", {"case": ["nothing"]}, "32_tokens"),
        ("tokens", {"peer": ["cuda"]}, "leave it out"),
        ("train", {"peer": ["nothing"]}, "blip3v"),
        ("train", {"op": ["vit"]}, "leave it out"),
        ("decode", {"op": ["nothing"]}, "h264"),
        ("decode", {"peer": ["nothing"]}, "pyav"),
        ("end_to_end", {"direction": ["nothing"]}, "first token"),
    ],
)
def test_every_level_refuses_names_that_it_does_not_have(
    level: str, wrong: dict[str, Any], named: str
) -> None:
    with pytest.raises(UserError) as refused:
        parts(choice(level=level, **wrong), None)
    assert named in str(refused.value)


@pytest.mark.parametrize(
    "wrong, named",
    [
        ({"level": "nothing"}, "ops"),
        ({"op": ["nothing"]}, "token_learner"),
        ({"case": ["nothing"]}, "one_video"),
        ({"peer": ["nothing"]}, "compile max-autotune"),
        ({"dtype": ["int8"]}, "bfloat16"),
        ({"direction": ["sideways"]}, "forward+backward"),
        ({"preset": "huge"}, "4b"),
        ({"repeats": 0}, "at least 1"),
    ],
)
def test_wrong_names_are_refused_with_the_right_ones(wrong: dict[str, Any], named: str) -> None:
    with pytest.raises(UserError) as refused:
        parts(choice(**wrong), None)
    assert named in str(refused.value)
