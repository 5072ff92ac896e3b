"""`blip3v demo` at toy size, from the command line to the page."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from blip3v.cli.main import main
from blip3v.demo import run
from blip3v.demo.report import write_report
from blip3v.demo.run import Settings, choose_encoder, plan_workers
from blip3v.demo.scenes import CHANCE
from blip3v.demo.summary import percent

TOY = ["--train-clips", "6", "--validation-clips", "2", "--test-clips", "3", "--steps", "4"]
DEFAULTS = Settings(Path("o"), Path("r.html"), 9, "token_learner", 32, 10, 2, 2, None, 0)


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """The folder and the results of one run; its timing part fails."""
    folder = tmp_path_factory.mktemp("toy")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(run, "measure_tokens", lambda report: 1 / 0)
        assert main(["demo", *TOY]) == 0
    return folder, json.loads((folder / "demo_results.json").read_text(encoding="utf-8"))


def test_every_encoder_answers_and_is_kept(toy: tuple[Path, dict[str, Any]]) -> None:
    folder, results = toy
    assert {row["encoder"]: row["tokens"] for row in results["encoders"]} == {
        "token_learner_per_frame": 32,
        "token_learner": 32,
        "grouped_ttm": 32,
        "mean_pool": 16,
    }
    for row in results["encoders"]:
        assert row["steps"] == {"captions": 1, "questions": 3}
        assert sum(kind["total"] for kind in row["test"]["kinds"].values()) == len(row["answers"])
        assert (folder / "runs/demo" / row["encoder"] / "model" / "model.safetensors").is_file()
    assert results["chosen"] in ("token_learner_per_frame", "token_learner", "grouped_ttm")
    assert results["clips"] == 11
    assert {"clips", "features", "training and evaluation", "all"} <= set(results["seconds"])


def test_a_failing_part_at_the_side_costs_nothing_else(toy: tuple[Path, dict[str, Any]]) -> None:
    folder, results = toy
    assert "tokens against time: division by zero" in results["problems"]
    assert results["timing"] == []
    assert "division by zero" in (folder / "demo_report.html").read_text(encoding="utf-8")


def test_the_page_holds_the_numbers_and_needs_nothing_else(toy: tuple[Path, dict[str, Any]]) -> None:
    folder, results = toy
    page = (folder / "demo_report.html").read_text(encoding="utf-8")
    rows = re.findall(r"<tr[^>]*>(.*?)</tr>", page)
    cells = [re.findall(r"<t[dh]>(.*?)</t[dh]>", row) for row in rows]
    for kind in results["encoders"][0]["test"]["kinds"]:
        found = [row["test"]["kinds"][kind]["accuracy"] for row in results["encoders"]]
        chosen = next(row for row in results["encoders"] if row["encoder"] == results["chosen"])
        single = chosen["one_frame"]["kinds"][kind]["accuracy"]
        assert [kind, percent(CHANCE[kind]), *map(percent, found), percent(single)] in cells
    for given in chosen["answers"].values():
        assert any(
            given["answer"] == row[1] and given["one_frame"] == row[3] for row in cells if len(row) == 4
        )
    # A strip for each of the three clips, and the plot of the losses.
    assert len(re.findall(r'<img alt="" src="data:image/png;base64,[A-Za-z0-9+/=]{500,}">', page)) >= 4
    assert not re.findall(r'(?:src|href)="(?!data:)', page)


def test_a_recorded_run_stands_beside_one_that_missed(
    toy: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    folder, results = toy
    logs = {"token_learner": [folder / "runs/demo/token_learner/demo-captions.jsonl"]}
    recorded = {**results, "path": "somewhere/demo_recipe.json"}
    for passed in (True, False):
        rows = [{**row, "passed": passed, "excused": False} for row in results["acceptance"]]
        write_report(tmp_path / "page.html", {**results, "acceptance": rows}, recorded, [], logs)
        assert ("somewhere/demo_recipe.json" in (tmp_path / "page.html").read_text()) != passed


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--encoder", "lstm"], "no temporal encoder named 'lstm'; choose one of none, sum_pool"),
        (["--encoder", "none", "--tokens", "32"], "none makes 128 tokens from 8 frames of 16 tokens, not 32"),
        (["--minutes", "0"], "--minutes must be above 0"),
        (["--steps", "1"], "--steps must be at least 2"),
        (["--test-clips", "0"], "--test-clips must be at least 1"),
        (["--report", "nowhere/report.html"], "no such folder: nowhere"),
    ],
)
def test_what_cannot_work_is_one_line(
    arguments: list[str],
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["demo", *arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith("blip3v: error: ")
    assert words in error
    assert error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_processes() -> None:
    def names(gpu: bool, available: int, settings: Settings = DEFAULTS) -> list[list[str]]:
        return [[one.encoder for one in runs] for runs in plan_workers(settings, gpu, available)]

    assert names(gpu=False, available=2) == [["token_learner"], ["grouped_ttm", "mean_pool"]]
    assert names(gpu=False, available=8) == [["token_learner"], ["grouped_ttm"], ["mean_pool"]]
    assert names(gpu=True, available=8) == [["token_learner", "grouped_ttm", "mean_pool"]]
    main_one = replace(DEFAULTS, encoder="grouped_ttm")
    assert names(gpu=False, available=2, settings=main_one) == [
        ["grouped_ttm"],
        ["token_learner", "mean_pool"],
    ]


def test_validation_chooses_the_encoder() -> None:
    def row(name: str, *means: float) -> dict[str, Any]:
        return {
            "encoder": name,
            "validation": [{"mean": mean} for mean in means],
            "test": {"temporal": 1 - means[0]},
        }

    assert choose_encoder([row("a", 0.3, 0.5), row("b", 0.6, 0.2), row("c", 0.1)]) == "b"
