"""A trainer from folders and files: what `blip3v train` does between its arguments and the loop."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from blip3v.data.dataset import VideoDataset
from blip3v.data.mixture import Mixture, read_mixture
from blip3v.data.packing import estimate_lengths
from blip3v.errors import UserError
from blip3v.models.configuration import Blip3VideoConfig
from blip3v.models.modeling import Blip3VideoForConditionalGeneration
from blip3v.models.processing import Blip3VideoProcessor
from blip3v.train.checkpoint import Checkpointer
from blip3v.train.export import export
from blip3v.train.loop import Trainer
from blip3v.train.metrics import Metrics
from blip3v.train.parallel import Parallel, parallel_named
from blip3v.train.recipe import Recipe
from blip3v.train.run_files import record_start
from blip3v.train.skipped import SkippedSamples
from blip3v.train.tensorboard import tensorboard_sinks

LOG, DATA = "log.jsonl", "data.json"


def checked_config(folder: Path, recipe: Recipe) -> Blip3VideoConfig:
    """The configuration in a model folder, if it can be trained by the recipe.

    Raises:
        UserError: something is missing in the folder, or the model makes another number of tokens than the
            recipe asks.
    """
    for name, remedy in (
        ("config.json", "save a model or its config there"),
        ("processor_config.json", "save the model's Blip3VideoProcessor there too"),
    ):
        if not (folder / name).is_file():
            raise UserError(f"no {name} in {folder}; {remedy} (save_pretrained)")
    config = Blip3VideoConfig.from_pretrained(folder)
    tokens = config.video_tokens_for(recipe.num_frames)
    if tokens != recipe.video_tokens:
        raise UserError(
            f"the model in {folder} makes {tokens} tokens of {recipe.num_frames} frames, "
            f"recipe {recipe.name} asks for {recipe.video_tokens}: "
            f"pass --video-tokens {tokens}, other --num-frames, or another model"
        )
    return config


def load_model(
    folder: Path, recipe: Recipe
) -> tuple[Blip3VideoForConditionalGeneration, Blip3VideoProcessor]:
    """The model and processor in a folder written by `save_pretrained` of both; fp32 weights.

    A folder without weights starts fresh ones, decided by the recipe's seed.

    Raises:
        UserError: see `checked_config`.
    """
    config = checked_config(folder, recipe)
    processor = Blip3VideoProcessor.from_pretrained(folder)
    torch.manual_seed(recipe.seed)
    if any(folder.glob("*.safetensors")):
        model = Blip3VideoForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)
    else:
        model = Blip3VideoForConditionalGeneration(config)
    return model, processor


@dataclass(frozen=True)
class Assembly:
    """A trainer with what is needed before and after it runs."""

    trainer: Trainer
    processor: Blip3VideoProcessor
    mixture: Mixture
    out: Path

    def export(self) -> Path:
        """Model and processor under `out`, as `from_pretrained` reads them; all ranks call it."""
        folder = self.out / "model"
        export(folder, self.trainer.model, self.processor, self.trainer.parallel)
        return folder


def assemble(recipe: Recipe, data: Path, folder: Path, out: Path) -> Assembly:
    """Everything a run needs; checkpoints, log and the lists of what was skipped lie in `out`.

    Args:
        data: an annotation file or a mixture, see `blip3v.data.mixture`.
        folder: of a saved model and processor.

    Raises:
        UserError: whatever is wrong with the data, the model or the processes.
    """
    mixture = read_mixture(data, recipe.seed)
    parallel = parallel_named(recipe.parallel, recipe)
    model, processor = load_model(folder, recipe)
    records = mixture.records
    dataset = VideoDataset(
        records, processor, recipe.num_frames, seed=recipe.seed, max_length=recipe.max_length
    )
    _require_equal_data(dataset.fingerprint, parallel)
    if parallel.rank == 0:
        out.mkdir(parents=True, exist_ok=True)
        report = json.dumps(mixture.report.to_json(), indent=1)
        (out / DATA).write_text(report + "\n", encoding="utf-8")
    trainer = Trainer(
        model,
        recipe,
        dataset,
        processor.collate_packed if recipe.packed else processor.collate,
        parallel=parallel,
        checkpoints=Checkpointer(
            out / "checkpoints", recipe.keep_checkpoints, parallel, recipe.asynchronous_checkpoints
        ),
        metrics=Metrics(out / LOG, sinks=tensorboard_sinks(out / "tensorboard")),
        lengths=estimate_lengths(records, recipe.video_tokens) if recipe.balanced else None,
        on_skip=SkippedSamples(out, records, parallel.rank),
    )
    trainer.on_begin = partial(record_start, out, recipe, data, dataset.fingerprint, model.config, parallel)
    return Assembly(trainer, processor, mixture, out)


def _require_equal_data(fingerprint: str, parallel: Parallel) -> None:
    """Every rank reads the data by itself; a video that comes or goes meanwhile would set them apart."""
    mine = int(fingerprint[:12], 16)
    if parallel.any(parallel.total(mine) != mine * parallel.world_size):
        raise UserError(
            "the processes read different data; let nothing write to it while training starts, and see that "
            "all nodes have the same files"
        )
