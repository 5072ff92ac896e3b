"""From a video and a text to the tensors that the model takes, for generation and for training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from transformers import BatchFeature, PreTrainedTokenizerFast, ProcessorMixin

from blip3v.data.conversation import SYSTEM_PROMPT, format_prompt, render
from blip3v.data.packing import IGNORE, pack
from blip3v.errors import UserError
from blip3v.models.collation import PIXELS, concatenate, join_videos, pad_left, pad_right
from blip3v.models.configuration import Blip3VideoConfig
from blip3v.models.token_count import video_token_count
from blip3v.models.tokenizer import END, IMAGE, prepare_tokenizer
from blip3v.video import Sampler, Video, frames_to_pixels, read_video, uniform_indices


class Blip3VideoProcessor(ProcessorMixin):
    """Tokenizer, frame sampling and pixels in one object, by the conventions of transformers.

    `save_pretrained` writes the tokenizer and processor_config.json; `from_pretrained` reads both back.

    Args:
        tokenizer: a fast tokenizer that `prepare_tokenizer` has been through.
        image_size: side of the square frames that the vision encoder takes, in pixels.
        video_token_spec: what decides how many tokens a video becomes, from
            `Blip3VideoConfig.video_token_spec()`.
        system_prompt: the system message of every prompt; empty for none.

    Raises:
        UserError: the tokenizer has no `<image>`.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerFast,
        image_size: int,
        video_token_spec: Mapping[str, Any],
        system_prompt: str = SYSTEM_PROMPT,
        chat_template: str | None = None,
    ) -> None:
        if IMAGE not in tokenizer.get_vocab():
            raise UserError(
                f"the tokenizer has no {IMAGE}; pass it through blip3v.models.tokenizer.prepare_tokenizer"
            )
        self.image_size = image_size
        self.video_token_spec = dict(video_token_spec)
        self.system_prompt = system_prompt
        self.image_token_id = tokenizer.convert_tokens_to_ids(IMAGE)
        self.end_token_id = tokenizer.convert_tokens_to_ids(END)
        super().__init__(tokenizer, chat_template=chat_template)

    @classmethod
    def from_config(
        cls, config: Blip3VideoConfig, tokenizer: PreTrainedTokenizerFast, system_prompt: str = SYSTEM_PROMPT
    ) -> Blip3VideoProcessor:
        """The processor of a model; the tokenizer is prepared if it is not yet.

        Raises:
            UserError: the tokenizer's `<image>` is another id than the model's.
        """
        processor = cls(
            prepare_tokenizer(tokenizer),
            config.vision_config.image_size,
            config.video_token_spec(),
            system_prompt,
        )
        if processor.image_token_id != config.image_token_id:
            raise UserError(
                f"{IMAGE} is id {processor.image_token_id} in the tokenizer, {config.image_token_id} in the "
                "model's config; use its own tokenizer or set base_vocab_size and image_token_id"
            )
        return processor

    @property
    def num_frames(self) -> int:
        """Frames sampled from a video unless a call says otherwise."""
        return int(self.video_token_spec["num_frames"])

    @property
    def model_input_names(self) -> list[str]:
        return ["input_ids", "attention_mask", PIXELS]

    def video_tokens_for(self, frames: int) -> int:
        """Language-model tokens of one video of `frames` frames."""
        return video_token_count(self.video_token_spec, frames)

    def pixels(
        self, video: Any, num_frames: int | None = None, sampler: Sampler = uniform_indices
    ) -> torch.Tensor:
        """One video as float32 [T, 3, H, W].

        Args:
            video: path of a file or folder, uint8 frames [N, H, W, 3], or a `Video`, whose frames are already
                the sampled ones and are all taken.
            num_frames: T; the model's own number if not given.
            sampler: which frames, see `blip3v.video.sampling`.

        Raises:
            UserError: the video cannot be read, or a `Video` has another number of frames than asked for.
        """
        if not isinstance(video, Video):
            video = read_video(video, num_frames or self.num_frames, sampler)
        elif num_frames is not None and len(video.frames) != num_frames:
            raise UserError(
                f"the video was read with {len(video.frames)} frames, not {num_frames}; read it again"
            )
        return frames_to_pixels(video.frames, self.image_size)

    def prompt(self, question: str, with_video: bool | int = True) -> str:
        """The text to hand to `__call__` for one question, see `blip3v.data.conversation.format_prompt`."""
        return format_prompt(question, with_video, self.system_prompt)

    def __call__(
        self,
        text: str | Sequence[str] | None = None,
        videos: Any = None,
        *,
        num_frames: int | None = None,
        padding: bool | str = True,
        max_length: int | None = None,
        return_tensors: str | None = "pt",
    ) -> BatchFeature:
        """Inputs for `generate` or `forward`.

        Args:
            text: full prompts (see `prompt`), one `<image>` for each video. Special tokens in them
                count as such.
            videos: one video or a list, in the order of the marks over the batch: paths, arrays, `Video`s.
            num_frames: T for every video of the batch; the model's own number if not given.
            padding: True pads on the left to the longest prompt, "max_length" to that, False does not pad.
            max_length: most tokens a prompt may have, video tokens included.
            return_tensors: "pt", "np", or None for lists of ids.

        Returns:
            input_ids and attention_mask int64 [B, L]; pixel_values_videos float32 [n_videos, T, 3, H, W] when
            there are videos. Each mark has become the video's M `<image>` ids.

        Raises:
            UserError: nothing given, marks and videos differ in number, or a prompt longer than max_length.
        """
        clips = [self.pixels(video, num_frames) for video in _as_list(videos)]
        if text is None and not clips:
            raise UserError("nothing to process; give a text, videos or both")
        data: dict[str, Any] = {}
        if text is not None:
            rows = self.encode_prompts([text] if isinstance(text, str) else text)
            rows = self.expand_video_tokens(rows, [len(clip) for clip in clips])
            pad, even = self.tokenizer.pad_token_id, return_tensors is not None
            data |= pad_left(rows, pad, padding, max_length, must_be_even=even)
        if clips:
            data[PIXELS] = concatenate([clip[None] for clip in clips])
        return BatchFeature(data, tensor_type=return_tensors)

    def encode_conversation(
        self,
        turns: Sequence[tuple[str, str]],
        num_videos: int = 1,
        frames: int | None = None,
        max_length: int = 2000,
    ) -> dict[str, torch.Tensor]:
        """One conversation for training.

        Labels are the ids on answers and their `<|end|>`, -100 everywhere else; they are not shifted. An
        empty answer leaves `<|end|>` as its only target. What goes beyond `max_length` tokens
        (video tokens included) is cut off.

        Args:
            turns: (question, answer) pairs or `Turn`s, as `blip3v.data.conversation.render` takes them.
            num_videos: videos of the conversation, all in its first question.
            frames: T of each video; the model's own number if not given.

        Returns:
            input_ids and labels, int64 [L].

        Raises:
            UserError: max_length would cut a video, or leave no token to learn from.
        """
        segments = render(turns, num_videos, self.system_prompt)
        pieces = self.encode_prompts([segment.text for segment in segments], with_bos=False)
        pieces = self.expand_video_tokens(pieces, [frames or self.num_frames] * num_videos)
        ids, labels = [self.tokenizer.bos_token_id], [IGNORE]
        for segment, piece in zip(segments, pieces, strict=True):
            ids += piece
            labels += piece if segment.is_target else [IGNORE] * len(piece)
        if self.image_token_id in ids[max_length:]:
            raise UserError(
                f"max_length {max_length} would cut off video tokens; raise it or use fewer video tokens"
            )
        if all(label == IGNORE for label in labels[:max_length]):
            raise UserError(
                f"max_length {max_length} leaves nothing of the answer; raise it or leave the record out"
            )
        return {"input_ids": torch.tensor(ids[:max_length]), "labels": torch.tensor(labels[:max_length])}

    def collate(self, samples: Sequence[Mapping[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
        """Samples of `encode_conversation` as one batch, padded on the right.

        A sample may also carry its videos, as pixel_values_videos [n, T, 3, H, W] or as video_features [n, T,
        S, D], what a frozen vision encoder gave before. Samples may differ in their number of videos, 0 too.

        Returns:
            input_ids, attention_mask, labels, int64 [B, L]; the videos of all samples joined along n, if any.

        Raises:
            UserError: no samples, pixels and features in one batch, shapes that do not join, or a sample
                whose `<image>` ids do not fit its videos.
        """
        videos = join_videos(samples, self.image_token_id, self.video_tokens_for)
        return pad_right(samples, self.tokenizer.pad_token_id) | videos

    def collate_packed(
        self, samples: Sequence[Mapping[str, torch.Tensor]], multiple: int = 1
    ) -> dict[str, Any]:
        """Samples of `encode_conversation` as one row without padding.

        The model's loss and gradients are those of `collate`'s batch; it computes fewer tokens, and logits
        only where there are labels.

        Args:
            samples: as in `collate`.
            multiple: the row's length is filled up to a multiple of this, see `blip3v.data.packing.pack`.

        Returns:
            What `pack` returns; the videos of all samples joined along n, if any.

        Raises:
            UserError: as in `collate`.
        """
        videos = join_videos(samples, self.image_token_id, self.video_tokens_for)
        return pack(samples, self.tokenizer.pad_token_id, multiple) | videos

    def encode_prompts(self, texts: Sequence[str], with_bos: bool = True) -> list[list[int]]:
        """Token ids of each text, each with one BOS before it."""
        # Whether a tokenizer adds <s> by itself differs between versions of Phi-3's files, so it is never
        # asked to.
        bos = self.tokenizer.bos_token_id
        rows = self.tokenizer(list(texts), add_special_tokens=False)["input_ids"]
        return [[bos, *row] if with_bos and row[:1] != [bos] else row for row in rows]

    def expand_video_tokens(self, rows: Sequence[Sequence[int]], frames: Sequence[int]) -> list[list[int]]:
        """Replace the i-th `<image>` id over all rows by the tokens of a video of frames[i] frames."""
        marks = sum(list(row).count(self.image_token_id) for row in rows)
        if marks != len(frames):
            raise UserError(
                f"the text has {marks} {IMAGE} marks for {len(frames)} videos; write one mark per video"
            )
        counts = iter([self.video_tokens_for(count) for count in frames])
        return [
            [
                token
                for mark in row
                for token in ([mark] * next(counts) if mark == self.image_token_id else [mark])
            ]
            for row in rows
        ]


def _as_list(videos: Any) -> list[Any]:
    if videos is None:
        return []
    return list(videos) if isinstance(videos, (list, tuple)) else [videos]
