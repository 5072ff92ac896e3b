"""A stream of frames against the model on all of them at once: tokens, answers, refusals, and no growth."""

from __future__ import annotations

import os
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch

import blip3v
from blip3v import Blip3VideoForConditionalGeneration, StreamingVideoEncoder, blip3_video_tiny
from blip3v.errors import UserError
from blip3v.inference.generate import answer, answer_batch
from blip3v.models.vision import encode_frames

QUESTIONS = ["what happens in the video ?", "which colour is it ?"]


@pytest.fixture(scope="module")
def model(pair):
    return pair[0]


def expected_tokens(model, pixels):
    with torch.inference_mode():
        return model.encode_video(pixels)


def noise(frames: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (frames, 24, 32, 3), dtype=np.uint8)


def pixels_of(pair, frames: np.ndarray) -> torch.Tensor:
    return pair[1].pixels(frames, len(frames))[None]


def test_is_a_name_of_the_package():
    assert "StreamingVideoEncoder" in blip3v.__all__ and "StreamingVideoEncoder" in dir(blip3v)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_one_push_has_the_bits_of_the_model(pair, dtype):
    """The same batches through vision encoder and resampler, so nothing may differ."""
    torch.manual_seed(0)
    model = Blip3VideoForConditionalGeneration(blip3_video_tiny()).eval().to(dtype)
    frames = noise(8)
    encoder = StreamingVideoEncoder(model, frames_at_once=8)
    encoder.push(frames)
    tokens = encoder.tokens()
    assert tokens.shape == (1, 8, 32) and tokens.dtype == dtype
    assert torch.equal(tokens, expected_tokens(model, pixels_of(pair, frames)))


@pytest.mark.parametrize("at_once", [1, 3, 8])
def test_frames_as_they_come_equal_all_at_once(pair, model, at_once):
    """Measured: the same bits; promised: what another blocking of the matrix products may change."""
    frames = noise(20)
    encoder = StreamingVideoEncoder(model, frames_at_once=at_once)
    done = 0
    for size in (1, 2, 8, 1, 5, 3):
        encoder.push(frames[done : done + size])
        done += size
        expected = expected_tokens(model, pixels_of(pair, frames[:done]))
        torch.testing.assert_close(encoder.tokens(), expected, rtol=1e-5, atol=1e-5)
    assert encoder.frames == 20


def test_one_frame_at_once_makes_the_bits_independent_of_pushes(model):
    frames, outs = noise(11), []
    for sizes in ([11], [1] * 11, [4, 6, 1]):
        encoder = StreamingVideoEncoder(model, frames_at_once=1)
        for part in np.split(frames, np.cumsum(sizes)[:-1]):
            encoder.push(part)
        outs.append(encoder.tokens())
    assert torch.equal(outs[0], outs[1]) and torch.equal(outs[0], outs[2])


def test_frames_pixels_and_features_are_one(pair, model):
    frames = noise(5)
    pixels = pixels_of(pair, frames)
    with torch.inference_mode():
        features = encode_frames(model.vision_encoder, pixels)
    tokens = []
    for pushed in (
        {"frames": frames},
        {"frames": torch.from_numpy(frames)},
        {"frames": frames[None]},
        {"frames": list(frames)},
        {"pixel_values_videos": pixels},
        {"pixel_values_videos": pixels[0]},
        {"video_features": features},
        {"video_features": features[0]},
    ):
        encoder = StreamingVideoEncoder(model)
        encoder.push(**pushed)
        assert encoder.frames == 5
        tokens.append(encoder.tokens())
    assert all(torch.equal(other, tokens[0]) for other in tokens)


def test_frames_of_different_sizes_in_one_list(pair, model):
    small, large = noise(1), np.zeros((1, 30, 50, 3), np.uint8)
    encoder = StreamingVideoEncoder(model)
    encoder.push([small[0], large[0]])
    pixels = torch.cat([pixels_of(pair, small), pixels_of(pair, large)], dim=1)
    assert torch.equal(encoder.tokens(), expected_tokens(model, pixels))


def test_several_streams_at_once(pair, model):
    videos = np.stack([noise(6, seed) for seed in range(3)])
    encoder = StreamingVideoEncoder(*pair)
    encoder.push(videos[:, :4])
    encoder.push(videos[:, 4:])
    pixels = torch.cat([pixels_of(pair, video) for video in videos])
    torch.testing.assert_close(encoder.tokens(), expected_tokens(model, pixels), rtol=1e-5, atol=1e-5)
    questions = [*QUESTIONS, QUESTIONS[0]]
    expected = [
        answer(*pair, video, q, max_new_tokens=5, num_frames=6) for video, q in zip(videos, questions)
    ]
    assert encoder.answer_batch(questions, max_new_tokens=5) == expected
    with pytest.raises(UserError, match="2 questions about 3 streams"):
        encoder.answer_batch(QUESTIONS)


def test_answers_are_those_of_the_model_on_the_frames_so_far(pair):
    frames = noise(9)
    encoder = StreamingVideoEncoder(*pair)
    answers = []
    for begin, end in ((0, 4), (4, 9)):
        encoder.push(frames[begin:end])
        answers.append(encoder.answer(QUESTIONS[0], max_new_tokens=24))
        assert answers[-1] == answer(*pair, frames[:end], QUESTIONS[0], max_new_tokens=24, num_frames=end)
    assert len(set(answers)) == 2
    both = answer_batch(*pair, [frames, frames], QUESTIONS, max_new_tokens=5, num_frames=9)
    assert encoder.answer_batch(QUESTIONS, max_new_tokens=5) == both
    torch.manual_seed(1)
    drawn = encoder.answer(QUESTIONS[0], max_new_tokens=6, do_sample=True, temperature=5.0)
    torch.manual_seed(1)
    settings = {"max_new_tokens": 6, "do_sample": True, "temperature": 5.0, "num_frames": 9}
    assert drawn == answer(*pair, frames, QUESTIONS[0], **settings)


@pytest.mark.parametrize("temporal", ["token_learner_per_frame", "video_chatgpt", "grouped_ttm"])
def test_a_window_answers_about_the_last_frames(pair, temporal):
    """Their number of tokens may depend on how many frames there are yet."""
    torch.manual_seed(0)
    config = blip3_video_tiny(temporal, None, vocab_size=pair[0].config.base_vocab_size)
    model = Blip3VideoForConditionalGeneration(config).eval()
    model.lang_model.load_state_dict(pair[0].lang_model.state_dict())
    processor = blip3v.Blip3VideoProcessor.from_config(config, pair[1].tokenizer)
    frames = noise(7)
    encoder = StreamingVideoEncoder(model, processor, window=3)
    for begin, end in ((0, 1), (1, 7)):
        encoder.push(frames[begin:end])
        seen = frames[max(0, end - 3) : end]
        expected = expected_tokens(model, processor.pixels(seen, len(seen))[None])
        torch.testing.assert_close(encoder.tokens(), expected, rtol=1e-5, atol=1e-5)
        asked = {"max_new_tokens": 5}
        expected = answer(model, processor, seen, QUESTIONS[0], num_frames=len(seen), **asked)
        assert encoder.answer(QUESTIONS[0], **asked) == expected


def test_reset_starts_another_video(pair, model):
    encoder = StreamingVideoEncoder(model)
    encoder.push(noise(5, seed=1))
    encoder.reset()
    assert encoder.frames == 0 and encoder.state is None
    encoder.push(noise(4))
    assert torch.equal(encoder.tokens(), expected_tokens(model, pixels_of(pair, noise(4))))


def test_held_time_stamps_make_other_tokens(model):
    encoders = [StreamingVideoEncoder(model, hold_time=hold) for hold in (None, 3, 99)]
    for encoder in encoders:
        encoder.push(noise(6))
    free, held, far = (encoder.tokens() for encoder in encoders)
    assert torch.equal(free, far) and not torch.allclose(free, held, atol=1e-4)


def test_no_frames_change_nothing(model):
    encoder = StreamingVideoEncoder(model)
    encoder.push(noise(2))
    before = encoder.tokens()
    for nothing in ({"frames": []}, {"frames": noise(0)}, {"pixel_values_videos": torch.zeros(0, 3, 32, 32)}):
        encoder.push(**nothing)
    encoder.push(video_features=torch.zeros(0, 16, 32))
    assert encoder.frames == 2 and torch.equal(encoder.tokens(), before)


def test_leaves_no_graph_behind(model):
    encoder = StreamingVideoEncoder(model)
    encoder.push(noise(2))
    assert encoder.state.grad_fn is None and not encoder.tokens().requires_grad


def test_refusals(pair, model, clips):
    encoder = StreamingVideoEncoder(model)
    with pytest.raises(UserError, match="no frame in the stream yet"):
        encoder.tokens()
    with pytest.raises(ValueError, match="exactly one of"):
        encoder.push()
    with pytest.raises(ValueError, match="exactly one of"):
        encoder.push(noise(1), video_features=torch.zeros(1, 16, 32))
    with pytest.raises(ValueError, match=r"frames must be uint8 \[T, H, W, 3\], got float32"):
        encoder.push(noise(1).astype(np.float32))
    with pytest.raises(ValueError, match=r"frames must be uint8 .* list of \[H,W,3\], got \[24, 32, 3\]"):
        encoder.push(noise(1)[0])
    with pytest.raises(ValueError, match="got str"):
        encoder.push("clip.mp4")
    with pytest.raises(ValueError, match=r"video_features must be .* got ndarray|got \[1, 16, 32\]"):
        encoder.push(video_features=np.zeros((1, 16, 32)))
    with pytest.raises(ValueError, match=r"pixel_values_videos must be .*\[1, 2, 3\]"):
        encoder.push(pixel_values_videos=torch.zeros(1, 2, 3))
    encoder.push(noise(1))
    with pytest.raises(ValueError, match="reset it first"):
        encoder.push(noise(2)[:, None])  # two streams, after one
    assert encoder.frames == 1
    with pytest.raises(UserError, match="need the processor"):
        encoder.answer(QUESTIONS[0])
    asking = StreamingVideoEncoder(*pair)
    asking.push(noise(1))
    with pytest.raises(UserError, match="question is empty"):
        asking.answer(" ")
    with pytest.raises(UserError, match="max_new_tokens"):
        asking.answer(QUESTIONS[0], max_new_tokens=0)
    with pytest.raises(TypeError, match="num_frames"):
        asking.answer(QUESTIONS[0], num_frames=3)
    with pytest.raises(UserError, match="frames_at_once"):
        StreamingVideoEncoder(model, frames_at_once=0)
    with pytest.raises(UserError, match="not both"):
        StreamingVideoEncoder(model, window=4, hold_time=3)
    other = Blip3VideoForConditionalGeneration(blip3_video_tiny("token_learner"))
    with pytest.raises(UserError, match=r"token_learner needs more memory.*grouped_ttm.*window"):
        StreamingVideoEncoder(other)


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_ten_thousand_frames():
    """Neither memory nor time per frame grow, and the state stays what it was after the first frame."""
    torch.manual_seed(0)
    config = blip3_video_tiny(width=16, resampler_depth=1, temporal_depth=1)
    encoder = StreamingVideoEncoder(Blip3VideoForConditionalGeneration(config).eval())
    features = torch.randn(100, 1, 16, 16)
    seconds, resident, traced = np.zeros(10_000), {}, {}
    for number in range(10_000):
        if number in (1000, 9999) and Path("/proc/self/statm").exists():
            resident[number] = resident_bytes()
        if number in (1500, 3000):  # tracing costs time: not in the thousands that are compared
            if number == 1500:
                tracemalloc.start()
            traced[number] = tracemalloc.get_traced_memory()[0]
            if number == 3000:
                tracemalloc.stop()
        begin = time.perf_counter()
        encoder.push(video_features=features[number % 100])
        seconds[number] = time.perf_counter() - begin
        if number % 2500 == 0:
            assert encoder.state.untyped_storage().nbytes() == 8 * 4 * 16 * 4
    assert encoder.frames == 10_000 and encoder.tokens().isfinite().all()
    # One number kept for each of these 1,500 frames would be 40 kB, its frame tokens 768 kB.
    assert traced[3000] - traced[1500] < 30_000
    if resident:
        assert resident[9999] - resident[1000] < 4_000_000
    assert np.median(seconds[-1000:]) < 3 * np.median(seconds[500:1500])
