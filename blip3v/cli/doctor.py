"""`blip3v doctor`: one table of what this machine can run, and for the rest why not and what to do."""

from __future__ import annotations

import importlib
import platform
import shutil
import subprocess
from json import dumps
from typing import TYPE_CHECKING, Any, NamedTuple

from blip3v import native
from blip3v.errors import UserError

if TYPE_CHECKING:
    from blip3v.ops.registry import Answer, Backend


class Row(NamedTuple):
    """One line of the table: what was looked at, whether it works, and the proof or the remedy."""

    item: str
    ok: bool
    detail: str


def import_row(item: str, module: str, works: str, remedy: str) -> Row:
    """Imports for real: a package that is installed and broken is a `no` with its own reason."""
    try:
        found = importlib.import_module(module)
    except ModuleNotFoundError as error:
        absent = module.startswith(error.name or module)
        return Row(item, False, f"{'not installed' if absent else f'needs {error.name}'}: {remedy}")
    except Exception as error:  # a broken binary package raises whatever it likes
        return Row(item, False, f"installed but broken, reinstall it: {' '.join(str(error).split())}")
    return Row(item, True, f"{getattr(found, '__version__', '')} {works}".strip())


def tool_row(item: str, command: list[str], marker: str, remedy: str) -> Row:
    """Runs a program and shows the line of its answer that holds `marker`."""
    path = shutil.which(command[0])
    if path is None:
        return Row(item, False, f"no {command[0]} on PATH: {remedy}")
    answer = subprocess.run([path, *command[1:]], capture_output=True, text=True, timeout=60, check=False)
    lines = [line for line in (answer.stdout or answer.stderr).splitlines() if marker in line]
    return Row(item, answer.returncode == 0, f"{lines[0] if lines else 'it answers nothing'} ({path})")


def torch_rows() -> list[Row]:
    import torch

    build = f"CUDA {torch.version.cuda}" if torch.version.cuda else "CPU only"
    rows = [Row("torch", True, f"{torch.__version__}, {build}, {torch.get_num_threads()} threads")]
    if torch.cuda.is_available():
        gpu = torch.cuda.get_device_properties(0)
        detail = f"{torch.cuda.device_count()} x {gpu.name}, sm_{gpu.major}{gpu.minor}"
        return [*rows, Row("GPU in torch", True, f"{detail}, {gpu.total_memory / 2**30:.0f} GiB")]
    why = (
        "none seen: check nvidia-smi" if torch.version.cuda else "a CPU build: install a CUDA build of torch"
    )
    return [*rows, Row("GPU in torch", False, why)]


def native_row() -> Row:
    try:
        return Row("blip3v._C", True, native.describe_build())
    except UserError as error:
        return Row("blip3v._C", False, str(error))


def op_rows() -> list[Row]:
    """Op x backend: whether it runs here at the shape of the 4B model, and where it has been verified."""
    import torch

    from blip3v.ops.registry import EVERYWHERE, OPS

    devices = ["cuda", "cpu"] if torch.cuda.is_available() else ["cpu"]
    rows = []
    for op, backends in OPS.items():
        example = importlib.import_module(f"blip3v.ops.{op}").example
        for backend in backends:
            answers = {device: _ask(backend, example(device)) for device in devices}
            able = [device for device, answer in answers.items() if answer.ok]
            if EVERYWHERE in backend.verified_on:
                verified = "verified everywhere: it is " + backend.verified_on[EVERYWHERE]
            elif backend.verified_on:
                verified = f"verified on {', '.join(backend.verified_on)}"
            else:
                verified = "verified on no device yet: never a default, only by name"
            runs = f"runs on {', '.join(able)}" if able else answers[devices[0]].reason
            rows.append(Row(f"{op}: {backend.name}", bool(able), f"{runs}; {verified}"))
    return rows


def _ask(backend: Backend, arguments: tuple[Any, ...]) -> Answer:
    from blip3v.ops.registry import Answer

    try:
        return backend.can_run(*arguments)
    except Exception as error:  # as in import_row
        return Answer(False, f"broken: {' '.join(str(error).split())}")


def examine() -> list[Row]:
    """Every row, in the order of the table. Takes seconds, because it imports what it reports on."""
    smi = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    return [
        Row("Python", True, f"{platform.python_version()} on {platform.system()} {platform.machine()}"),
        *torch_rows(),
        tool_row("NVIDIA driver", smi, "", "install the driver to use a GPU"),
        tool_row("nvcc", ["nvcc", "--version"], "release", "install the CUDA toolkit to compile the kernels"),
        native_row(),
        Row("CUDA kernels", *native.kernels_run()),
        *op_rows(),
        import_row("decoder: pyav", "av", "the default, reads everything", "pip install av"),
        import_row("decoder: decord", "decord", "on the CPU", "pip install decord"),
        import_row(
            "decoder: dali",
            "nvidia.dali",
            "VP8, VP9 and MJPEG on the CPU; its GPU path has not been run yet",
            "optional: pip install 'blip3v[dali]'",
        ),
        Row("attention: SDPA", True, "part of torch, the default"),
        import_row("attention: flex", "torch.nn.attention.flex_attention", "part of torch", "update torch"),
        import_row("attention: flash-attn", "flash_attn", "", "optional: pip install flash-attn"),
        import_row("triton", "triton", "", "optional: comes with a CUDA build of torch"),
    ]


def doctor(json: bool = False) -> None:
    """Say what this machine can run, and why not; --json prints the rows for a program."""
    rows = examine()
    if json:
        print(dumps([row._asdict() for row in rows], indent=2))
        return
    from rich import console, table

    grid = table.Table("item", "", "detail")
    for row in rows:
        grid.add_row(row.item, "yes" if row.ok else "no", row.detail)
    console.Console(markup=False).print(grid)
