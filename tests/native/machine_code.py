"""The machine code inside blip3v._C, function by function. Needs a CUDA build and cuobjdump, no GPU."""

from __future__ import annotations

import functools
import importlib.util
import os
import re
import shutil
import subprocess
from pathlib import Path

from blip3v import native
from blip3v.errors import UserError


def tool() -> str | None:
    """cuobjdump of the toolkit, or of the nvidia-cuda-cuobjdump wheel."""
    spec = importlib.util.find_spec("nvidia")
    roots = (spec.submodule_search_locations if spec else None) or []
    folders = [*(Path(root) / "cu13" / "bin" for root in roots), Path("/usr/local/cuda/bin")]
    path = os.pathsep.join([os.environ.get("PATH", ""), *map(str, folders)])
    return shutil.which("cuobjdump", path=path)


def missing() -> str:
    """Why there is nothing to read, or nothing."""
    try:
        built = native.load().build_info()["with_cuda"]
    except UserError as error:
        return str(error)
    if not built:
        return "blip3v._C is a C++-only build: there is no machine code to read"
    if tool() is None:
        return "no cuobjdump: pip install nvidia-cuda-cuobjdump nvidia-cuda-nvdisasm"
    return ""


@functools.cache
def _dump(option: str) -> str:
    """cuobjdump's answer about blip3v._C; its disassembler lies beside it."""
    cuobjdump = tool()
    assert cuobjdump is not None
    path = os.pathsep.join([str(Path(cuobjdump).parent), os.environ.get("PATH", "")])
    command = [cuobjdump, option, native.load().__file__]
    environment = {**os.environ, "PATH": path}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    return done.stdout


def resources() -> dict[str, dict[str, int]]:
    """Mangled name of every function -> REG, STACK, SHARED, LOCAL, ..."""
    functions = re.findall(r"Function (\S+):\s*\n\s*(REG:.*)", _dump("--dump-resource-usage"))
    return {
        name: {key: int(value) for key, value in re.findall(r"(\w+):(\d+)", numbers)}
        for name, numbers in functions
    }


def code() -> dict[str, str]:
    """Mangled name of every function -> its disassembly."""
    parts = (part.split("\n", 1) for part in _dump("--dump-sass").split("Function : ")[1:])
    return {name.strip(): text for name, text in parts}


def opcodes(text: str) -> set[str]:
    """The instructions that occur, without modifiers: HGMMA, LDG, ..."""
    return set(re.findall(r"^\s+/\*[0-9a-f]+\*/\s+(?:@!?U?P\d+ )?([A-Z0-9]+)", text, re.MULTILINE))
