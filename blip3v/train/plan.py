"""What a run will do and need, worked out before anything is loaded: steps, memory, disk, hours.

Every number that is assumed and not known says so.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from blip3v.data.batches import SampleOrder
from blip3v.errors import UserError
from blip3v.models.configuration import Blip3VideoConfig
from blip3v.models.cost.data_sheet import DATA_SHEET, data_sheet_of
from blip3v.models.cost.step import step_flops
from blip3v.models.cost.training_memory import Load, Part, Sharing, count_parameters, training_memory
from blip3v.train.recipe import Recipe

PUBLISHED_SAMPLES_PER_SECOND = 8.2
"""Per H100, 32 tokens and 8 frames a video; arXiv 2410.16267."""
ASSUMED_MFU = 0.3
ASSUMED_TEXT_TOKENS = 128


@dataclass(frozen=True)
class Device:
    """name: as PyTorch says it, or "CPU". peak_flops: dense bf16 of the data sheet. memory_bytes: of the
    device, None where it is not known."""

    name: str
    peak_flops: float | None = None
    memory_bytes: int | None = None

    @classmethod
    def here(cls) -> Device:
        """The GPU of this process, or its CPU."""
        if not torch.cuda.is_available():
            return cls("CPU")
        facts = torch.cuda.get_device_properties(torch.cuda.current_device())
        found = data_sheet_of(facts.name)
        return cls(facts.name, None if found is None else found[1][0], facts.total_memory)

    @classmethod
    def named(cls, name: str) -> Device:
        """A device that is not here, such as "H100".

        Raises:
            UserError: no data sheet of it.
        """
        found = data_sheet_of(name)
        if found is None:
            raise UserError(f"no data sheet of {name!r}: name one of {', '.join(DATA_SHEET)}")
        return cls(name, found[1][0])

    @property
    def is_gpu(self) -> bool:
        return self.name != "CPU"


@dataclass(frozen=True)
class Utilisation:
    """mfu: model FLOPs utilisation. source: where it was measured, or that it is assumed."""

    mfu: float
    source: str


@dataclass(frozen=True)
class Plan:
    """tokens are per sample, video included; bytes per device, but on disk where `checkpoint` says so.

    memory: parts of a typical micro-batch. memory_longest: bytes of the micro-batch with the longest samples.
    hours: None where the device's peak is not known. assumptions: what the numbers rest on.
    """

    recipe: str
    device: Device
    world_size: int
    parallel: str
    num_samples: int
    samples_per_step: int
    steps_per_epoch: int
    total_steps: int
    warmup_steps: int
    tokens_per_sample: float
    checkpoints: int
    checkpoint_bytes: int
    disk_bytes: int
    memory: tuple[Part, ...]
    memory_longest: int
    flops_per_sample: int
    utilisation: Utilisation | None
    samples_per_second: float | None
    hours: float | None
    hours_published: float
    assumptions: tuple[str, ...]

    @property
    def memory_bytes(self) -> int:
        """Of a typical micro-batch, per device."""
        return sum(part.bytes for part in self.memory)

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"memory_bytes": self.memory_bytes}


def plan(
    recipe: Recipe,
    config: Blip3VideoConfig,
    num_samples: int,
    world_size: int = 1,
    device: Device | None = None,
    lengths: Sequence[int] | np.ndarray | None = None,
    local_world_size: int | None = None,
    utilisation: Utilisation | None = None,
) -> Plan:
    """The plan of a run; no weights are read or made.

    Args:
        config: of the model.
        num_samples: of the data, in one epoch.
        world_size: devices; local_world_size: of them in one node (None: all).
        device: what each of them is; None is the one here.
        lengths: tokens of every sample, video included, as `blip3v.data.packing.estimate_lengths` makes them;
            None assumes a text length.
        utilisation: the MFU to expect; None takes an assumption.
    """
    device = Device.here() if device is None else device
    assumptions = []
    if lengths is None:
        lengths = np.array([recipe.video_tokens + ASSUMED_TEXT_TOKENS])
        assumptions.append(f"{ASSUMED_TEXT_TOKENS} tokens of text per sample")
    lengths = np.minimum(np.asarray(lengths, dtype=np.int64), recipe.max_length)
    mean = float(lengths.mean())
    assumptions.append("one video per sample, labels on half of the text's tokens")

    per_step = recipe.batch_size * recipe.accumulation * world_size
    per_epoch = SampleOrder(num_samples, recipe.seed).steps_per_epoch(per_step)
    total = recipe.epochs * per_epoch if recipe.max_steps is None else recipe.max_steps
    samples = recipe.epochs * num_samples if recipe.max_steps is None else total * per_step

    parallel = recipe.parallel
    if parallel == "auto":
        parallel = "fsdp" if world_size > 1 else "single"
    shards = {"fsdp": world_size, "hybrid": local_world_size or world_size}.get(parallel, 1)
    sharing = Sharing(
        shards,
        autocast=recipe.bf16 and device.is_gpu,
        waiting=recipe.accumulation > 1,
        reduce_bytes=4 if recipe.reduce_dtype == "float32" else 2,
        vision_copy=_vision_copy(recipe) if device.is_gpu else 0,
    )
    parameters = count_parameters(config, recipe.frozen)

    def memory(tokens: int) -> list[Part]:
        text = tokens - recipe.batch_size * recipe.video_tokens
        logits = text // 2 if recipe.packed else tokens
        load = Load(recipe.batch_size, recipe.num_frames, tokens, max(0, logits))
        return training_memory(config, parameters, load, recipe.activation_checkpointing, sharing)

    longest = np.sort(lengths)[-recipe.batch_size :]
    padded = int(longest.max()) * recipe.batch_size
    typical = memory(round(mean * recipe.batch_size) if recipe.packed else padded)
    crowded = int(longest.mean() * recipe.batch_size) if recipe.packed else padded

    labels = round((mean - recipe.video_tokens) / 2)
    flops = step_flops(config, [round(mean)], max(0, labels), 1, recipe.num_frames)
    if device.peak_flops is not None and utilisation is None:
        utilisation = Utilisation(ASSUMED_MFU, "an assumption, no measurement of this device is known")
        assumptions.append(f"MFU {ASSUMED_MFU:.0%}")
    speed = None
    if device.peak_flops is not None and utilisation is not None:
        speed = world_size * device.peak_flops * utilisation.mfu / flops

    checkpoint = 4 * parameters.total + 8 * parameters.trained
    every = recipe.checkpoint_every
    return Plan(
        recipe=recipe.name,
        device=device,
        world_size=world_size,
        parallel=parallel,
        num_samples=num_samples,
        samples_per_step=per_step,
        steps_per_epoch=per_epoch,
        total_steps=total,
        warmup_steps=recipe.warmup_steps,
        tokens_per_sample=mean,
        checkpoints=-(-total // every) if every else 1,
        checkpoint_bytes=checkpoint,
        # One more than are kept while the newest is written, and the exported model.
        disk_bytes=(recipe.keep_checkpoints + 1) * checkpoint + 4 * parameters.total,
        memory=tuple(typical),
        memory_longest=sum(part.bytes for part in memory(crowded)),
        flops_per_sample=flops,
        utilisation=utilisation if speed is not None else None,
        samples_per_second=speed,
        hours=None if speed is None else samples / speed / 3600,
        hours_published=samples / (PUBLISHED_SAMPLES_PER_SECOND * world_size) / 3600,
        assumptions=tuple(assumptions),
    )


def _vision_copy(recipe: Recipe) -> int:
    """Bytes of a weight in the vision encoder's own copy, if it has one."""
    if recipe.vision_fp8:
        return 1
    return 2 if recipe.vision != "eager" and recipe.bf16 else 0


def measured_utilisation(results: Path, device_name: str, tokens: int, batch: int) -> Utilisation | None:
    """The MFU of the benchmark row nearest in tokens and batch, measured on such a device; None without one.

    Args:
        results: the folder `benchmarks/results` of the repository; it may be absent.
        tokens: of a video. batch: samples per device.
    """
    found = []
    for path in sorted(results.glob("*/*.json")):
        try:
            file = json.loads(path.read_text(encoding="utf-8"))
            rows = file["rows"] if file["machine"].get("gpu") == device_name else []
        except (ValueError, KeyError, TypeError, AttributeError):
            continue  # another kind of file
        found += [
            (_distance(row["tokens"], tokens) + _distance(row["batch"], batch), row["mfu"], row["case"], path)
            for row in rows
            if row.get("level") == "train"
            and row.get("mfu")
            and row.get("ok")
            and row["case"].startswith("4b")
        ]
    if not found:
        return None
    _, mfu, case, path = min(found, key=lambda entry: (entry[0], -entry[1]))
    return Utilisation(mfu, f"measured on {device_name}: {case} in {path.parent.name}/{path.name}")


def _distance(left: float, right: float) -> float:
    return abs(float(np.log(left / right)))
