"""Requests: what is refused before anything is built, and the way to another process and back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tyro

from blip3v.errors import UserError
from blip3v.profiling.request import Request


@pytest.mark.parametrize(
    "request_",
    [
        Request("op", "token_learner"),
        Request(
            "op", "ttm_read", case="narrow", backend="cuda", direction="forward+backward", dtype="bfloat16"
        ),
        Request("stage", "prefill", preset="4b", tokens=128, text_tokens=32, device="cpu"),
        Request("step", batch=4, warmup=1, iterations=2, encoder="token_learner"),
    ],
)
def test_arguments_are_read_back_as_the_same_request(request_: Request) -> None:
    request_.check()
    assert tyro.cli(Request, args=request_.arguments()) == request_


def test_only_what_is_not_a_default_is_said() -> None:
    assert Request("step").arguments() == ["step"]
    assert Request("op", "ttm_read", text_tokens=7).arguments() == ["op", "ttm_read", "--text-tokens", "7"]


def test_the_folder_says_what_was_run() -> None:
    request = Request("op", "ttm_read", case="narrow", direction="forward+backward")
    assert request.folder(None) == Path("profiles/op-ttm_read-case-narrow-direction-forward+backward")
    assert request.folder(Path("here")) == Path("here")


@pytest.mark.parametrize(
    "words, reason",
    [
        (
            {"what": "op", "name": "tokenlearner"},
            "no op 'tokenlearner': choose one of resampler_attention, token_l",
        ),
        ({"what": "op"}, "no op '': choose one of"),
        (
            {"what": "stage", "name": "encoder"},
            "no stage 'encoder': choose one of vision, resampler, temporal",
        ),
        ({"what": "step", "name": "vision"}, "a step has no name"),
        ({"what": "step", "warmup": 0}, "--warmup must be at least 1"),
        ({"what": "step", "text_tokens": 0}, "--text-tokens must be at least 1"),
    ],
)
def test_refusals(words: dict[str, Any], reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        Request(**words).check()
