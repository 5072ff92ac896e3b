"""`generate`: batches, the key/value cache, sampling, streaming and bfloat16 on a small random model."""

from __future__ import annotations

from threading import Thread
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import TextIteratorStreamer

from blip3v import Blip3VideoForConditionalGeneration, blip3_video_tiny
from blip3v.models.tokenizer import IMAGE, word_tokenizer
from blip3v.models.vision import encode_frames

M, FRAMES, NEW = 4, 3, 8
TOKENIZER = word_tokenizer([f"word{i}" for i in range(52)])
MARK = TOKENIZER.convert_tokens_to_ids(IMAGE)

Model = Blip3VideoForConditionalGeneration


def tiny_model(end: int | None = None) -> Model:
    """A model whose answers depend on all it reads; `end` is the token that ends an answer, if any does."""
    torch.manual_seed(0)
    model = Model(blip3_video_tiny("grouped_ttm", M, frames=FRAMES, vocab_size=MARK)).eval()
    for name, parameter in model.named_parameters():
        if parameter.ndim > 1 and "latents" not in name:
            nn.init.normal_(parameter, std=0.35)
    model.lang_model.additional_fc.bias.data.fill_(-1e4)  # an <image> in an answer would have no video
    model.generation_config.pad_token_id = TOKENIZER.pad_token_id
    model.generation_config.eos_token_id = end
    return model


PROMPTS = [[1, 9, *[MARK] * M, 10, 11, 12], [1, 13], [1, *[MARK] * M, 14, 15, 16, 17, 18, 19, 20]]


def video(row: int) -> Tensor:
    return torch.randn(1, FRAMES, 3, 32, 32, generator=torch.Generator().manual_seed(row)) * 2


def alone(row: int) -> dict[str, Tensor]:
    inputs = {"input_ids": torch.tensor([PROMPTS[row]])}
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    return inputs | ({"pixel_values_videos": video(row)} if MARK in PROMPTS[row] else {})


def together() -> dict[str, Tensor]:
    """All prompts, padded on the left."""
    length = max(map(len, PROMPTS))
    short = [length - len(prompt) for prompt in PROMPTS]
    pad = TOKENIZER.pad_token_id
    return {
        "input_ids": torch.tensor([[pad] * n + prompt for n, prompt in zip(short, PROMPTS, strict=True)]),
        "attention_mask": torch.tensor([[0] * n + [1] * (length - n) for n in short]),
        "pixel_values_videos": torch.cat([video(0), video(2)]),
    }


def answer(model: Model, inputs: dict[str, Tensor], **kwargs: Any) -> Tensor:
    """The new tokens only."""
    torch.manual_seed(kwargs.pop("seed", 0))
    output = model.generate(**inputs, **({"max_new_tokens": NEW, "do_sample": False} | kwargs))
    return output[:, inputs["input_ids"].shape[1] :]


def by_hand(model: Model, inputs: dict[str, Tensor]) -> list[int]:
    """Greedy decoding without cache and without `generate`."""
    ids, made = inputs["input_ids"], []
    with torch.no_grad():
        for _ in range(NEW):
            logits = model(ids, pixel_values_videos=inputs.get("pixel_values_videos")).logits
            made.append(int(logits[0, -1].argmax()))
            ids = torch.cat([ids, torch.tensor([[made[-1]]])], dim=1)
    return made


@pytest.mark.parametrize("row", range(3))
def test_greedy_is_the_argmax_of_the_whole_text_at_every_step(row: int) -> None:
    model = tiny_model()
    expected = by_hand(model, alone(row))
    assert len(set(expected)) > 2, "a model that repeats itself would hide mistakes"
    assert answer(model, alone(row), use_cache=True)[0].tolist() == expected
    assert answer(model, alone(row), use_cache=False)[0].tolist() == expected


def test_a_left_padded_batch_answers_as_one_by_one() -> None:
    model = tiny_model()
    for use_cache in (True, False):
        batched = answer(model, together(), use_cache=use_cache)
        for row in range(3):
            assert torch.equal(batched[row], answer(model, alone(row))[0]), (row, use_cache)


def test_the_video_is_encoded_once_with_the_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    model, calls = tiny_model(), []
    model.vision_tokenizer.register_forward_hook(lambda *_: calls.append(1))
    lengths: list[int] = []
    model.lang_model.register_forward_pre_hook(lambda _, args: lengths.append(args[0].shape[1]))
    answer(model, together())
    assert len(calls) == 1
    assert lengths == [max(map(len, PROMPTS))] + [1] * (NEW - 1)


def test_the_answer_depends_on_the_video() -> None:
    model, inputs = tiny_model(), alone(0)
    answers = [answer(model, inputs | {"pixel_values_videos": video(seed)}) for seed in range(8)]
    assert len({tuple(new[0].tolist()) for new in answers}) > 1


def test_rows_that_ended_are_padded() -> None:
    endless = answer(tiny_model(), together())
    end = int(endless[0, 4])
    found = answer(tiny_model(end), together())
    lengths = []
    for row in range(3):
        expected = endless[row].tolist()
        expected = expected[: expected.index(end) + 1] if end in expected else expected
        lengths.append(len(expected))
        assert found[row].tolist() == expected + [TOKENIZER.pad_token_id] * (found.shape[1] - len(expected))
    assert found.shape[1] == max(lengths) > min(lengths)


def test_sampling_repeats_with_a_seed() -> None:
    model = tiny_model()
    sample = {"do_sample": True, "temperature": 1.5, "top_p": 0.95}
    first, again = answer(model, together(), seed=1, **sample), answer(model, together(), seed=1, **sample)
    assert torch.equal(first, again)
    assert not torch.equal(first, answer(model, together(), seed=2, **sample))


def test_several_answers_to_one_video() -> None:
    """`generate` repeats the prompt for each answer, and must repeat its video with it."""
    model, inputs = tiny_model(), alone(0)
    sample = {"do_sample": True, "temperature": 1.5}
    several = answer(model, inputs, num_return_sequences=3, **sample)
    repeated = {name: value.repeat_interleave(3, dim=0) for name, value in inputs.items()}
    assert torch.equal(several, answer(model, repeated, **sample))
    assert len({tuple(row) for row in several.tolist()}) > 1


def test_text_is_streamed_as_it_comes() -> None:
    model, inputs = tiny_model(), alone(0)
    streamer = TextIteratorStreamer(TOKENIZER, skip_prompt=True, timeout=60)
    arguments = inputs | {"streamer": streamer, "max_new_tokens": NEW, "do_sample": False}
    thread = Thread(target=model.generate, kwargs=arguments)
    thread.start()
    pieces = [piece for piece in streamer if piece]
    thread.join()
    assert len(pieces) > 3
    assert "".join(pieces).strip() == TOKENIZER.decode(answer(model, inputs)[0]).strip()


def test_bfloat16_generates() -> None:
    model = tiny_model().bfloat16()
    found = answer(model, together())
    assert found.shape == (3, NEW)
    assert found.max() < MARK


@pytest.mark.gpu
def test_greedy_on_the_gpu_is_greedy_on_the_cpu() -> None:
    model, inputs = tiny_model().double(), together()
    inputs["pixel_values_videos"] = inputs["pixel_values_videos"].double()
    expected = answer(model, inputs)
    found = answer(model.cuda(), {name: value.cuda() for name, value in inputs.items()})
    assert torch.equal(found.cpu(), expected)


def test_beam_search_is_refused_with_what_to_do():
    model = Blip3VideoForConditionalGeneration(blip3_video_tiny()).eval()
    with pytest.raises(ValueError, match="num_beams=1"):
        model.generate(input_ids=torch.tensor([[1, 5, 6]]), num_beams=2, max_new_tokens=2)


@pytest.mark.parametrize("use_cache", [True, False])
def test_generation_from_stored_features_equals_generation_from_pixels(use_cache):
    torch.manual_seed(0)
    model = Blip3VideoForConditionalGeneration(blip3_video_tiny()).eval()
    ids = torch.tensor([[1, *[64] * 8, 5, 6]])
    pixels = torch.randn(1, 4, 3, 32, 32)
    settings = {"max_new_tokens": 6, "do_sample": False, "use_cache": use_cache, "eos_token_id": 63}
    with torch.no_grad():
        features = encode_frames(model.vision_encoder, pixels)
    expected = model.generate(input_ids=ids, pixel_values_videos=pixels, **settings)
    assert model.generate(input_ids=ids, video_features=features, **settings).equal(expected)
