"""Runs Nsight Systems or Nsight Compute on a workload, or says which command would, and why it did not."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Literal

import torch

from blip3v.errors import UserError
from blip3v.profiling import ncu, nsys
from blip3v.profiling.request import Request

Tool = Literal["ncu", "nsys"]
MADE_BY = {"ncu": "Nsight Compute", "nsys": "Nsight Systems"}


def command(tool: Tool, request: Request, output: Path, inside: str | None = None) -> list[str]:
    """The whole command; its report is `output` with the tool's suffix.

    Raises:
        UserError: a filter by range with a tool that shows all of them.
    """
    workload = [sys.executable, "-m", "blip3v.profiling.run", *request.arguments()]
    if tool == "ncu":
        return ncu.command(workload, output, inside)
    if inside is not None:
        raise UserError("--inside is for --tool ncu; nsys shows every range")
    return nsys.command(workload, output)


def missing(tool: Tool, request: Request) -> str:
    """Why the tool cannot be run here, or nothing."""
    if shutil.which(tool) is None:
        return f"no {tool} on PATH: install {MADE_BY[tool]}, or use --tool torch"
    if request.device == "cpu" or not torch.cuda.is_available():
        return f"{tool} watches a GPU, and there is none here: use --tool torch"
    return ""


def run_nsight(
    tool: Tool, request: Request, folder: Path, inside: str | None = None, only_print: bool = False
) -> None:
    """Prints the command; unless that is all, runs it, and prints the tables of its report.

    Raises:
        UserError: the tool or a GPU is missing, or the tool failed.
    """
    module = ncu if tool == "ncu" else nsys
    print(shlex.join(command(tool, request, folder / "report", inside)))
    why_not = missing(tool, request)
    if only_print:
        print(f"not run: {why_not or '--print only prints it'}")
        return
    if why_not:
        raise UserError(f"the command above was not run: {why_not}; --print only prints it")
    folder.mkdir(parents=True, exist_ok=True)
    # An interrupted run leaves no report under the final name.
    aside, report = folder / ".report", folder / f"report{module.SUFFIX}"
    if subprocess.run(command(tool, request, aside, inside), check=False).returncode:
        raise UserError(f"{tool} failed, see its messages above")
    if not aside.with_name(aside.name + module.SUFFIX).exists():
        raise UserError(f"{tool} wrote no report: it saw no kernel between the start and stop of the profile")
    os.replace(f"{aside}{module.SUFFIX}", report)
    subprocess.run(module.tables(folder / "report"), check=False)
    print(f"written to {report}")
