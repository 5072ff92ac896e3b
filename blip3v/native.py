"""The way to the compiled modules: `blip3v._C`, what it was built with and whether its kernels run here, and
`blip3v._sim` for tests.

`python -m blip3v.native` prints one line about the build.
"""

from __future__ import annotations

import functools
import importlib
from types import ModuleType

from blip3v.errors import UserError

REINSTALL = "run `pip install .` (or `pip install -e .`) in the source folder, with the Python you use now"


@functools.cache
def load() -> ModuleType:
    """The module `blip3v._C`.

    Raises:
        UserError: it was not built, or was built for another Python.
    """
    try:
        return importlib.import_module("blip3v._C")
    except ImportError as error:
        raise UserError(f"blip3v._C cannot be imported ({error}): {REINSTALL}") from error


@functools.cache
def load_simulator() -> ModuleType:
    """The module `blip3v._sim`, which runs the same kernels on the CPU for tests.

    Raises:
        UserError: it was not built, was built for another Python, or this CPU cannot run it.
    """
    try:
        return importlib.import_module("blip3v._sim")
    except ImportError as error:
        remedy = "build it with BLIP3V_SIM=1, see CONTRIBUTING.md"
        raise UserError(f"blip3v._sim cannot be imported ({error}): {remedy}") from error


def describe_build() -> str:
    """One line: version, C++ only or CUDA with its versions, compiler."""
    info = load().build_info()
    if not info["with_cuda"]:
        return f"{info['version']}, C++ only, {info['compiler']}"
    archs = ", ".join(f"sm_{arch}" for arch in info["cuda_archs"])
    cuda = f"CUDA {info['cuda_version']} for {archs}, CUTLASS {info['cutlass_version']}"
    return f"{info['version']}, {cuda}, {info['compiler']}"


@functools.cache
def kernels_run(device: int = 0) -> tuple[bool, str]:
    """Whether the compiled kernels run on CUDA device number `device`, and the proof or why not.

    The first call launches a small kernel and waits for it; the answer is kept for the life of the process.
    """
    try:
        module = load()
        if module.build_info()["with_cuda"] and module.device_count() == 0:
            return False, "this machine has an NVIDIA driver but shows no GPU: look at CUDA_VISIBLE_DEVICES"
        return True, module.self_test(device)
    except (UserError, RuntimeError) as error:
        return False, str(error).removeprefix("blip3v: ")


if __name__ == "__main__":
    print(f"blip3v._C {describe_build()}")
