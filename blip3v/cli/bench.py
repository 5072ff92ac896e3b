"""`blip3v bench LEVEL`: measures, prints a table and writes JSON, CSV, plots and a page."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

import blip3v
from blip3v.errors import UserError

Names = tyro.conf.UseAppendAction[tuple[str, ...]]


def bench(
    level: Annotated[
        Literal["ops", "stages", "tokens", "train", "decode", "end_to_end"] | None, tyro.conf.Positional
    ] = None,
    device: str | None = None,
    preset: Literal["small", "4b"] | None = None,
    op: Names = (),
    case: Names = (),
    peer: Names = (),
    dtype: Names = (),
    direction: Names = (),
    repeats: int = 20,
    out: Path | None = None,
    resume: bool = False,
    redraw: Path | None = None,
    compare: tuple[Path, Path] | None = None,
    check: Path | None = None,
    tolerance: float = 0.1,
) -> None:
    """Measure one level, every row beside what else could be used and compared with float64 first.

    Args:
        level: ops, stages (ViT, resampler, temporal encoder, prefill, decode step), tokens (how many tokens
            against latency), train (samples per second), decode (video files) or end_to_end.
        device: cpu, cuda, cuda:1, ...; a GPU where there is one if not given.
        preset: small (any CPU) or 4b (the 4B model's widths, for a GPU); by the device if not given.
        op: only this op, stage, encoder or codec; may be repeated, as all the following.
        case: only this case.
        peer: only this backend or competitor.
        dtype: bfloat16, float16 or float32.
        direction: forward or forward+backward.
        repeats: timed calls a row.
        out: folder for the results, runs/bench/<device> if not given.
        resume: go on with what an interrupted run left in that folder.
        redraw: a result file: make its table, CSV, page and plots once more, wherever it was measured.
        compare: two result files: print the ratios of the second to the first, with a noise verdict.
        check: a result file to compare this run with; ends with exit code 1 where a row became slower.
        tolerance: with --check, the slowdown that is allowed: 0.1 is 10%.
    """
    add_checkout_to_path()
    from benchmarks import run
    from benchmarks.device import device_of, preset_of
    from benchmarks.levels import Choice

    if compare is not None:
        run.print_comparison(*compare)
        return
    if redraw is not None:
        run.redraw(redraw)
        return
    if level is None:
        raise UserError("say what to measure: blip3v bench ops, stages, tokens, train, decode or end_to_end")
    chosen = device_of(device)
    selection: dict[str, Any] = {"op": op, "case": case, "peer": peer, "dtype": dtype, "direction": direction}
    choice = Choice(level, chosen, preset or preset_of(chosen), **selection, repeats=repeats)
    if not run.run(choice, out, resume=resume, check=check, tolerance=tolerance):
        sys.exit(1)


def add_checkout_to_path() -> None:
    """`benchmarks/` is part of the repository, beside the package that an editable install runs.

    Raises:
        UserError: the package was installed without it.
    """
    root = Path(blip3v.__file__).parents[1]
    if not (root / "benchmarks" / "levels.py").is_file():
        raise UserError(
            "the benchmarks come with the repository, not with the installed package: clone it, then "
            "`pip install --editable '.[bench]'`"
        )
    if importlib.util.find_spec("benchmarks") is None:
        sys.path.insert(0, str(root))
