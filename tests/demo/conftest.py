"""A handful of clips, their features and their answers, made once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from torch import Tensor

from blip3v.demo.clips import ClipSet, make_clips
from blip3v.demo.features import load_features, make_features

COUNTS = {"train": 5, "validation": 2, "test": 3}
SEED = 3


def silent(task: str, done: float, total: float, words: str) -> None:
    """A `report` that nobody reads."""


@pytest.fixture(scope="session")
def clip_set(tmp_path_factory: pytest.TempPathFactory) -> ClipSet:
    folder = tmp_path_factory.mktemp("clips")
    return make_clips(folder, *COUNTS.values(), SEED, silent, processes=2)


@pytest.fixture(scope="session")
def feature_folder(clip_set: ClipSet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("features")
    assert make_features(clip_set, folder, silent, processes=2) == sum(COUNTS.values())
    return folder


@pytest.fixture(scope="session")
def features(feature_folder: Path) -> dict[str, Tensor]:
    return load_features(feature_folder)


@pytest.fixture(scope="session")
def report() -> Callable[[str, float, float, str], None]:
    return silent
