"""Which decoder a name chooses."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest

from blip3v.errors import UserError
from blip3v.video import decoders
from blip3v.video.decoders import DECODERS, DEFAULT, VARIABLE, Limits, decoder_named


@pytest.fixture(autouse=True)
def all_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    for decoder in DECODERS.values():
        monkeypatch.setattr(decoder, "available", lambda: "", raising=True)


def test_the_default_is_one_of_them() -> None:
    assert DEFAULT in DECODERS and list(DECODERS) == ["pyav", "decord", "dali"]
    assert all(decoder.name == name for name, decoder in DECODERS.items())


def test_auto_is_the_default() -> None:
    assert decoder_named() is decoder_named("auto") is DECODERS[DEFAULT]


@pytest.mark.parametrize("name", DECODERS)
def test_by_name_and_by_the_environment(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert decoder_named(name) is DECODERS[name]
    monkeypatch.setenv(VARIABLE, name)
    assert decoder_named("auto") is DECODERS[name]
    other = next(key for key in DECODERS if key != name)
    assert decoder_named(other) is DECODERS[other]  # who names one gets that one


def test_an_empty_variable_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "")
    assert decoder_named("auto") is DECODERS[DEFAULT]


@pytest.mark.parametrize("name", ["ffmpeg", "PyAV", "", "auto "])
def test_unknown_names(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError) as caught:
        decoder_named(name)
    assert str(caught.value) == f"decoder {name!r} is not known; choose auto, pyav, decord, dali"


def test_an_unknown_name_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "ffmpeg")
    with pytest.raises(UserError, match=f"^{VARIABLE}=ffmpeg is not known; choose auto, pyav, decord, dali$"):
        decoder_named("auto")
    assert decoder_named("pyav") is DECODERS["pyav"]


@pytest.mark.parametrize("name", DECODERS)
def test_a_missing_package(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(DECODERS[name], "available", lambda: "it is missing; run: pip install it")
    with pytest.raises(UserError) as caught:
        decoder_named(name)
    assert str(caught.value) == f"decoder {name!r} cannot be used: it is missing; run: pip install it"
    monkeypatch.setenv(VARIABLE, name)
    with pytest.raises(
        UserError, match=f"^{VARIABLE}={name} cannot be used: it is missing; run: pip install it$"
    ):
        decoder_named("auto")


@pytest.mark.parametrize(("name", "package"), [("pyav", "av"), ("decord", "decord")])
def test_each_says_what_to_install(
    name: str, package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()  # the real answer
    monkeypatch.setitem(sys.modules, package, None)
    assert f"pip install {package}" in DECODERS[name].available()
    (tmp_path / "a.mp4").write_bytes(b"x")
    with pytest.raises(UserError, match=f"pip install {package}"):
        DECODERS[name].open(tmp_path / "a.mp4", 1, Limits())


def test_what_the_package_promises_is_there() -> None:
    assert all(hasattr(decoders, name) for name in decoders.__all__)
    assert importlib.import_module("blip3v.video.decoders") is decoders
