"""Runs a perhaps faulty kernel in the simulator: `python THIS LIBRARY OP DIRECTION`, in the root.

LIBRARY is a module like blip3v._sim; the problems are those of tests/ops/problems_<op>.py. Ends with status 1
at the first thing that is wrong, and prints it; with 0 when nothing was noticed.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from collections.abc import Iterable
from types import ModuleType

from blip3v.testing import simulator
from blip3v.testing.compare import compare
from tests.ops.problem import Problem


def load(library: str) -> ModuleType:
    """`library` under the name by which the package finds it; of its op it may hold only what is called."""
    sys.setdlopenflags(os.RTLD_LAZY)
    spec = importlib.util.spec_from_file_location("blip3v._sim", library)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    sys.modules["blip3v._sim"] = module
    return module


def notice(module: ModuleType, problems: Iterable[Problem]) -> str:
    """The first thing that is wrong, or nothing."""
    for problem in problems:
        first = None
        random = [("random", seed) for seed in range(1, problem.seeds + 1)]
        for name, seed in [("forward", 1), ("reverse", 1), *random]:
            # Ordinary writes that reach wgmma and TMA late show a missing fence; those that do at once
            # show that a buffer is written too early. Hardware may do either.
            late = name != "random" or seed % 2 == 0
            where = f"{problem.name} {name} {seed}"
            try:
                with simulator.schedule(name, seed, check_proxy=late):  # type: ignore[arg-type]
                    results = problem.run(module)
            except RuntimeError as error:
                return f"{where}: {error}"
            for output, (got, value, terms) in results.items():
                verdict = compare(output, got, value, terms, problem.roundings)
                if not verdict.ok:
                    return f"{where}: {verdict}"
            bits = {output: got.clone() for output, (got, _, _) in results.items()}
            if first is not None and not all(first[output].equal(bits[output]) for output in bits):
                return f"{where}: other bits than in the schedule before"
            first = bits
    return ""


def main() -> None:
    library, op, direction = sys.argv[1:]
    problems = importlib.import_module(f"tests.ops.problems_{op}").problems(direction)
    found = notice(load(library), problems)
    print(found)
    sys.exit(1 if found else 0)


if __name__ == "__main__":
    main()
