"""`blip3v train RECIPE`: train a model on an annotation file by a named recipe."""

from __future__ import annotations

import importlib.util
from dataclasses import asdict, field, fields, make_dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import tyro

from blip3v.train.recipe import RECIPES, Recipe, recipe_named


def overrides_of(recipe_class: type) -> type:
    """A dataclass with every field of a recipe but its name, None where the recipe's own value stays."""
    hints = get_type_hints(recipe_class)
    options = []
    for setting in fields(recipe_class):
        if setting.name != "name":
            option = tyro.conf.arg(
                help=setting.metadata["help"], help_behavior_hint="(default: the recipe's)"
            )
            options.append((setting.name, Annotated[hints[setting.name] | None, option], field(default=None)))
    return make_dataclass("Overrides", options)


if TYPE_CHECKING:
    Overrides = Any
else:
    Overrides = overrides_of(Recipe)

RecipeName = Annotated[
    str, tyro.conf.Positional, tyro.conf.arg(metavar="RECIPE", help=f"one of {', '.join(RECIPES)}")
]
Options = Annotated[Overrides, tyro.conf.OmitArgPrefixes]


def train(
    recipe: RecipeName, data: Path, model: Path, out: Path, overrides: Options, resume: bool = False
) -> None:
    """Train a model by a named recipe.

    Args:
        data: annotation file, JSON lines in the format of LLaVA; media paths are relative to it.
        model: folder of a saved model and processor; without weights in it, fresh ones are trained.
        out: folder for checkpoints, log, plot and the trained model.
        overrides: values to use in the place of the recipe's.
        resume: go on from the newest checkpoint in `out`.
    """
    given = {name: value for name, value in asdict(overrides).items() if value is not None}
    chosen = replace(recipe_named(recipe), **given)
    # torch and transformers take seconds: only once the recipe is known to be good.
    from blip3v.train.assemble import LOG, build_trainer
    from blip3v.train.checkpoint import export
    from blip3v.train.plot import plot_loss

    trainer, processor = build_trainer(chosen, data, model, out)
    result = trainer.run(resume)
    export(out / "model", trainer.model, processor)
    print(f"{chosen.name}: {result.steps} steps, loss {result.loss:.4f}; the model is in {out / 'model'}")
    if importlib.util.find_spec("matplotlib") is None:
        print("no plot of the loss: pip install matplotlib")
    else:
        print(f"the loss is drawn in {plot_loss(out / LOG, chosen.name)[0]}")
