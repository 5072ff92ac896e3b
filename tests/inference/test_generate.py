"""Answers against a loop over the model's own logits, streams, and refusals."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
import torch

from blip3v.errors import UserError
from blip3v.inference.generate import answer, answer_batch, load, stream_answer

QUESTIONS = ["what happens in the video ?", "which colour is it ?"]


def greedy_by_hand(model, processor, clip, question: str, steps: int) -> str:
    """The likeliest token each time, the whole text run anew for each, without cache or `generate`."""
    marks = [] if clip is None else [clip]
    inputs = processor(text=processor.prompt(question, with_video=clip is not None), videos=marks)
    ids, made = inputs.pop("input_ids"), []
    inputs.pop("attention_mask")
    for _ in range(steps):
        with torch.no_grad():
            token = int(model(input_ids=ids, **inputs).logits[0, -1].argmax())
        if token == processor.end_token_id:
            break
        made.append(token)
        ids = torch.cat([ids, torch.tensor([[token]])], dim=1)
    return processor.decode(made, skip_special_tokens=True).strip()


@pytest.fixture
def ending_soon(pair):
    """The same model, but `<|end|>` beats every word at each token whose position is a multiple of 3."""
    model, processor = pair
    original = model.lang_model.logits
    step = {"made": 0}

    def logits(hidden):
        out = original(hidden)
        step["made"] += 1
        if step["made"] % 3 == 0:
            out[..., processor.end_token_id] = 1e6
        return out

    model.lang_model.logits = logits
    yield model, processor
    del model.lang_model.logits


def test_greedy_is_the_likeliest_token_each_time(pair, clips):
    model, processor = pair
    expected = greedy_by_hand(model, processor, clips[0], QUESTIONS[0], steps=6)
    assert len(expected.split()) >= 4
    assert answer(model, processor, clips[0], QUESTIONS[0], max_new_tokens=6) == expected


def test_batch_of_different_prompts_and_clips_equals_one_by_one(pair, clips):
    model, processor = pair
    videos, questions = [clips[0], clips[1], None], [*QUESTIONS, "a red circle moves left and stops ?"]
    expected = [
        greedy_by_hand(model, processor, clip, question, steps=5)
        for clip, question in zip(videos, questions, strict=True)
    ]
    assert len(set(expected)) > 1
    assert answer_batch(model, processor, videos, questions, max_new_tokens=5) == expected


def test_stops_at_end_and_leaves_it_out(ending_soon, clips):
    model, processor = ending_soon
    text = answer(model, processor, clips[0], QUESTIONS[0], max_new_tokens=10)
    assert "<|end|>" not in text
    assert len(processor.tokenizer(text, add_special_tokens=False)["input_ids"]) == 2


def test_sampling_follows_its_seed_and_settings(pair, clips):
    model, processor = pair

    def draw(seed: int, **settings) -> str:
        torch.manual_seed(seed)
        return answer(model, processor, clips[0], QUESTIONS[0], do_sample=True, max_new_tokens=8, **settings)

    assert draw(1, temperature=5.0) == draw(1, temperature=5.0)
    assert len({draw(seed, temperature=5.0) for seed in range(4)}) > 1
    greedy = answer(model, processor, clips[0], QUESTIONS[0], max_new_tokens=8)
    assert draw(1, top_p=1e-6) == greedy


def test_stream_comes_in_pieces_that_join_to_the_answer(pair, clips):
    model, processor = pair
    pieces = list(stream_answer(model, processor, clips[0], QUESTIONS[0], max_new_tokens=8))
    assert len(pieces) > 2
    assert "".join(pieces).strip() == answer(model, processor, clips[0], QUESTIONS[0], max_new_tokens=8)


def test_stream_hands_on_the_errors_of_its_thread(pair, clips, monkeypatch):
    model, processor = pair

    def fail(*args, **kwargs):
        raise RuntimeError("out of memory, say")

    monkeypatch.setattr(model.lang_model, "logits", fail)
    with pytest.raises(RuntimeError, match="out of memory, say"):
        list(stream_answer(model, processor, clips[0], QUESTIONS[0]))


def test_closed_stream_ends_its_thread_early(pair, clips, monkeypatch):
    model, processor = pair
    original, steps = model.lang_model.logits, []
    monkeypatch.setattr(model.lang_model, "logits", lambda hidden: steps.append(1) or original(hidden))
    stream = stream_answer(model, processor, clips[0], QUESTIONS[0], max_new_tokens=900)
    next(stream)
    stream.close()
    assert len(steps) < 900
    assert not [thread for thread in threading.enumerate() if thread.name == "blip3v-generate"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens"),
        ({"temperature": 0.0}, "temperature"),
        ({"top_p": 1.5}, "top_p"),
        ({"num_frames": 0}, "num_frames"),
    ],
)
def test_refuses_settings_out_of_range(pair, clips, settings, message):
    with pytest.raises(UserError, match=message):
        answer(*pair, clips[0], QUESTIONS[0], **settings)


def test_refuses_empty_questions_and_uneven_lists(pair, clips):
    with pytest.raises(UserError, match="question is empty"):
        stream_answer(*pair, clips[0], "  ")
    with pytest.raises(UserError, match="2 questions for 1 videos"):
        answer_batch(*pair, clips[:1], QUESTIONS)


def test_load_reads_back_what_was_saved(pair, clips, tmp_path):
    for part in pair:
        part.save_pretrained(tmp_path)
    model, processor = load(tmp_path, device="cpu")
    assert not model.training and model.dtype == torch.float32
    expected = answer(*pair, clips[0], QUESTIONS[0], max_new_tokens=6)
    assert answer(model, processor, clips[0], QUESTIONS[0], max_new_tokens=6) == expected
    assert load(tmp_path, device="cpu", dtype=torch.bfloat16)[0].dtype == torch.bfloat16


def test_load_takes_a_released_checkpoint_with_a_tokenizer_beside_it(pair, tmp_path, monkeypatch):
    model, processor = pair
    (tmp_path / "model-00001-of-00001.safetensors").touch()
    # Real released weights have the published widths; which tensor goes where is tested in tests/models.
    monkeypatch.setattr("blip3v.models.weights.load_released", lambda folder, torch_dtype: model)
    with pytest.raises(UserError, match="cannot load a model from"):
        load(tmp_path, device="cpu")  # weights without a tokenizer
    processor.tokenizer.save_pretrained(tmp_path)
    loaded, made = load(tmp_path, device="cpu")
    assert loaded is model
    assert made.image_token_id == model.config.image_token_id
    assert made.num_frames == model.config.num_frames


def test_load_refuses_missing_broken_and_incomplete_folders(pair, tmp_path):
    model, processor = pair
    with pytest.raises(UserError, match="no such model folder"):
        load(tmp_path / "nowhere")
    with pytest.raises(UserError, match="no model in"):
        load(tmp_path)

    model.save_pretrained(tmp_path)
    with pytest.raises(UserError, match="cannot load a model from"):
        load(tmp_path, device="cpu")  # no tokenizer yet

    processor.save_pretrained(tmp_path)
    state = {
        name: t for name, t in model.state_dict().items() if name != "vision_tokenizer.projection.weight"
    }
    model.save_pretrained(tmp_path, state_dict=state)
    with pytest.raises(UserError, match=r"lacks 1 weights of the model \(vision_tokenizer.projection.w"):
        load(tmp_path, device="cpu")

    Path(tmp_path / "model.safetensors").write_bytes(b"not a tensor in sight")
    with pytest.raises(UserError, match="cannot load a model from"):
        load(tmp_path, device="cpu")
