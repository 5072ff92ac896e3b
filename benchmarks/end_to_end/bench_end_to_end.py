"""From a video file to words: `blip3v bench end_to_end`.

A question is asked of a real file (h264, 2 s, written here): decoding, pixels, vision, prefill, and one
token (direction `first token`) or all of the answer (direction `answer`), as `blip3v.inference` does it, with
random weights and an answer of fixed length. Times are a caller's, until the result is in main memory.

Beside the common fields a row holds: tokens (of the video), text_tokens, new_tokens, prepare_ms (file to the
model's inputs, the decoding in it), and for `answer` tokens_per_s behind the first. Correct are first logits
like those of a precise computation: in float64, for the 4B model in float32 (benchmarks/precise.py).
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.decode.clips import Clip, made
from benchmarks.measure import clocks, reason, version_of
from benchmarks.precise import Judge, cast_parameters, parameters_in
from benchmarks.presets import config_with_tokens, dtype_of, numbers_in
from benchmarks.rows import DTYPES
from benchmarks.tokens.stopwatch import CLOCK, seconds
from benchmarks.train.bench_train import DEFAULT_PEERS, forced
from blip3v.errors import UserError
from blip3v.inference.generate import prepare
from blip3v.models.configuration import Blip3VideoConfig
from blip3v.models.modeling import Blip3VideoForConditionalGeneration
from blip3v.models.processing import Blip3VideoProcessor
from blip3v.models.tokenizer import word_tokenizer
from blip3v.testing.compare import Verdict
from blip3v.testing.timing import Timing

TOKENS = {"small": (32,), "4b": (32, 128, 1024)}
NEW_TOKENS = {"small": 8, "4b": 64}
QUESTION = "what happens in this video , and in which order ?"
DIRECTIONS = ("first token", "answer")
CODEC = "h264"
WARMUP, CPU_REPEATS = 1, 5
"""Calls that do not count; those that do on a CPU at most."""


class Asking:
    """A model with random weights, a file, and a question to it."""

    def __init__(self, preset: str, tokens: int, device: str, path: Path) -> None:
        self.preset, self.device, self.path = preset, device, path
        self.dtype = DTYPES[dtype_of(device)]
        self.config = config_with_tokens(preset, tokens)
        self.processor = Blip3VideoProcessor.from_config(self.config, tokenizer_of(self.config))
        torch.manual_seed(0)
        with torch.device(device):
            self.model = Blip3VideoForConditionalGeneration(self.config).eval()
        cast_parameters(self.model, self.dtype)

    def inputs(self) -> tuple[dict[str, Any], dict[str, Any]]:
        return prepare(self.model, self.processor, [self.path], [QUESTION])

    def answer(self, new_tokens: int) -> tuple[float, float]:
        """Seconds from the file to the inputs, and from the file to the last of `new_tokens` tokens."""
        preparing, (inputs, settings) = seconds(self.inputs, self.device)
        settings |= {"min_new_tokens": new_tokens, "max_new_tokens": new_tokens}
        generating, _ = seconds(lambda: self.model.generate(**inputs, **settings).tolist(), self.device)
        return preparing, preparing + generating

    def verdicts(self, peer: str) -> list[Verdict]:
        """The first logits against the precise ones.

        Raises: whatever keeps this peer from running.
        """
        got, plain = self._logits(peer), self._logits("eager reference")
        with parameters_in(self.model, torch.float32 if self.preset == "4b" else torch.float64):
            truth = self._logits("blip3v reference")
        return Judge(["first logits"], [truth], [plain], self.dtype).verdicts([got])

    def _logits(self, peer: str) -> Tensor:
        with torch.inference_mode(), forced(self.model, peer):
            return self.model(**self.inputs()[0], logits_to_keep=1).logits


def tokenizer_of(config: Blip3VideoConfig) -> Any:
    """Words of the question, and as many others as the model's vocabulary wants."""
    special = len(word_tokenizer([])) - config.additional_vocab_size
    words = list(dict.fromkeys(QUESTION.split()))
    fillers = (f"word{number}" for number in range(config.base_vocab_size - special - len(words)))
    return word_tokenizer([*words, *fillers])


def end_to_end_rows(
    preset: str,
    device: str,
    cases: Sequence[str] = (),
    peers: Sequence[str] = (),
    directions: Sequence[str] = (),
    repeats: int = 20,
) -> Iterator[dict[str, Any]]:
    """The rows as they are measured; empty choices mean the preset's.

    cases: `<preset>_<tokens>_tokens`. peers: of benchmarks.train.bench_train.PEERS.

    Raises:
        UserError: no such preset or case, or no file could be written.
    """
    pattern, example = rf"{preset}_(\d+)_tokens", f"{preset}_32_tokens"
    sizes = [numbers_in(case, pattern, example)[0] for case in cases] or TOKENS[preset]
    with tempfile.TemporaryDirectory(prefix="blip3v-end-to-end-") as folder:
        path = clip_of(Path(folder)).path
        for tokens in sizes:
            asking = Asking(preset, tokens, device, path)
            for peer in peers or DEFAULT_PEERS:
                yield from _rows(asking, tokens, peer, directions or DIRECTIONS, repeats)


def clip_of(folder: Path) -> Clip:
    """The file that is asked about.

    Raises:
        UserError: it could not be written.
    """
    clip = made(CODEC, folder)
    if clip.failure:
        raise UserError(f"{clip.failure}; install a PyAV with libx264")
    return clip


def _rows(
    asking: Asking, tokens: int, peer: str, directions: Sequence[str], repeats: int
) -> Iterator[dict[str, Any]]:
    verdicts: list[Verdict] | str
    try:
        verdicts = asking.verdicts(peer)
    except Exception as error:  # a peer may refuse in any way; the reason is what the row is for
        verdicts = reason(error)
    first_ms: float | None = None
    for direction in directions:
        row = row_of(asking, tokens, peer, direction, verdicts, repeats)
        if direction == "first token":
            first_ms = row.get("median_ms")
        elif first_ms is not None and "median_ms" in row:
            row["tokens_per_s"] = (row["new_tokens"] - 1) / (row["median_ms"] - first_ms) * 1e3
        yield row


def row_of(
    asking: Asking, tokens: int, peer: str, direction: str, verdicts: list[Verdict] | str, repeats: int
) -> dict[str, Any]:
    """One row. verdicts: on the first logits, or why there are none."""
    preset, device = asking.preset, asking.device
    case = f"{preset}_{tokens}_tokens"
    return {
        "level": "end_to_end",
        "op": "video_to_text",
        "case": case,
        "dtype": dtype_of(device),
        "direction": direction,
        "backend": peer,
        "version": version_of("cuda" if peer == "blip3v" else peer.removeprefix("blip3v ")),
        "tokens": tokens,
        **_measure(asking, peer, direction, verdicts, repeats),
        "command": f"blip3v bench end_to_end --device {device} --preset {preset} --case {case} "
        f"--peer '{peer}' --direction '{direction}' --repeats {repeats}",
    }


def _measure(
    asking: Asking, peer: str, direction: str, verdicts: list[Verdict] | str, repeats: int
) -> dict[str, Any]:
    if isinstance(verdicts, str):
        return {"reason": verdicts}
    row: dict[str, Any] = {
        "error": max(verdict.relative for verdict in verdicts),
        "ok": all(verdict.ok for verdict in verdicts),
    }
    if not row["ok"]:
        return row | {"reason": "; ".join(map(str, verdicts))}
    new_tokens = 1 if direction == "first token" else NEW_TOKENS[asking.preset]
    cuda = torch.device(asking.device).type == "cuda"
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    with forced(asking.model, peer):
        times = repeats if cuda else min(repeats, CPU_REPEATS)
        runs = [asking.answer(new_tokens) for _ in range(WARMUP + times)][WARMUP:]
    preparing, whole = (Timing.of(list(column), CLOCK) for column in zip(*runs))
    if cuda:
        row["peak_memory_bytes"] = torch.cuda.max_memory_allocated()
    return row | {
        "new_tokens": new_tokens,
        "text_tokens": asking.inputs()[0]["input_ids"].shape[1] - asking.config.video_tokens,
        "median_ms": whole.median * 1e3,
        "p20_ms": whole.p20 * 1e3,
        "p80_ms": whole.p80 * 1e3,
        "repeats": whole.repeats,
        "clock": whole.clock,
        "prepare_ms": preparing.median * 1e3,
        **clocks(asking.device),
    }
