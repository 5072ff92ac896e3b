"""Tests of the machine code are skipped where there is none."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.native import machine_code


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = [item for item in items if Path(item.fspath).name.startswith("test_disassembly")]
    if here and (reason := machine_code.missing()):
        for item in here:
            item.add_marker(pytest.mark.skip(reason=reason))
