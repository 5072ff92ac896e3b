"""`blip3v bench` end to end on a CPU: rows, table, files, resuming, comparing, checking."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks import levels
from benchmarks.ops import bench_ttm_read
from blip3v.cli import bench as command
from blip3v.cli.main import main

SMALL = ["ops", "--device", "cpu", "--preset", "small", "--op", "ttm_read", "--case", "demo"]
PEERS = ["--peer", "reference", "--peer", "cuda", "--repeats", "5"]


def measured(out: Path, *more: str) -> tuple[int, list[dict[str, Any]]]:
    code = main(["bench", *SMALL, *PEERS, "--out", str(out), *more])
    return code, json.loads((out / "ops.json").read_text())["rows"]


def test_a_run_leaves_a_table_and_the_same_rows_as_json_and_csv(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, rows = measured(tmp_path)
    assert code == 0 and len(rows) == 4
    printed = capsys.readouterr().out
    assert "ttm_read" in printed and "reference" in printed and "backend cuda was asked for" in printed
    timed = [row for row in rows if "median_ms" in row]
    assert {row["backend"] for row in timed} == {"reference"} and len(timed) == 2
    for row in timed:
        assert row["ok"] and row["error"] < 0.02 and row["floor_ms"] > 0 and row["repeats"] == 5
    with (tmp_path / "ops.csv").open() as file:
        assert [row["backend"] for row in csv.DictReader(file)] == [row["backend"] for row in rows]
    page = (tmp_path / "ops.html").read_text()
    assert "<svg" in page and "ttm_read" in page
    assert {path.suffix for path in tmp_path.iterdir()} >= {".json", ".csv", ".html", ".svg", ".png"}


def test_a_wrong_kernel_is_shown_as_failed_and_untimed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    right = bench_ttm_read.Read.peer

    def wrong(self: Any, backend: str) -> Any:
        compute = right(self, backend)
        return lambda *inputs: tuple(1.1 * output for output in compute(*inputs))

    monkeypatch.setattr(bench_ttm_read.Read, "peer", wrong)
    _, rows = measured(tmp_path)
    failed = [row for row in rows if row["backend"] == "reference"]
    assert len(failed) == 2 and all(not row["ok"] and "median_ms" not in row for row in failed)
    assert "BAD" in capsys.readouterr().out


def test_an_interrupted_run_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = [*SMALL, "--case", "model", *PEERS, "--out", str(tmp_path)]
    real, seen = levels.parts, []

    def breaking(choice: Any, ceilings: Any) -> list[levels.Part]:
        def stop() -> Any:
            seen.append("second")
            raise KeyboardInterrupt

        one, two = real(choice, ceilings)
        return [one, levels.Part(two.name, stop)]

    monkeypatch.setattr("benchmarks.run.parts", breaking)
    assert main(["bench", *first]) == 130 and seen == ["second"]
    before = json.loads((tmp_path / "ops.json").read_text())["rows"]
    assert {row["case"] for row in before} == {"demo"} and len(before) == 4
    monkeypatch.undo()
    assert main(["bench", *first, "--resume"]) == 0
    after = json.loads((tmp_path / "ops.json").read_text())["rows"]
    assert after[:4] == before and {row["case"] for row in after[4:]} == {"model"}


def test_check_and_compare_read_what_a_run_wrote(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    measured(tmp_path / "a")
    path = tmp_path / "a" / "ops.json"
    slow, fast = json.loads(path.read_text()), json.loads(path.read_text())
    for content, factor in ((slow, 100), (fast, 0.01)):
        for row in content["rows"]:
            for name in ("median_ms", "p20_ms", "p80_ms"):
                if name in row:
                    row[name] *= factor
    (tmp_path / "slow.json").write_text(json.dumps(slow))
    (tmp_path / "fast.json").write_text(json.dumps(fast))
    capsys.readouterr()

    assert main(["bench", "--compare", str(path), str(tmp_path / "slow.json")]) == 0
    assert "slower" in capsys.readouterr().out
    assert measured(tmp_path / "b", "--check", str(tmp_path / "slow.json"))[0] == 0
    assert "no row is slower" in capsys.readouterr().out
    with pytest.raises(SystemExit) as ended:
        measured(tmp_path / "b", "--check", str(tmp_path / "fast.json"))
    assert ended.value.code == 1


def test_a_check_misses_no_rows_that_nobody_asked_for(tmp_path: Path) -> None:
    _, rows = measured(tmp_path / "a")
    path = tmp_path / "a" / "ops.json"
    baseline = json.loads(path.read_text())
    baseline["rows"].append({**rows[0], "op": "another op", "median_ms": 1.0, "p20_ms": 1.0, "p80_ms": 1.0})
    for row in baseline["rows"]:
        if "median_ms" in row:
            row["median_ms"] *= 100
    path.write_text(json.dumps(baseline))
    assert measured(tmp_path / "b", "--check", str(path))[0] == 0


def test_without_matplotlib_the_numbers_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert measured(tmp_path)[0] == 0
    assert "no plots" in capsys.readouterr().out and (tmp_path / "ops.html").exists()
    assert not list(tmp_path.glob("*.svg"))
    monkeypatch.undo()
    assert main(["bench", "--redraw", str(tmp_path / "ops.json")]) == 0
    assert "ttm_read" in capsys.readouterr().out and list(tmp_path.glob("*.svg"))


@pytest.mark.parametrize(
    "arguments, hint",
    [
        ([], "say what to measure"),
        (["ops", "--device", "tpu"], "no such device"),
        (["ops", "--device", "meta"], "cpu and cuda"),
        ([*SMALL, "--peer", "nothing"], "choose from"),
        ([*SMALL, "--check", "absent.json"], "absent.json"),
        (["--compare", "absent.json", "absent.json"], "absent.json"),
    ],
)
def test_what_cannot_be_done_is_refused_at_once(
    arguments: list[str], hint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", *arguments]) == 2
    assert hint in capsys.readouterr().err


def test_without_the_repository_it_says_where_the_benchmarks_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command.blip3v, "__file__", str(tmp_path / "blip3v" / "__init__.py"))
    assert main(["bench", "ops"]) == 2
    assert "clone it" in capsys.readouterr().err
