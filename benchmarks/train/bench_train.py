"""Training throughput of the whole model: `blip3v bench train`.

The step is that of `blip3v.train`: forward of the frozen vision encoder, forward and backward of the rest,
clipping, AdamW over float32 weights, on a GPU in bfloat16 autocast. Pixels are random numbers that lie ready
in (pinned) memory, so no decoding is in the time, but the copy to the GPU is. Weights are random. Texts have
different lengths (blip3v.profiling.synthetic), so padded rows are longer than packed ones; all setups train
on the same samples. Setups, which stand in the column of backends, are those of benchmarks/train/setups.py:
the recipe as it comes, the fastest, and the fastest without each of its parts.

Beside the common fields a row holds: batch, tokens (of a video), text_tokens (mean of a sample),
samples_per_s, tokens_per_s (computed by the language model, padding included), needed_tokens (of a step,
without padding), computed_tokens, mfu (FLOPs that the samples need over time and `mfu_peak`: the vision
encoder counts, padding and recomputation do not, see blip3v.models.cost.MFU_FORMULA), mfu_peak (FLOP/s, of
the data sheet, of bfloat16 also where the vision encoder computes in FP8; or measured where none is known:
then `mfu_peak_is` says so), data_stall_ms (a step's wait for its batch), activation_checkpointing (more than
the setup asks for only where a step does not fit).

Correct is a step whose loss and gradients are those of a precise computation, see benchmarks/train/right.py.
The rows of compiled blocks, CUDA graphs and FP8 have not been made on a GPU yet.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any

import torch

from benchmarks.ceilings import Ceilings
from benchmarks.measure import against_ceilings, clocks, reason, version_of
from benchmarks.presets import config_with_tokens, dtype_of, numbers_in
from benchmarks.train.right import check
from benchmarks.train.setups import SETUPS, default_setups, forced
from benchmarks.train.steps import run_steps
from blip3v.data.packing import count_tokens
from blip3v.models.cost import batch_flops, mfu
from blip3v.models.modeling import Blip3VideoForConditionalGeneration
from blip3v.profiling.presets import TEXT_TOKENS
from blip3v.profiling.synthetic import synthetic_batch
from blip3v.testing.compare import Verdict
from blip3v.testing.timing import Timing

__all__ = ["DEFAULT_PEERS", "PEERS", "SIZES", "case_of", "forced", "train_rows"]

SIZES = {
    "small": ((32, 2), (128, 2)),
    "4b": tuple((tokens, batch) for tokens in (32, 16, 128, 1024) for batch in (4, 16)),
}
"""(tokens of a video, batch); those of the 4B model are the batches of the paper's third and second stage.
32 tokens come first, because the published speed and the goals are of them."""

PEERS = tuple(SETUPS)
DEFAULT_PEERS = ("blip3v",)
CHECKPOINTING = ("none", "selective", "full")


class Subject:
    """A model, and for each setup that was checked on it the verdicts, or why it cannot run."""

    def __init__(self, preset: str, device: str, tokens: int) -> None:
        torch.manual_seed(0)
        with torch.device(device):
            self.model = Blip3VideoForConditionalGeneration(config_with_tokens(preset, tokens))
        self.preset = preset
        self._verdicts: dict[str, list[Verdict] | str] = {}

    def verdicts(self, name: str) -> list[Verdict] | str:
        if name not in self._verdicts:
            try:
                self._verdicts[name] = check(self.model, self.preset, name)
            except Exception as error:  # a setup may refuse in any way; the reason is what the row is for
                self._verdicts[name] = reason(error)
        return self._verdicts[name]


@lru_cache(maxsize=1)
def subject_of(preset: str, device: str, tokens: int) -> Subject:
    """The last one is kept: sizes that differ in the batch alone share model and verdicts."""
    return Subject(preset, device, tokens)


def train_rows(
    preset: str,
    device: str,
    cases: Sequence[str] = (),
    peers: Sequence[str] = (),
    repeats: int = 20,
    ceilings: Ceilings | None = None,
) -> Iterator[dict[str, Any]]:
    """Rows of training steps as they are measured; empty choices mean the preset's.

    cases: `<preset>_<tokens>_tokens_batch_<n>` for any n, and for tokens that an encoder makes. peers: names
    of setups.

    Raises:
        UserError: no such preset or case.
        ValueError: a number of tokens that no encoder makes.
    """
    pattern, example = rf"{preset}_(\d+)_tokens_batch_(\d+)", case_of(preset, 32, 4)
    sizes = [numbers_in(case, pattern, example) for case in cases] or SIZES[preset]
    for tokens, batch in sizes:
        subject = subject_of(preset, device, tokens)
        for name in peers or default_setups(device):
            yield {
                "level": "train",
                "op": "training_step",
                "case": case_of(preset, tokens, batch),
                "dtype": dtype_of(device),
                "direction": "step",
                "backend": name,
                "version": version_of(SETUPS[name].backend or "cuda"),
                "batch": batch,
                "tokens": tokens,
                "text_tokens": TEXT_TOKENS[preset],
                **_measure(subject, name, batch, repeats, ceilings),
                "command": f"blip3v bench train --device {device} --preset {preset} "
                f"--case {case_of(preset, tokens, batch)} --peer '{name}' --repeats {repeats}",
            }


def case_of(preset: str, tokens: int, batch: int) -> str:
    return f"{preset}_{tokens}_tokens_batch_{batch}"


def _measure(
    subject: Subject, name: str, samples: int, repeats: int, ceilings: Ceilings | None
) -> dict[str, Any]:
    # Past a number of variants of one function torch stops compiling it; those of other setups would count.
    torch.compiler.reset()
    verdicts, model = subject.verdicts(name), subject.model
    if isinstance(verdicts, str):
        return {"reason": verdicts}
    row: dict[str, Any] = {
        "error": max(verdict.relative for verdict in verdicts),
        "ok": all(verdict.ok for verdict in verdicts),
        "judged": {verdict.name: verdict.relative for verdict in verdicts},
    }
    if not row["ok"]:
        return row | {"reason": "; ".join(str(verdict) for verdict in verdicts if not verdict.ok)}
    recipe = SETUPS[name].recipe(model.config, model.device)
    batch = synthetic_batch(model.config, TEXT_TOKENS[subject.preset], samples, recipe.packed)
    refusals = []
    for checkpointing in CHECKPOINTING[CHECKPOINTING.index(recipe.activation_checkpointing) :]:
        # What a failed attempt held is free only after its exception is gone.
        gc.collect()
        torch.cuda.empty_cache()
        try:
            steps = run_steps(model, name, batch, samples, repeats, checkpointing)
            break
        except Exception as error:
            refusals.append(f"recomputing {checkpointing}: {reason(error)}")
            if not isinstance(error, torch.OutOfMemoryError):
                return row | {"reason": "; ".join(refusals)}
    else:
        return row | {"reason": "; ".join(refusals)}
    row |= {"activation_checkpointing": checkpointing, "data_stall_ms": steps.stall * 1e3}
    if steps.peak_memory is not None:
        row["peak_memory_bytes"] = steps.peak_memory
    return row | _speed(model, batch, samples, steps.timing, ceilings) | clocks(str(model.device))


def _speed(
    model: Blip3VideoForConditionalGeneration,
    batch: dict[str, Any],
    samples: int,
    timing: Timing,
    ceilings: Ceilings | None,
) -> dict[str, Any]:
    """Times and what follows from them."""
    flops = float(batch_flops(model.config, batch))
    needed = int(batch["attention_mask"].sum()) if "attention_mask" in batch else count_tokens(batch)
    numbers: dict[str, Any] = {
        "median_ms": timing.median * 1e3,
        "p20_ms": timing.p20 * 1e3,
        "p80_ms": timing.p80 * 1e3,
        "repeats": timing.repeats,
        "clock": timing.clock,
        "flops": flops,
        "tflops": flops / timing.median / 1e12,
        "samples_per_s": samples / timing.median,
        "tokens_per_s": count_tokens(batch) / timing.median,
        "needed_tokens": needed,
        "computed_tokens": count_tokens(batch),
    }
    if ceilings is None:
        return numbers
    dtype = dtype_of(str(model.device))
    limits = ceilings.limit_flops_per_s
    peak = limits.get(dtype) or ceilings.flops_per_s[dtype]
    numbers |= {
        "mfu": mfu(samples / timing.median, flops / samples, peak),
        "mfu_peak": peak,
        "mfu_peak_is": "data sheet, dense" if dtype in limits else "measured product",
    }
    # Only arithmetic: what a step must move depends on what it keeps.
    return numbers | against_ceilings(numbers | {"bytes": 0.0}, dtype, ceilings)
