from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest

from blip3v.data.pack.plan import Plan
from blip3v.data.pack.run import FAILED, pack
from blip3v.video import read_video
from tests.data.pack.conftest import scene, write_lines

pytest.importorskip("nvidia.dali", reason="NOT TESTED: DALI is not installed (the `dali` extra)")


def encode(path: Path, codec: str, count: int) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for number in range(count):
            frame = av.VideoFrame.from_ndarray(scene(number, 64, 48), format="rgb24")
            container.mux(stream.encode(frame.reformat(format="yuv420p")))
        container.mux(stream.encode())


def test_dali_packs_what_pyav_packs(plan_of: Callable[..., Plan], tmp_path: Path) -> None:
    """VP9, which DALI decodes without a GPU; a broken file; MPEG-4, which it does not; a span."""
    encode(tmp_path / "a.webm", "libvpx-vp9", 30)
    encode(tmp_path / "b.webm", "libvpx-vp9", 21)
    encode(tmp_path / "c.avi", "mpeg4", 9)
    (tmp_path / "broken.webm").write_bytes((tmp_path / "a.webm").read_bytes()[:300])
    records = [{"video": "a.webm"}, {"video": "broken.webm"}, {"video": "b.webm"}, {"video": "c.avi"}]
    write_lines(tmp_path / "r.jsonl", [*records, {"video": "a.webm", "span": [0.5, 1.5]}])
    for decoder in ("dali", "pyav"):
        plan = plan_of(tmp_path / "r.jsonl", frames=20, format="png", decoder=decoder)
        result = pack(plan, tmp_path / decoder, workers=1)
        assert (result.clips, result.failed) == (4, 1)
        (failed,) = [json.loads(line) for line in (tmp_path / decoder / FAILED).read_text().splitlines()]
        assert failed["video"] == "broken.webm" and "broken.webm" in failed["reason"]
    for key in ("00000000", "00000002", "00000003", "00000004"):
        dali, pyav = (
            read_video(tmp_path / name / "shard-000000.tar" / key, 20, lambda total, n: np.arange(total))
            for name in ("dali", "pyav")
        )
        assert dali.indices.tolist() == pyav.indices.tolist() and dali.fps == pyav.fps
        assert np.abs(dali.frames.astype(int) - pyav.frames).mean() <= 3
