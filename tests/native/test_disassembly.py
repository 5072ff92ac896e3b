"""What the compiler made of the kernels: tensor cores and TMA used, nothing in local memory.

Reads the machine code inside blip3v._C, so it needs a CUDA build and `cuobjdump`, but no GPU.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from blip3v import native
from blip3v.errors import UserError

DIRECTIONS = ("forward", "backward")


def tool() -> str | None:
    """cuobjdump of the toolkit, or of the nvidia-cuda-cuobjdump wheel."""
    spec = importlib.util.find_spec("nvidia")
    roots = (spec.submodule_search_locations if spec else None) or []
    folders = [*(Path(root) / "cu13" / "bin" for root in roots), Path("/usr/local/cuda/bin")]
    path = os.pathsep.join([os.environ.get("PATH", ""), *map(str, folders)])
    return shutil.which("cuobjdump", path=path)


def dump(option: str) -> str:
    """cuobjdump's answer about blip3v._C; its disassembler lies beside it."""
    cuobjdump = tool()
    assert cuobjdump is not None
    path = os.pathsep.join([str(Path(cuobjdump).parent), os.environ.get("PATH", "")])
    command = [cuobjdump, option, native.load().__file__]
    environment = {**os.environ, "PATH": path}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    return done.stdout


@pytest.fixture(scope="module", autouse=True)
def cuda_build():
    try:
        built = native.load().build_info()["with_cuda"]
    except UserError as error:
        pytest.skip(str(error))
    if not built:
        pytest.skip("blip3v._C is a C++-only build: there is no machine code to read")
    if tool() is None:
        pytest.skip("no cuobjdump: pip install nvidia-cuda-cuobjdump nvidia-cuda-nvdisasm")


def kernel_of(mangled: str) -> tuple[str, int] | None:
    """`..._kernelILi96EE...` -> ("forward", 96)."""
    match = re.search(r"resampler_attention\d+(forward|backward)_kernelILi(\d+)E", mangled)
    return (match[1], int(match[2])) if match else None


def every_kernel() -> set[tuple[str, int]]:
    return {(direction, d) for direction in DIRECTIONS for d in native.load().resampler_attention_head_dims}


def test_no_kernel_spills_or_uses_local_memory(capsys):
    usage = dump("--dump-resource-usage")
    shared = native.load().resampler_attention_shared_bytes()
    seen = {}
    for name, numbers in re.findall(r"Function (\S+):\s*\n\s*(REG:.*)", usage):
        if kernel := kernel_of(name):
            seen[kernel] = {key: int(value) for key, value in re.findall(r"(\w+):(\d+)", numbers)}
    assert set(seen) == every_kernel()
    with capsys.disabled():
        for (direction, d), use in sorted(seen.items()):
            print(f"\n{direction:9}{d:4}: {use['REG']} registers, {shared[direction][d]} B shared", end="")
    for kernel, use in seen.items():
        assert use["STACK"] == 0 and use["LOCAL"] == 0, (kernel, use)
        assert use["SHARED"] <= 1024, (kernel, use)  # static: what CUDA reserves, none of ours


def test_every_kernel_multiplies_on_tensor_cores_and_loads_by_tma():
    code = dump("--dump-sass")
    seen = set()
    for part in code.split("Function : ")[1:]:
        kernel = kernel_of(part.split("\n", 1)[0])
        if kernel is None:
            continue
        seen.add(kernel)
        opcodes = set(re.findall(r"^\s+/\*[0-9a-f]+\*/\s+(?:@!?U?P\d+ )?([A-Z0-9]+)", part, re.MULTILINE))
        assert {"HGMMA", "UTMALDG", "UTMASTG", "USETMAXREG"} <= opcodes, (kernel, sorted(opcodes))
        assert not {"LDL", "STL"} & opcodes, kernel
        atomics = {"ATOM", "ATOMG", "RED", "REDG", "UTMAREDG"} & opcodes
        assert not atomics, f"{kernel}: {atomics} would make the results depend on the order of arrival"
    assert seen == every_kernel()


def test_the_forward_computes_the_softmax_while_its_other_product_runs():
    """Between the wait for S(j) and the wait for O(j-1): the exponentials of a tile, two rows of 16 each.

    ptxas is free to move them behind the second wait, where nothing hides them, and did so once.
    """
    for part in dump("--dump-sass").split("Function : ")[1:]:
        kernel = kernel_of(part.split("\n", 1)[0])
        if kernel is None or kernel[0] != "forward":
            continue
        between = re.search(
            r"WARPGROUP\.DEPBAR\.LE gsb0, 0x1(.*?)WARPGROUP\.DEPBAR\.LE gsb0, 0x0", part, re.DOTALL
        )
        assert between, kernel
        assert between[1].count("MUFU.EX2") >= 32, kernel
