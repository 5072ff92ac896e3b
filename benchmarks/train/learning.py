"""A training run that must learn: `python -m benchmarks.train.learning --minutes 5`.

The model has random weights and the real training loop; data are those of benchmarks/train/class_coded.py,
whose captions can be read from the pixels alone. The folder gets log.jsonl, the loss as a picture where
matplotlib is installed, and learning.json: loss at the start and at the end, samples/s, MFU, peak memory. It
ends with exit code 1 unless the loss fell to less than half. It has run on a CPU only.
"""

from __future__ import annotations

import json
import math
import sys
import time
from pathlib import Path
from statistics import mean
from typing import Any, Literal

import torch
import tyro
from torch import Tensor

from benchmarks.device import device_of, preset_of
from benchmarks.machine import describe_machine
from benchmarks.presets import config_with_tokens
from benchmarks.train.class_coded import ClassCoded, blind_loss
from benchmarks.train.setups import SETUPS, forced
from blip3v.errors import UserError
from blip3v.models.modeling import Blip3VideoForConditionalGeneration
from blip3v.profiling.presets import TEXT_TOKENS
from blip3v.train.loop import Trainer
from blip3v.train.metrics import Metrics, read_log
from blip3v.train.parallel import SingleDevice
from blip3v.train.plot import plot_loss

BATCH = {"small": 4, "4b": 16}
RATE = {"small": 1e-3, "4b": 1e-4}
WARMUP_STEPS = {"small": 5, "4b": 50}
LOG_EVERY = {"small": 1, "4b": 5}
"""By preset. Weights are random, so the rates are those of a model that begins."""

WITHOUT_END = 10**9
"""Steps; the time ends the run, and the cosine over so many is a constant."""

FALLEN = 0.5


class Lines:
    """Shows a line of the log every ten seconds; the run does not know how many steps it will have."""

    def __init__(self) -> None:
        self.shown = -math.inf

    def start(self, name: str, step: int, total_steps: int) -> None:
        pass

    def show(self, line: dict[str, Any]) -> None:
        if line["seconds"] - self.shown >= 10:
            self.shown = line["seconds"]
            speed = f"{line['samples_per_second']:.2f} samples/s"
            print(f"{self.shown:5.0f} s  step {line['step']}  loss {line['loss']:.3f}  {speed}", flush=True)

    def finish(self) -> None:
        pass


def learn(
    out: Path,
    minutes: float,
    device: str,
    preset: str,
    setup: str = "blip3v",
    tokens: int = 32,
    batch: int | None = None,
    checkpointing: str | None = None,
) -> dict[str, Any]:
    """Train for so long, write the files into `out`, return what learning.json holds.

    Raises:
        UserError: no such setup, a loss that is not finite, a folder with another run's log.
    """
    if setup not in SETUPS:
        raise UserError(f"no setup {setup!r}: choose one of {', '.join(SETUPS)}")
    log, samples = out / "log.jsonl", batch or BATCH[preset]
    if log.exists():
        raise UserError(f"{log} is of an earlier run: choose another --out, or remove it")
    torch.manual_seed(0)
    with torch.device(device):
        model = Blip3VideoForConditionalGeneration(config_with_tokens(preset, tokens))
    fields = {} if checkpointing is None else {"activation_checkpointing": checkpointing}
    recipe = SETUPS[setup].recipe(
        model.config,
        model.device,
        batch_size=samples,
        max_steps=WITHOUT_END,
        learning_rate=RATE[preset],
        warmup_steps=WARMUP_STEPS[preset],
        log_every=LOG_EVERY[preset],
        checkpoint_every=0,
        **fields,
    )
    data = ClassCoded(model.config, TEXT_TOKENS[preset], recipe.packed)
    end = time.perf_counter() + 60 * minutes

    def after(step: int, loss: Tensor) -> None:
        if time.perf_counter() > end:
            trainer.total_steps = step  # ends the run after this step

    trainer = Trainer(
        model,
        recipe,
        data,
        data.collate,
        parallel=SingleDevice(model.device),
        metrics=Metrics(log, display=Lines()),
        on_step=after,
    )
    with forced(model, setup):
        trainer.run()
    lines = read_log(log)
    result: dict[str, Any] = {
        "machine": describe_machine(device),
        "preset": preset,
        "setup": setup,
        "tokens": tokens,
        "batch": samples,
        "recipe": recipe.to_json(),
        **summary(lines),
        "uniform_loss": math.log(model.config.base_vocab_size + model.config.additional_vocab_size),
        "blind_loss": blind_loss(),
    }
    (out / "learning.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return result


def summary(lines: list[dict[str, Any]]) -> dict[str, Any]:
    """What a log says. The end is the mean of its last tenth; speeds are those behind the first half, since
    compiling and allocating come first."""
    last = lines[-max(1, len(lines) // 10) :]
    later = lines[len(lines) // 2 :]
    end, rates = mean(line["loss"] for line in last), [line["mfu"] for line in later]
    return {
        "steps": lines[-1]["step"],
        "samples": lines[-1]["samples"],
        "seconds": lines[-1]["seconds"],
        "loss_at_start": lines[0]["loss"],
        "loss_at_end": end,
        "fell": end < FALLEN * lines[0]["loss"],
        "saw_the_video": end < blind_loss(),
        # Every line is of equally many steps, so the mean is taken of times.
        "samples_per_s": 1 / mean(1 / line["samples_per_second"] for line in later),
        "mfu": mean(rates) if all(rate is not None for rate in rates) else None,
        "stall_share": mean(line["stall_share"] for line in later),
        "peak_memory_bytes": lines[-1]["memory_bytes"],
    }


def main(
    minutes: float = 5.0,
    out: Path = Path("runs/learning"),
    device: str | None = None,
    preset: Literal["small", "4b"] | None = None,
    setup: str = "blip3v",
    tokens: int = 32,
    batch: int | None = None,
    activation_checkpointing: Literal["none", "selective", "full"] | None = None,
) -> None:
    """Train on captions that can be read from the pixels alone, and see whether the loss falls.

    Args:
        minutes: how long; loading and compiling are in it.
        out: folder for log.jsonl, log.png, log.svg and learning.json.
        device: cpu, cuda, ...; a GPU where there is one if not given.
        preset: small (any CPU) or 4b (a GPU); by the device if not given.
        setup: of benchmarks/train/setups.py: "blip3v", "blip3v compiled", "blip3v compiled fp8", ...
        tokens: of a video.
        batch: samples a step; 16 on a GPU, 4 on a CPU if not given.
        activation_checkpointing: where a step does not fit.
    """
    chosen = device_of(device)
    size = preset or preset_of(chosen)
    found = learn(out, minutes, chosen, size, setup, tokens, batch, activation_checkpointing)
    try:
        plot_loss(out / "log.jsonl", f"{size}, {setup}, {describe_machine(chosen).get('gpu', 'CPU')}")
    except UserError as error:  # no matplotlib: the log says the same
        print(f"no plot: {error}")
    mfu = "" if found["mfu"] is None else f", MFU {found['mfu']:.1%}"
    print(
        f"loss {found['loss_at_start']:.3f} -> {found['loss_at_end']:.3f} in {found['steps']} steps "
        f"(without seeing the video at best {found['blind_loss']:.3f}), "
        f"{found['samples_per_s']:.2f} samples/s{mfu}: {out / 'learning.json'}"
    )
    if not found["fell"]:
        sys.exit(1)


if __name__ == "__main__":
    try:
        tyro.cli(main)
    except UserError as error:
        sys.exit(f"error: {error}")
