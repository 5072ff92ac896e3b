"""One worker's share of the training: encoders one after the other, within a time, each evaluated."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers.utils import logging

from blip3v.data.dataset import FeatureDataset
from blip3v.data.records import Record, read_records
from blip3v.demo.clips import ClipSet
from blip3v.demo.evaluate import QUESTIONS_AT_ONCE, FeatureAnswerer, Scores, ask, score
from blip3v.demo.features import load_features
from blip3v.demo.model import demo_model, demo_processor
from blip3v.demo.stages import CAPTION_SHARE, ShuffledQuestions, demo_captions, demo_questions
from blip3v.demo.workers import Report
from blip3v.train.export import export
from blip3v.train.loop import Trainer, TrainingData
from blip3v.train.metrics import Metrics
from blip3v.train.progress import Silent
from blip3v.train.recipe import Recipe

FEWEST_STEPS = 4
PROBE_STEPS = 8
CLIPS_SHOWN = 9
"""Held-out clips whose answers are kept for the report."""

SNAPSHOTS = (0.9, 1.0)
"""Where in stage 3 the weights are kept; the validation set chooses among them."""


@dataclass(frozen=True)
class Run:
    """One encoder to train.

    Attributes:
        encoder: name of the temporal encoder.
        tokens: video tokens that it makes.
        weight: its part of the worker's time, relative to the worker's other runs.
        steps: steps in all, captions and questions; None takes what the time allows.
    """

    encoder: str
    tokens: int
    weight: float = 1.0
    steps: int | None = None


def train_runs(
    report: Report, runs: Sequence[Run], clips: ClipSet, features: Path, out: Path, seed: int, deadline: float
) -> list[dict[str, Any]]:
    """Train and evaluate each run into `out/<encoder>`, to be done by `deadline` (of time.time())."""
    logging.disable_progress_bar()
    if not torch.cuda.is_available():
        # Workers share the cores; two processes of one thread each get more done than one of two threads.
        torch.set_num_threads(1)
    stored = load_features(features)
    results = []
    for number, run in enumerate(runs):
        weight = run.weight / sum(later.weight for later in runs[number:])
        mine = time.time() + (deadline - time.time()) * weight
        results.append(_Training(report, run, clips, stored, out / run.encoder, seed).carry_out(mine))
    return results


class _Training:
    """Stage 2, stage 3, the choice on the validation set, and the test, of one encoder."""

    def __init__(
        self,
        report: Report,
        run: Run,
        clips: ClipSet,
        features: Mapping[str, Tensor],
        out: Path,
        seed: int,
    ) -> None:
        self.report, self.run, self.features, self.out, self.seed = report, run, features, out, seed
        self.model = demo_model(run.encoder, run.tokens, seed)
        self.processor = demo_processor(self.model.config)
        self.captions = FeatureDataset(read_records(clips.captions("train")), self.processor, features)
        self.questions = ShuffledQuestions(
            read_records(clips.questions("train")), self.processor, features, seed
        )
        self.validation, self.test = (
            read_records(clips.questions(split)) for split in ("validation", "test")
        )
        self.snapshots: list[tuple[int, dict[str, Tensor]]] = []

    def carry_out(self, deadline: float) -> dict[str, Any]:
        started = time.time()
        captions, questions = self._plan(deadline)
        self._train(demo_captions(captions, self.run.tokens, self.seed), self.captions)
        if self.run.steps is None:
            # Whatever the first stage was early or late, the second makes up for.
            questions = self._steps_until(deadline - self.evaluation_seconds, demo_questions, self.questions)
        keep = {max(1, round(questions * share)) for share in SNAPSHOTS}
        recipe = demo_questions(questions, self.run.tokens, self.seed)
        self._train(recipe, self.questions, lambda step, _: self._keep(step) if step in keep else None)
        trained = time.time()
        chosen, tried = self._choose()
        self.model.load_state_dict(chosen)
        answers, video = self._evaluate(self.test, "test")
        guesses, one_frame = self._evaluate(self.test, "one frame", one_frame=True)
        export(self.out / "model", self.model, self.processor)
        shown = list(dict.fromkeys(record.media for record in self.test))[:CLIPS_SHOWN]
        return {
            "encoder": self.run.encoder,
            "tokens": self.run.tokens,
            "steps": {"captions": captions, "questions": questions},
            "seconds": {"training": trained - started, "evaluation": time.time() - trained},
            "parameters": sum(parameter.numel() for parameter in self.model.parameters()),
            "recipe": recipe.to_json(),
            "validation": tried,
            "test": video,
            "one_frame": one_frame,
            "answers": {
                record.id: {"answer": answer, "one_frame": guess}
                for record, answer, guess in zip(self.test, answers, guesses, strict=True)
                if record.media in shown
            },
        }

    def _plan(self, deadline: float) -> tuple[int, int]:
        """Steps of captions and of questions."""
        if self.run.steps is not None:
            captions = round(self.run.steps * CAPTION_SHARE)
            return max(1, captions), max(1, self.run.steps - captions)
        self.evaluation_seconds = self._evaluation_seconds()
        begin = time.time()
        # In equal numbers of steps, so that captions get their share of the steps and not of the time.
        seconds = [
            self._step_seconds(demo_captions, self.captions),
            self._step_seconds(demo_questions, self.questions),
        ]
        mean = CAPTION_SHARE * seconds[0] + (1 - CAPTION_SHARE) * seconds[1]
        # The second stage is measured again, which takes as long as measuring it did now.
        remaining = deadline - self.evaluation_seconds - time.time() - (time.time() - begin) / 2
        steps = max(FEWEST_STEPS, math.floor(remaining / mean))
        return max(1, round(CAPTION_SHARE * steps)), max(1, round((1 - CAPTION_SHARE) * steps))

    def _evaluation_seconds(self) -> float:
        """How long validation and test will take, from one batch of an untrained model."""
        answerer = FeatureAnswerer(self.model.to(_device()).eval(), self.processor, self.features)
        some = self.test[:QUESTIONS_AT_ONCE]
        answerer(some[:2])
        begin = time.time()
        answerer(some)
        questions = len(SNAPSHOTS) * len(self.validation) + 2 * len(self.test)
        return (time.time() - begin) / len(some) * questions

    def _steps_until(
        self, deadline: float, recipe: Callable[[int, int, int], Recipe], data: TrainingData
    ) -> int:
        seconds = self._step_seconds(recipe, data)
        return max(FEWEST_STEPS, math.floor((deadline - time.time()) / seconds))

    def _step_seconds(self, recipe: Callable[[int, int, int], Recipe], data: TrainingData) -> float:
        """Mean time of a step, from a few of them on a copy of the model."""
        times: list[float] = []
        trainer = Trainer(
            copy.deepcopy(self.model),
            recipe(PROBE_STEPS, self.run.tokens, self.seed + 1),
            data,
            self.processor.collate,
            metrics=Metrics(display=Silent()),
            on_step=lambda step, loss: times.append(_finished(loss)),
        )
        trainer.run()
        # The first steps allocate.
        return (times[-1] - times[1]) / (len(times) - 2)

    def _train(
        self, recipe: Recipe, data: TrainingData, on_step: Callable[[int, Tensor], None] | None = None
    ) -> None:
        log = self.out / f"{recipe.name}.jsonl"
        display = _Reported(self.report, f"{self.run.encoder}: {recipe.name.removeprefix('demo-')}")
        Trainer(
            self.model,
            recipe,
            data,
            self.processor.collate,
            metrics=Metrics(log, display),
            on_step=on_step,
        ).run()

    def _keep(self, step: int) -> None:
        weights = {name: tensor.detach().clone() for name, tensor in self.model.state_dict().items()}
        self.snapshots.append((step, weights))

    def _choose(self) -> tuple[dict[str, Tensor], list[dict[str, Any]]]:
        """The snapshot with the best mean over all kinds of validation questions, and what each had."""
        tried = []
        for step, weights in self.snapshots:
            self.model.load_state_dict(weights)
            _, scores = self._evaluate(self.validation, f"validation, step {step}")
            kinds = [kind["accuracy"] for kind in scores["kinds"].values()]
            tried.append({"step": step, "mean": sum(kinds) / len(kinds), **scores})
        best = max(range(len(tried)), key=lambda number: tried[number]["mean"])
        tried[best]["chosen"] = True
        return self.snapshots[best][1], tried

    def _evaluate(
        self, records: Sequence[Record], name: str, one_frame: bool = False
    ) -> tuple[list[str], Scores]:
        answerer = FeatureAnswerer(self.model.eval(), self.processor, self.features, one_frame)
        task = f"{self.run.encoder}: {name}"
        answers = ask(answerer, records, lambda done, total: self.report(task, done, total, ""))
        return answers, score(records, answers)


class _Reported:
    """The `Display` of a training in a worker: passes the lines on to the parent."""

    def __init__(self, report: Report, task: str) -> None:
        self.report, self.task = report, task

    def start(self, name: str, step: int, total_steps: int) -> None:
        self.total_steps = total_steps
        self.report(self.task, step, total_steps, "")

    def show(self, line: dict[str, Any]) -> None:
        words = f"loss {line['smoothed_loss']:.3f}  {line['samples_per_second']:.0f} samples/s"
        self.report(self.task, line["step"], self.total_steps, words)

    def finish(self) -> None:
        pass


def _device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _finished(loss: Tensor) -> float:
    """The time when a step was really done: reading its loss waits for a GPU."""
    loss.item()
    return time.time()
