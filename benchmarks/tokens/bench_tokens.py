"""Tokens against latency: every temporal encoder and token reducer before one and the same language model.

A row is one encoder at one number of tokens, for one video of 8 frames and a question. Weights are random;
time and memory do not depend on them. What rows share is measured once: the vision encoder runs on the same
frames whatever comes behind it, and the language model sees a number of tokens, not where they come from.
So `vision_ms` is the vision encoder's median plus that of resampler, encoder and projection, and `median_ms`,
the time to the first token, is `vision_ms` plus `prefill_ms`; p20 and p80 are sums in the same way.

Fields beside those of every row (benchmarks/README.md):

- encoder, tokens; vision_ms, vision_encoder_ms (the part of it that all share), prefill_ms (embedding of the
  text to the choice of the first token), first_token_ms (= median_ms), tokens_per_s (of one video's answer);
- vision_flops, prefill_flops, kv_cache_bytes: counted by blip3v.models.cost. Phi-3's window of 2,047 tokens
  limits what is kept, and what a token attends to, in the 4B model as it is published;
- peak_memory_bytes: measured, weights included, on a GPU only. counted_memory_bytes: the estimate of the
  same, everywhere;
- largest_batch, largest_batch_from: how many videos fit at once, and whether that follows from counts or from
  one video's measured memory;
- beyond_context: true where prompt and answer are longer than the positions that the model was trained on.

The GPU path has not run on a GPU yet.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from transformers import SiglipVisionModel

from benchmarks.ceilings import Ceilings
from benchmarks.measure import against_ceilings, clocks, reason, version_of
from benchmarks.precise import cast_parameters
from benchmarks.presets import dtype_of
from benchmarks.tokens.memory import allocated, extra, memory_of
from benchmarks.tokens.points import Point, case_of, config_of, points
from benchmarks.tokens.reader import Reader, Reading
from benchmarks.tokens.stopwatch import CLOCK, repeated, seconds
from blip3v.models import cost
from blip3v.models.configuration import Blip3VideoConfig
from blip3v.models.vision import VisionTokenizer, encode_frames
from blip3v.profiling.presets import TEXT_TOKENS
from blip3v.testing.timing import Timing

REPEATS = 10


def token_rows(
    preset: str,
    device: str,
    encoders: Sequence[str] | None = None,
    tokens: Sequence[int] | None = None,
    repeats: int = REPEATS,
    ceilings: Ceilings | None = None,
) -> Iterator[dict[str, Any]]:
    """The rows of all points, one after the other as they are measured.

    Args:
        preset: `small` (float32 on a CPU, about a minute) or `4b` (for a GPU).
        encoders, tokens: see `benchmarks.tokens.points.points`.
        repeats: timed calls a number, fewer where they take long, see `stopwatch`.

    Raises:
        UserError: no such preset, encoder or number of tokens.
    """
    bench = TokenBench(preset, device, repeats, ceilings)
    for point in points(preset, encoders, tokens):
        yield bench.row(point)


class TokenBench:
    """The parts that all rows share, built when the first row needs them: vision encoder, language model."""

    def __init__(
        self, preset: str, device: str, repeats: int = REPEATS, ceilings: Ceilings | None = None
    ) -> None:
        self.preset, self.device, self.repeats, self.ceilings = preset, device, repeats, ceilings
        self.dtype = dtype_of(device)
        self.text_tokens = TEXT_TOKENS[preset]

    def row(self, point: Point) -> dict[str, Any]:
        """Measure one point; where that fails, the row says why and has no times."""
        case = case_of(self.preset, point.tokens)
        head = {
            "level": "tokens",
            "op": "first_token",
            "case": case,
            "dtype": self.dtype,
            "direction": "forward",
            "backend": point.encoder,
            "version": version_of(point.encoder),
            "encoder": point.encoder,
            "tokens": point.tokens,
            "command": f"blip3v bench tokens --device {self.device} --preset {self.preset} "
            f"--op {point.encoder} --case {case} --repeats {self.repeats}",
        }
        config = config_of(self.preset, point)
        try:
            with torch.inference_mode():
                measured = self._measure(config, point.tokens)
        except Exception as error:  # too little memory, say: the other rows are worth having without it
            return head | self._counted(config) | {"reason": reason(error)}
        return head | measured

    def _measure(self, config: Blip3VideoConfig, tokens: int) -> dict[str, Any]:
        features, encoding, encoding_extra = self._vision
        tokenizer = self._placed(lambda: VisionTokenizer(config))
        made = tokenizer(features)
        if made.shape[1] != tokens or not bool(made.isfinite().all()):
            raise ValueError(
                f"made {made.shape[1]} tokens instead of {tokens}, or numbers that are not finite"
            )
        reading = self._reader.read(tokens)
        reducing = self._timed(lambda: tokenizer(features))
        reducing_extra = extra(lambda: tokenizer(features), self.device)
        extras = [encoding_extra, reducing_extra, reading.extra_bytes]
        row = _times(encoding, reducing, reading) | self._counted(config) | self._memory(extras, features)
        row["tflops"] = row["flops"] / row["median_ms"] / 1e9
        row["gbytes_per_s"] = row["bytes"] / row["median_ms"] / 1e6
        if torch.device(self.device).type == "cuda":
            row |= clocks(self.device)
        return row if self.ceilings is None else row | against_ceilings(row, self.dtype, self.ceilings)

    def _counted(self, config: Blip3VideoConfig) -> dict[str, Any]:
        size = getattr(torch, self.dtype).itemsize
        frames, text = config.num_frames, self.text_tokens
        work = cost.model_work(config, frames, text, value_bytes=size)
        vision = [work[stage] for stage in cost.VISION_STAGES]
        prompt = config.video_tokens_for(frames) + text
        return {
            "vision_flops": sum(part.flops for part in vision),
            "prefill_flops": work["prefill"].flops,
            "flops": sum(part.flops for part in vision) + work["prefill"].flops,
            "bytes": sum(part.bytes for part in vision) + work["prefill"].bytes,
            "kv_cache_bytes": cost.cache_bytes(config, prompt, value_bytes=size),
            "counted_memory_bytes": cost.inference_bytes(config, frames, text, value_bytes=size),
            "largest_batch": cost.largest_batch(
                config, frames, text, memory_of(self.device), value_bytes=size
            ),
            "largest_batch_from": "counted",
            "beyond_context": prompt + Reader.NEW_TOKENS > config.text_config.max_position_embeddings,
        }

    def _memory(self, extras: Sequence[int | None], features: Tensor) -> dict[str, Any]:
        """Measured memory: what lies there now, and the stage that takes most beside it."""
        resident, taken = allocated(self.device), [part for part in extras if part is not None]
        if resident is None or not taken:
            return {}
        fits = (memory_of(self.device) - resident) // (max(taken) + features.nbytes)
        return {
            "peak_memory_bytes": resident + max(taken),
            "largest_batch": max(0, fits),
            "largest_batch_from": "measured memory of one video",
        }

    @cached_property
    def _shared_config(self) -> Blip3VideoConfig:
        """Any point's: vision encoder and language model are the same in all."""
        return config_of(self.preset, Point("token_learner", 32))

    @cached_property
    def _reader(self) -> Reader:
        return Reader(self._shared_config, self.device, self.dtype, self.text_tokens, self.repeats)

    @cached_property
    def _vision(self) -> tuple[Tensor, Timing, int | None]:
        """One video's patch features, how long they take, and the memory beside."""
        pixels, encoder = self._pixels, self._encoder
        timing = self._timed(lambda: encode_frames(encoder, pixels))
        taken = extra(lambda: encode_frames(encoder, pixels), self.device)
        return encode_frames(encoder, pixels), timing, taken

    @cached_property
    def _encoder(self) -> Any:
        """Kept while rows are measured, so that its weights count in every row's memory."""
        torch.manual_seed(0)
        return self._placed(lambda: SiglipVisionModel(self._shared_config.vision_config))

    @cached_property
    def _pixels(self) -> Tensor:
        config = self._shared_config
        side = config.vision_config.image_size
        shape = (1, config.num_frames, 3, side, side)
        return torch.randn(shape, device=self.device, dtype=getattr(torch, self.dtype))

    def _placed(self, build: Callable[[], Any]) -> Any:
        """Built on the device, parameters in the row's dtype; frequencies, which are buffers, in float32."""
        with torch.device(self.device):
            return cast_parameters(build(), getattr(torch, self.dtype)).eval()

    def _timed(self, call: Callable[[], Tensor]) -> Timing:
        (timing,) = repeated(lambda: seconds(call, self.device)[:1], self.repeats, self.device)
        return timing


def _times(encoding: Timing, reducing: Timing, reading: Reading) -> dict[str, Any]:
    parts = (encoding, reducing, reading.prefill)
    vision = encoding.median + reducing.median
    median = sum(part.median for part in parts)
    return {
        "vision_ms": vision * 1e3,
        "vision_encoder_ms": encoding.median * 1e3,
        "prefill_ms": reading.prefill.median * 1e3,
        "first_token_ms": median * 1e3,
        "tokens_per_s": 1 / reading.step.median,
        "median_ms": median * 1e3,
        "p20_ms": sum(part.p20 for part in parts) * 1e3,
        "p80_ms": sum(part.p80 for part in parts) * 1e3,
        "repeats": min(part.repeats for part in parts),
        "clock": CLOCK,
    }
