"""Records -> samples: token ids with labels, and the pixels or the stored features of the video."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor
from torch.utils.data import Dataset

from blip3v.data.batches import Place
from blip3v.data.conversation import Turn
from blip3v.data.records import Record, fingerprint
from blip3v.errors import UserError
from blip3v.video.decode import read_still, read_video
from blip3v.video.sampling import Sampler, single_frame_indices, training_sampler
from blip3v.video.span import Span

Sample = dict[str, Tensor]


class SampleProcessor(Protocol):
    """What a dataset needs of `Blip3VideoProcessor`."""

    def encode_conversation(
        self, turns: Sequence[Turn], num_videos: int = 1, frames: int | None = None, max_length: int = 2000
    ) -> Sample:
        """{"input_ids": int64 [L], "labels": int64 [L]}, with `frames` frames per video."""
        ...

    def pixels(self, video: Any, num_frames: int | None = None, sampler: Sampler = ...) -> Tensor:
        """float32 [T,3,H,W] of a path, of uint8 frames [N,H,W,3], or of a `Video` that is read already."""
        ...


class VideoDataset(Dataset[Sample]):
    """Decodes the video of a record when the record is asked for.

    A sample is {"input_ids" [L], "labels" [L], "pixel_values_videos" [1,T,3,H,W]}, ready for the processor's
    `collate`; a record without video has no pixels, an image is a video of one frame. Of a record with a
    span, frames inside the span are sampled.

    Args:
        records: what `read_records` or `read_mixture` gives.
        processor: text and pixels as the model reads them.
        num_frames: T, frames per video.
        sampler: which frames, for evaluation. None is training: uniform segments with a random place in each,
            decided by (seed, epoch, index) alone, so neither the order of batches nor the workers change it.
        seed: of the training sampler.
        max_length: tokens of a conversation at most.
    """

    def __init__(
        self,
        records: Sequence[Record],
        processor: SampleProcessor,
        num_frames: int,
        sampler: Sampler | None = None,
        seed: int = 0,
        max_length: int = 2000,
    ) -> None:
        self.records, self.processor, self.num_frames = records, processor, num_frames
        self.sampler, self.seed, self.max_length = sampler, seed, max_length

    @property
    def fingerprint(self) -> str:
        """Changes when the records do; a run does not resume on other data."""
        return fingerprint(self.records)

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, place: int | Place) -> Sample:
        """The sample at `Place(epoch, sample)`; a plain index is epoch 0."""
        epoch, index = place if isinstance(place, tuple) else (0, place)
        record = self.records[index]
        if record.image is not None:
            pixels = self.processor.pixels(read_still(record.image)[None], 1, single_frame_indices)
        elif record.video is not None:
            pixels = self._pixels(record.video, record.span, self._sampler(epoch, index))
        else:
            return self.processor.encode_conversation(record.turns, 0, None, self.max_length)
        text = self.processor.encode_conversation(record.turns, 1, len(pixels), self.max_length)
        return {**text, "pixel_values_videos": pixels[None]}

    def _pixels(self, video: Path, span: Span | None, sampler: Sampler) -> Tensor:
        if span is None:
            return self.processor.pixels(video, self.num_frames, sampler)
        return self.processor.pixels(read_video(video, self.num_frames, sampler, span), self.num_frames)

    def _sampler(self, epoch: int, index: int) -> Sampler:
        if self.sampler is not None:
            return self.sampler
        return training_sampler(self.seed, epoch, index)


class FeatureDataset(Dataset[Sample]):
    """Samples whose frozen vision features are kept in memory; texts are encoded once.

    A sample is {"input_ids" [L], "labels" [L], "video_features" float32 [1,T,S,dim]}, ready for the
    processor's `collate`.

    Args:
        records: each about one video or image.
        processor: as in `VideoDataset`.
        features: `encode_frames` of each clip, [T,S,dim]: a mapping, or a tensor [clips,T,S,dim]. Any
            floating dtype (bf16 halves the memory).
        keys: for each record its key (or row) in `features`; several questions may share one clip. By default
            the path of the record's video as text in a mapping, and the record's own number in a tensor.
        max_length: tokens of a conversation at most.

    Raises:
        UserError: a record whose features are missing.
    """

    def __init__(
        self,
        records: Sequence[Record],
        processor: SampleProcessor,
        features: Mapping[Any, Tensor] | Tensor,
        keys: Sequence[Hashable] | None = None,
        max_length: int = 2000,
    ) -> None:
        if keys is None:
            in_order = isinstance(features, Tensor)
            keys = range(len(records)) if in_order else [str(record.media) for record in records]
        if len(keys) != len(records):
            raise UserError(f"{len(keys)} keys for {len(records)} records; give one key per record")
        known = range(len(features)) if isinstance(features, Tensor) else features
        for record, key in zip(records, keys, strict=True):
            if key not in known:
                raise UserError(f"record {record.id} has no features under {key!r}; encode its clip first")
        self.records, self.processor, self.features, self.keys = records, processor, features, keys
        self.max_length = max_length
        self._texts: dict[int, Sample] = {}

    @property
    def fingerprint(self) -> str:
        """Changes when the records do; a run does not resume on other data."""
        return fingerprint(self.records)

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, place: int | Place) -> Sample:
        """The sample at `Place(epoch, sample)`; features are the same in every epoch."""
        index = place[1] if isinstance(place, tuple) else place
        features = self.features[self.keys[index]]  # type: ignore[index]
        text = self._texts.get(index)
        if text is None:
            text = self.processor.encode_conversation(
                self.records[index].turns, 1, len(features), self.max_length
            )
            self._texts[index] = text
        return {**text, "video_features": features[None].float()}
