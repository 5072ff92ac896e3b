from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.data.rephrase.chat_server import Server, running_server


@pytest.fixture
def server() -> Iterator[Server]:
    pytest.importorskip("openai", reason="the extra `rephrase`")
    with running_server() as server:
        yield server
