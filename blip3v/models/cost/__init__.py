"""FLOPs and bytes of every stage, counted from a configuration alone; no model is built.

>>> work = model_work(blip3_video_4b(), frames=8, text_tokens=128)
>>> round(work["vision_encoder"].flops / 1e12, 2)
5.33

What counts and what does not is defined in `work`. Rows, floors and MFU (model FLOPs utilisation) are made
of these numbers and never of numbers typed by hand.
"""

from __future__ import annotations

from blip3v.models.cost.data_sheet import peak_flops
from blip3v.models.cost.language import cache_bytes, cached_tokens, decode_step, forward, prefill
from blip3v.models.cost.memory import inference_bytes, largest_batch, parameter_bytes
from blip3v.models.cost.step import MFU_FORMULA, batch_flops, step_flops
from blip3v.models.cost.totals import STAGES, VISION_STAGES, mfu, model_work, training_flops, vision_work
from blip3v.models.cost.work import Work

__all__ = [
    "MFU_FORMULA",
    "STAGES",
    "VISION_STAGES",
    "Work",
    "batch_flops",
    "cache_bytes",
    "cached_tokens",
    "decode_step",
    "forward",
    "inference_bytes",
    "largest_batch",
    "mfu",
    "model_work",
    "parameter_bytes",
    "peak_flops",
    "prefill",
    "step_flops",
    "training_flops",
    "vision_work",
]
