from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from blip3v.data.records import read_records
from blip3v.demo.clips import (
    DESCRIBE_VIDEO,
    ENLARGE,
    FRAMES_PER_SECOND,
    SPLITS,
    ClipSet,
    make_clips,
    scene_of,
)
from blip3v.demo.render import SIZE
from blip3v.demo.scenes import FRAMES
from blip3v.errors import UserError
from blip3v.video import frames_to_pixels, read_video
from tests.demo.conftest import COUNTS, SEED, silent


@pytest.mark.parametrize("split", SPLITS)
def test_decoded_frames_are_the_rendered_ones(clip_set: ClipSet, split: str) -> None:
    video = read_video(clip_set.clip(split, 1), FRAMES, lambda total, n: np.arange(n))
    assert video.total_frames == FRAMES
    assert video.fps == pytest.approx(FRAMES_PER_SECOND)
    assert video.frames.shape == (FRAMES, ENLARGE * SIZE, ENLARGE * SIZE, 3)
    rendered = scene_of(SEED, split, 1).frames()
    difference = 127.5 * (frames_to_pixels(video.frames, SIZE) - frames_to_pixels(rendered, SIZE))
    # Of 255: what compression and resizing change, mostly at edges. Frames in another order are far off.
    assert difference.abs().mean() < 2
    assert difference.square().mean().sqrt() < 6
    shifted = frames_to_pixels(video.frames[::-1], SIZE) - frames_to_pixels(rendered, SIZE)
    assert 127.5 * shifted.square().mean().sqrt() > 15


def test_annotations_say_what_the_scenes_are(clip_set: ClipSet) -> None:
    for split, count in COUNTS.items():
        scenes = [scene_of(SEED, split, index) for index in range(count)]
        captions = read_records(clip_set.captions(split))
        assert [record.turns for record in captions] == [
            ((DESCRIBE_VIDEO, scene.caption),) for scene in scenes
        ]
        assert [record.video for record in captions] == [
            clip_set.clip(split, index) for index in range(count)
        ]
        questions = read_records(clip_set.questions(split))
        if split == "train":
            assert [list(record.turns) for record in questions] == [
                [row[1:] for row in scene.questions] for scene in scenes
            ]
        else:
            found = [(str(record.kind), *record.turns[0]) for record in questions]
            assert found == [row for scene in scenes for row in scene.questions]
            assert len({record.id for record in questions}) == len(questions)


def test_scenes_depend_on_seed_split_and_index_alone() -> None:
    places = [(seed, split, index) for seed in (0, 1) for split in SPLITS for index in (0, 1)]
    captions = [scene_of(*place).caption for place in places]
    assert captions == [scene_of(*place).caption for place in places]
    assert len(set(captions)) == len(places)


def test_an_empty_split_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="validation set needs at least 1 clip"):
        make_clips(tmp_path, 1, 0, 1, 0, silent)
