"""Mutation tests of kernels: a fault is put into a copy of the source, compiled for the simulator and run.

A kernel's list of faults is data (tests/ops/faults_*.py). Each fault is caught when the kernel no longer
compiles, breaks a rule of the machine, hangs, gives wrong numbers, or gives other bits in another schedule.
What the simulator cannot show is marked `invisible` with the reason, and must then really not be caught:
otherwise the reason is wrong.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
SECONDS = 120
"""A probe that runs longer hangs."""


class Fault:
    """Texts of the sources and what stands there instead; each must occur exactly once in all of them."""

    def __init__(self, name: str, *edits: tuple[str, str], invisible: str = "") -> None:
        self.name, self.edits, self.invisible = name, edits, invisible

    def apply(self, texts: Mapping[str, str]) -> dict[str, str]:
        """{source: text} with the fault in it."""
        changed = dict(texts)
        for old, new in self.edits:
            times = sum(text.count(old) for text in changed.values())
            if times != 1:
                raise ValueError(f"fault {self.name!r}: {old!r} occurs {times} times, need once")
            changed = {source: text.replace(old, new) for source, text in changed.items()}
        return changed


@dataclass(frozen=True)
class Outcome:
    """What became of one fault; `how` says what noticed it."""

    fault: Fault
    caught: bool
    how: str


class Compiler:
    """The C++ compiler as csrc/sim/CMakeLists.txt calls it, with what all kernels share.

    `folder` receives the simulator itself, its binding, and the headers of CuTe precompiled.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        simulator = _setup().find_simulator(os.environ)
        cuda, cutlass = simulator.cuda_include, simulator.cutlass
        self.flags = ["-std=c++17", "-O1", "-fPIC", "-march=x86-64-v3", "-fno-strict-aliasing", "-Wno-psabi"]
        self.flags += ["-ftrivial-auto-var-init=pattern", "-fpermissive", "-w", "-DBLIP3V_SIM"]
        self.flags += ["-DCUTE_SM90_EXTENDED_MMA_SHAPES_ENABLED", f"-I{ROOT / 'csrc/sim/overlay'}"]
        self.after = [f"-I{ROOT / 'csrc'}"]
        system = [cuda, cuda / "cccl", cutlass / "include", cutlass / "tools" / "util" / "include"]
        for path in (*system, sysconfig.get_path("include"), _pybind11()):
            self.after += ["-isystem", str(path)]
        machine = (path for path in (ROOT / "csrc/sim").glob("*.cpp") if path.name != "bindings.cpp")
        for source in (*machine, ROOT / "csrc/common/tensor.cpp", ROOT / "csrc/common/bind_tensor.cpp"):
            self.object(source, folder, ["-O2"])
        header = folder / "precompiled.h"
        names = (f'"{ROOT}/csrc/sim/prelude.h"', "<cutlass/arch/barrier.h>", "<cute/tensor.hpp>")
        header.write_text("".join(f"#include {name}\n" for name in names))
        self.run(["-x", "c++-header", str(header), "-o", f"{header}.gch"])
        self.kernel = ["-include", str(header)]

    def object(self, source: Path, folder: Path, options: Sequence[str] = ()) -> None:
        """Compiles into an object file of `folder`."""
        output = folder / f"{source.parent.name}_{source.name}.o"
        self.run([*options, "-c", "-x", "c++", str(source), "-o", str(output)])

    def run(self, arguments: Sequence[str]) -> None:
        """A fault's folder comes before csrc/, so that its own copy of the source is found first."""
        first = [option for option in arguments if option.startswith("-I")]
        program = sysconfig.get_config_var("CXX") or "g++"
        command = [program.split()[0], *self.flags, *first, *self.after, *arguments]
        subprocess.run(command, check=True, capture_output=True, text=True, cwd=self.folder)


class Workshop:
    """Compiles one kernel for the simulator, with and without faults, in a folder of its own.

    Args:
        sources: the files of csrc/ that may hold a fault.
        runner: C++ source that includes `sources` and exports what `probe` calls.
        probe: Python file and what it is given after the compiled library; it prints what it noticed and ends
            with status 1, or ends with 0.
        flags: further ones for the compiler.
        once: C++ sources without faults in them, compiled once and linked to each.
        kernels_once: kernels without faults in them, likewise.
    """

    def __init__(
        self,
        compiler: Compiler,
        folder: Path,
        sources: Sequence[str],
        runner: Path,
        probe: Sequence[str],
        flags: Sequence[str] = (),
        once: Iterable[Path] = (),
        kernels_once: Iterable[Path] = (),
    ) -> None:
        self.compiler, self.folder, self.runner, self.probe = compiler, folder, runner, probe
        self.flags = flags
        self.sources = {source: (ROOT / "csrc" / source).read_text() for source in sources}
        for source in once:
            compiler.object(source, folder, ["-O2", *flags])
        for source in kernels_once:
            compiler.object(source, folder, [*compiler.kernel, *flags])
        folders = (folder, compiler.folder)
        self.objects = [str(path) for place in folders for path in sorted(place.glob("*.o"))]

    def judge(self, fault: Fault) -> Outcome:
        """Compiles and probes one fault."""
        own = self.folder / "".join(c if c.isalnum() else "_" for c in fault.name)
        for source, text in fault.apply(self.sources).items():
            changed = own / source
            changed.parent.mkdir(parents=True, exist_ok=True)
            changed.write_text(text)
        library = own / "kernel.so"
        try:
            kernel = [*self.compiler.kernel, *self.flags, "-x", "c++", str(self.runner), "-x", "none"]
            self.compiler.run([f"-I{own}", "-shared", *kernel, *self.objects, "-o", str(library)])
        except subprocess.CalledProcessError as error:
            lines = [line for line in error.stderr.splitlines() if "error" in line]
            # From the word on: the path before it says where this machine keeps its headers.
            reason = lines[0][lines[0].index("error") :] if lines else error.stderr[-200:]
            return Outcome(fault, True, f"does not compile: {reason}")
        program, *given = self.probe
        command = [sys.executable, program, str(library), *given]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=SECONDS, env=environment, cwd=ROOT
            )
        except subprocess.TimeoutExpired:
            return Outcome(fault, True, f"still running after {SECONDS} s")
        finally:
            shutil.rmtree(own)
        if done.returncode not in (0, 1):
            return Outcome(fault, True, f"crash, exit status {done.returncode}: {done.stderr[-200:]}")
        return Outcome(fault, done.returncode == 1, done.stdout.strip())

    def judge_all(self, faults: Iterable[Fault]) -> list[Outcome]:
        """One compiler and one probe per core."""
        with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
            return list(pool.map(self.judge, faults))


def _pybind11() -> str:
    import pybind11

    return pybind11.get_include()


def _setup():  # type: ignore[no-untyped-def]
    """setup.py as a module: it knows where the CUDA headers and CUTLASS are."""
    spec = importlib.util.spec_from_file_location("blip3v_setup", ROOT / "setup.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module
