"""`blip3v train RECIPE`: train a model on an annotation file by a named recipe."""

from __future__ import annotations

import importlib.util
from dataclasses import asdict, field, fields, make_dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast, get_type_hints

import tyro

from blip3v.errors import UserError
from blip3v.train.recipe import RECIPES, Recipe, recipe_named

DEMO_IMAGES = "demo-images"
"""Stage 1 of the demo: it makes its own images and its own model."""


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

NAMES = ", ".join([*RECIPES, DEMO_IMAGES])
RecipeName = Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RECIPE", help=f"one of {NAMES}")]
Options = Annotated[Overrides, tyro.conf.OmitArgPrefixes]


def train(
    recipe: RecipeName,
    overrides: Options,
    out: Path | None = None,
    data: Path | None = None,
    model: Path | None = None,
    resume: bool = False,
    dry_run: bool = False,
    devices: int | None = None,
    device_name: str | None = None,
    devices_per_node: int = 8,
) -> None:
    """Train a model by a named recipe, on one device, or on those that torchrun starts processes for.

    Args:
        overrides: values to use in the place of the recipe's.
        out: folder for checkpoints, log, plot and the trained model.
        data: annotation file, JSON lines in the format of LLaVA with media paths relative to it; or a TOML
            file that mixes published data sets. Not for demo-images.
        model: folder of a saved model and processor; without weights in it, fresh ones are trained. Not for
            demo-images.
        resume: go on from the newest checkpoint in `out`.
        dry_run: print the plan (steps, memory, hours) and end; no weights are read.
        devices: of the plan; those of torchrun, or one, if not given.
        device_name: of the plan, such as H100; what is here if not given.
        devices_per_node: of the plan.
    """
    given = {name: value for name, value in asdict(overrides).items() if value is not None}
    if out is None and not dry_run:
        raise UserError("say where the run shall lie: --out DIR")
    if recipe == DEMO_IMAGES and out is not None:
        _train_demo_images(given, out, resume)
        return
    if recipe not in RECIPES:
        raise UserError(f"no recipe {recipe!r}: choose one of {NAMES}")
    chosen = replace(recipe_named(recipe), **given)
    if data is None or model is None:
        raise UserError(f"recipe {recipe} needs --data FILE and --model DIR")
    # torch and transformers take seconds: only once the recipe is known to be good.
    from transformers.utils import logging

    # Bars and remarks about loading files would break into the progress.
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    if dry_run or out is None:
        from blip3v.train.dry_run import print_plan

        print_plan(chosen, data, model, devices, device_name, devices_per_node)
        return
    from blip3v.train.assemble import assemble

    run = assemble(chosen, data, model, out)
    parallel = run.trainer.parallel
    try:
        if parallel.rank == 0 and run.mixture.report.num_skipped:
            from rich.console import Console

            Console(stderr=True).print(run.mixture.report.table())
        result = run.trainer.run(resume)
        folder = run.export()
    finally:
        parallel.close()
    if parallel.rank == 0:
        _report(chosen, result.steps, result.loss, out, folder)


def _train_demo_images(given: dict[str, Any], out: Path, resume: bool) -> None:
    from blip3v.demo.stage1 import build_stage1, demo_images, save_stage1

    chosen = replace(demo_images(), **given)
    trainer = build_stage1(chosen, out)
    result = trainer.run(resume)
    _report(chosen, result.steps, result.loss, out, save_stage1(cast("Any", trainer.model), out))


def _report(recipe: Recipe, steps: int, loss: float, out: Path, model: Path) -> None:
    from blip3v.train.assemble import LOG
    from blip3v.train.plot import plot_loss

    print(f"{recipe.name}: {steps} steps, loss {loss:.4f}; the model is in {model}")
    if importlib.util.find_spec("matplotlib") is None:
        print("no plot of the loss: pip install matplotlib")
    else:
        print(f"the loss is drawn in {plot_loss(out / LOG, recipe.name)[0]}")
