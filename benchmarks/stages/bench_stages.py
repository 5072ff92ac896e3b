"""The stages of the model against their peers: `blip3v bench stages`.

Weights are random numbers in the row's dtype; peers use the same. Forward runs without autograd; forward and
backward is what a training step does in this stage: gradients of all its weights, and of its input where
something below it trains. `ran` in a row says which backend each op took. How results are judged:
benchmarks/precise.py.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.ceilings import Ceilings
from benchmarks.measure import Calls, measure, reason, version_of
from benchmarks.precise import Judge, cast_parameters, parameters_in
from benchmarks.presets import VIDEOS, dtype_of, numbers_in, videos_case
from benchmarks.rows import DIRECTIONS, DTYPES
from benchmarks.stages.peers import PLAIN, Peer, default_peers, peers_of
from benchmarks.stages.stage_modules import DEFAULT, Stage, stage_named
from benchmarks.stages.stage_work import stage_work
from benchmarks.subject import Subject
from blip3v.models.configuration import Blip3VideoConfig
from blip3v.profiling.presets import TEXT_TOKENS
from blip3v.testing.compare import Verdict

SECONDS_PER_ROW = 0.4
"""On a CPU, a slow row has fewer repeats than asked for, but no fewer than FEWEST; a row says how many."""

FEWEST = 3


class StageSubject(Subject):
    """A stage with its weights and its input on a device, and the judge of what comes out."""

    def __init__(
        self, stage: Stage, preset: str, videos: int, dtype: torch.dtype, device: str, backward: bool
    ) -> None:
        self.stage, self.preset, self.videos = stage, preset, videos
        self.config: Blip3VideoConfig = stage.config(preset)
        self.text = TEXT_TOKENS[preset]
        torch.manual_seed(0)
        with torch.device(device):
            self.module: nn.Module = stage.build(self.config, self.text)
        cast_parameters(self.module.eval(), dtype)
        if not stage.trains:
            self.module.requires_grad_(False)
        shape = stage.shape(self.config, videos, self.text)
        self.x = torch.randn(shape, device=device).to(dtype).requires_grad_(stage.trains_input)
        self.trained = sorted(name for name, p in self.module.named_parameters() if p.requires_grad)
        self.backward = backward and bool(self.trained or stage.trains_input)
        with torch.no_grad():
            out = Peer("blip3v reference", stage, self.module, self.config, self.x)(self.x)
        self.cotangents = [torch.randn(out.shape, device=device).to(dtype)]
        self.judge, self.truth_dtype = self._judge(dtype)

    def calls(self, peer: str) -> StageCalls:
        """Raises: whatever keeps this peer from running."""
        return StageCalls(self.built(peer), self)

    def built(self, peer: str) -> Peer:
        return Peer(peer, self.stage, self.module, self.config, self.x)

    def peer(self, backend: str) -> Any:
        return self.built(backend)

    def work(self, direction: str) -> tuple[float, float]:
        element = self.x.element_size()
        return stage_work(self.stage, self.config, self.videos, self.text, direction, element)

    def repeats(self, asked: int) -> int:
        """How often a row is timed: as asked for on a GPU, on a CPU as often as its time allows."""
        if self.x.is_cuda:
            return asked
        return min(asked, max(FEWEST, int(SECONDS_PER_ROW / self.seconds)))

    def verdicts(self, backend: str, results: Sequence[Tensor]) -> list[Verdict]:
        return self.judge.verdicts(results)

    def _judge(self, dtype: torch.dtype) -> tuple[Judge, str]:
        begin = time.perf_counter()
        plain = self._run(PLAIN)
        self.seconds = time.perf_counter() - begin
        for precise in (torch.float64, torch.float32):
            try:
                truth = self._precisely(precise)
                break
            except torch.OutOfMemoryError:
                torch.cuda.empty_cache()
        else:
            raise MemoryError("the precise computation fits neither in float64 nor in float32")
        inputs = ["gradient of the input"] if self.stage.trains_input else []
        names = ["output", *inputs, *(f"gradient of {name}" for name in self.trained)]
        return Judge(names, truth, plain, dtype), str(precise).removeprefix("torch.")

    def _precisely(self, dtype: torch.dtype) -> tuple[Tensor, ...]:
        x, cotangents = self.x, self.cotangents
        try:
            self.x = x.detach().to(dtype).requires_grad_(x.requires_grad)
            self.cotangents = [tensor.to(dtype) for tensor in cotangents]
            with parameters_in(self.module, dtype):
                return self._run("blip3v reference")
        finally:
            self.x, self.cotangents = x, cotangents

    def _run(self, peer: str) -> tuple[Tensor, ...]:
        calls = self.calls(peer)
        results = calls.both() if self.backward else calls.forward()
        return tuple(tensor.detach() for tensor in results)


class StageCalls(Calls):
    """One peer on one stage, on the module's own parameters rather than on a copy of them."""

    def __init__(self, peer: Peer, subject: StageSubject) -> None:
        self.function, self.x, self.cotangents, self.ran = peer, subject.x, subject.cotangents, peer.ran
        named = dict(peer.owner.named_parameters())
        self.leaves = [named[name] for name in subject.trained]
        if subject.stage.trains_input:
            self.leaves.insert(0, self.x)

    def forward(self) -> tuple[Tensor, ...]:
        with torch.no_grad():
            return (self.function(self.x),)

    def both(self) -> tuple[Tensor, ...]:
        out = self.function(self.x)
        return out, *torch.autograd.grad(out, self.leaves, self.cotangents)


def stage_rows(
    preset: str,
    device: str,
    stages: Sequence[str] = (),
    cases: Sequence[str] = (),
    peers: Sequence[str] = (),
    dtypes: Sequence[str] = (),
    directions: Sequence[str] = (),
    repeats: int = 20,
    ceilings: Ceilings | None = None,
) -> Iterator[dict[str, Any]]:
    """The rows of the stages, one after the other as they are measured; empty choices mean the usual ones.

    stages: of stage_modules.NAMES, temporal encoders among them. cases: `<preset>_<n>_videos` for any n.
    peers: those that a stage does not have are passed over.

    Raises:
        UserError: no such preset, stage or case.
    """
    pattern, example = rf"{preset}_(\d+)_videos?", videos_case(preset, 4)
    videos = [numbers_in(case, pattern, example)[0] for case in cases] or VIDEOS[preset]
    for name in stages or DEFAULT:
        stage = stage_named(name)
        known = peers_of(stage)
        chosen = [peer for peer in peers or default_peers(stage, device) if peer in known]
        ways = [way for way in directions or DIRECTIONS if way == "forward" or stage.trains]
        for count in videos:
            for dtype in dtypes or (dtype_of(device),):
                yield from _case(stage, preset, count, dtype, chosen, device, ways, repeats, ceilings)


def _case(
    stage: Stage,
    preset: str,
    videos: int,
    dtype: str,
    peers: Sequence[str],
    device: str,
    directions: Sequence[str],
    repeats: int,
    ceilings: Ceilings | None,
) -> Iterator[dict[str, Any]]:
    case = videos_case(preset, videos)
    subject: StageSubject | str
    try:
        subject = StageSubject(stage, preset, videos, DTYPES[dtype], device, "forward+backward" in directions)
    except (RuntimeError, MemoryError) as error:  # too large for the device, above all
        subject = reason(error)
    if isinstance(subject, StageSubject) and not subject.backward:
        directions = [way for way in directions if way == "forward"]
    for peer in peers:
        calls: StageCalls | str
        try:
            calls = subject if isinstance(subject, str) else subject.calls(peer)
        except Exception as error:  # a peer may refuse in any way; the reason is what the row is for
            calls = reason(error)
        for direction in directions:
            row: dict[str, Any] = {
                "level": "stages",
                "op": stage.name,
                "case": case,
                "dtype": dtype,
                "direction": direction,
                "backend": peer,
                "version": version_of_peer(peer),
                "videos": videos,
            }
            if isinstance(calls, StageCalls) and calls.ran:
                row["ran"] = calls.ran
            if isinstance(subject, StageSubject):
                row |= {"tokens": subject.config.video_tokens, "truth": subject.truth_dtype}
                times = subject.repeats(repeats)
                row |= measure(calls, subject, peer, direction, device, dtype, times, ceilings)
            else:
                row["reason"] = subject
            yield row | {
                "command": f"blip3v bench stages --device {device} --preset {preset} --op {stage.name} "
                f"--case {case} --dtype {dtype} --peer '{peer}' --direction {direction} --repeats {repeats}"
            }


def version_of_peer(peer: str) -> str:
    """That of what computes: this package, its compiler, or what a peer comes from."""
    names = {
        "blip3v": "cuda",
        "blip3v cuda": "cuda",
        "blip3v triton": "triton",
        "flash_attention_2": "flash-attn",
    }
    return version_of(names.get(peer, peer))
