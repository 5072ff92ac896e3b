"""The loop itself in two processes: from the order of samples to the last weight."""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from blip3v.data.batches import Place
from blip3v.data.packing import pack
from blip3v.train.loop import Trainer
from blip3v.train.metrics import Metrics
from blip3v.train.parallel import parallel_named
from blip3v.train.progress import Silent
from tests.train.parallel.programs import FRAMES, IMAGE, RECIPE, STEPS, TOKENS, new_model, whole_weights
from tests.train.parallel.several import run_in_processes

SAMPLES, PER_STEP = 7, 4  # steps of 4 and of 3 samples, in turn


class Conversations:
    """Of different lengths; number 2 has no video, number 5 no label."""

    fingerprint = "made here"

    def __len__(self) -> int:
        return SAMPLES

    def __getitem__(self, place: Place) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(place.sample)
        ids = torch.randint(3, IMAGE, (9 + 4 * (place.sample % 5),), generator=generator)
        labels = ids.clone()
        labels[: 6 + place.sample % 3] = -100
        if place.sample == 5:
            labels[:] = -100
        if place.sample == 2:
            return {"input_ids": ids, "labels": labels}
        ids[1 : 1 + TOKENS] = IMAGE
        pixels = torch.randn(1, FRAMES, 3, 16, 16, generator=generator, dtype=torch.float64)
        return {"input_ids": ids, "labels": labels, "pixel_values_videos": pixels}


def packed(samples: list[dict[str, Tensor]]) -> dict[str, Any]:
    videos = [sample["pixel_values_videos"] for sample in samples if "pixel_values_videos" in sample]
    return pack(samples) | ({"pixel_values_videos": torch.cat(videos)} if videos else {})


def run(name: str, accumulation: int, mode: str = "none", device: str = "cpu") -> dict[str, Any]:
    """STEPS steps of packed batches, on as many processes as there are."""
    parallel = parallel_named(name, RECIPE, device)
    micro_batches = parallel.world_size * accumulation
    recipe = replace(
        RECIPE,
        batch_size=PER_STEP // micro_batches,
        accumulation=accumulation,
        max_steps=STEPS,
        warmup_steps=2,
        activation_checkpointing=mode,
    )
    losses: list[float] = []
    trainer = Trainer(
        new_model(),
        recipe,
        Conversations(),
        packed,
        parallel=parallel,
        metrics=Metrics(None, Silent()),
        lengths=[9 + 4 * (sample % 5) for sample in range(SAMPLES)],
        on_step=lambda step, loss: losses.append(float(loss)),
    )
    trainer.run()
    state = trainer.metrics.state()
    weights = whole_weights(trainer.model)
    parallel.close()
    return {"losses": losses, "weights": weights, "norms": state["norms"], "samples": state["samples"]}


@functools.cache
def alone() -> dict[str, Any]:
    return run("single", accumulation=1)


@pytest.mark.parametrize(
    ("name", "accumulation", "mode"),
    [("ddp", 1, "selective"), ("fsdp", 1, "full"), ("fsdp", 2, "none"), ("hybrid", 2, "selective")],
)
def test_the_loop_on_two_processes_equals_one(name: str, accumulation: int, mode: str) -> None:
    # With accumulation 2 every micro-batch has one sample, and in steps of 3 one process computes a
    # placeholder: all in all, what one process does with one batch of 4.
    expected = alone()
    assert len(set(expected["losses"])) == STEPS
    for outcome in run_in_processes(run, name, accumulation, mode):
        # The loop adds losses up in float32.
        np.testing.assert_allclose(outcome["losses"], expected["losses"], rtol=1e-6)
        assert outcome["samples"] == expected["samples"]
        for key, weight in expected["weights"].items():
            error = np.linalg.norm(outcome["weights"][key] - weight)
            assert error <= 1e-10 * max(1.0, np.linalg.norm(weight)), key


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["ddp", "fsdp", "hybrid"])
def test_one_gpu_in_bf16_follows_the_exact_run(name: str) -> None:
    # One process of one GPU still goes through nccl, mixed precision and the sharding of every block.
    (outcome,) = run_in_processes(run, name, 1, "none", "cuda", processes=1)
    expected = alone()
    # 6 steps at a large learning rate in bf16 against float64; a wrong gradient is off by far more.
    np.testing.assert_allclose(outcome["losses"], expected["losses"], rtol=0.1)
    assert outcome["samples"] == expected["samples"]
