"""resampler_attention against its peers: `python -m benchmarks.ops.bench_resampler_attention`.

Every row is compared with float64 first, and one that is off shows its error and no time. What cannot run is
a row with the reason. TFLOP/s and GB/s count what the op must compute and move at least, whatever a peer
does beside it; so a peer's row can be compared with the roofline as it stands.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.machine import describe_machine, slug
from benchmarks.ops.attention_peers import PEERS
from blip3v.ops.resampler_attention import Arguments
from blip3v.ops.resampler_attention.exact import Exact, exact
from blip3v.testing.cases.resampler_attention import CASES, AttentionCase, AttentionInputs
from blip3v.testing.compare import Verdict, compare
from blip3v.testing.timing import Timing, time_call

OP = "resampler_attention"
RESULTS = Path(__file__).parents[1] / "results"
DIRECTIONS = ("forward", "forward+backward")
DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}
DEFAULT_CASES = {
    "cuda": ("one_video", "one_video_hoisted", "sixteen_videos"),
    "cpu": ("model", "model_masked"),
}
ROUNDINGS = {"cuda": 1, "triton": 1}
OTHERS_ROUND = 8
"""Peers round scores too, and partial sums: at scores of 8, eight times what our kernels may be off."""


def work(case: AttentionCase, direction: str, element: int) -> tuple[float, float]:
    """(FLOP, bytes): two matrix products forward, five backward; each tensor read or written once a pass."""
    keys = case.media + case.latents
    products = 2 if direction == "forward" else 7
    flops = products * 2 * case.frames * case.heads * case.queries * keys * case.dim
    rows = case.frames * case.heads * case.dim * element
    forward = rows * (2 * case.queries + 2 * keys)  # q, out; k, v
    backward = rows * (4 * case.queries + 4 * keys)  # q, out, dout, dq; k, v, dk, dv
    lse = case.frames * case.heads * case.queries * 4
    return flops, forward + lse if direction == "forward" else forward + backward + 2 * lse


class Run:
    """One peer on one case: `forward()` without autograd, `both()` with the gradients of all five inputs."""

    def __init__(self, backend: str, inputs: AttentionInputs, scale: float) -> None:
        self.backend, self.element = backend, inputs.q.element_size()
        self.attend = PEERS[backend](inputs, scale)
        self.plain = inputs[:5]
        self.leaves = [tensor.detach().requires_grad_() for tensor in self.plain]
        self.dout = inputs.dout

    def forward(self) -> tuple[Tensor, ...]:
        with torch.no_grad():
            return (self.attend(*self.plain),)

    def both(self) -> tuple[Tensor, ...]:
        out = self.attend(*self.leaves)
        return out, *torch.autograd.grad(out, self.leaves, self.dout)

    def call(self, direction: str) -> Callable[[], tuple[Tensor, ...]]:
        return self.forward if direction == "forward" else self.both


def verify(results: tuple[Tensor, ...], truth: dict[str, Exact], roundings: int) -> list[Verdict]:
    names = [name for name in truth if name != "lse"]
    return [compare(n, t.detach(), *truth[n], roundings) for n, t in zip(names, results)]


def rows(
    case: AttentionCase, dtype: str, backends: list[str], device: str, directions: list[str], repeats: int
) -> Iterator[dict[str, Any]]:
    """The rows of one case, one after the other as they are measured."""
    inputs = case.build(DTYPES[dtype], device)
    scale = case.dim**-0.5 if case.scale is None else case.scale
    truth = exact(Arguments(*inputs[:7]), inputs.dout, scale)
    for backend in backends:
        built: Run | str
        try:
            built = Run(backend, inputs, scale)
        except Exception as error:  # a peer may refuse in any way; the reason is what the row is for
            built = _reason(error)
        for direction in directions:
            yield {
                "op": OP,
                "case": case.name,
                "dtype": dtype,
                "direction": direction,
                "backend": backend,
                **measure(built, case, direction, truth, device, repeats),
                "command": f"python -m benchmarks.ops.bench_{OP} --device {device} --case {case.name} "
                f"--dtype {dtype} --backend '{backend}' --direction {direction} --repeats {repeats}",
            }


def measure(
    run: Run | str,
    case: AttentionCase,
    direction: str,
    truth: dict[str, Exact],
    device: str,
    repeats: int,
) -> dict[str, Any]:
    """Error, then times; or the reason why there are none."""
    if isinstance(run, str):
        return {"reason": run}
    call = run.call(direction)
    try:
        results = call()
    except Exception as error:
        return {"reason": _reason(error)}
    verdicts = verify(results, truth, ROUNDINGS.get(run.backend, OTHERS_ROUND))
    row: dict[str, Any] = {"error": max(verdict.relative for verdict in verdicts)}
    if not all(verdict.ok for verdict in verdicts):
        return row | {"reason": "; ".join(str(verdict) for verdict in verdicts if not verdict.ok)}
    del results
    flops, moved = work(case, direction, run.element)
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


def describe(row: dict[str, Any]) -> str:
    head = f"{row['case']:<18}{row['dtype']:<10}{row['direction']:<18}{row['backend']:<29}"
    if "median_ms" not in row:
        error = f"error {row['error']:.1e}, " if "error" in row else ""
        return f"{head}{error}no time: {row['reason']}"
    graph = f"{row['graph_median_ms']:>10.4f}" if "graph_median_ms" in row else f"{'':>10}"
    times = f"{row['median_ms']:>10.4f} [{row['p20_ms']:.4f}, {row['p80_ms']:.4f}]".ljust(32)
    return f"{head}{row['error']:>8.1e}{times}{graph}{row['tflops']:>9.3f}{row['gbytes_per_s']:>9.1f}"


def main() -> None:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    parser = argparse.ArgumentParser(description="resampler_attention against its peers.")
    parser.add_argument("--device", default=device, choices=["cpu", "cuda"])
    parser.add_argument("--case", action="append", choices=list(CASES), help="may be repeated")
    parser.add_argument("--dtype", action="append", choices=list(DTYPES), help="may be repeated")
    parser.add_argument("--backend", action="append", choices=list(PEERS), help="may be repeated")
    parser.add_argument("--direction", action="append", choices=DIRECTIONS, help="may be repeated")
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--json", type=Path, help="result file (default: benchmarks/results/<device>/...)")
    args = parser.parse_args()

    machine = describe_machine(args.device)
    print(json.dumps(machine, indent=2))
    print(
        f"{'case':<18}{'dtype':<10}{'direction':<18}{'backend':<29}{'error':>8}"
        f"{'ms [p20, p80]':<32}{'graph ms':>10}{'TFLOP/s':>9}{'GB/s':>9}"
    )
    measured = []
    for name in args.case or DEFAULT_CASES[args.device]:
        for dtype in args.dtype or ["bfloat16"]:
            directions = args.direction or list(DIRECTIONS)
            backends = args.backend or list(PEERS)
            for row in rows(CASES[name], dtype, backends, args.device, directions, args.repeats):
                measured.append(row)
                print(describe(row), flush=True)

    path = args.json or RESULTS / slug(machine) / f"{OP}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"machine": machine, "rows": measured}, indent=2) + "\n")
    print(f"\nwritten to {path}")


if __name__ == "__main__":
    main()
