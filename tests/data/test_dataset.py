from __future__ import annotations

import json
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from blip3v.data.batches import Place
from blip3v.data.conversation import Turn
from blip3v.data.dataset import FeatureDataset, VideoDataset, read_still
from blip3v.data.records import Record
from blip3v.errors import UserError
from blip3v.video.decode import Video
from blip3v.video.sampling import uniform_indices

FRAMES_IN_CLIP = 40


class IndexProcessor:
    """Its "pixels" are the indices that the sampler chose, its "ids" what it was asked for."""

    def __init__(self) -> None:
        self.encoded = 0

    def encode_conversation(
        self, turns: Sequence[Turn], num_videos: int = 1, frames: int | None = None, max_length: int = 2000
    ) -> dict[str, torch.Tensor]:
        self.encoded += 1
        ids = torch.tensor([num_videos, frames or 0, max_length, len(turns)])
        return {"input_ids": ids, "labels": ids}

    def pixels(self, video: Any, num_frames: int | None = None, sampler: Any = None) -> torch.Tensor:
        if isinstance(video, Video):
            return torch.as_tensor(video.indices)
        if isinstance(video, np.ndarray):
            return torch.as_tensor(video)
        return torch.as_tensor(sampler(FRAMES_IN_CLIP, num_frames))


def _records(count: int = 5) -> list[Record]:
    return [Record(str(n), (Turn("q", "a"),), video=Path(f"{n}.mp4")) for n in range(count)]


def _frames(dataset: VideoDataset, epoch: int, index: int) -> list[int]:
    return dataset[Place(epoch, index)]["pixel_values_videos"][0].tolist()


def test_training_frames_depend_on_seed_epoch_and_index_alone() -> None:
    places = [(epoch, index) for epoch in range(3) for index in range(5)]
    dataset = VideoDataset(_records(), IndexProcessor(), 4, seed=7)
    forward = {place: _frames(dataset, *place) for place in places}
    again = VideoDataset(_records(), IndexProcessor(), 4, seed=7)
    assert {place: _frames(again, *place) for place in reversed(places)} == forward
    assert len({tuple(frames) for frames in forward.values()}) == len(places)
    for frames in forward.values():
        assert [frame // 10 for frame in frames] == [0, 1, 2, 3]  # one in each quarter of the clip
    other = VideoDataset(_records(), IndexProcessor(), 4, seed=8)
    assert _frames(other, 0, 0) != forward[0, 0]


def test_evaluation_frames_are_the_given_samplers() -> None:
    dataset = VideoDataset(_records(), IndexProcessor(), 4, sampler=uniform_indices)
    expected = uniform_indices(FRAMES_IN_CLIP, 4).tolist()
    assert _frames(dataset, 0, 0) == _frames(dataset, 3, 2) == expected
    assert torch.equal(dataset[1]["pixel_values_videos"], dataset[Place(0, 1)]["pixel_values_videos"])


def test_a_span_is_sampled_inside(clips: Path) -> None:
    turns = (Turn("q", "a"),)
    record = Record("1", turns, video=clips / "clip.mp4", span=(0.5, 1.5))
    dataset = VideoDataset([record], IndexProcessor(), 5)
    for epoch in range(10):
        frames = _frames(dataset, epoch, 0)
        assert [(frame - 5) // 2 for frame in frames] == [0, 1, 2, 3, 4]  # frames 5 to 14, two in each fifth
    outside = Record("2", turns, video=clips / "clip.mp4", span=(60.0, 61.0))
    with pytest.raises(UserError, match="does not lie in it"):
        VideoDataset([outside], IndexProcessor(), 5)[0]


def test_an_image_is_a_video_of_one_frame_and_text_has_no_pixels(tmp_path: Path) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    Image.fromarray(picture).save(tmp_path / "a.png")
    turns = (Turn("q", "a"),)
    records = [Record("i", turns, image=tmp_path / "a.png"), Record("t", turns)]
    dataset = VideoDataset(records, IndexProcessor(), 4, max_length=99)
    assert torch.equal(dataset[0]["pixel_values_videos"], torch.as_tensor(picture)[None, None])
    assert dataset[0]["input_ids"].tolist() == [1, 1, 99, 1]
    assert "pixel_values_videos" not in dataset[1]
    assert dataset[1]["input_ids"].tolist() == [0, 0, 99, 1]


def test_an_image_in_a_packed_shard(tmp_path: Path) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    Image.fromarray(picture).save(tmp_path / "a.png")
    fields = {"total_frames": 1, "fps": None, "shown": [0, 1], "indices": [0]}
    (tmp_path / "a.json").write_text(json.dumps(fields))
    with tarfile.open(tmp_path / "shard-000000.tar", "w") as tar:
        tar.add(tmp_path / "a.json", "00000000.json")
        tar.add(tmp_path / "a.png", "00000000.000.png")
    records = [Record("i", (Turn("q", "a"),), image=tmp_path / "shard-000000.tar" / "00000000")]
    dataset = VideoDataset(records, IndexProcessor(), 4)
    assert torch.equal(dataset[0]["pixel_values_videos"], torch.as_tensor(picture)[None, None])
    assert np.array_equal(read_still(tmp_path / "a.png"), picture)


def test_a_broken_image_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"no picture")
    dataset = VideoDataset([Record("i", (Turn("q", "a"),), image=tmp_path / "a.png")], IndexProcessor(), 4)
    with pytest.raises(UserError, match=r"cannot read image .*a\.png"):
        dataset[0]


def test_features_of_a_clip_serve_all_its_questions() -> None:
    features = torch.randn(2, 3, 6, 8).to(torch.bfloat16)
    processor = IndexProcessor()
    dataset = FeatureDataset(_records(3), processor, features, keys=[1, 0, 1])
    for index, row in enumerate([1, 0, 1]):
        sample = dataset[Place(4, index)]
        assert sample["video_features"].dtype == torch.float32
        assert torch.equal(sample["video_features"], features[row][None].float())
        assert sample["input_ids"].tolist() == [1, 3, 2000, 1]
    dataset[Place(5, 0)]
    assert processor.encoded == 3  # texts are encoded once
    assert len(dataset) == 3


def test_features_by_path_of_the_video_and_by_order() -> None:
    features = torch.randn(5, 3, 6, 8)
    by_path = FeatureDataset(_records(), IndexProcessor(), {f"{n}.mp4": features[n] for n in range(5)})
    in_order = FeatureDataset(_records(), IndexProcessor(), features)
    for index in range(5):
        assert torch.equal(by_path[index]["video_features"], features[index][None])
        assert torch.equal(in_order[index]["video_features"], features[index][None])


def test_missing_features_are_found_at_once() -> None:
    with pytest.raises(UserError, match=r"record 4 has no features under '4\.mp4'"):
        FeatureDataset(_records(), IndexProcessor(), {f"{n}.mp4": torch.zeros(1, 1, 1) for n in range(4)})
    with pytest.raises(UserError, match="record 2 has no features under 2"):
        FeatureDataset(_records(), IndexProcessor(), torch.zeros(2, 1, 1, 1))
    with pytest.raises(UserError, match="1 keys for 5 records"):
        FeatureDataset(_records(), IndexProcessor(), torch.zeros(2, 1, 1, 1), keys=[0])


def test_fingerprint_is_the_one_of_the_records() -> None:
    features = torch.zeros(5, 1, 1, 1)
    video, stored = (
        VideoDataset(_records(), IndexProcessor(), 4),
        FeatureDataset(_records(), IndexProcessor(), features),
    )
    assert video.fingerprint == stored.fingerprint
    assert VideoDataset(_records(4), IndexProcessor(), 4).fingerprint != video.fingerprint
