"""Triton on a CPU: its interpreter is a matter of a whole process, so pytest is started again for it.

A test marked `interpreted` asks for that: the tests of its file (and of `files`) that `chosen` selects run in
a process with TRITON_INTERPRET=1, one file after the other, beside the tests that run here meanwhile.
"""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
import threading
from concurrent.futures import Future
from typing import NamedTuple

import pytest


class Run(NamedTuple):
    """returncode and output of a process of its own."""

    returncode: int
    output: str


class Interpreter(threading.Thread):
    """Runs the marked tests' files one after the other, until it is stopped."""

    def __init__(self, items: list[pytest.Item]) -> None:
        super().__init__(daemon=True)
        self.commands = {item.nodeid: command(item) for item in items}
        self.runs: dict[str, Future[Run]] = {nodeid: Future() for nodeid in self.commands}
        self.process: subprocess.Popen[str] | None = None
        self.stopped = False

    def run(self) -> None:
        environment = {**os.environ, "TRITON_INTERPRET": "1", "PYTEST_ADDOPTS": ""}
        for nodeid, arguments in self.commands.items():
            if self.stopped:
                return
            pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
            self.process = subprocess.Popen(arguments, env=environment, **pipes)
            output, _ = self.process.communicate()
            self.runs[nodeid].set_result(Run(self.process.returncode, output))

    def stop(self) -> None:
        self.stopped = True
        if self.process is not None:
            self.process.kill()


def command(item: pytest.Item) -> list[str]:
    marker = item.get_closest_marker("interpreted")
    assert marker is not None
    chosen = marker.kwargs.get("chosen", "triton and not interpreter")
    files = [str(item.path), *map(str, marker.kwargs.get("files", ()))]
    options = ["-q", "-k", chosen, "-m", "not gpu", "-p", "no:cacheprovider"]
    return [sys.executable, "-m", "pytest", *options, *files]


INTERPRETER = pytest.StashKey[Interpreter]()


def pytest_collection_finish(session: pytest.Session) -> None:
    marked = [item for item in session.items if item.get_closest_marker("interpreted")]
    if marked and not session.config.option.collectonly and importlib.util.find_spec("triton"):
        session.config.stash[INTERPRETER] = Interpreter(marked)
        session.config.stash[INTERPRETER].start()


def pytest_sessionfinish(session: pytest.Session) -> None:
    if INTERPRETER in session.config.stash:
        session.config.stash[INTERPRETER].stop()


@pytest.fixture
def passed_in_interpreter(request: pytest.FixtureRequest) -> int:
    """How many tests passed there; none may have failed."""
    pytest.importorskip("triton", reason="triton is not installed: it comes with a CUDA build of torch")
    run = request.config.stash[INTERPRETER].runs[request.node.nodeid].result()
    assert run.returncode == 0, run.output[-5000:]
    passed = re.search(r"(\d+) passed", run.output)
    assert passed, run.output[-2000:]
    return int(passed[1])
