"""Many files at once: each its own frames or its own error, in the order asked for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks.decode.files.painted import read_numbers
from benchmarks.decode.formats import ROWS
from blip3v.errors import UserError
from blip3v.video.decoders import DECODERS, DecodeError, Limits
from blip3v.video.decoders.batch import read_batch

NAMES = ("vp9.webm", "h264_turned_90.mp4", "mjpeg.avi", "hevc_open_gop.mp4")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("batch")
    return [ROWS[name](folder / name).path for name in NAMES]


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("decoder", DECODERS)
def test_every_decoder_gives_each_file_its_frames(decoder: str, threads: int, files: list[Path]) -> None:
    if why := DECODERS[decoder].available():
        pytest.skip(f"NOT TESTED: {why}")
    asked = [[3, 0], range(30), [29, 29], [11]]
    broken = files[0].with_name("broken.mp4")
    broken.write_bytes(b"no video")
    requests = [*zip(files, asked), (broken, [0]), (files[0].with_name("gone.mp4"), [0]), (files[1], [])]
    results = read_batch(requests, decoder, threads)
    assert len(results) == len(requests)
    for indices, frames in zip(asked, results):
        assert isinstance(frames, np.ndarray) and read_numbers(frames) == list(indices)
    assert results[1].shape == (30, 64, 96, 3)  # type: ignore[union-attr]
    for result, name in ((results[4], "broken.mp4"), (results[5], "gone.mp4")):
        assert isinstance(result, DecodeError) and name in str(result)
    assert isinstance(results[6], np.ndarray) and results[6].shape == (0, 64, 96, 3)


def test_what_is_asked_wrongly_is_said(files: list[Path]) -> None:
    with pytest.raises(IndexError, match="frames 0 to 29"):
        read_batch([(files[0], [0]), (files[1], [30])])
    with pytest.raises(UserError, match="choose auto, pyav"):
        read_batch([(files[0], [0])], "vlc")
    (refused,) = read_batch([(files[0], [0])], limits=Limits(max_frames=10))
    assert isinstance(refused, DecodeError) and "more than 10 frames" in str(refused)
    assert read_batch([]) == []
