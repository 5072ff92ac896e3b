"""Where the time went, in numbers: by kind, by stage, by operator or kernel. Plain values for a JSON file."""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import Any

from blip3v.profiling.trace import COMPUTE, COPY, GAP, Reading

NO_RANGE = "(no range)"


def summarise(reading: Reading) -> dict[str, Any]:
    """All times are of one iteration, in milliseconds: a mean over the active ones.

    wall_ms; kinds: {compute_ms, copy_ms, gap_ms}, which add up to wall_ms; on a GPU a gap is time in which
    nothing runs there, on a CPU time in no operator. stages and operators: rows, longest first, whose
    `share`s add up to 1 each. A stage's ms is time in which it is the innermost range, its total_ms all time
    in it; its calls are how often it was entered. An operator's ms is its own, without operators inside it.
    """
    scale = 1e-3 / reading.iterations
    kinds: Counter[str] = Counter()
    stages: dict[str, Counter[str]] = defaultdict(Counter)
    operators: Counter[str] = Counter()
    totals: Counter[str] = Counter()
    for piece in reading.pieces:
        length = (piece.end - piece.start) * scale
        kinds[piece.kind] += length  # type: ignore[assignment]  # Counter is typed for whole numbers
        stages[piece.ranges[-1] if piece.ranges else NO_RANGE][piece.kind] += length  # type: ignore[assignment]
        for label in set(piece.ranges or [NO_RANGE]):
            totals[label] += length  # type: ignore[assignment]
            stages[label]  # a row even where it is never the innermost
        operators[piece.name] += length  # type: ignore[assignment]
    wall = (reading.window[1] - reading.window[0]) * scale
    entered, called = Counter(reading.entered), Counter(reading.called)
    return {
        "device": "GPU" if reading.on_gpu else "CPU",
        "iterations": reading.iterations,
        "wall_ms": wall,
        "kinds": {f"{kind}_ms": kinds[kind] for kind in (COMPUTE, COPY, GAP)},
        "stages": _longest_first(
            {
                "stage": stage,
                "calls": entered[stage] / reading.iterations,
                **{f"{kind}_ms": own[kind] for kind in (COMPUTE, COPY, GAP)},
                "ms": sum(own.values()),
                "total_ms": totals[stage],
                "share": sum(own.values()) / wall,
            }
            for stage, own in stages.items()
        ),
        "operators": _longest_first(
            {"name": name, "calls": called[name] / reading.iterations, "ms": own, "share": own / wall}
            for name, own in operators.items()
        ),
    }


def _longest_first(rows: Any) -> list[dict[str, Any]]:
    return sorted(rows, key=lambda row: (-row["ms"], str(row)))
