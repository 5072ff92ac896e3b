"""`blip3v demo` from the first clip to the report."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from transformers.utils import logging

from blip3v.data.records import read_records
from blip3v.demo.board import Board
from blip3v.demo.clips import ClipSet, make_clips
from blip3v.demo.evaluate import acceptance
from blip3v.demo.features import make_features
from blip3v.demo.footage import caption_footage
from blip3v.demo.model import LATENT_GRID, demo_config
from blip3v.demo.report import write_report
from blip3v.demo.results import describe_machine, recorded_results
from blip3v.demo.summary import print_summary
from blip3v.demo.timing import measure_tokens
from blip3v.demo.training import Run, train_runs
from blip3v.demo.workers import Job, cores, run_jobs
from blip3v.errors import UserError

AFTER_TRAINING = 35.0
"""Seconds kept for real clips, timing and report."""

COMPARED = ("token_learner", "grouped_ttm", "mean_pool")
MAIN_WEIGHT = 3.0
STEP_WEIGHT = {"grouped_ttm": 2.0}
"""Time of an encoder that shares a process, relative to the others: the main one gets MAIN_WEIGHT, and a
grouped TTM, whose step costs about twice a TokenLearner's, twice the time.
"""


@dataclass(frozen=True)
class Settings:
    """What a run of the demo depends on; see `blip3v demo --help`."""

    out: Path
    report: Path
    minutes: float
    encoder: str
    tokens: int
    train_clips: int
    validation_clips: int
    test_clips: int
    steps: int | None
    seed: int


def check_settings(settings: Settings) -> None:
    """Refuse what cannot work before minutes go by.

    Raises:
        UserError: no such encoder, a token count that it cannot make, numbers out of range.
    """
    if settings.minutes <= 0:
        raise UserError(f"--minutes must be above 0, got {settings.minutes:g}")
    if settings.steps is not None and settings.steps < 2:
        raise UserError(f"--steps must be at least 2, one for each stage, got {settings.steps}")
    for name in ("train_clips", "validation_clips", "test_clips"):
        if getattr(settings, name) < 1:
            raise UserError(f"--{name.replace('_', '-')} must be at least 1, got {getattr(settings, name)}")
    if not settings.report.parent.is_dir():
        raise UserError(f"no such folder: {settings.report.parent}; make it, or give another --report")
    for encoder in encoders(settings):
        try:
            demo_config(encoder, tokens_of(encoder, settings.tokens))
        except ValueError as error:
            raise UserError(str(error)) from error


def encoders(settings: Settings) -> list[str]:
    """The main one first, then those it is compared with."""
    return list(dict.fromkeys([settings.encoder, *COMPARED]))


def tokens_of(encoder: str, tokens: int) -> int:
    """Pooling over frames keeps a frame's tokens, whatever is asked; the others make what is asked."""
    return LATENT_GRID**2 if encoder in ("sum_pool", "mean_pool", "max_pool") else tokens


def plan_workers(settings: Settings, gpu: bool, available: int) -> list[list[Run]]:
    """Which encoders share a process: all on a GPU; on a CPU the main one has a process of its own."""
    names = encoders(settings)
    weights = {settings.encoder: MAIN_WEIGHT} if gpu else {}
    runs = [
        Run(name, tokens_of(name, settings.tokens), (STEP_WEIGHT | weights).get(name, 1.0), settings.steps)
        for name in names
    ]
    if gpu:
        return [runs]
    if available >= len(runs):
        return [[run] for run in runs]
    return [runs[:1], runs[1:]]


def run_demo(settings: Settings) -> dict[str, Any]:
    """Do everything, print the tables, write the report and its JSON; returns what the JSON holds.

    Raises:
        UserError: a setting that cannot work, or something missing on this machine.
        WorkerError: a part that everything depends on failed.
    """
    check_settings(settings)
    begun = time.time()
    # Bars and remarks about loading files would break into the progress.
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    board = Board(parts=6)
    machine = describe_machine()
    gpu = torch.cuda.is_available()
    board.say(
        f"blip3v demo on {machine['device']}, {machine['cores']} cores: about {settings.minutes:g} minutes; "
        f"everything goes to {settings.out}, the report to {settings.report}"
    )
    with board.part("clips"):
        clips = make_clips(
            settings.out / "clips",
            settings.train_clips,
            settings.validation_clips,
            settings.test_clips,
            settings.seed,
            board.report,
        )
    with board.part("features"):
        count = make_features(clips, settings.out / "features", board.report)
    board.say(f"  {count / board.seconds['features']:.0f} clips/s decoded and encoded")
    deadline = begun + 60 * settings.minutes - AFTER_TRAINING
    with board.part("training and evaluation"):
        workers = plan_workers(settings, gpu, cores())
        jobs = [
            Job(train_runs, (runs, clips, settings.out / "features", settings.out, settings.seed, deadline))
            for runs in workers
        ]
        trained = {row["encoder"]: row for rows in run_jobs(jobs, board.report) for row in rows}
    # Answers at the number of tokens that was asked for; mean pooling cannot make it.
    chosen = choose_encoder(
        [row for row in trained.values() if row["tokens"] == trained[settings.encoder]["tokens"]]
    )
    problems: list[str] = []
    footage: list[dict[str, Any]] = []
    timing: list[dict[str, Any]] = []
    with board.part("real clips"), _forgiven("real clips", problems, board.say):
        footage = caption_footage(settings.out / chosen / "model")
    with board.part("tokens against time"), _forgiven("tokens against time", problems, board.say):
        timing = measure_tokens(board.report)
    results = {
        "settings": {name: _plain(value) for name, value in asdict(settings).items()},
        "machine": machine,
        "clips": count,
        "encoders": [trained[name] for name in encoders(settings)],
        "chosen": chosen,
        "acceptance": acceptance(trained[chosen]["test"], trained[chosen]["one_frame"]),
        "footage": footage,
        "timing": timing,
        "problems": problems,
        "seconds": {**board.seconds, "all": time.time() - begun},
    }
    with board.part("report"), _forgiven("report", problems, board.say):
        _write_all(settings, clips, results)
    print_summary(results, recorded_results(), settings.report)
    return results


def choose_encoder(trained: list[dict[str, Any]]) -> str:
    """The encoder with the best mean over the kinds of validation questions."""
    return max(trained, key=lambda row: max(tried["mean"] for tried in row["validation"]))["encoder"]


def _write_all(settings: Settings, clips: ClipSet, results: dict[str, Any]) -> None:
    logs = {
        row["encoder"]: [
            settings.out / row["encoder"] / f"demo-{stage}.jsonl" for stage in ("captions", "questions")
        ]
        for row in results["encoders"]
    }
    held_out = read_records(clips.questions("test"))
    text = json.dumps(results, indent=1, ensure_ascii=False)
    settings.report.with_name("demo_results.json").write_text(text + "\n", encoding="utf-8")
    write_report(settings.report, results, recorded_results(), held_out, logs)


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, Path) else value


@contextmanager
def _forgiven(part: str, problems: list[str], say: Callable[[str], None]) -> Iterator[None]:
    """A part at the side: its failure is told and kept, and the rest goes on."""
    try:
        yield
    except Exception as error:
        problems.append(f"{part}: {' '.join(str(error).split()) or type(error).__name__}")
        say(f"  failed, the rest goes on: {problems[-1]}")
