from __future__ import annotations

import json
import os
from pathlib import Path

import av
import numpy as np
import pytest

from blip3v.cli.data import data
from blip3v.data.mixture import read_mixture
from blip3v.errors import UserError
from blip3v.video import read_video


def test_pack(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    with av.open(str(tmp_path / "0.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for number in range(20):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 12 * number, np.uint8), format="rgb24")
            container.mux(stream.encode(frame.reformat(format="yuv420p")))
        container.mux(stream.encode())
    os.link(tmp_path / "0.mp4", tmp_path / "1.mp4")
    (tmp_path / "2.mp4").write_bytes(b"no video")
    turns = [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]
    lines = [json.dumps({"id": n, "video": f"{n}.mp4", "conversations": turns}) + "\n" for n in range(3)]
    (tmp_path / "r.jsonl").write_text("".join(lines))
    out = tmp_path / "out"
    command = ["pack", str(tmp_path / "r.jsonl"), "--out", str(out), "--workers", "1"]
    data([*command, "--frames", "4", "--size", "32", "--quality", "95"])
    printed = capsys.readouterr().out
    assert "2 clips in 1 shards, 2 records in" in printed and "1 clips failed, with 1 records; see" in printed
    state = json.loads((out / "pack.json").read_text())
    assert state["settings"]["quality"] == 95 and state["counts"]["clips"] == 2
    for record in read_mixture(out).records:
        clip = read_video(record.video, 4)
        assert clip.frames.shape == (4, 32, 32, 3) and clip.indices.tolist() == [2, 7, 12, 17]
        middle = clip.frames[:, 16, 16].mean(axis=1)
        assert np.abs(middle - 12 * clip.indices).max() < 4
    with pytest.raises(UserError, match=r"frames was 4 and is 8, .*epochs was 0 and is 2"):
        data([*command, "--size", "32", "--quality", "95", "--epochs", "2"])
    with pytest.raises(UserError, match="'x' is not known"):
        data([*command, "--decoder", "x"])
