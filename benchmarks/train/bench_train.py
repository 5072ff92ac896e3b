"""Training steps of the whole model: `blip3v bench train`.

The step is that of `blip3v.train`: forward of the frozen vision encoder, forward and backward of the rest,
clipping, AdamW over float32 weights, on a GPU in bfloat16 autocast. Pixels are random numbers that lie ready
in (pinned) memory, so no decoding is in the time, but the copy to the GPU is. Weights are random.

Beside the common fields a row holds: batch, tokens (of a video), text_tokens, samples_per_s, tokens_per_s (of
the language model, video and text), mfu (samples/s times counted FLOPs of a sample over `mfu_peak`, see
blip3v.models.cost: the vision encoder counts, recomputation does not), mfu_peak (FLOP/s, of the data sheet,
or measured where none is known: then `mfu_peak_is` says so), data_stall_ms (a step's wait for its batch),
gradient_checkpointing (taken only where a step does not fit without).

Correct is a step whose loss and gradients, for one video, are those of a precise computation: in float64, for
the 4B model in float32 without autocast (benchmarks/precise.py).
"""

from __future__ import annotations

import gc
import itertools
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from benchmarks.ceilings import Ceilings
from benchmarks.measure import against_ceilings, clocks, reason, version_of
from benchmarks.precise import Judge, parameters_in
from benchmarks.presets import config_with_tokens, dtype_of, numbers_in
from benchmarks.rows import DTYPES
from benchmarks.stages.stage_modules import set_attention
from benchmarks.train.steps import run_steps
from blip3v.models.cost import mfu, training_flops
from blip3v.models.modeling import Blip3VideoForConditionalGeneration
from blip3v.ops.registry import use_backend
from blip3v.profiling.presets import TEXT_TOKENS
from blip3v.profiling.synthetic import synthetic_batch
from blip3v.testing.compare import Verdict
from blip3v.testing.timing import Timing
from blip3v.train.optimizer import frozen, trainable_parameters

SIZES = {
    "small": ((32, 2), (128, 2)),
    "4b": tuple((tokens, batch) for tokens in (16, 32, 128, 1024) for batch in (4, 16)),
}
"""(tokens of a video, batch); those of the 4B model are the batches of the paper's third and second stage."""

PEERS = ("blip3v", "blip3v cuda", "blip3v triton", "eager reference")
DEFAULT_PEERS = ("blip3v",)
FROZEN = ("vision_encoder",)


def train_rows(
    preset: str,
    device: str,
    cases: Sequence[str] = (),
    peers: Sequence[str] = (),
    repeats: int = 20,
    ceilings: Ceilings | None = None,
) -> Iterator[dict[str, Any]]:
    """Rows of training steps as they are measured; empty choices mean the preset's.

    cases: `<preset>_<tokens>_tokens_batch_<n>` for any n, and for tokens that an encoder makes.

    Raises:
        UserError: no such preset or case.
        ValueError: a number of tokens that no encoder makes.
    """
    pattern, example = rf"{preset}_(\d+)_tokens_batch_(\d+)", case_of(preset, 32, 4)
    sizes = [numbers_in(case, pattern, example) for case in cases] or SIZES[preset]
    for tokens, group in itertools.groupby(sizes, lambda size: size[0]):
        batches = [batch for _, batch in group]
        torch.manual_seed(0)
        with torch.device(device):
            model = Blip3VideoForConditionalGeneration(config_with_tokens(preset, tokens))
        for peer in peers or DEFAULT_PEERS:
            verdicts: list[Verdict] | str
            try:
                verdicts = check(model, preset, peer)
            except Exception as error:  # a peer may refuse in any way; the reason is what the row is for
                verdicts = reason(error)
            for batch in batches:
                yield {
                    "level": "train",
                    "op": "training_step",
                    "case": case_of(preset, tokens, batch),
                    "dtype": dtype_of(device),
                    "direction": "step",
                    "backend": peer,
                    "version": version_of("cuda" if peer == "blip3v" else peer.removeprefix("blip3v ")),
                    "batch": batch,
                    "tokens": tokens,
                    "text_tokens": TEXT_TOKENS[preset],
                    **_measure(model, preset, peer, batch, verdicts, repeats, ceilings),
                    "command": f"blip3v bench train --device {device} --preset {preset} "
                    f"--case {case_of(preset, tokens, batch)} --peer '{peer}' --repeats {repeats}",
                }


def case_of(preset: str, tokens: int, batch: int) -> str:
    return f"{preset}_{tokens}_tokens_batch_{batch}"


def forced(model: Blip3VideoForConditionalGeneration, peer: str) -> AbstractContextManager[None]:
    """The model made ready for a peer; inside the context its backends are chosen."""
    plain = peer == "eager reference"
    set_attention(model, "eager" if plain else "sdpa")
    if peer == "blip3v":
        return nullcontext()
    return use_backend("reference" if plain else peer.removeprefix("blip3v "))


def check(model: Blip3VideoForConditionalGeneration, preset: str, peer: str) -> list[Verdict]:
    """Loss and gradients of one video against the precise computation.

    Raises: whatever keeps this peer from running.
    """
    device = model.device
    batch = {
        name: tensor.to(device)
        for name, tensor in synthetic_batch(model.config, TEXT_TOKENS[preset], 1).items()
    }
    autocast = device.type == "cuda"
    with frozen(model, FROZEN):
        names = ["loss", *(f"gradient of {name}" for name in trainable_parameters(model))]
        got = gradients(model, batch, peer, autocast)
        plain = gradients(model, batch, "eager reference", autocast)
        precise = torch.float32 if preset == "4b" else torch.float64
        with parameters_in(model, precise):
            truth = gradients(model, batch, "blip3v reference", autocast=False)
    return Judge(names, truth, plain, DTYPES[dtype_of(str(device))]).verdicts(got)


def gradients(
    model: Blip3VideoForConditionalGeneration, batch: dict[str, Tensor], peer: str, autocast: bool
) -> list[Tensor]:
    """The loss, and its gradients of all that trains."""
    parameters = list(trainable_parameters(model).values())
    with forced(model, peer):
        with torch.autocast(model.device.type, torch.bfloat16, enabled=autocast):
            loss = model(**batch, use_cache=False).loss
        found = torch.autograd.grad(loss, parameters, allow_unused=True)
    # The embedding of the added tokens gets no gradient here: their places hold the video.
    return [
        loss.detach(),
        *(torch.zeros_like(p) if grad is None else grad for p, grad in zip(parameters, found)),
    ]


def _measure(
    model: Blip3VideoForConditionalGeneration,
    preset: str,
    peer: str,
    batch: int,
    verdicts: list[Verdict] | str,
    repeats: int,
    ceilings: Ceilings | None,
) -> dict[str, Any]:
    if isinstance(verdicts, str):
        return {"reason": verdicts}
    row: dict[str, Any] = {
        "error": max(verdict.relative for verdict in verdicts),
        "ok": all(verdict.ok for verdict in verdicts),
    }
    if not row["ok"]:
        return row | {"reason": "; ".join(str(verdict) for verdict in verdicts if not verdict.ok)}
    for checkpointing in (False, True):
        # What a failed attempt held is free only after its exception is gone.
        gc.collect()
        torch.cuda.empty_cache()
        try:
            with forced(model, peer):
                steps = run_steps(model, preset, batch, repeats, checkpointing)
            break
        except torch.OutOfMemoryError as error:
            refusal = reason(error)
        except Exception as error:
            return row | {"reason": reason(error)}
    else:
        return row | {"reason": refusal}
    row |= {"gradient_checkpointing": checkpointing, "data_stall_ms": steps.stall * 1e3}
    if steps.peak_memory is not None:
        row["peak_memory_bytes"] = steps.peak_memory
    return row | _speed(model, preset, batch, steps.timing, ceilings) | clocks(str(model.device))


def _speed(
    model: Blip3VideoForConditionalGeneration,
    preset: str,
    batch: int,
    timing: Timing,
    ceilings: Ceilings | None,
) -> dict[str, Any]:
    """Times and what follows from them."""
    config, text = model.config, TEXT_TOKENS[preset]
    flops = float(training_flops(config, text_tokens=text, batch=batch))
    numbers: dict[str, Any] = {
        "median_ms": timing.median * 1e3,
        "p20_ms": timing.p20 * 1e3,
        "p80_ms": timing.p80 * 1e3,
        "repeats": timing.repeats,
        "clock": timing.clock,
        "flops": flops,
        "tflops": flops / timing.median / 1e12,
        "samples_per_s": batch / timing.median,
        "tokens_per_s": batch * (config.video_tokens + text) / timing.median,
    }
    if ceilings is None:
        return numbers
    dtype = dtype_of(str(model.device))
    limits = ceilings.limit_flops_per_s
    peak = limits.get(dtype) or ceilings.flops_per_s[dtype]
    numbers |= {
        "mfu": mfu(batch / timing.median, flops / batch, peak),
        "mfu_peak": peak,
        "mfu_peak_is": "data sheet, dense" if dtype in limits else "measured product",
    }
    # Only arithmetic: what a step must move depends on what it keeps.
    return numbers | against_ceilings(numbers | {"bytes": 0.0}, dtype, ceilings)
