"""What every benchmark of an op shares: from a case and a peer to a row, a line of the table and a file.

Every row is compared with float64 first, and one that is off shows its error and no time. What cannot run is
a row with the reason. TFLOP/s and GB/s count what the op must compute and move at least, whatever a peer
does beside it; so a peer's row can be compared with the roofline as it stands.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from benchmarks.machine import describe_machine, slug
from blip3v.testing.compare import Verdict, compare
from blip3v.testing.timing import Timing, time_call

RESULTS = Path(__file__).parents[1] / "results"
DIRECTIONS = ("forward", "forward+backward")
DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}


class Subject(Protocol):
    """One case of an op, built on a device.

    inputs: the tensors that have gradients. cotangents: of the outputs. truth: name -> (float64 value, sum of
    |terms|), the outputs first and then the gradients of `inputs`, in their order.
    """

    inputs: Sequence[Tensor]
    cotangents: Sequence[Tensor]
    truth: Mapping[str, tuple[Tensor, Tensor]]

    def peer(self, backend: str) -> Callable[..., Tensor | tuple[Tensor, ...]]:
        """A function of `inputs` that computes the outputs; raises if this peer cannot do this case."""

    def roundings(self, backend: str) -> int:
        """How often this peer rounds each term, see blip3v.testing.compare."""

    def work(self, direction: str) -> tuple[float, float]:
        """FLOP and bytes that nobody can do without."""


@dataclass(frozen=True)
class Bench:
    """An op's benchmark: its cases by name, those taken without asking by kind of device, its peers."""

    op: str
    cases: Mapping[str, Any]
    default_cases: Mapping[str, Sequence[str]]
    peers: Sequence[str]
    build: Callable[[Any, torch.dtype, str], Subject]

    def rows(
        self,
        case: Any,
        dtype: str,
        peers: Sequence[str],
        device: str,
        directions: Sequence[str],
        repeats: int,
    ) -> Iterator[dict[str, Any]]:
        """The rows of one case, one after the other as they are measured."""
        subject = self.build(case, DTYPES[dtype], device)
        for peer in peers:
            built: _Calls | str
            try:
                built = _Calls(subject.peer(peer), subject)
            except Exception as error:  # a peer may refuse in any way; the reason is what the row is for
                built = _reason(error)
            for direction in directions:
                yield {
                    "op": self.op,
                    "case": case.name,
                    "dtype": dtype,
                    "direction": direction,
                    "backend": peer,
                    **_measure(built, subject, peer, direction, device, repeats),
                    "command": f"python -m benchmarks.ops.bench_{self.op} --device {device} "
                    f"--case {case.name} --dtype {dtype} --backend '{peer}' --direction {direction} "
                    f"--repeats {repeats}",
                }

    def main(self) -> None:
        """The command line."""
        device = "cuda" if torch.cuda.is_available() else "cpu"
        parser = argparse.ArgumentParser(description=f"{self.op} against its peers.")
        parser.add_argument("--device", default=device, choices=["cpu", "cuda"])
        parser.add_argument("--case", action="append", choices=list(self.cases), help="may be repeated")
        parser.add_argument("--dtype", action="append", choices=list(DTYPES), help="may be repeated")
        parser.add_argument("--backend", action="append", choices=list(self.peers), help="may be repeated")
        parser.add_argument("--direction", action="append", choices=DIRECTIONS, help="may be repeated")
        parser.add_argument("--repeats", type=int, default=20)
        parser.add_argument(
            "--json", type=Path, help="result file (default: benchmarks/results/<device>/...)"
        )
        args = parser.parse_args()

        machine = describe_machine(args.device)
        print(json.dumps(machine, indent=2))
        print(HEADER)
        measured = []
        for name in args.case or self.default_cases[args.device]:
            for dtype in args.dtype or ["bfloat16"]:
                directions = args.direction or DIRECTIONS
                peers = args.backend or self.peers
                for row in self.rows(self.cases[name], dtype, peers, args.device, directions, args.repeats):
                    measured.append(row)
                    print(describe(row), flush=True)

        path = args.json or RESULTS / slug(machine) / f"{self.op}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"machine": machine, "rows": measured}, indent=2) + "\n")
        print(f"\nwritten to {path}")


class _Calls:
    """One peer on one case: `forward()` without autograd, `both()` with the gradients of all inputs."""

    def __init__(self, function: Callable[..., Tensor | tuple[Tensor, ...]], subject: Subject) -> None:
        self.function, self.cotangents = function, subject.cotangents
        self.plain = subject.inputs
        self.leaves = [tensor.detach().requires_grad_() for tensor in subject.inputs]

    def forward(self) -> tuple[Tensor, ...]:
        with torch.no_grad():
            return _tuple(self.function(*self.plain))

    def both(self) -> tuple[Tensor, ...]:
        outputs = _tuple(self.function(*self.leaves))
        return *outputs, *torch.autograd.grad(outputs, self.leaves, self.cotangents)

    def call(self, direction: str) -> Callable[[], tuple[Tensor, ...]]:
        return self.forward if direction == "forward" else self.both


def _tuple(outputs: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return (outputs,) if isinstance(outputs, Tensor) else tuple(outputs)


def _verify(results: Sequence[Tensor], subject: Subject, peer: str) -> list[Verdict]:
    roundings = subject.roundings(peer)
    return [
        compare(name, result.detach(), *subject.truth[name], roundings)
        for name, result in zip(subject.truth, results)
    ]


def _measure(
    calls: _Calls | str, subject: Subject, peer: str, direction: str, device: str, repeats: int
) -> dict[str, Any]:
    """Error, then times; or the reason why there are none."""
    if isinstance(calls, str):
        return {"reason": calls}
    call = calls.call(direction)
    try:
        results = call()
    except Exception as error:
        return {"reason": _reason(error)}
    verdicts = _verify(results, subject, peer)
    row: dict[str, Any] = {"error": max(verdict.relative for verdict in verdicts)}
    if not all(verdict.ok for verdict in verdicts):
        return row | {"reason": "; ".join(str(verdict) for verdict in verdicts if not verdict.ok)}
    del results
    flops, moved = subject.work(direction)
    row |= _times("", time_call(call, device, repeats), flops, moved)
    if torch.device(device).type == "cuda":
        try:
            row |= _times("graph_", time_call(call, device, repeats, graph=True), flops, moved)
        except Exception as error:
            row["graph_reason"] = _reason(error)
    return row


def _times(prefix: str, timing: Timing, flops: float, moved: float) -> dict[str, Any]:
    return {
        f"{prefix}median_ms": timing.median * 1e3,
        f"{prefix}p20_ms": timing.p20 * 1e3,
        f"{prefix}p80_ms": timing.p80 * 1e3,
        f"{prefix}tflops": flops / timing.median / 1e12,
        f"{prefix}gbytes_per_s": moved / timing.median / 1e9,
        f"{prefix}repeats": timing.repeats,
        f"{prefix}clock": timing.clock,
    }


def _reason(error: Exception) -> str:
    """The first line of what it said, not its traceback."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0].strip() if lines else 'without a message'}"[:300]


HEADER = (
    f"{'case':<18}{'dtype':<10}{'direction':<18}{'backend':<29}{'error':>8}"
    f"{'ms [p20, p80]':<32}{'graph ms':>10}{'TFLOP/s':>9}{'GB/s':>9}"
)


def describe(row: dict[str, Any]) -> str:
    """A row as a line of the table."""
    head = f"{row['case']:<18}{row['dtype']:<10}{row['direction']:<18}{row['backend']:<29}"
    if "median_ms" not in row:
        error = f"error {row['error']:.1e}, " if "error" in row else ""
        return f"{head}{error}no time: {row['reason']}"
    graph = f"{row['graph_median_ms']:>10.4f}" if "graph_median_ms" in row else f"{'':>10}"
    times = f"{row['median_ms']:>10.4f} [{row['p20_ms']:.4f}, {row['p80_ms']:.4f}]".ljust(32)
    return f"{head}{row['error']:>8.1e}{times}{graph}{row['tflops']:>9.3f}{row['gbytes_per_s']:>9.1f}"
