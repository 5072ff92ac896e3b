"""Stage 1 of the demo: captions of still images, made as they are asked for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from blip3v.data.batches import Place
from blip3v.data.conversation import Turn
from blip3v.demo.model import LATENT_GRID, STAGE1_WEIGHTS, demo_config, demo_processor, start_stage1
from blip3v.demo.scenes import still
from blip3v.models.modeling import Blip3VideoForConditionalGeneration
from blip3v.models.processing import Blip3VideoProcessor
from blip3v.models.resampler import PerceiverAttention
from blip3v.models.vision import encode_frames
from blip3v.train.assemble import LOG
from blip3v.train.checkpoint import Checkpointer
from blip3v.train.loop import Trainer
from blip3v.train.metrics import Metrics
from blip3v.train.recipe import Recipe
from blip3v.video import frames_to_pixels

DESCRIBE_IMAGE = "describe the image ."


def demo_images() -> Recipe:
    """Stage 1 of the demo: everything is trained, the vision encoder too, as there are no pretrained
    weights.
    """
    return Recipe(
        "demo-images",
        num_frames=1,
        video_tokens=LATENT_GRID**2,
        batch_size=16,
        learning_rate=1.5e-3,
        warmup_steps=300,
        weight_decay=0.02,
        betas=(0.9, 0.98),
        max_steps=16000,
        frozen=(),
        seed=0,
        log_every=100,
        checkpoint_every=1000,
    )


class StillImages:
    """Endless images: what a place (epoch, sample) holds depends on it and the seed alone.

    A sample is {"input_ids" [L], "labels" [L], "pixel_values_videos" [1,1,3,H,W]}.
    """

    def __init__(self, processor: Blip3VideoProcessor, seed: int, length: int = 100_000) -> None:
        self.processor, self.seed, self.length = processor, seed, length

    @property
    def fingerprint(self) -> str:
        """Changes when the images do."""
        return f"still images, seed {self.seed}, {self.length} an epoch"

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, place: Place) -> dict[str, Tensor]:
        scene = still(np.random.default_rng([self.seed, *place]))
        text = self.processor.encode_conversation([Turn(DESCRIBE_IMAGE, scene.caption)], frames=1)
        pixels = frames_to_pixels(scene.frames(), self.processor.image_size)
        return {**text, "pixel_values_videos": pixels[None]}


def build_stage1(recipe: Recipe, out: Path) -> Trainer:
    """The trainer of stage 1; its log and checkpoints lie in `out`."""
    torch.manual_seed(recipe.seed)
    config = demo_config("none", recipe.video_tokens, recipe.num_frames)
    processor = demo_processor(config)
    model = Blip3VideoForConditionalGeneration(config)
    start_stage1(model)
    return Trainer(
        model,
        recipe,
        StillImages(processor, recipe.seed),
        processor.collate,
        checkpoints=Checkpointer(out / "checkpoints", recipe.keep_checkpoints),
        metrics=Metrics(out / LOG),
    )


def save_stage1(model: Blip3VideoForConditionalGeneration, folder: Path) -> Path:
    """Write the weights as the package ships them: tokens balanced, float16, one file."""
    frames = np.concatenate([still(np.random.default_rng([1, number])).frames() for number in range(64)])
    balance_tokens(model, frames_to_pixels(frames, model.config.vision_config.image_size)[:, None])
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / STAGE1_WEIGHTS
    save_file({name: tensor.half().contiguous() for name, tensor in model.state_dict().items()}, path)
    return path


@torch.no_grad()
def balance_tokens(model: Blip3VideoForConditionalGeneration, pixels: Tensor) -> None:
    """Bring the frame tokens of images [n,1,3,H,W] to a root mean square of 1; the model's answers stay.

    Training lets the resampler's residual stream grow, here to 9, because LayerNorms follow it everywhere.
    Beside such tokens the time-stamp (0.7) vanishes, and stages 2 and 3 learn nothing about order. All that
    writes into the stream is divided alike, so every LayerNorm behind it sees the same directions as before.
    """
    resampler = model.vision_tokenizer.resampler
    assert resampler is not None
    features = encode_frames(model.vision_encoder, pixels.to(model.device))
    scale = resampler(features).square().mean().sqrt()
    resampler.latents.div_(scale)
    for module in resampler.modules():
        if isinstance(module, PerceiverAttention):
            module.to_out.weight.div_(scale)
        elif isinstance(module, nn.Sequential):  # a feed-forward, whose last layer writes
            list(module.parameters())[-1].div_(scale)
