"""`blip3v train --dry-run`: the plan of a run from its recipe, data and configuration."""

from __future__ import annotations

from pathlib import Path

import blip3v
from blip3v.data.mixture import read_mixture
from blip3v.data.packing import estimate_lengths
from blip3v.train.assemble import checked_config
from blip3v.train.parallel import Launch
from blip3v.train.plan import Device, measured_utilisation, plan
from blip3v.train.plan_text import plan_text
from blip3v.train.recipe import Recipe


def print_plan(
    recipe: Recipe,
    data: Path,
    folder: Path,
    devices: int | None = None,
    device_name: str | None = None,
    devices_per_node: int = 8,
) -> None:
    """Print what training would take. Reads annotations and config.json, no video and no weight.

    Args:
        data, folder: as in `assemble`.
        devices: how many; None are those of torchrun, or one.
        device_name: such as "H100"; None is what is here.
        devices_per_node: where torchrun does not say.

    Raises:
        UserError: data or model that cannot be trained on.
    """
    config = checked_config(folder, recipe)
    records = read_mixture(data, recipe.seed).records
    launch = Launch.from_environment()
    if launch is not None and launch.rank != 0:
        return
    device = Device.here() if device_name is None else Device.named(device_name)
    results = Path(blip3v.__file__).parents[1] / "benchmarks" / "results"
    count = devices or (1 if launch is None else launch.world_size)
    within = min(devices_per_node, count) if launch is None else launch.local_world_size
    found = plan(
        recipe,
        config,
        len(records),
        count,
        device,
        estimate_lengths(records, recipe.video_tokens),
        local_world_size=within,
        utilisation=measured_utilisation(results, device.name, recipe.video_tokens, recipe.batch_size),
    )
    print(plan_text(found))
