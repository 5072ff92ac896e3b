"""Short real videos in the containers of the published data sets, made once."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from blip3v.data.media import MediaFolder
from blip3v.data.readers import FORMATS
from blip3v.data.skipping import Skipped

RATE, COUNT = 10, 20
"""Every clip has 2 s."""
CODECS = {".mp4": ("libx264", "yuv420p"), ".avi": ("mpeg4", "yuv420p"), ".gif": ("gif", "rgb8")}


@pytest.fixture(scope="session")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with clip.mp4, clip.avi, clip.gif and the folder `frames` of COUNT JPEG files."""
    folder = tmp_path_factory.mktemp("clips")
    images = [np.full((48, 64, 3), 10 * number, np.uint8) for number in range(COUNT)]
    for suffix, (codec, pixels) in CODECS.items():
        with av.open(str(folder / f"clip{suffix}"), "w") as container:
            stream = container.add_stream(codec, rate=RATE)
            stream.width, stream.height, stream.pix_fmt = 64, 48, pixels
            for image in images:
                frame = av.VideoFrame.from_ndarray(image, format="rgb24").reformat(format=pixels)
                container.mux(stream.encode(frame))
            container.mux(stream.encode())
    (folder / "frames").mkdir()
    for number, image in enumerate(images, start=1):
        Image.fromarray(image).save(folder / "frames" / f"c01_{number:04d}.jpeg")
    return folder


@pytest.fixture
def put(clips: Path, tmp_path: Path) -> Callable[..., Path]:
    """put("media/v_1.mp4", ...) copies the clip of that suffix (a folder of frames without one) there."""

    def copy(*names: str) -> Path:
        for name in names:
            target = tmp_path / name
            target.parent.mkdir(parents=True, exist_ok=True)
            if target.suffix in CODECS:
                shutil.copy(clips / f"clip{target.suffix}", target)
            else:
                shutil.copytree(clips / "frames", target)
        return tmp_path

    return copy


@pytest.fixture
def read(tmp_path: Path) -> Callable[..., tuple[list, list]]:
    """read("tgif", path, ...) -> (items, skipped), with media in tmp_path/media."""

    def run(name: str, annotations: Path, check: bool = True, **options: object) -> tuple[list, list]:
        entries = list(FORMATS[name].read(annotations, MediaFolder(tmp_path / "media", check), **options))
        return (
            [entry for entry in entries if not isinstance(entry, Skipped)],
            [entry for entry in entries if isinstance(entry, Skipped)],
        )

    return run
