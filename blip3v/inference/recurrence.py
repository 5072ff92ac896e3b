"""A temporal encoder that takes its frames one after another and keeps a state of constant size."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor, nn

from blip3v.errors import UserError
from blip3v.models.temporal.pooling import TemporalPool
from blip3v.models.temporal.token_turing_machine import GroupedTokenTuringMachine, TokenTuringMachine
from blip3v.ranges import ranged, stage_range

CAN_STREAM = "grouped_ttm, ttm with time_stamp, sum_pool, mean_pool and max_pool"


class Recurrence(Protocol):
    """What an encoder needs to run without end; x is [B,T,S,dim], video tokens are [B,M,dim]."""

    def start(self, x: Tensor) -> Any:
        """The state before the first frame; only size, dtype and device of x count."""
        ...

    def advance(self, state: Any, x: Tensor, first: int) -> Any:
        """The state after the frames x, whose first has the index `first`."""
        ...

    def read_out(self, state: Any) -> Tensor:
        """Video tokens of the frames so far."""
        ...


class LastFrames:
    """Any encoder on the last `window` frames; the state is those frames' tokens [B,<=window,S,dim]."""

    def __init__(self, encoder: nn.Module, window: int) -> None:
        self.encoder, self.window = encoder, window

    def start(self, x: Tensor) -> Tensor:
        return x[:, :0]

    def advance(self, state: Tensor, x: Tensor, first: int) -> Tensor:
        # Time-stamps are the encoder's own and count inside the window, so `first` is of no use.
        x = x[:, -self.window :]
        kept = min(state.shape[1], self.window - x.shape[1])
        return torch.cat([state[:, state.shape[1] - kept :], x], dim=1)

    def read_out(self, state: Tensor) -> Tensor:
        return self.encoder(state)


def recurrence_of(encoder: nn.Module, name: str, window: int | None = None) -> Recurrence:
    """The encoder itself where its state does not grow, or with a window its bounded form.

    Args:
        encoder: a temporal encoder.
        name: its name in the configuration, for the error.
        window: frames to look back on; None for all of them.

    Raises:
        UserError: without a window, an encoder that has to keep all frames or whose output grows; a window
            below 1.
    """
    if window is not None:
        if window < 1:
            raise UserError(f"window must be at least 1 frame, got {window}")
        return LastFrames(encoder, window)
    if isinstance(encoder, (GroupedTokenTuringMachine, TemporalPool)):
        return encoder
    if isinstance(encoder, TokenTuringMachine) and encoder.final_output is None:
        return encoder
    what = "ttm without time_stamp" if isinstance(encoder, TokenTuringMachine) else name
    raise UserError(
        f"{what} needs more memory with every frame and cannot run without end; {CAN_STREAM} can. "
        f"Set a window (for example 8) to let it see the last so many frames"
    )


class TemporalStream:
    """Frame tokens in, as they come; video tokens out, at any time.

    On a CPU the result has the bits of the encoder on all frames at once, in float32 and bfloat16, however
    the frames were cut into pushes: the encoder itself goes from frame to frame.

    Args:
        recurrence: from `recurrence_of`.
        hold_time: the last index that time-stamps count to. None counts on without end (float32 tells
            neighbours apart up to 2^24 frames).

    Attributes:
        state: what is kept of the frames so far; None before the first.
        frames: how many there were.
    """

    def __init__(self, recurrence: Recurrence, hold_time: int | None = None) -> None:
        if hold_time is not None and hold_time < 0:
            raise UserError(f"hold_time is the index of a frame and at least 0, got {hold_time}")
        self._recurrence, self._hold_time = recurrence, hold_time
        self.reset()

    def reset(self) -> None:
        """Forget all frames; the next one is number 0 and may be of another size."""
        self.state: Any = None
        self.frames = 0
        self._like: tuple[Any, ...] | None = None

    @torch.inference_mode()
    @ranged(stage_range, "temporal encoder")
    def push(self, x: Tensor) -> None:
        """Frame tokens x [B,T,S,dim]: further frames of B videos.

        Raises:
            ValueError: another number of videos or tokens, or another dtype, than before.
        """
        like = (x.shape[0], *x.shape[2:], x.dtype)
        if self._like is None:
            self.state, self._like = self._recurrence.start(x), like
        elif like != self._like:
            raise ValueError(
                f"a stream of [videos, tokens, dim, dtype] {list(self._like)} cannot go on with "
                f"{list(like)}; reset it first"
            )
        while x.shape[1]:
            count, index = x.shape[1], self.frames
            if self._hold_time is not None:
                # `advance` counts on from `index`, so frames that share one go one by one.
                count, index = max(1, min(count, self._hold_time - index)), min(index, self._hold_time)
            self.state = self._recurrence.advance(self.state, x[:, :count], index)
            self.frames, x = self.frames + count, x[:, count:]

    @torch.inference_mode()
    @ranged(stage_range, "temporal encoder")
    def read_out(self) -> Tensor:
        """Video tokens [B,M,dim] of all frames so far; nothing is forgotten.

        Raises:
            UserError: no frame yet.
        """
        if not self.frames:
            raise UserError("there is no frame in the stream yet; push one first")
        return self._recurrence.read_out(self.state)
