"""The table of setups: one difference at a time, and nothing that a device cannot do."""

from __future__ import annotations

import pytest
import torch

from benchmarks.sheets import is_ours
from benchmarks.train.setups import BACKENDS, BEST, SETUPS, SWITCHED_OFF, Setup, default_setups
from blip3v.models.configuration import blip3_video_tiny

CPU, GPU = torch.device("cpu"), torch.device("cuda")


@pytest.mark.parametrize("part", SWITCHED_OFF)
def test_a_part_switched_off_is_the_only_difference(part: str) -> None:
    config = blip3_video_tiny()
    best, without = (SETUPS[name].recipe(config, GPU) for name in (BEST, SWITCHED_OFF[part]))
    here, there = best.to_json(), without.to_json()
    assert sum(here[name] != there[name] for name in here) == 1


def test_every_setup_makes_a_recipe_of_the_models_tokens() -> None:
    config = blip3_video_tiny()
    for setup in SETUPS.values():
        recipe = setup.recipe(config, GPU, batch_size=3)
        assert (recipe.video_tokens, recipe.num_frames) == (config.video_tokens, config.num_frames)
        assert recipe.batch_size == 3 and recipe.frozen == ("vision_encoder",)


def test_a_cpu_compiles_what_a_gpu_records() -> None:
    config = blip3_video_tiny()
    assert SETUPS[BEST].recipe(config, GPU).vision == "graph"
    assert SETUPS[BEST].recipe(config, CPU).vision == "compile"
    assert Setup().recipe(config, CPU).vision == "eager"


def test_ours_are_told_from_the_others() -> None:
    assert [name for name in SETUPS if not is_ours(name)] == ["eager reference"]


def test_what_is_measured_without_asking() -> None:
    assert default_setups("cuda:1") == tuple(SETUPS) and default_setups("cpu") == ("blip3v",)


def test_backends_leave_the_recipe_as_it_is() -> None:
    for name in BACKENDS:
        assert set(SETUPS[name].changes) <= {"packed"}
