"""A small corpus of everything that a record can be about, and packing without processes."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

from blip3v.data.isolated import Outcome
from blip3v.data.mixture import read_mixture
from blip3v.data.pack import run
from blip3v.data.pack.encode import encode_clip
from blip3v.data.pack.plan import Plan, Settings
from blip3v.errors import UserError

RATE = 10


def scene(number: int, width: int, height: int) -> np.ndarray:
    """A ramp of colours with a square that moves: pictures that JPEG is made for."""
    image = np.zeros((height, width, 3), np.uint8)
    image[..., 0] = np.linspace(0, 255, width)
    image[..., 1] = np.linspace(0, 255, height)[:, None]
    image[..., 2] = 4 * number
    left = number % (width - 12)
    image[8:20, left : left + 12] = 255 - 5 * (number % 40)
    return image


def video(path: Path, count: int, width: int = 64, height: int = 48) -> None:
    codec, pixels = ("gif", "rgb8") if path.suffix == ".gif" else ("libx264", "yuv420p")
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=RATE)
        stream.width, stream.height, stream.pix_fmt = width, height, pixels
        for number in range(count):
            frame = av.VideoFrame.from_ndarray(scene(number, width, height), format="rgb24")
            container.mux(stream.encode(frame.reformat(format=pixels)))
        container.mux(stream.encode())


def write_lines(path: Path, records: list[dict[str, Any]]) -> None:
    lines = []
    for number, fields in enumerate(records):
        turns = [{"from": "human", "value": "What is it?"}, {"from": "gpt", "value": "a red cat"}]
        lines.append(json.dumps({"id": number, **fields, "conversations": turns}) + "\n")
    path.write_text("".join(lines))


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A mixture of clips that share a video, with spans, a GIF, folder, image, text, and copies by weight."""
    folder = tmp_path_factory.mktemp("corpus")
    video(folder / "a.mp4", 40)
    video(folder / "b.mp4", 25, 40, 72)
    video(folder / "c.gif", 9)
    video(folder / "short.mp4", 3)
    (folder / "frames").mkdir()
    for number in range(12):
        Image.fromarray(scene(number, 64, 48)).save(folder / "frames" / f"{number}.png")
    Image.fromarray(scene(3, 50, 30)).save(folder / "still.png")
    records: list[dict[str, Any]] = [
        {"video": "a.mp4"}, {"video": "b.mp4"}, {"video": "a.mp4", "span": [0.5, 2]}, {"image": "still.png"},
        {}, {"video": "a.mp4"}, {"video": "c.gif"}, {"video": "frames"}, {"video": "short.mp4"},
        {"video": "a.mp4", "span": [0.5, 2]}, {"video": "b.mp4", "span": [1, 1.05]}, {"image": "still.png"},
    ]  # fmt: skip
    write_lines(folder / "records.jsonl", records)
    path = folder / "mix.toml"
    path.write_text('[[source]]\nformat = "records"\nannotations = "records.jsonl"\nweight = 1.5\n')
    return path


@pytest.fixture
def plan_of(corpus: Path) -> Callable[..., Plan]:
    """plan_of(size=32, ...) -> the plan of the corpus, or of another mixture."""

    def make(mixture: Path = corpus, **settings: Any) -> Plan:
        chosen = Settings(**{"size": 32, **settings})
        return Plan(read_mixture(mixture, chosen.seed).records, mixture.parent, chosen)

    return make


@pytest.fixture
def serial(monkeypatch: pytest.MonkeyPatch) -> None:
    """Clips are encoded in this process: no waiting for others to start."""

    def outcomes(plan: Plan, jobs: Any, workers: int, timeout: float) -> Iterator[Outcome]:
        for job in jobs:
            try:
                yield Outcome(job, encode_clip(job), "", 0.0)
            except UserError as error:
                yield Outcome(job, None, str(error), 0.0)

    monkeypatch.setattr(run, "_outcomes", outcomes)


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a folder but the indices, which say when a shard was written."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if not path.name.endswith(".npz")}
