"""A trainer from folders and files: what `blip3v train` does between its arguments and the loop."""

from __future__ import annotations

from pathlib import Path

import torch

from blip3v.data.dataset import VideoDataset
from blip3v.data.records import read_records
from blip3v.errors import UserError
from blip3v.models.configuration import Blip3VideoConfig
from blip3v.models.modeling import Blip3VideoForConditionalGeneration
from blip3v.models.processing import Blip3VideoProcessor
from blip3v.train.checkpoint import Checkpointer
from blip3v.train.loop import Trainer
from blip3v.train.metrics import Metrics
from blip3v.train.recipe import Recipe

LOG = "log.jsonl"


def load_model(
    folder: Path, recipe: Recipe
) -> tuple[Blip3VideoForConditionalGeneration, Blip3VideoProcessor]:
    """The model and processor in a folder written by `save_pretrained` of both; fp32 weights.

    A folder without weights starts fresh ones, decided by the recipe's seed.

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
    processor = Blip3VideoProcessor.from_pretrained(folder)
    torch.manual_seed(recipe.seed)
    if any(folder.glob("*.safetensors")):
        model = Blip3VideoForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)
    else:
        model = Blip3VideoForConditionalGeneration(config)
    return model, processor


def build_trainer(recipe: Recipe, data: Path, folder: Path, out: Path) -> tuple[Trainer, Blip3VideoProcessor]:
    """A trainer whose checkpoints and log lie in `out`, and the processor to export with the model.

    Raises:
        UserError: whatever is wrong with the data or the model.
    """
    records = read_records(data)
    model, processor = load_model(folder, recipe)
    dataset = VideoDataset(
        records, processor, recipe.num_frames, seed=recipe.seed, max_length=recipe.max_length
    )
    trainer = Trainer(
        model,
        recipe,
        dataset,
        processor.collate,
        checkpoints=Checkpointer(out / "checkpoints", recipe.keep_checkpoints),
        metrics=Metrics(out / LOG),
    )
    return trainer, processor
