"""The encoder that never stops: frames in as they come, video tokens and answers out at any time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from blip3v.errors import UserError
from blip3v.inference.generate import prepare
from blip3v.inference.recurrence import TemporalStream, recurrence_of
from blip3v.models.collation import pad_left
from blip3v.models.modeling import Blip3VideoForConditionalGeneration
from blip3v.models.processing import Blip3VideoProcessor
from blip3v.models.vision import encode_frames
from blip3v.ranges import stage_range
from blip3v.video.transforms import frames_to_pixels


class StreamingVideoEncoder:
    """Runs vision encoder, resampler and temporal encoder on each frame once; memory and time per frame stay
    what they are, however many frames came before.

    The temporal encoder's part has the bits of the batch encoder on a CPU (see `TemporalStream`). Vision
    encoder and resampler run on `frames_at_once` frames in one batch, and matrix products may round otherwise
    in a batch of another size: at the 4B model's widths, float32 video tokens of 8 frames one by one were
    within 1e-6 of those of 8 together (values up to 1.3), and equal in bfloat16; at the demo's widths they
    were equal. With frames_at_once=1 how frames are cut into pushes changes no bit.

    Args:
        model: with a temporal encoder that can stream, or any other together with `window`.
        processor: needed for `answer` only.
        window: look back on the last so many frames only. Tokens are then those of the batch encoder on these
            frames alone, time-stamps 0 .. window - 1, as in training where `window` is the model's
            `num_frames`. None remembers all frames.
        hold_time: time-stamps count frames, 0, 1, 2, ..., without end, and training saw 0 .. `num_frames` - 1
            only (8 frames: up to 7). With hold_time=7 every frame behind the eighth is stamped 7 as well.
        frames_at_once: frames that vision encoder and resampler take in one batch.

    Raises:
        UserError: an encoder that cannot stream, a setting out of range, window together with hold_time.
    """

    def __init__(
        self,
        model: Blip3VideoForConditionalGeneration,
        processor: Blip3VideoProcessor | None = None,
        *,
        window: int | None = None,
        hold_time: int | None = None,
        frames_at_once: int = 8,
    ) -> None:
        if window is not None and hold_time is not None:
            raise UserError("time-stamps start anew in every window; give window or hold_time, not both")
        if frames_at_once < 1:
            raise UserError(f"frames_at_once must be at least 1, got {frames_at_once}")
        encoder = model.vision_tokenizer.temporal_encoder
        recurrence = recurrence_of(encoder, model.config.temporal_encoder, window)
        self.model, self.processor, self.frames_at_once = model, processor, frames_at_once
        self._window = window
        self._stream = TemporalStream(recurrence, hold_time)

    @property
    def frames(self) -> int:
        """Frames pushed since the beginning or the last `reset`, of each stream."""
        return self._stream.frames

    @property
    def state(self) -> Any:
        """What is kept of all frames so far, a tensor or a tuple with tensors; None before the first."""
        return self._stream.state

    def reset(self) -> None:
        """Forget all frames; the next push may have another number of streams."""
        self._stream.reset()

    @torch.inference_mode()
    def push(
        self, frames: Any = None, *, pixel_values_videos: Any = None, video_features: Any = None
    ) -> None:
        """Take in further frames, as exactly one of three. Without the leading B they belong to one stream.

        Args:
            frames: RGB as the processor takes it, uint8 [T,H,W,3] or [B,T,H,W,3], numpy or torch; or a list
                of [H,W,3], which may differ in size.
            pixel_values_videos: [T,3,H,W] or [B,T,3,H,W], what the processor makes of frames.
            video_features: [T,S,dim] or [B,T,S,dim], what `encode_frames` makes of pixels.

        Raises:
            ValueError: none or several of the three, a shape that is none of these, or other sizes than the
                frames before had.
        """
        given = [x for x in (frames, pixel_values_videos, video_features) if x is not None]
        if len(given) != 1:
            raise ValueError("push exactly one of frames, pixel_values_videos and video_features")
        if video_features is not None:
            self._push_features(_batched(video_features, "video_features", "[T,S,dim]"))
            return
        if pixel_values_videos is not None:
            chunks = self._chunks(_batched(pixel_values_videos, "pixel_values_videos", "[T,3,H,W]"))
        else:
            chunks = self._pixels(frames)
        for pixels in chunks:
            self._push_features(encode_frames(self.model.vision_encoder, pixels.to(self.model.dtype)))

    @torch.inference_mode()
    def tokens(self) -> Tensor:
        """Video tokens [B,M,text_dim] of the frames so far: what the language model sees.

        Raises:
            UserError: no frame yet.
        """
        tokenizer = self.model.vision_tokenizer
        tokens = self._stream.read_out()
        with stage_range("projection"):
            return tokenizer.projection(tokenizer.norm(tokens))

    def answer(self, question: str, **sampling: Any) -> str:
        """The answer to one question about the frames so far; arguments and errors as in `answer_batch`."""
        return self.answer_batch([question], **sampling)[0]

    @torch.inference_mode()
    def answer_batch(self, questions: Sequence[str], **sampling: Any) -> list[str]:
        """Answers in one batch: to any number of questions about one stream, or to one about each stream.

        Args:
            questions: plain text; the prompt is made here.
            sampling: as in `blip3v.inference.generate.answer_batch`, without num_frames.

        Raises:
            UserError: no processor, no frame yet, an empty question, a setting out of range, or several
                streams and another number of questions.
        """
        if self.processor is None:
            raise UserError("answers need the processor: StreamingVideoEncoder(model, processor)")
        nothing = [None] * len(questions)
        _, settings = prepare(self.model, self.processor, nothing, questions, **sampling, num_frames=None)
        tokens = self.tokens()
        if len(tokens) not in (1, len(questions)):
            raise UserError(f"{len(questions)} questions about {len(tokens)} streams; give one for each")
        inputs = self._prompts(questions, tokens.expand(len(questions), -1, -1))
        # From embeddings alone, transformers returns the new tokens alone.
        ids = self.model.generate(**inputs, **settings)
        return [text.strip() for text in self.processor.batch_decode(ids, skip_special_tokens=True)]

    def _prompts(self, questions: Sequence[str], tokens: Tensor) -> dict[str, Tensor]:
        """inputs_embeds [n,L,text_dim], video tokens [n,M,text_dim] in their places; attention_mask [n,L]."""
        processor = self.processor
        assert processor is not None
        seen = self.frames if self._window is None else min(self.frames, self._window)
        rows = processor.encode_prompts([processor.prompt(question) for question in questions])
        rows = processor.expand_video_tokens(rows, [seen] * len(rows))
        padded = pad_left(rows, processor.tokenizer.pad_token_id, True, None, must_be_even=True)
        inputs = {name: torch.tensor(values, device=self.model.device) for name, values in padded.items()}
        ids = inputs.pop("input_ids")
        return inputs | {"inputs_embeds": self.model.splice(ids, self.model.lang_model.embed(ids), tokens)}

    def _pixels(self, frames: Any) -> Iterator[Tensor]:
        """Pixels [B,t,3,H,W] of raw frames in chunks: never those of a long push at once."""
        size, step = self.model.config.vision_config.image_size, self.frames_at_once
        if isinstance(frames, (list, tuple)):
            for i in range(0, len(frames), step):
                images = [np.asarray(image)[None] for image in frames[i : i + step]]
                yield torch.cat([frames_to_pixels(image, size) for image in images])[None].to(
                    self.model.device
                )
            return
        if getattr(frames, "ndim", 0) not in (4, 5):
            raise ValueError(
                f"frames must be uint8 [T,H,W,3], [B,T,H,W,3] or a list of [H,W,3], got {_shape(frames)}"
            )
        streams = frames if frames.ndim == 5 else frames[None]
        for i in range(0, streams.shape[1], step):
            pixels = [frames_to_pixels(stream[i : i + step], size) for stream in streams]
            yield torch.stack(pixels).to(self.model.device)

    def _chunks(self, x: Tensor) -> Iterator[Tensor]:
        """[B,T,...] -> [B,t,...] on the model's device."""
        for first in range(0, x.shape[1], self.frames_at_once):
            yield x[:, first : first + self.frames_at_once].to(self.model.device)

    def _push_features(self, features: Tensor) -> None:
        resampler = self.model.vision_tokenizer.resampler
        for chunk in self._chunks(features):
            chunk = chunk.to(self.model.dtype)
            self._stream.push(chunk if resampler is None else resampler(chunk))


def _batched(x: Any, name: str, layout: str) -> Tensor:
    """Puts a B of 1 before a tensor of `layout`, and leaves alone what has a B."""
    if not isinstance(x, Tensor) or x.ndim - layout.count(",") not in (1, 2):
        raise ValueError(f"{name} must be a tensor {layout}, or with B before T, got {_shape(x)}")
    return x if x.ndim == layout.count(",") + 2 else x[None]


def _shape(x: Any) -> str:
    return f"{list(x.shape)}" if hasattr(x, "shape") else type(x).__name__
