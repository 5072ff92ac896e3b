"""What the processes of the tests do: train a tiny model in float64 on given batches."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers.models.phi3.modeling_phi3 import Phi3DecoderLayer, Phi3RotaryEmbedding

from blip3v.models.configuration import blip3_video_tiny
from blip3v.models.modeling import Blip3VideoForConditionalGeneration, Blip3VideoOutput
from blip3v.train.activation import checkpoint_activations
from blip3v.train.compilation import compile_regions
from blip3v.train.optimizer import build_adamw, frozen
from blip3v.train.parallel import Parallel, parallel_named
from blip3v.train.recipe import Recipe

FRAMES, TOKENS, STEPS = 2, 4, 6
IMAGE = 64  # the id of <image> in the tiny vocabulary

RECIPE = Recipe(
    "test",
    batch_size=2,
    num_frames=FRAMES,
    video_tokens=TOKENS,
    learning_rate=1e-2,
    weight_decay=0.1,
    clip_norm=0.5,
)

Outcome = dict[str, Any]
"""losses and norms [steps], weights by name (whole, as arrays)."""


def new_model(temporal: str = "grouped_ttm") -> Blip3VideoForConditionalGeneration:
    """Equal in every process. Its vision encoder has a head that nothing runs, as the released one."""
    torch.manual_seed(3)
    config = blip3_video_tiny(temporal, TOKENS, FRAMES, num_latents=4, image_size=16)
    config.vision_config.vision_use_head = True
    return Blip3VideoForConditionalGeneration(config).double().train()


def micro_batches(step: int) -> list[dict[str, Tensor]]:
    """Four of different sizes and lengths; one has no label, one no video, one both."""
    generator = torch.Generator().manual_seed(step)
    batches = []
    for index in range(4):
        rows, length = 1 + (step + index) % 3, 8 + 3 * index + step
        ids = torch.randint(3, IMAGE, (rows, length), generator=generator)
        labels = ids.clone()
        labels[:, : 5 + index] = -100
        if index == step % 4:
            labels[:] = -100
        batch = {"input_ids": ids, "labels": labels, "attention_mask": torch.ones_like(ids)}
        if index != (step + step // 3) % 4:
            ids[:, 1 : 1 + TOKENS] = IMAGE
            batch["labels"][:, 1 : 1 + TOKENS] = -100
            pixels = torch.randn(rows, FRAMES, 3, 16, 16, generator=generator, dtype=torch.float64)
            batch["pixel_values_videos"] = pixels
        batches.append(batch)
    return batches


def train(
    name: str,
    freeze: tuple[str, ...] = ("vision_encoder",),
    temporal: str = "grouped_ttm",
) -> Outcome:
    """STEPS steps of four micro-batches, dealt to the processes in turn; the same sums as in the loop.

    Chosen batches, which the loop's order of samples would not give: no video on one process, no label.

    Args:
        name: of the way to spread a step.
        freeze: submodules that are not trained.
    """
    parallel: Parallel = parallel_named(name, RECIPE, device="cpu")
    plain = new_model(temporal)
    with ExitStack() as stack:
        stack.enter_context(frozen(plain, freeze))
        model = parallel.wrap(plain)
        optimizer = build_adamw(model, RECIPE)
        losses, norms = [], []
        for step in range(STEPS):
            mine = micro_batches(step)[parallel.rank :: parallel.world_size]
            counts = [int((batch["labels"][:, 1:] != -100).sum()) for batch in mine]
            total = parallel.total(sum(counts))
            loss = torch.zeros((), dtype=torch.float64)
            for index, (batch, count) in enumerate(zip(mine, counts, strict=True)):
                with parallel.accumulate(model, last=index == len(mine) - 1):
                    share = model(**batch, use_cache=False).loss * (count / total)
                    (share * parallel.world_size).backward()
                loss += share.detach()
            losses.append(float(parallel.total_loss(loss)))
            parameters = [p for group in optimizer.param_groups for p in group["params"]]
            norms.append(float(parallel.clip(parameters, RECIPE.clip_norm)))
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        names = sorted(name.removeprefix("module.") for name in model.state_dict())
        outcome = {"losses": losses, "norms": norms, "weights": whole_weights(plain), "names": names}
    parallel.close()
    return outcome


class Decoder(nn.Module):
    """Two layers of Phi-3 over given embeddings: little to compile."""

    def __init__(self) -> None:
        super().__init__()
        text = blip3_video_tiny().text_config
        text._attn_implementation = "sdpa"
        self.layers = nn.ModuleList(Phi3DecoderLayer(text, index) for index in range(2))
        self.rotary = Phi3RotaryEmbedding(text)
        self.shift = nn.Parameter(torch.zeros(32))

    def forward(self, x: Tensor) -> Blip3VideoOutput:
        """x [B,L,32]; the loss is the mean square of what comes out."""
        places = self.rotary(x, torch.arange(x.shape[1])[None])
        x = x + self.shift  # so that the first layer's input needs a gradient too, as behind embeddings
        for layer in self.layers:
            x = layer(x, position_embeddings=places)
        return Blip3VideoOutput(loss=x.square().mean())


def embeddings(ragged: bool = True) -> list[Tensor]:
    """Eight micro-batches, of different sizes and lengths if ragged."""
    generator = torch.Generator().manual_seed(0)
    shapes = [(2 + index % 2, 7 + 3 * index, 32) if ragged else (2, 7, 32) for index in range(8)]
    return [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]


def train_decoder(name: str, backend: str | None) -> Outcome:
    """Two steps on those, four each; with a backend, blocks are recomputed and compiled."""
    parallel = parallel_named(name, RECIPE, device="cpu")
    torch.manual_seed(4)
    plain = Decoder().double().train()
    with ExitStack() as stack:
        if backend is not None:
            stack.enter_context(checkpoint_activations(plain, "full"))
            stack.enter_context(compile_regions(plain, backend))
        model = parallel.wrap(plain)
        optimizer = build_adamw(model, RECIPE)
        losses, norms = [], []
        for step in range(2):
            mine = embeddings(ragged=False)[4 * step :][:4][parallel.rank :: parallel.world_size]
            loss = torch.zeros((), dtype=torch.float64)
            for index, x in enumerate(mine):
                with parallel.accumulate(model, last=index == len(mine) - 1):
                    share = model(x).loss / 4
                    (share * parallel.world_size).backward()
                loss += share.detach()
            losses.append(float(parallel.total_loss(loss)))
            norms.append(float(parallel.clip(list(model.parameters()), RECIPE.clip_norm)))
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        names = sorted(name.removeprefix("module.") for name in model.state_dict())
        outcome = {"losses": losses, "norms": norms, "weights": whole_weights(plain), "names": names}
    parallel.close()
    return outcome


def whole_weights(model: nn.Module) -> dict[str, np.ndarray]:
    """Every parameter in full."""
    return {
        name: (p.full_tensor() if hasattr(p, "full_tensor") else p).detach().cpu().numpy()
        for name, p in model.named_parameters()
    }
