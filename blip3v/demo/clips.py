"""The demo's data set: H.264 files and the annotation files beside them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from blip3v.data.conversation import Turn
from blip3v.data.records import Record, write_records
from blip3v.demo.scenes import Scene, random_scene
from blip3v.demo.workers import Job, Report, cores, run_jobs, spread
from blip3v.errors import UserError

FRAMES_PER_SECOND = 16
# A pixel of the scene is 2 x 2 pixels of the file: yuv420p keeps one colour for each such square, so the thin
# shapes keep theirs. (decord also misreads 48 pixels: it takes the padding of such short rows for a channel.)
ENLARGE = 2
SPLITS = ("train", "validation", "test")
DESCRIBE_VIDEO = "describe the video ."


@dataclass(frozen=True)
class ClipSet:
    """Where everything is: `folder/train/00007.mp4`, `folder/train_captions.jsonl`, ..."""

    folder: Path

    def clip(self, split: str, index: int) -> Path:
        return self.folder / split / f"{index:05d}.mp4"

    def captions(self, split: str) -> Path:
        """One record per clip: a caption for stage 2."""
        return self.folder / f"{split}_captions.jsonl"

    def questions(self, split: str) -> Path:
        """Training: all questions of a clip as one conversation. Held out: a record with its kind each."""
        return self.folder / f"{split}_questions.jsonl"


def scene_of(seed: int, split: str, index: int) -> Scene:
    """The scene of a clip depends on these three alone, so the splits never share a scene and any process can
    make any clip."""
    return random_scene(np.random.default_rng([seed, SPLITS.index(split), index]))


def write_clip(path: Path, frames: np.ndarray) -> None:
    """Encode uint8 [T,H,W,3] as H.264, ENLARGE times as large, with hardly any loss."""
    import av

    height, width = (ENLARGE * side for side in frames.shape[1:3])
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=FRAMES_PER_SECOND)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.options = {"crf": "10", "preset": "ultrafast"}
        # More threads than one cost more than such small pictures.
        stream.codec_context.thread_count = 1
        for frame in frames.repeat(ENLARGE, 1).repeat(ENLARGE, 2):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


def make_clips(
    folder: Path,
    train: int,
    validation: int,
    test: int,
    seed: int,
    report: Report,
    processes: int | None = None,
) -> ClipSet:
    """Write the clips and the annotations of the three splits; what is there already is written over.

    Raises:
        UserError: PyAV is missing, or a split would be empty.
    """
    try:
        import av  # noqa: F401
    except ImportError as error:
        raise UserError("the demo writes its clips with PyAV; run: pip install 'blip3v[demo]'") from error
    counts = dict(zip(SPLITS, (train, validation, test), strict=True))
    for split, count in counts.items():
        if count < 1:
            raise UserError(f"the {split} set needs at least 1 clip, got {count}")
    clips = ClipSet(folder)
    for split in SPLITS:
        (folder / split).mkdir(parents=True, exist_ok=True)
    places = [(split, index) for split, count in counts.items() for index in range(count)]
    shares = spread(places, processes or cores())
    done = [0] * len(shares)

    def add_up(task: str, finished: float, total: float, words: str) -> None:
        done[int(task)] = int(finished)
        report("clips", sum(done), len(places), words)

    run_jobs([Job(_write_share, (number, clips, seed, share)) for number, share in enumerate(shares)], add_up)
    for split, count in counts.items():
        _annotate(clips, split, [scene_of(seed, split, index) for index in range(count)])
    return clips


def _write_share(
    report: Report, number: int, clips: ClipSet, seed: int, places: list[tuple[str, int]]
) -> None:
    for done, (split, index) in enumerate(places, start=1):
        write_clip(clips.clip(split, index), scene_of(seed, split, index).frames())
        if done % 20 == 0 or done == len(places):
            report(str(number), done, len(places), "")


def _annotate(clips: ClipSet, split: str, scenes: list[Scene]) -> None:
    """Scenes are cheap; only their frames are not, and those are not asked for here."""
    captions, questions = [], []
    for index, scene in enumerate(scenes):
        name, video = f"{split}-{index:05d}", clips.clip(split, index)
        captions.append(Record(name, (Turn(DESCRIBE_VIDEO, scene.caption),), video=video))
        turns = [Turn(question, answer) for _, question, answer in scene.questions]
        if split == "train":
            questions.append(Record(name, tuple(turns), video=video))
            continue
        for number, ((kind, _, _), turn) in enumerate(zip(scene.questions, turns, strict=True)):
            questions.append(Record(f"{name}-{number}", (turn,), video=video, kind=kind))
    write_records(clips.captions(split), captions)
    write_records(clips.questions(split), questions)
