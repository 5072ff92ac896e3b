"""`blip3v profile op|stage|step`: where the time of an op, of a model's stage or of a training step goes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import tyro

from blip3v.profiling.request import Request

Print = Annotated[bool, tyro.conf.arg(name="print")]


def profile(
    request: Annotated[Request, tyro.conf.OmitArgPrefixes, tyro.conf.arg(name="")],
    tool: Literal["torch", "ncu", "nsys"] = "torch",
    out: Path | None = None,
    inside: str | None = None,
    only_print: Print = False,
) -> None:
    """Profile an op, a stage or a training step, without its warm-up.

    torch: a trace for Perfetto and a table; so far run on a CPU only. nsys, ncu: NVIDIA's tools, which need a
    GPU; not yet run on one.

    Args:
        request: what to run, and how.
        tool: who watches.
        out: folder for the trace or report (default: profiles/WHAT-NAME-...); what it replaces there is whole
            until the new one is.
        inside: ncu: only kernels launched inside the range of this label, such as blip3v.resampler.
        only_print: ncu, nsys: print the command and do not run it.
    """
    request.check()
    folder = request.folder(out)
    # torch takes seconds: only once the request is known to be good.
    if tool != "torch":
        from blip3v.profiling.nsight import run_nsight

        run_nsight(tool, request, folder, inside, only_print)
        return
    from blip3v.errors import UserError
    from blip3v.profiling.table import show
    from blip3v.profiling.torch_tool import SUMMARY, TRACE, run_torch

    if only_print or inside is not None:
        raise UserError("--print and --inside are for --tool ncu and nsys")
    show(run_torch(request, folder))
    print(f"written to {folder / TRACE} and {folder / SUMMARY}")
