"""Encoders that take frames one by one, against the same encoders on all frames at once: the same bits."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from blip3v.errors import UserError
from blip3v.inference.recurrence import TemporalStream, recurrence_of
from blip3v.models.configuration import blip3_video_tiny
from blip3v.models.temporal import READS_PATCHES, build_temporal_encoder
from blip3v.models.token_count import TEMPORAL_ENCODER_NAMES

WIDTH, TOKENS, FRAMES = 32, 8, 40

CAN_STREAM: dict[str, dict[str, Any]] = {
    "grouped_ttm": {},
    "grouped_ttm, mean": {"ttm_output": "mean"},
    "grouped_ttm without time-stamp": {"time_stamp": False},
    "ttm with time-stamp": {"time_stamp": True},
    "sum_pool": {},
    "mean_pool": {},
    "max_pool": {},
}


def encoder_of(name: str, dtype: torch.dtype = torch.float32) -> torch.nn.Module:
    torch.manual_seed(2)
    temporal = name.replace(",", "").split()[0]
    config = blip3_video_tiny(temporal, 8, token_learner_gain=4.0, **CAN_STREAM.get(name, {}))
    encoder = build_temporal_encoder(config).eval()
    for parameter in encoder.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.3)
    encoder.to(dtype)
    for module in encoder.modules():
        if hasattr(module, "inv_freq"):
            module.reset_parameters()  # as in the model, which keeps the frequencies in float32
    return encoder


def frame_tokens(batch: int, frames: int = FRAMES, dtype: torch.dtype = torch.float32) -> Tensor:
    generator = torch.Generator().manual_seed(7)
    return torch.randn(batch, frames, TOKENS, WIDTH, generator=generator).to(dtype)


def streamed(encoder: torch.nn.Module, x: Tensor, sizes: list[int], **settings: Any) -> TemporalStream:
    stream = TemporalStream(recurrence_of(encoder, "it"), **settings)
    for part in x.split(sizes, dim=1):
        stream.push(part)
    return stream


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("name", CAN_STREAM)
def test_the_bits_of_the_batch_encoder_after_every_push(name: str, dtype: torch.dtype) -> None:
    encoder, x = encoder_of(name, dtype), frame_tokens(2, dtype=dtype)
    stream = TemporalStream(recurrence_of(encoder, name))
    for part in x.split([1, 2, 8, 5, 1, 16, 7], dim=1):
        stream.push(part)
        with torch.inference_mode():
            expected = encoder(x[:, : stream.frames])
        out = stream.read_out()
        assert out.dtype == expected.dtype == dtype and torch.equal(out, expected)
        assert torch.equal(stream.read_out(), expected)  # reading forgets nothing
    assert stream.frames == FRAMES


@pytest.mark.parametrize("name", CAN_STREAM)
def test_the_size_of_pushes_changes_no_bit(name: str) -> None:
    encoder, x = encoder_of(name), frame_tokens(1)
    outs = [streamed(encoder, x, sizes).read_out() for sizes in ([FRAMES], [1] * FRAMES, [3, 30, 7], [39, 1])]
    assert all(torch.equal(out, outs[0]) for out in outs)


@pytest.mark.parametrize("frames", [4096 + 16 * 3 + 5, 300])
@pytest.mark.parametrize("mode", ["sum_pool", "mean_pool"])
def test_pools_add_in_the_order_of_the_batch_encoder(mode: str, frames: int) -> None:
    """Through all levels of the sum; and closer to the exact sum than one running float32 sum is."""
    encoder, x = encoder_of(mode), frame_tokens(1, frames) + 1
    out = streamed(encoder, x, [frames]).read_out()
    assert torch.equal(out, encoder(x))
    exact = x.double().sum(1) / (1 if mode == "sum_pool" else frames)
    assert ((out - exact).abs() / exact.abs()).max() < 2e-6


def test_pools_of_other_sizes_differ_by_rounding_only() -> None:
    """5 numbers per frame: PyTorch sums those that fill no vector in another order."""
    x = torch.randn(2, 100, 1, 5)
    encoder = encoder_of("sum_pool")
    torch.testing.assert_close(streamed(encoder, x, [100]).read_out(), encoder(x), rtol=1e-5, atol=1e-5)


def test_a_pool_in_float64_keeps_float64() -> None:
    x = frame_tokens(1).double()
    out = streamed(encoder_of("mean_pool"), x, [FRAMES]).read_out()
    assert out.dtype == torch.float64
    torch.testing.assert_close(out, x.mean(1), rtol=1e-14, atol=1e-14)


def test_streams_side_by_side_do_not_mix() -> None:
    encoder, x = encoder_of("grouped_ttm"), frame_tokens(3)
    together = streamed(encoder, x, [FRAMES]).read_out()
    for b in range(3):
        alone = streamed(encoder, x[b : b + 1], [FRAMES]).read_out()
        torch.testing.assert_close(together[b : b + 1], alone, rtol=1e-5, atol=1e-5)


def test_time_stamps_go_on_or_are_held() -> None:
    """Against an encoder without time-stamp on frames that carry theirs already."""
    encoder, x = encoder_of("grouped_ttm"), frame_tokens(1, 6)
    bare = encoder_of("grouped_ttm")
    bare.pos_emb = None
    for hold_time, indices in ((None, range(6)), (5, range(6)), (3, [0, 1, 2, 3, 3, 3]), (0, [0] * 6)):
        stamps = torch.cat([encoder.pos_emb(index, 1) for index in indices])
        for sizes in ([6], [2, 4], [1] * 6):
            out = streamed(encoder, x, sizes, hold_time=hold_time).read_out()
            torch.testing.assert_close(out, bare(x + stamps[:, None]), rtol=1e-6, atol=1e-6)
    assert not torch.allclose(out, encoder(x), atol=1e-3)
    with pytest.raises(UserError, match="hold_time"):
        TemporalStream(recurrence_of(encoder, "it"), hold_time=-1)


def test_reset_forgets() -> None:
    encoder, x = encoder_of("grouped_ttm"), frame_tokens(1, 5)
    stream = streamed(encoder, frame_tokens(2), [FRAMES])
    stream.reset()
    assert stream.frames == 0 and stream.state is None
    stream.push(x)
    assert torch.equal(stream.read_out(), encoder(x))


@pytest.mark.parametrize("name", TEMPORAL_ENCODER_NAMES)
def test_every_other_encoder_says_what_to_do_or_takes_a_window(name: str) -> None:
    torch.manual_seed(0)
    encoder = build_temporal_encoder(blip3_video_tiny(name, None)).eval()
    if name not in ("grouped_ttm", "sum_pool", "mean_pool", "max_pool"):
        with pytest.raises(UserError, match=r"cannot run without end; grouped_ttm.* Set a window") as caught:
            recurrence_of(encoder, name)
        assert name in str(caught.value)
    stream = TemporalStream(recurrence_of(encoder, name, window=4))
    x = torch.randn(1, 11, 16 if name in READS_PATCHES else TOKENS, WIDTH)
    for part in x.split([1, 1, 4, 1, 4], dim=1):
        stream.push(part)
        assert stream.state.shape[1] == min(stream.frames, 4)
    with torch.inference_mode():
        assert torch.equal(stream.read_out(), encoder(x[:, -4:]))
    with pytest.raises(UserError, match="window must be at least 1"):
        recurrence_of(encoder, name, window=0)


def test_frames_that_do_not_fit_are_refused_and_change_nothing() -> None:
    encoder, x = encoder_of("grouped_ttm"), frame_tokens(1, 3)
    stream = streamed(encoder, x, [3])
    for other in (frame_tokens(2), x[:, :, :4], x.bfloat16()):
        with pytest.raises(ValueError, match="reset it first"):
            stream.push(other)
    assert torch.equal(stream.read_out(), encoder(x))
    stream.reset()
    with pytest.raises(ValueError, match="memory for 8 tokens, got 4"):
        stream.push(x[:, :, :4])
    with pytest.raises(UserError, match="no frame in the stream yet"):
        stream.read_out()


@pytest.mark.parametrize("name", CAN_STREAM)
def test_the_state_keeps_its_size(name: str) -> None:
    def sizes(stream: TemporalStream) -> list[tuple[int, ...]]:
        parts = stream.state if isinstance(stream.state, tuple) else [stream.state]
        return [(*part.shape, part.untyped_storage().nbytes()) for part in parts if isinstance(part, Tensor)]

    encoder, x = encoder_of(name), frame_tokens(2)
    stream = streamed(encoder, x, [FRAMES])
    before = sizes(stream)
    stream.push(x)
    assert sizes(stream) == before
