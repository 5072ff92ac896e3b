"""What the frozen vision encoder sees in every clip, kept for the training that follows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import SiglipVisionModel

from blip3v.data.records import read_records
from blip3v.demo.clips import SPLITS, ClipSet
from blip3v.demo.model import FRAMES, demo_config, stage1_weights
from blip3v.demo.render import SIZE
from blip3v.demo.workers import Job, Report, cores, run_jobs, spread
from blip3v.errors import UserError
from blip3v.models.vision import encode_frames
from blip3v.video import frames_to_pixels, read_video

CLIPS_AT_ONCE = 16


def demo_vision_encoder() -> SiglipVisionModel:
    """The vision encoder of stage 1, which every model of the demo shares and none trains further."""
    encoder = SiglipVisionModel(demo_config("none", FRAMES * 16).vision_config)
    prefix = "vision_encoder."
    weights = {
        key.removeprefix(prefix): value for key, value in stage1_weights().items() if key.startswith(prefix)
    }
    encoder.load_state_dict(weights)
    return encoder.eval()


@torch.inference_mode()
def encode_clips(encoder: SiglipVisionModel, paths: Sequence[Path]) -> Tensor:
    """FRAMES uniform frames of each file, decoded and encoded: bf16 [clips,FRAMES,patches,dim]."""
    pixels = torch.stack([frames_to_pixels(read_video(path, FRAMES).frames, SIZE) for path in paths])
    return encode_frames(encoder, pixels).bfloat16()


def make_features(clips: ClipSet, folder: Path, report: Report, processes: int | None = None) -> int:
    """Encode all clips into safetensors files in `folder`; returns how many clips there are.

    On the CPU whatever the machine: decoding is most of the work.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.safetensors"):
        old.unlink()
    paths = [path for split in SPLITS for path in sorted({*_clips_of(clips, split)})]
    shares = spread(paths, processes or cores())
    done = [0] * len(shares)

    def add_up(task: str, finished: float, total: float, words: str) -> None:
        done[int(task)] = int(finished)
        report("features", sum(done), len(paths), words)

    run_jobs([Job(_encode_share, (number, share, folder)) for number, share in enumerate(shares)], add_up)
    return len(paths)


def load_features(folder: Path) -> dict[str, Tensor]:
    """Path of a clip as text -> bf16 [FRAMES,patches,dim]; the files are mapped, so processes share memory.

    Raises:
        UserError: nothing there.
    """
    features: dict[str, Tensor] = {}
    for path in sorted(folder.glob("*.safetensors")):
        features |= load_file(path)
    if not features:
        raise UserError(f"no features in {folder}; run make_features first")
    return features


def _clips_of(clips: ClipSet, split: str) -> list[Path]:
    return [record.video for record in read_records(clips.captions(split)) if record.video is not None]


def _encode_share(report: Report, number: int, paths: Sequence[Path], folder: Path) -> None:
    torch.set_num_threads(1)
    encoder = demo_vision_encoder()
    encoded: dict[str, Tensor] = {}
    for begin in range(0, len(paths), CLIPS_AT_ONCE):
        some = paths[begin : begin + CLIPS_AT_ONCE]
        # A copy each: safetensors refuses views that share their memory.
        rows = encode_clips(encoder, some)
        encoded |= {str(path): row.clone() for path, row in zip(some, rows, strict=True)}
        report(str(number), len(encoded), len(paths), "")
    save_file(encoded, folder / f"{number:03d}.safetensors")
