"""Nothing measured is lost, and nothing of another machine or commit is mixed in."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.results_file import ResultFile, identity, read
from blip3v.errors import UserError

MACHINE = {"kind": "cpu", "commit": "abc", "torch": "2"}


def row(case: str, **values: Any) -> dict[str, Any]:
    names = {"level": "ops", "op": "x", "dtype": "float32", "direction": "forward", "backend": "b"}
    return names | {"case": case} | values


def test_every_row_is_on_disk_at_once_and_replaces_its_like(tmp_path: Path) -> None:
    file = ResultFile(tmp_path / "deep" / "ops.json", MACHINE, {})
    file.add(row("one", median_ms=1.0))
    assert [r["median_ms"] for r in read(file.path)["rows"]] == [1.0]
    file.add(row("two", median_ms=2.0))
    file.add(row("one", median_ms=3.0))
    assert {identity(r)[2]: r["median_ms"] for r in read(file.path)["rows"]} == {"one": 3.0, "two": 2.0}
    assert [path.name for path in file.path.parent.iterdir()] == ["ops.json"]


def test_a_resumed_file_knows_what_is_done(tmp_path: Path) -> None:
    file = ResultFile(tmp_path / "ops.json", MACHINE, {})
    file.add(row("one"))
    file.finish("part one")
    file.add(row("half of part two"))
    resumed = ResultFile(file.path, MACHINE, {}, resume=True)
    assert resumed.done("part one") and not resumed.done("part two")
    assert len(resumed.rows) == 2
    assert ResultFile(file.path, MACHINE, {}).rows == []


@pytest.mark.parametrize("name", ["kind", "commit", "torch"])
def test_rows_of_something_else_are_not_resumed(tmp_path: Path, name: str) -> None:
    file = ResultFile(tmp_path / "ops.json", MACHINE, {})
    file.add(row("one"))
    with pytest.raises(UserError, match=name):
        ResultFile(file.path, MACHINE | {name: "other"}, {}, resume=True)


@pytest.mark.parametrize("content", [None, "not JSON", json.dumps([1]), json.dumps({"rows": [{"x": 1}]})])
def test_other_files_are_refused_by_name(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "other.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(UserError, match=r"other\.json"):
        read(path)
