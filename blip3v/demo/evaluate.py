"""Questions about held-out clips: answers, accuracy by kind, and whether that is what was asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from blip3v.data.conversation import Turn
from blip3v.data.records import Record
from blip3v.demo.model import FRAMES
from blip3v.demo.scenes import CHANCE, STATIC, TEMPORAL
from blip3v.models.modeling import Blip3VideoForConditionalGeneration
from blip3v.models.processing import IGNORE, Blip3VideoProcessor

Answerer = Callable[[Sequence[Record]], list[str]]
Scores = dict[str, Any]

QUESTIONS_AT_ONCE = 64
LONGEST_ANSWER = 4
MIDDLE = FRAMES // 2

STATIC_WANTED = 0.95
TEMPORAL_WANTED = 0.85
KIND_WANTED = 0.70
ONE_FRAME_ALLOWED = 0.15
EXCUSED = "turns"


class FeatureAnswerer:
    """Greedy answers of a model to the first question of each record, from stored features.

    Args:
        features: path of a clip as text -> [T,patches,dim].
        one_frame: show the middle frame T times instead.
    """

    def __init__(
        self,
        model: Blip3VideoForConditionalGeneration,
        processor: Blip3VideoProcessor,
        features: Mapping[str, Tensor],
        one_frame: bool = False,
    ) -> None:
        self.model, self.processor, self.features, self.one_frame = model, processor, features, one_frame

    @torch.inference_mode()
    def __call__(self, records: Sequence[Record]) -> list[str]:
        """The answers, one for each record."""
        tokenizer, device = self.processor.tokenizer, self.model.device
        prompts = [self._prompt(record.turns[0].question) for record in records]
        inputs = tokenizer.pad({"input_ids": prompts}, return_tensors="pt", padding_side="left").to(device)
        embeds = self.model.lang_model.embed(inputs["input_ids"])
        embeds[inputs["input_ids"] == self.processor.image_token_id] = self._video_tokens(records).flatten(
            0, 1
        )
        ids = self.model.generate(
            inputs_embeds=embeds,
            attention_mask=inputs["attention_mask"],
            max_new_tokens=LONGEST_ANSWER,
            do_sample=False,
            eos_token_id=self.processor.end_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
        texts = self.processor.batch_decode(ids, skip_special_tokens=True)
        return [text.strip() for text in texts]

    def _video_tokens(self, records: Sequence[Record]) -> Tensor:
        """[records,M,dim]; a clip that several questions are about goes through the model once."""
        names = [str(record.media) for record in records]
        clips = {name: number for number, name in enumerate(dict.fromkeys(names))}
        features = torch.stack([self.features[name] for name in clips]).float().to(self.model.device)
        if self.one_frame:
            features = features[:, MIDDLE : MIDDLE + 1].expand_as(features)
        return self.model.vision_tokenizer(features)[[clips[name] for name in names]]

    def _prompt(self, question: str) -> list[int]:
        """The ids in front of an answer, exactly as in training: what a conversation does not learn."""
        sample = self.processor.encode_conversation([Turn(question, "")])
        return sample["input_ids"][sample["labels"] == IGNORE].tolist()


def ask(
    answerer: Answerer, records: Sequence[Record], report: Callable[[int, int], None] | None = None
) -> list[str]:
    """Answers to all records, QUESTIONS_AT_ONCE at a time; `report(done, total)` after each batch."""
    answers: list[str] = []
    for begin in range(0, len(records), QUESTIONS_AT_ONCE):
        answers += answerer(records[begin : begin + QUESTIONS_AT_ONCE])
        if report is not None:
            report(len(answers), len(records))
    return answers


def score(records: Sequence[Record], answers: Sequence[str]) -> Scores:
    """Accuracy by kind of question; an answer is right when it is the truth word for word.

    Returns:
        {"kinds": {kind: {"correct", "total", "accuracy", "chance"}}, "temporal", "static": means over kinds}.
        A kind that was not asked is left out; a mean over no kinds is None.
    """
    kinds: dict[str, dict[str, Any]] = {}
    for record, answer in zip(records, answers, strict=True):
        kind = kinds.setdefault(str(record.kind), {"correct": 0, "total": 0})
        kind["total"] += 1
        kind["correct"] += answer.split() == record.turns[0].answer.split()
    for name, kind in kinds.items():
        kind |= {"accuracy": kind["correct"] / kind["total"], "chance": CHANCE[name]}
    ordered = {name: kinds[name] for name in (*TEMPORAL, *STATIC) if name in kinds}
    return {"kinds": ordered, "temporal": _mean(ordered, TEMPORAL), "static": _mean(ordered, STATIC)}


def _mean(kinds: Mapping[str, Mapping[str, float]], names: Sequence[str]) -> float | None:
    found = [kinds[name]["accuracy"] for name in names if name in kinds]
    return sum(found) / len(found) if found else None


def acceptance(video: Scores, one_frame: Scores) -> list[dict[str, Any]]:
    """What was promised against what was found, as fractions.

    Returns:
        {"what", "wanted", "found", "passed", "excused"} each; turns are excused, if it is said.
    """
    rows = [
        _row(f"{name}, at least", STATIC_WANTED, video["kinds"][name]["accuracy"])
        for name in STATIC
        if name in video["kinds"]
    ]
    if video["temporal"] is not None:
        rows.append(_row("temporal questions on average, at least", TEMPORAL_WANTED, video["temporal"]))
    for name in TEMPORAL:
        if name in video["kinds"]:
            row = _row(f"{name}, at least", KIND_WANTED, video["kinds"][name]["accuracy"])
            rows.append(row | {"excused": name == EXCUSED and not row["passed"]})
    for name in TEMPORAL:
        if name in one_frame["kinds"]:
            allowed = CHANCE[name] + ONE_FRAME_ALLOWED
            rows.append(
                _row(f"{name} from one frame, at most", allowed, one_frame["kinds"][name]["accuracy"], True)
            )
    return rows


def _row(what: str, wanted: float, found: float, at_most: bool = False) -> dict[str, Any]:
    passed = found <= wanted if at_most else found >= wanted
    return {"what": what, "wanted": wanted, "found": found, "passed": passed, "excused": False}
