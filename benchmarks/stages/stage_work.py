"""What a stage must compute and move at least, from blip3v.models.cost."""

from __future__ import annotations

from benchmarks.stages.stage_modules import Stage
from blip3v.models.configuration import Blip3VideoConfig
from blip3v.models.cost import STAGES, model_work

OF_COST = {"vit": "vision_encoder"} | {name: name for name in STAGES}
"""Names of stages here -> there; every other stage is a temporal encoder."""


def stage_work(
    stage: Stage, config: Blip3VideoConfig, videos: int, text: int, direction: str, element: int
) -> tuple[float, float]:
    """(FLOP, bytes) that nobody can do without; `element` is the bytes of a value.

    The backward reads the weights again and writes as many gradients, and what entered and left the stage
    passes once more: kept, as cotangent or as the gradient of the input.
    """
    work = model_work(config, text_tokens=text, batch=videos, value_bytes=element)
    amount = work[OF_COST.get(stage.name, "temporal_encoder")]
    if direction == "forward":
        return amount.flops, amount.bytes
    moved = amount.bytes + (2 * amount.weights + amount.moved) * element
    return amount.flops + amount.backward_flops, moved
