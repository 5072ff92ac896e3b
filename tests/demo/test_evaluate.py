from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from blip3v.data.conversation import Turn
from blip3v.data.records import Record, read_records
from blip3v.demo.clips import ClipSet
from blip3v.demo.evaluate import (
    LONGEST_ANSWER,
    QUESTIONS_AT_ONCE,
    FeatureAnswerer,
    acceptance,
    ask,
    score,
)
from blip3v.demo.model import FRAMES, demo_model, demo_processor
from blip3v.demo.scenes import CHANCE, STATIC, TEMPORAL


def record(kind: str, answer: str, name: str = "r") -> Record:
    return Record(name, (Turn("which ?", answer),), kind=kind)


def test_a_scripted_model_gets_the_score_that_it_earns() -> None:
    records = [record("speed", "faster")] * 3 + [record("turns", "two")] * 2 + [record("shape", "ring")] * 4
    script = ["faster", "slower", " faster ", "two", "two two", "ring", "", "rings", "ring"]
    found = score(records, script)
    assert {kind: (row["correct"], row["total"]) for kind, row in found["kinds"].items()} == {
        "speed": (2, 3),
        "turns": (1, 2),
        "shape": (2, 4),
    }
    assert found["temporal"] == pytest.approx((2 / 3 + 1 / 2) / 2)
    assert found["static"] == 0.5
    assert found["kinds"]["turns"]["chance"] == 0.25
    assert score(records[-1:], ["ring"])["temporal"] is None


def test_asking_goes_through_all_records_in_batches() -> None:
    records = [record("speed", "faster", str(number)) for number in range(2 * QUESTIONS_AT_ONCE + 3)]
    sizes, seen = [], []

    def answerer(batch: Sequence[Record]) -> list[str]:
        sizes.append(len(batch))
        return [one.id for one in batch]

    assert ask(answerer, records, lambda done, total: seen.append((done, total))) == [
        one.id for one in records
    ]
    assert sizes == [QUESTIONS_AT_ONCE, QUESTIONS_AT_ONCE, 3]
    assert seen[-1] == (len(records), len(records))


def all_kinds(accuracy: float, **others: float) -> dict:
    kinds = {
        kind: {"accuracy": others.get(kind.replace(" ", "_"), accuracy), "chance": CHANCE[kind]}
        for kind in (*TEMPORAL, *STATIC)
    }
    return {"kinds": kinds, "temporal": sum(kinds[kind]["accuracy"] for kind in TEMPORAL) / len(TEMPORAL)}


def failed(video: dict, one_frame: dict) -> list[str]:
    return [row["what"] for row in acceptance(video, one_frame) if not row["passed"]]


def test_promises() -> None:
    blind = all_kinds(0.0)
    assert failed(all_kinds(0.95), blind) == []
    assert failed(all_kinds(0.95, shape=0.949), blind) == ["shape, at least"]
    assert failed(all_kinds(0.95, speed=0.69), blind) == ["speed, at least"]
    assert failed(all_kinds(0.95, turns=0.4, speed=0.8), blind) == [
        "temporal questions on average, at least",
        "turns, at least",
    ]
    assert failed(all_kinds(0.95), all_kinds(0.2, direction=0.41)) == ["direction from one frame, at most"]
    excused = [row["what"] for row in acceptance(all_kinds(0.95, turns=0.6), blind) if row["excused"]]
    assert excused == ["turns, at least"]


@torch.no_grad()
def test_answers_are_the_greedy_words_of_the_model(clip_set: ClipSet, features: dict[str, Tensor]) -> None:
    model = demo_model("token_learner", 32, seed=0).eval()
    processor = demo_processor(model.config)
    records = read_records(clip_set.questions("test"))
    found = FeatureAnswerer(model, processor, features)(records)
    expected = []
    for one in records:
        prompt = processor.encode_conversation([Turn(one.turns[0].question, "")])["input_ids"].tolist()
        assert prompt.pop() == processor.end_token_id
        start = len(prompt)
        clip = features[str(one.video)][None].float()
        while len(prompt) < start + LONGEST_ANSWER and processor.end_token_id not in prompt[start:]:
            prompt.append(int(model(torch.tensor([prompt]), video_features=clip).logits[0, -1].argmax()))
        expected.append(processor.tokenizer.decode(prompt[start:], skip_special_tokens=True).strip())
    assert found == expected
    assert any(found), "a model that says nothing would prove nothing"


@torch.no_grad()
def test_one_frame_is_the_middle_one_repeated(clip_set: ClipSet, features: dict[str, Tensor]) -> None:
    model = demo_model("token_learner", 32, seed=0).eval()
    processor = demo_processor(model.config)
    records = read_records(clip_set.questions("test"))[:4]
    still = {name: torch.stack([clip[FRAMES // 2]] * FRAMES) for name, clip in features.items()}
    expected = FeatureAnswerer(model, processor, still)(records)
    assert FeatureAnswerer(model, processor, features, one_frame=True)(records) == expected
