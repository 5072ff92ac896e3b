from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from blip3v.data.batches import Place
from blip3v.data.dataset import VideoDataset
from blip3v.data.mixture import read_mixture
from blip3v.data.pack import shards
from blip3v.data.pack.plan import Plan
from blip3v.data.pack.run import FAILED, RECORDS, STATE, pack
from blip3v.errors import UserError
from blip3v.models.configuration import blip3_video_tiny
from blip3v.models.processing import Blip3VideoProcessor
from blip3v.models.tokenizer import word_tokenizer
from blip3v.video import frames_to_pixels, read_video
from blip3v.video.sampling import training_sampler
from tests.data.pack.conftest import contents, video, write_lines

SIZE, FRAMES, SEED, EPOCHS = 32, 4, 5, 3


@pytest.fixture(scope="module")
def processor() -> Blip3VideoProcessor:
    tokenizer = word_tokenizer(["What is it? a red cat"])
    return Blip3VideoProcessor.from_config(
        blip3_video_tiny(vocab_size=len(tokenizer) - 3, image_size=SIZE, num_frames=FRAMES), tokenizer
    )


def batches(path: Path, processor: Blip3VideoProcessor, epochs: int = EPOCHS) -> list[dict[str, Any]]:
    """What training gets of a mixture, in batches of records that fit together (an image has one frame)."""
    dataset = VideoDataset(read_mixture(path, SEED).records, processor, FRAMES, seed=SEED)
    made = []
    for epoch in range(epochs):
        samples = [dataset[Place(epoch, index)] for index in range(len(dataset))]
        by_frames: dict[int, list] = {}
        for sample in samples:
            frames = sample["pixel_values_videos"].shape[1] if "pixel_values_videos" in sample else 0
            by_frames.setdefault(frames, []).append(sample)
        made += [processor.collate(group) for _, group in sorted(by_frames.items())]
    return made


def through_jpeg(pixels: torch.Tensor) -> torch.Tensor:
    """What is left of each frame once it was a JPEG of quality 90."""
    before = (pixels.double() * 127.5 + 127.5).round().to(torch.uint8).flatten(0, -4).permute(0, 2, 3, 1)
    frames = []
    for image in before.contiguous().numpy():
        file = io.BytesIO()
        Image.fromarray(image).save(file, "JPEG", quality=90)
        frames.append(np.asarray(Image.open(file)))
    return frames_to_pixels(np.stack(frames), SIZE).reshape(pixels.shape)


@pytest.mark.usefixtures("serial")
@pytest.mark.parametrize(("format", "size"), [("png", SIZE), ("png", 0), ("jpg", SIZE)])
def test_training_gets_the_same_batches(
    plan_of: Callable[..., Plan],
    corpus: Path,
    tmp_path: Path,
    processor: Blip3VideoProcessor,
    format: str,
    size: int,
) -> None:
    plan = plan_of(frames=FRAMES, epochs=EPOCHS, seed=SEED, format=format, size=size, clips_per_shard=3)
    result = pack(plan, tmp_path / "out")
    assert (result.records, result.clips, result.failed, result.shards) == (18, 8, 0, 3)
    expected, got = batches(corpus, processor), batches(tmp_path / "out" / RECORDS, processor)
    assert len(got) == len(expected) == 3 * EPOCHS
    for one, other in zip(expected, got):
        assert one.keys() == other.keys()
        for key in one:
            if key == "pixel_values_videos" and format == "jpg":
                assert torch.equal(through_jpeg(one[key]), other[key])
            else:
                assert torch.equal(one[key], other[key]), key


@pytest.mark.usefixtures("serial")
def test_frames_are_those_of_decoding(plan_of: Callable[..., Plan], tmp_path: Path) -> None:
    """Also with jpg: the indices say which frames a packed clip gave."""
    plan = plan_of(frames=FRAMES, epochs=EPOCHS, seed=SEED)
    pack(plan, tmp_path / "out")
    packed = read_mixture(tmp_path / "out" / RECORDS).records
    for index, (before, after) in enumerate(zip(plan.records, packed, strict=True)):
        assert (before.turns, before.kind, before.source) == (after.turns, after.kind, after.source)
        assert after.id.split("#")[0] == before.id
        assert (before.video is None, before.image is None) == (after.video is None, after.image is None)
        if before.video is None:
            continue
        for epoch in range(EPOCHS):
            sampler = [training_sampler(SEED, epoch, index) for _ in range(2)]
            decoded = read_video(before.video, FRAMES, sampler[0], before.span)
            stored = read_video(after.video, FRAMES, sampler[1])
            assert decoded.indices.tolist() == stored.indices.tolist()
            assert (decoded.fps, decoded.total_frames) == (stored.fps, stored.total_frames)


@pytest.mark.usefixtures("serial")
def test_evenly_spread_frames_give_the_nearest(plan_of: Callable[..., Plan], tmp_path: Path) -> None:
    pack(plan_of(frames=8), tmp_path / "out")
    clip = read_video(
        tmp_path / "out" / "shard-000000.tar" / "00000000", 40, lambda total, n: np.arange(total)
    )
    assert clip.indices.tolist() == sorted([2, 7, 12, 17, 22, 27, 32, 37] * 5)
    assert clip.total_frames == 40


@pytest.mark.usefixtures("serial")
def test_ids_are_made_different(plan_of: Callable[..., Plan], tmp_path: Path) -> None:
    """Of copies for a weight, where one record has the name that a copy would get; not of two sources."""
    video(tmp_path / "x.mp4", 3)
    for name, ids in (("one", ["a", "a#2"]), ("two", ["a", "b"])):
        write_lines(tmp_path / f"{name}.jsonl", [{"video": "x.mp4", "id": id} for id in ids])
    tables = [
        f'[[source]]\nformat="records"\nname="{name}"\nannotations="{name}.jsonl"\nweight={weight}\n'
        for name, weight in (("one", 2), ("two", 1))
    ]
    (tmp_path / "mix.toml").write_text("".join(tables))
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / ".17.shard-000000.tar.frames.npz").touch()  # of a run that was killed
    pack(plan_of(tmp_path / "mix.toml", frames=1), tmp_path / "out")
    read = read_mixture(tmp_path / "out" / RECORDS)
    assert [(record.id, record.source) for record in read.records] == [
        ("a", "one"), ("a#2", "one"), ("a#3", "one"), ("a#2#2", "one"), ("a", "two"), ("b", "two"),
    ]  # fmt: skip
    assert not list((tmp_path / "out").glob(".[0-9]*"))


def broken_corpus(folder: Path, good: int, broken: int) -> Path:
    video(folder / "good.mp4", 6)
    records = []
    for number in range(good + broken):
        name = f"{number}.mp4"
        if number % 3 == 1 and broken:
            (folder / name).write_bytes(b"no video")
            broken -= 1
        else:
            os.link(folder / "good.mp4", folder / name)
        records += [{"video": name}, {"video": name}]
    write_lines(folder / "r.jsonl", records)
    return folder / "r.jsonl"


@pytest.mark.usefixtures("serial")
def test_a_broken_clip_costs_itself(plan_of: Callable[..., Plan], tmp_path: Path) -> None:
    plan = plan_of(broken_corpus(tmp_path, 5, 2), frames=2, clips_per_shard=2)
    told: list[tuple[int, int]] = []
    result = pack(plan, tmp_path / "out", on_clip=lambda *counts: told.append(counts))
    assert (result.clips, result.failed, result.records, result.left_out) == (5, 2, 10, 4)
    assert told == [(1, 0), (2, 1), (3, 1), (4, 1), (5, 2), (6, 2), (7, 2)]
    failed = [json.loads(line) for line in (tmp_path / "out" / FAILED).read_text().splitlines()]
    assert [(one["clip"], one["video"], one["records"]) for one in failed] == [
        ("00000001", "1.mp4", 2), ("00000004", "4.mp4", 2),
    ]  # fmt: skip
    assert "1.mp4" in failed[0]["reason"]
    names = [record.id for record in read_mixture(tmp_path / "out" / RECORDS).records]
    assert names == ["0", "1", "4", "5", "6", "7", "10", "11", "12", "13"]


@pytest.mark.usefixtures("serial")
def test_where_most_fail_it_stops(plan_of: Callable[..., Plan], tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    names = [f"{number}.mp4" for number in range(30)]
    for name in names:
        (tmp_path / name).write_bytes(b"no video")
    write_lines(tmp_path / "r.jsonl", [{"video": name} for name in names])
    with pytest.raises(UserError, match="20 of the first 20 clips cannot be packed"):
        pack(plan_of(tmp_path / "r.jsonl"), tmp_path / "out")
    assert len((tmp_path / "out" / FAILED).read_text().splitlines()) == 20
    write_lines(tmp_path / "few.jsonl", [{"video": name} for name in names[:3]])
    with pytest.raises(UserError, match=r"no clip could be packed; .*failed\.jsonl says why"):
        pack(plan_of(tmp_path / "few.jsonl"), tmp_path / "few")


@pytest.mark.usefixtures("serial")
def test_other_settings_and_records_are_refused(
    plan_of: Callable[..., Plan], corpus: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    pack(plan_of(frames=3), out)
    before = contents(out)
    with pytest.raises(
        UserError, match="frames was 3 and is 4, quality was 90 and is 80; give the same again"
    ):
        pack(plan_of(frames=4, quality=80), out)
    with pytest.raises(UserError, match="the records are others"):
        pack(plan_of(corpus.parent / "records.jsonl", frames=3), out)
    pack(plan_of(frames=3), out)
    assert contents(out) == before
    (out / STATE).unlink()
    with pytest.raises(UserError, match=r"holds records\.jsonl or shards, and no pack\.json"):
        pack(plan_of(frames=3), out)


class Died(BaseException):
    """In the place of a signal that nothing can catch."""


@pytest.mark.usefixtures("serial")
@pytest.mark.parametrize("after", [False, True])
def test_death_at_every_file_and_clip(
    plan_of: Callable[..., Plan], tmp_path: Path, after: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Dies just before or after the n-th renaming of a file, for every n, and goes on until it is through."""
    plan = plan_of(broken_corpus(tmp_path, 4, 2), frames=2, clips_per_shard=2)
    pack(plan, tmp_path / "undisturbed")
    out, replace, deaths = tmp_path / "out", os.replace, 0

    # A run begins with what the one before did not finish, so the n-th dies at its n-th file.
    for last in range(30):
        renamed = 0

        def dying(source: Path, target: Path, last: int = last) -> None:
            nonlocal renamed
            renamed += 1
            if renamed <= last or after:
                replace(source, target)
            if renamed > last:
                raise Died

        monkeypatch.setattr(shards.os, "replace", dying)
        try:
            pack(plan, out)
        except Died:
            deaths += 1
        else:
            break
    monkeypatch.setattr(shards.os, "replace", replace)
    assert deaths > 3
    pack(plan, out)
    assert contents(out) == contents(tmp_path / "undisturbed")


@pytest.mark.usefixtures("serial")
def test_killed_and_started_again_it_writes_the_same_bytes(
    plan_of: Callable[..., Plan], tmp_path: Path
) -> None:
    """The real command with its processes, and a signal that nothing can catch, against one process."""
    path = broken_corpus(tmp_path, 30, 2)
    pack(plan_of(path, size=48, frames=3, clips_per_shard=2), tmp_path / "once")
    out = tmp_path / "out"
    command = [sys.executable, "-m", "blip3v.cli.main", "data", "pack", str(path), "--out", str(out)]
    command += ["--size", "48", "--frames", "3", "--clips-per-shard", "2", "--workers", "2"]
    deaths = 0
    for shard, pause in ((0, 0.0), (4, 0.01)):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        while process.poll() is None and not (out / f"shard-{shard:06d}.tar").exists():
            time.sleep(0.002)
        time.sleep(pause)
        process.send_signal(signal.SIGKILL)
        deaths += process.wait(20) == -signal.SIGKILL
    assert deaths == 2 and not (out / RECORDS).exists()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, timeout=60)
    assert contents(out) == contents(tmp_path / "once")
    assert len(read_mixture(out / RECORDS).records) == 60
