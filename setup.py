"""Builds the native modules `blip3v._C` and, when asked, `blip3v._sim` with CMake and ninja; everything else
stands in pyproject.toml.

Environment:
    BLIP3V_CUDA   auto (CUDA where nvcc is found, the default), 0 (C++ only), 1 (CUDA or an error)
    BLIP3V_SIM    0 (the default), auto, 1: blip3v._sim, which runs the kernels on the CPU for tests. It needs
                  the CUDA toolkit's headers, no GPU; auto builds it where they are, and says why where not
    CUDA_HOME     the CUDA toolkit; without it CUDA_PATH, then nvcc on PATH, then /usr/local/cuda
    CUTLASS_PATH  a CUTLASS checkout; without it the headers of the nvidia-cutlass wheel
    MAX_JOBS      compiler processes at a time; without it one per core, as far as 4 GiB each allow
"""

from __future__ import annotations

import importlib.util
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

SIMULATOR = "blip3v._sim"
MIN_CUDA = (12, 3)  # the first toolkit whose compiler takes every sm_90a instruction that CUTLASS 4 uses


class BuildError(RuntimeError):
    """The build cannot go on; the message says what to change."""


@dataclass(frozen=True)
class Toolkit:
    """A CUDA toolkit: its compiler and its version."""

    nvcc: Path
    version: tuple[int, int]


def find_nvcc(env: Mapping[str, str]) -> Path | None:
    """The nvcc to use, or None. A toolkit named in the environment must hold one."""
    for name in ("CUDA_HOME", "CUDA_PATH"):
        if env.get(name):
            nvcc = Path(env[name]) / "bin" / "nvcc"
            if not nvcc.is_file():
                raise BuildError(f"blip3v: {name}={env[name]} holds no bin/nvcc: correct it or unset it")
            return nvcc
    found = shutil.which("nvcc", path=env.get("PATH")) or shutil.which("nvcc", path="/usr/local/cuda/bin")
    return Path(found) if found else None


def inspect_toolkit(nvcc: Path) -> Toolkit:
    """Asks nvcc for its version and for the toolkit it belongs to, because nvcc on PATH may be a wrapper."""
    version = subprocess.run([nvcc, "--version"], capture_output=True, text=True)
    release = re.search(r"release (\d+)\.(\d+)", version.stdout)
    if version.returncode != 0 or release is None:
        raise BuildError(f"blip3v: {nvcc} --version does not work: repair it or set BLIP3V_CUDA=0")
    plan = subprocess.run([nvcc, "--dryrun", "-x", "cu", "-c", os.devnull], capture_output=True, text=True)
    top = re.search(r"^#\$ TOP=(.+)$", plan.stderr, re.MULTILINE)
    real = Path(top.group(1)).resolve() / "bin" / "nvcc" if top else nvcc
    return Toolkit(real if real.is_file() else nvcc, (int(release.group(1)), int(release.group(2))))


def choose_toolkit(env: Mapping[str, str]) -> tuple[Toolkit | None, str]:
    """The toolkit to build with, or None and the reason why this build is C++ only."""
    wish = env.get("BLIP3V_CUDA", "") or "auto"
    if wish not in ("auto", "0", "1"):
        raise BuildError(f"blip3v: BLIP3V_CUDA={wish} is not understood: use auto, 0 or 1")
    if wish == "0":
        return None, "BLIP3V_CUDA=0"
    nvcc = find_nvcc(env)
    if nvcc is None:
        if wish == "1":
            raise BuildError("blip3v: BLIP3V_CUDA=1 but no nvcc: install the CUDA toolkit or set CUDA_HOME")
        return None, "no nvcc found"
    toolkit = inspect_toolkit(nvcc)
    if toolkit.version < MIN_CUDA:
        have, need = (".".join(map(str, v)) for v in (toolkit.version, MIN_CUDA))
        if wish == "1":
            raise BuildError(f"blip3v: {nvcc} is CUDA {have}: sm_90a code needs {need} or newer")
        return None, f"{nvcc} is CUDA {have}, older than {need}"
    return toolkit, ""


@dataclass(frozen=True)
class Simulator:
    """What blip3v._sim is compiled with: the folders that hold `cuda_runtime.h` and CUTLASS's `include/`."""

    cuda_include: Path
    cutlass: Path


def choose_simulator(env: Mapping[str, str]) -> tuple[Simulator | None, str]:
    """What to build blip3v._sim with, or None and the reason why it is not built."""
    wish = env.get("BLIP3V_SIM", "") or "0"
    if wish not in ("auto", "0", "1"):
        raise BuildError(f"blip3v: BLIP3V_SIM={wish} is not understood: use auto, 0 or 1")
    if wish == "0":
        return None, "BLIP3V_SIM=0"
    try:
        return find_simulator(env), ""
    except BuildError as error:
        if wish == "1":
            raise
        return None, str(error).removeprefix("blip3v: ")


def find_simulator(env: Mapping[str, str]) -> Simulator:
    """The headers for blip3v._sim, or a BuildError that says what is missing."""
    if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        raise BuildError("blip3v: the simulator runs on x86-64 Linux only: set BLIP3V_SIM=0")
    nvcc = find_nvcc(env)
    if nvcc is None:
        raise BuildError(
            "blip3v: no CUDA headers, because no nvcc: install the CUDA toolkit or set CUDA_HOME"
        )
    toolkit = inspect_toolkit(nvcc)
    if toolkit.version < MIN_CUDA:
        have, need = (".".join(map(str, v)) for v in (toolkit.version, MIN_CUDA))
        raise BuildError(f"blip3v: {nvcc} is CUDA {have}: the simulator needs the headers of {need} or newer")
    root = toolkit.nvcc.parent.parent
    for include in (root / "include", root / "targets" / "x86_64-linux" / "include"):
        if (include / "cuda_runtime.h").is_file():
            return Simulator(include, find_cutlass(env))
    raise BuildError(f"blip3v: {root} holds no include/cuda_runtime.h: install the toolkit's headers")


def find_cutlass(env: Mapping[str, str]) -> Path:
    """The folder that holds CUTLASS's `include/`."""
    if env.get("CUTLASS_PATH"):
        root, source = Path(env["CUTLASS_PATH"]), f"CUTLASS_PATH={env['CUTLASS_PATH']}"
    else:
        spec = importlib.util.find_spec("cutlass_library")
        if spec is None or spec.origin is None:
            raise BuildError("blip3v: CUTLASS not found: pip install nvidia-cutlass or set CUTLASS_PATH")
        root, source = Path(spec.origin).parent / "source", "the nvidia-cutlass wheel"
    if not (root / "include" / "cutlass" / "version.h").is_file():
        raise BuildError(f"blip3v: {source} holds no include/cutlass/version.h: is it a CUTLASS checkout?")
    return root.resolve()


def max_jobs(env: Mapping[str, str]) -> int:
    """Compiler processes at a time; a CUTLASS instantiation takes up to 3.3 GB of memory."""
    text = env.get("MAX_JOBS", "")
    if text:
        if not text.isdigit() or int(text) < 1:
            raise BuildError(f"blip3v: MAX_JOBS={text} is not understood: use a whole number from 1 up")
        return int(text)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return max(1, min(len(os.sched_getaffinity(0)), memory // (4 << 30)))


class CMakeBuild(build_ext):
    """Configures CMakeLists.txt and lets ninja put the module where setuptools expects it."""

    def build_extension(self, ext: Extension) -> None:
        if ext.name == SIMULATOR:
            return  # CMake makes it beside blip3v._C
        toolkit, reason = choose_toolkit(os.environ)
        simulator, no_simulator = choose_simulator(os.environ)
        jobs = max_jobs(os.environ)
        import pybind11  # after the settings are checked: a wrong one is reported wherever setup.py runs

        source = Path(__file__).resolve().parent
        package_dir = Path(self.get_ext_fullpath(ext.name)).resolve().parent
        build_dir = Path(self.build_temp).resolve() / ext.name
        options = {
            "BLIP3V_VERSION": self.distribution.get_version(),
            "BLIP3V_WITH_CUDA": "ON" if toolkit else "OFF",
            "BLIP3V_SIM": "ON" if simulator else "OFF",
            "CMAKE_BUILD_TYPE": "Release",
            "CMAKE_LIBRARY_OUTPUT_DIRECTORY": str(package_dir),
            "Python_EXECUTABLE": sys.executable,
            "pybind11_DIR": pybind11.get_cmake_dir(),
        }
        if toolkit:
            options["CMAKE_CUDA_COMPILER"] = str(toolkit.nvcc)
            options["CUTLASS_DIR"] = str(find_cutlass(os.environ))
        if simulator:
            options["CUTLASS_DIR"] = str(simulator.cutlass)
            options["CUDA_INCLUDE_DIR"] = str(simulator.cuda_include)
        if self.editable_mode:
            for stale in source.glob("blip3v/_sim.*.so"):  # of an earlier build: its kernels may be others
                stale.unlink()
        # --fresh: the tools of an isolated build live in a new folder each time, a kept cache names the old.
        configure = ["cmake", "--fresh", "-GNinja", "-S", str(source), "-B", str(build_dir)]
        subprocess.run([*configure, *(f"-D{key}={value}" for key, value in options.items())], check=True)
        subprocess.run(["cmake", "--build", str(build_dir), "-j", str(jobs)], check=True)
        if toolkit:
            what = f"CUDA {'.'.join(map(str, toolkit.version))} for sm_90a, {toolkit.nvcc}"
        else:
            what = f"C++ only, because {reason}"
        print(f"blip3v: built blip3v._C {self.distribution.get_version()} with {what}", flush=True)
        if simulator:
            print(f"blip3v: built blip3v._sim with the headers in {simulator.cuda_include}", flush=True)
        else:
            print(f"blip3v: no blip3v._sim, because {no_simulator}", flush=True)


if __name__ == "__main__":
    # Optional: where the simulator is not built, there is no file, and setuptools must not miss it.
    modules = [Extension("blip3v._C", sources=[]), Extension(SIMULATOR, sources=[], optional=True)]
    setup(ext_modules=modules, cmdclass={"build_ext": CMakeBuild})
