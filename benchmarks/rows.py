"""What every benchmark of an op shares: its cases and peers, and how they become rows.

Every row is compared with float64 first, and one that is off shows its error and no time. What cannot run is
a row with the reason. TFLOP/s and GB/s count what the op must compute and move at least, whatever a peer
does beside it; so a peer's row can be compared with the roofline as it stands. What a row holds: README.md
in this folder.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from benchmarks.ceilings import Ceilings
from benchmarks.measure import Calls, measure, reason, version_of
from benchmarks.subject import Subject

DIRECTIONS = ("forward", "forward+backward")
DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}
PRESETS = ("small", "4b")
"""`small` runs on any CPU in seconds, `4b` has the widths of the 4B model and wants a GPU."""


@dataclass(frozen=True)
class Bench:
    """An op's benchmark: its cases by name, those of each preset, its peers."""

    op: str
    cases: Mapping[str, Any]
    presets: Mapping[str, Sequence[str]]
    peers: Sequence[str]
    build: Callable[[Any, torch.dtype, str], Subject]

    def default_peers(self, preset: str) -> Sequence[str]:
        """All of them; but compiling for a CPU takes a minute a row and says nothing about a GPU."""
        return [peer for peer in self.peers if preset != "small" or "compile" not in peer]

    def rows(
        self,
        case: Any,
        dtype: str,
        peers: Sequence[str],
        device: str,
        directions: Sequence[str],
        repeats: int,
        ceilings: Ceilings | None = None,
    ) -> Iterator[dict[str, Any]]:
        """The rows of one case, one after the other as they are measured."""
        subject = self.build(case, DTYPES[dtype], device)
        for peer in peers:
            built: Calls | str
            try:
                built = Calls(subject.peer(peer), subject)
            except Exception as error:  # a peer may refuse in any way; the reason is what the row is for
                built = reason(error)
            for direction in directions:
                yield {
                    "level": "ops",
                    "op": self.op,
                    "case": case.name,
                    "dtype": dtype,
                    "direction": direction,
                    "backend": peer,
                    "version": version_of(peer),
                    **measure(built, subject, peer, direction, device, dtype, repeats, ceilings),
                    "command": f"blip3v bench ops --device {device} --op {self.op} --case {case.name} "
                    f"--dtype {dtype} --peer '{peer}' --direction {direction} --repeats {repeats}",
                }


def describe(row: dict[str, Any]) -> str:
    """A row as a line, to be printed as soon as it is measured."""
    widths = {"op": 19, "case": 18, "dtype": 9, "direction": 17, "backend": 22}
    head = " ".join(f"{row[name]:<{width}}" for name, width in widths.items()) + " "
    if "median_ms" not in row:
        error = f"error {row['error']:.1e}, " if "error" in row else ""
        return f"{head}{error}no time: {row['reason']}"
    error = f"{row['error']:>8.1e}" if "error" in row else f"{'':>8}"
    graph = f", graph {row['graph_median_ms']:.4f}" if "graph_median_ms" in row else ""
    bug = f"  BUG: {row['bug']}" if "bug" in row else ""
    return f"{head}{error}{row['median_ms']:>10.4f} ms [{row['p20_ms']:.4f}, {row['p80_ms']:.4f}]{graph}{bug}"
