from __future__ import annotations

import json
from dataclasses import FrozenInstanceError, fields, replace
from typing import Any

import pytest

from blip3v.errors import UserError
from blip3v.train.recipe import RECIPES, Recipe, recipe_named


def test_the_papers_stages() -> None:
    captions, questions = recipe_named("video-captions"), recipe_named("instruction-tuning")
    for recipe, batch, rate in ((captions, 16, 2e-5), (questions, 4, 1e-5)):
        assert (recipe.batch_size, recipe.learning_rate, recipe.warmup_steps, recipe.epochs) == (
            batch,
            rate,
            500,
            1,
        )
        assert (recipe.num_frames, recipe.clip_norm, recipe.frozen) == (8, 1.0, ("vision_encoder",))
    assert recipe_named("image-captions").num_frames == 1


def test_names_agree_with_the_registry() -> None:
    assert {name: build().name for name, build in RECIPES.items()} == {name: name for name in RECIPES}


def test_an_unknown_name_lists_the_known() -> None:
    with pytest.raises(UserError, match="no recipe 'x': choose one of image-captions"):
        recipe_named("x")


def test_recipes_are_frozen_and_every_field_has_a_help_text() -> None:
    with pytest.raises(FrozenInstanceError):
        recipe_named("video-captions").seed = 1  # type: ignore[misc]
    assert all(field.metadata.get("help") for field in fields(Recipe) if field.name != "name")


BAD = [
    {"batch_size": 0}, {"accumulation": 0}, {"learning_rate": 0.0}, {"learning_rate": float("nan")},
    {"clip_norm": -1.0}, {"warmup_steps": -1}, {"max_steps": 0}, {"epochs": 0}, {"betas": (0.9, 1.0)},
    {"num_frames": 0}, {"keep_checkpoints": 0}, {"weight_decay": float("nan")},
]  # fmt: skip


@pytest.mark.parametrize("override", BAD, ids=str)
def test_values_that_cannot_work_are_refused_by_name(override: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=f"recipe t: {next(iter(override))} cannot be"):
        Recipe("t", **override)


def test_differences_name_what_affects_the_result() -> None:
    recipe = Recipe("t")
    stored = json.loads(json.dumps(recipe.to_json()))
    assert recipe.differences(stored) == []
    other = replace(recipe, learning_rate=1.0, frozen=(), log_every=3, workers=2)
    assert other.differences(stored) == ["learning_rate: 2e-05 -> 1.0", "frozen: ['vision_encoder'] -> []"]
