"""The readable reference against einsum modules: `python -m benchmarks.stages.bench_reference`.

Both sides hold the same weights and see the same input. A row carries the relative error between their
outputs (and between all their gradients); where that is too large, the row has no time. Repeats alternate
between the two sides. The prediction is made from counted operations and the machine's rates before anything
is timed.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from benchmarks.machine import describe_machine, slug
from benchmarks.stages import einsum_modules as einsum
from benchmarks.stages.cost import Cost, CostCounter, Rates, measure_rates
from blip3v.models.resampler import PerceiverResampler
from blip3v.models.temporal.token_learner import TokenLearnerEncoder
from blip3v.models.temporal.token_turing_machine import GroupedTokenTuringMachine, TokenTuringMachine
from blip3v.models.temporal.transformer import TransformerEncoder

RESULTS = Path(__file__).parents[1] / "results"
TOLERANCE = 1e-4
"""Largest relative error of a row with a time; float32 rounding stays a hundred times below."""


@dataclass(frozen=True)
class Widths:
    """Dimensions of one measurement; the defaults are those of the 4B model on one video."""

    frames: int = 8
    patches: int = 729
    dim: int = 1152
    latents: int = 128
    resampler_depth: int = 6
    resampler_heads: int = 16
    dim_head: int = 96
    temporal_depth: int = 4
    temporal_heads: int = 8
    slots: int = 4
    tokens: int = 32
    ff_mult: int = 4


@dataclass(frozen=True)
class Stage:
    """One module in both spellings. `trains_input`: does training need the gradient of the input?"""

    name: str
    reference: Callable[[], nn.Module]
    einsum: Callable[[], nn.Module]
    shape: tuple[int, ...]
    trains_input: bool


def stages(w: Widths) -> Iterator[Stage]:
    """The resampler reads a frozen encoder; the temporal encoders read the resampler, which trains."""
    patches, tokens = (1, w.frames, w.patches, w.dim), (1, w.frames, w.latents, w.dim)
    perceiver = (w.dim, w.resampler_depth, w.resampler_heads, w.dim_head, w.latents, w.ff_mult)
    layers = (w.temporal_depth, w.temporal_heads, w.ff_mult)
    vanilla = (
        w.dim,
        w.latents,
        w.latents // 2,
        max(1, w.latents // w.frames),
        2,
        w.temporal_heads,
        w.ff_mult,
    )
    grouped = (w.dim, w.latents, w.slots, w.tokens, *layers)
    yield Stage(
        "resampler",
        lambda: PerceiverResampler(*perceiver),
        lambda: einsum.EinsumPerceiverResampler(*perceiver),
        patches,
        False,
    )
    yield Stage(
        "grouped_ttm",
        lambda: GroupedTokenTuringMachine(*grouped),
        lambda: einsum.EinsumGroupedTTM(*grouped),
        tokens,
        True,
    )
    yield Stage(
        "transformer",
        lambda: TransformerEncoder(w.dim, w.tokens, *layers, time_stamp=False),
        lambda: einsum.EinsumTransformerEncoder(w.dim, w.tokens, *layers),
        tokens,
        True,
    )
    yield Stage(
        "ttm",
        lambda: TokenTuringMachine(*vanilla, time_stamp=False),
        lambda: einsum.EinsumTokenTuringMachine(*vanilla),
        tokens,
        True,
    )
    yield Stage(
        "token_learner",
        lambda: TokenLearnerEncoder(w.dim, w.tokens, time_stamp=False),
        lambda: einsum.EinsumTokenLearnerEncoder(w.dim, w.tokens),
        tokens,
        True,
    )


@dataclass
class Pair:
    """A stage built: both modules share their weights' memory."""

    modules: dict[str, nn.Module]
    x: Tensor
    gradient: Tensor

    @classmethod
    def build(cls, stage: Stage) -> Pair:
        torch.manual_seed(0)
        reference = stage.reference()
        with torch.device("meta"):
            other = stage.einsum()
        other.load_state_dict(reference.state_dict(), assign=True)
        x = torch.randn(stage.shape, requires_grad=stage.trains_input)
        with torch.no_grad():
            gradient = torch.randn_like(reference(x))
        return cls({"reference": reference, "einsum": other}, x, gradient)

    def run(self, side: str, backward: bool) -> Tensor:
        """One forward without autograd, or one forward and backward from empty gradients."""
        if not backward:
            with torch.no_grad():
                return self.modules[side](self.x)
        out = self.modules[side](self.x)
        out.backward(self.gradient)
        return out.detach()

    def gradients(self, side: str) -> Tensor:
        """All gradients in one vector, taken away from the module and the input."""
        module = self.modules[side]
        parts = [p.grad.flatten() for _, p in sorted(module.named_parameters()) if p.grad is not None]
        if self.x.grad is not None:
            parts.append(self.x.grad.flatten())
        self.clear(side)
        return torch.cat(parts)

    def clear(self, side: str) -> None:
        self.modules[side].zero_grad(set_to_none=True)
        self.x.grad = None

    def errors(self) -> dict[str, float]:
        """Relative norm of the difference between the sides: of the output, and of all gradients."""
        outputs, gradients = [], []
        for side in self.modules:
            outputs.append(self.run(side, backward=True))
            gradients.append(self.gradients(side))
        output = _relative(*outputs)
        return {"forward": output, "forward+backward": max(output, _relative(*gradients))}

    def time(self, side: str, backward: bool) -> float:
        self.clear(side)
        start = time.perf_counter()
        self.run(side, backward)
        return time.perf_counter() - start


def _relative(mine: Tensor, theirs: Tensor) -> float:
    return float((mine - theirs).double().norm() / theirs.double().norm())


def count(stage: Stage) -> dict[str, dict[str, Cost]]:
    """{side: {"forward": cost, "forward+backward": cost}}, on tensors without memory."""
    costs: dict[str, dict[str, Cost]] = {}
    with FakeTensorMode():
        for side, build in (("reference", stage.reference), ("einsum", stage.einsum)):
            module, x = build(), torch.randn(stage.shape, requires_grad=stage.trains_input)
            with torch.no_grad(), CostCounter() as forward:
                out = module(x)
            with CostCounter() as both:
                module(x).backward(torch.ones_like(out))
            costs[side] = {"forward": forward.cost, "forward+backward": both.cost}
    return costs


def measure(pair: Pair, backward: bool, seconds: float, fewest: int) -> dict[str, list[float]]:
    """Alternating repeats of both sides until `seconds` are spent, at least `fewest` and at most 25."""
    times: dict[str, list[float]] = {side: [] for side in pair.modules}
    end = time.perf_counter() + seconds
    while len(times["reference"]) < fewest or (time.perf_counter() < end and len(times["reference"]) < 25):
        # The order is turned round each time, so that neither side always runs on the other's warm caches.
        for side in sorted(pair.modules, reverse=len(times["reference"]) % 2 == 1):
            times[side].append(pair.time(side, backward))
    return times


def summary(seconds: list[float]) -> dict[str, float]:
    """Median, 20th and 80th percentile in milliseconds."""
    low, middle, high = torch.tensor(seconds).mul(1e3).quantile(torch.tensor([0.2, 0.5, 0.8])).tolist()
    return {"median_ms": middle, "p20_ms": low, "p80_ms": high, "repeats": len(seconds)}


def bench(stage: Stage, rates: Rates, seconds: float, fewest: int) -> Iterator[dict[str, Any]]:
    """The rows of one stage: forward, then forward and backward."""
    costs = count(stage)
    pair = Pair.build(stage)
    errors = pair.errors()
    for way in ("forward", "forward+backward"):
        mine, theirs = (costs[side][way] for side in ("reference", "einsum"))
        row: dict[str, Any] = {
            "stage": stage.name,
            "pass": way,
            "predicted_ratio": theirs.seconds(rates) / mine.seconds(rates),
            "error": errors[way],
            "reference": {"gflop": mine.flops / 1e9, "gbyte": mine.bytes / 1e9},
            "einsum": {"gflop": theirs.flops / 1e9, "gbyte": theirs.bytes / 1e9},
        }
        if errors[way] <= TOLERANCE:
            times = measure(pair, way != "forward", seconds, fewest)
            for side, values in times.items():
                row[side] |= summary(values)
            row["ratio"] = row["einsum"]["median_ms"] / row["reference"]["median_ms"]
        yield row


def describe(row: dict[str, Any]) -> str:
    head = f"{row['stage']:<14}{row['pass']:<18}{row['error']:>9.1e}{row['predicted_ratio']:>10.2f}"
    if "ratio" not in row:
        return f"{head}   outputs differ: no time"
    sides = (row[side] for side in ("einsum", "reference"))
    spans = "".join(
        f"{s['median_ms']:>10.1f} [{s['p20_ms']:.1f}, {s['p80_ms']:.1f}]".ljust(34) for s in sides
    )
    return f"{head}{row['ratio']:>9.2f} {spans}{row['reference']['repeats']:>3}"


def main() -> None:
    parser = argparse.ArgumentParser(description="Reference modules against einsum modules.")
    parser.add_argument("--json", type=Path, help="result file (default: benchmarks/results/<device>/...)")
    parser.add_argument("--stage", action="append", help="only this stage (may be repeated)")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--seconds", type=float, default=4.0, help="per row, unless repeats take longer")
    parser.add_argument("--repeats", type=int, default=2, help="fewest repeats per row and side")
    args = parser.parse_args()

    torch.set_num_threads(args.threads)
    machine, rates = describe_machine(), measure_rates()
    print(json.dumps(machine, indent=2))
    print(f"rates: {rates.flops / 1e9:.0f} GFLOP/s, {rates.bytes / 1e9:.1f} GB/s\n")
    print(f"{'stage':<14}{'pass':<18}{'error':>9}{'predicted':>10}{'ratio':>9}", end=" ")
    print(f"{'einsum, ms [p20, p80]':>26}{'reference, ms [p20, p80]':>36}   repeats")
    rows = []
    for stage in stages(Widths()):
        if not args.stage or stage.name in args.stage:
            for row in bench(stage, rates, args.seconds, args.repeats):
                rows.append(row)
                print(describe(row), flush=True)

    path = args.json or RESULTS / slug(machine) / "reference_vs_einsum.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    report = {"machine": machine, "rates": asdict(rates), "widths": asdict(Widths()), "rows": rows}
    path.write_text(json.dumps(report, indent=2) + "\n")
    print(f"\nwritten to {path}")


if __name__ == "__main__":
    main()
