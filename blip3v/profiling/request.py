"""What to profile: one value that the command line, the tools and the profiled process understand alike."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from blip3v.errors import UserError

STAGES = ("vision", "resampler", "temporal", "prefill", "decode")


@dataclass(frozen=True)
class Request:
    """Something that runs again and again.

    Args:
        what: an op of `blip3v.ops`, a stage of a model, or a training step.
        name: of the op, or of the stage: vision, resampler, temporal, prefill, decode. A step has none.
        preset: stages and steps: `4b` is the published model, `small` one for any CPU; weights are random.
        case: ops: the named inputs, see blip3v/testing/cases; by default the shape of the model.
        backend: ops: reference, triton, cuda or simulator; by default what the op takes.
        direction: ops and stages: with the gradients, or without.
        encoder: stages and steps: the temporal encoder.
        tokens: video tokens (default: 32, or what the encoder makes by its nature).
        frames: of each video.
        batch: videos at once.
        text_tokens: of the prompt, or of the conversation that is trained on (default: 16 of the small model,
            128 of the 4B).
        dtype: of inputs and weights (default: bfloat16 on a GPU, float32 on a CPU). A training step keeps
            float32 weights and computes in bfloat16 on a GPU, whatever this says.
        device: cuda where there is a GPU, else cpu.
        warmup: iterations that are not in the profile, at least 1.
        iterations: iterations that are.
    """

    what: Annotated[Literal["op", "stage", "step"], tyro.conf.Positional]
    name: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="NAME")] = ""
    preset: Literal["small", "4b"] = "small"
    case: str | None = None
    backend: str | None = None
    direction: Literal["forward", "forward+backward"] = "forward"
    encoder: str = "grouped_ttm"
    tokens: int | None = None
    frames: int = 8
    batch: int = 1
    text_tokens: int | None = None
    dtype: Literal["bfloat16", "float16", "float32"] | None = None
    device: Literal["cpu", "cuda"] | None = None
    warmup: int = 3
    iterations: int = 5

    def check(self) -> None:
        """Raises: UserError, for what cannot be run, before anything is built.

        (Not when it is made: tyro would turn the error into its own.)
        """
        for field in ("frames", "tokens", "batch", "text_tokens", "warmup", "iterations"):
            value = getattr(self, field)
            if value is not None and value < 1:
                option = field.replace("_", "-")
                raise UserError(f"--{option} must be at least 1, got {value}")
        if self.what == "step" and self.name:
            raise UserError(f"a step has no name, got {self.name!r}: blip3v profile step --preset small")
        known = {"op": _ops(), "stage": STAGES, "step": ("",)}[self.what]
        if self.name not in known:
            raise UserError(f"no {self.what} {self.name!r}: choose one of {', '.join(known)}")

    @property
    def label(self) -> str:
        """A folder name that says all that is not a default: `op-token_learner-backend-cuda`."""
        return "-".join(word.removeprefix("--") for word in self.arguments())

    def arguments(self) -> list[str]:
        """What `python -m blip3v.profiling.run` reads back as this request."""
        words = [self.what, *([self.name] if self.name else [])]
        for field in dataclasses.fields(self)[2:]:
            value = getattr(self, field.name)
            if value != field.default:
                words += [f"--{field.name.replace('_', '-')}", str(value)]
        return words

    def folder(self, out: Path | None) -> Path:
        """Where the profile goes: `out`, or profiles/<label>."""
        return Path("profiles") / self.label if out is None else out


def _ops() -> tuple[str, ...]:
    from blip3v.ops.registry import OPS

    return tuple(OPS)
