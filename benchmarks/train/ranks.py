"""The demo's training in one process and in several: same losses, same accuracy.

    make demo
    python -m benchmarks.train.ranks --steps 1500 --out one.json
    torchrun --nproc-per-node 2 -m benchmarks.train.ranks --parallel ddp --steps 1500 --out two.json

Both take steps of 16 samples, the same ones, from the same weights: 35% captions, then questions, on the
clips and features that `make demo` left. Then the first process answers the held-out questions. The file
holds the losses of every tenth step and the accuracy of every kind of question.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
import tyro
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

from benchmarks.machine import describe_machine
from blip3v.data.dataset import FeatureDataset
from blip3v.data.records import read_records
from blip3v.demo.clips import ClipSet
from blip3v.demo.evaluate import FeatureAnswerer, ask, score
from blip3v.demo.features import load_features
from blip3v.demo.model import demo_model, demo_processor
from blip3v.demo.stages import CAPTION_SHARE, ShuffledQuestions, demo_captions, demo_questions
from blip3v.train.loop import Trainer, TrainingData
from blip3v.train.metrics import Metrics
from blip3v.train.parallel import Parallel, parallel_named
from blip3v.train.recipe import Recipe


def main(
    out: Path,
    demo: Path = Path("runs/demo"),
    parallel: Literal["auto", "single", "ddp", "fsdp", "hybrid"] = "auto",
    encoder: str = "token_learner_per_frame",
    tokens: int = 32,
    steps: int = 1500,
    seed: int = 0,
    packed: bool = False,
) -> None:
    """Train the demo's model under torchrun's processes, or in one, and write losses and accuracy.

    Args:
        out: JSON file to write.
        demo: what `make demo` left.
        parallel: how the processes share a step.
        encoder: temporal encoder.
        tokens: video tokens that it makes.
        steps: training steps, of 16 samples over all processes.
        seed: of weights and batches.
        packed: batches without padding.
    """
    torch.set_num_threads(1)
    spread = parallel_named(parallel, demo_questions(steps, tokens, seed))
    clips, features = ClipSet(demo / "clips"), load_features(demo / "features")
    model = demo_model(encoder, tokens, seed)
    processor = demo_processor(model.config)
    captions = FeatureDataset(read_records(clips.captions("train")), processor, features)
    questions = ShuffledQuestions(read_records(clips.questions("train")), processor, features, seed)
    losses: list[float] = []

    def train(make: Callable[[int, int, int], Recipe], count: int, data: TrainingData) -> None:
        recipe = shared(make(count, tokens, seed), spread)
        collate = processor.collate_packed if packed else processor.collate
        metrics = Metrics()
        trainer = Trainer(model, recipe, data, collate, parallel=spread, metrics=metrics)
        trainer.on_step = lambda step, loss: losses.append(loss.item()) if step % 10 == 0 else None
        trainer.run()

    begun = time.perf_counter()
    first = round(CAPTION_SHARE * steps)
    train(demo_captions, first, captions)
    train(demo_questions, steps - first, questions)
    seconds = time.perf_counter() - begun
    trained = get_model_state_dict(model, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
    if spread.rank == 0:
        test = read_records(clips.questions("test"))
        whole = demo_model(encoder, tokens, seed)
        whole.load_state_dict(trained)
        answers = ask(FeatureAnswerer(whole.eval(), processor, features), test)
        result: dict[str, Any] = {
            "machine": describe_machine(spread.device.type),
            "parallel": parallel,
            "processes": spread.world_size,
            "encoder": encoder,
            "tokens": tokens,
            "steps": steps,
            "packed": packed,
            "seconds": seconds,
            "losses": losses,
            **score(test, answers),
        }
        out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
        print(f"temporal {result['temporal']:.3f}, static {result['static']:.3f}, {seconds:.0f} s: {out}")
    spread.close()


def shared(recipe: Recipe, spread: Parallel) -> Recipe:
    """The recipe with as many samples a step over all processes."""
    return replace(recipe, batch_size=recipe.batch_size // spread.world_size)


if __name__ == "__main__":
    tyro.cli(main)
