from __future__ import annotations

import pytest
import torch

from blip3v.errors import UserError
from blip3v.profiling.request import Request
from blip3v.profiling.workloads import Repeated, build, device_of, dtype_of


def test_says_how_many_are_done_after_each() -> None:
    calls: list[str] = []
    done: list[int] = []
    Repeated(lambda: calls.append("call")).run(3, done.append)
    assert (len(calls), done) == (3, [1, 2, 3])


def test_a_gpu_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert device_of(Request("step")) == "cpu"
    with pytest.raises(UserError, match="torch sees no GPU"):
        build(Request("step", device="cuda"))


def test_defaults_of_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert device_of(Request("step")) == "cuda" and device_of(Request("step", device="cpu")) == "cpu"
    assert dtype_of(Request("step"), "cuda") == torch.bfloat16
    assert dtype_of(Request("step"), "cpu") == torch.float32
    assert dtype_of(Request("step", dtype="float32"), "cuda") == torch.float32
