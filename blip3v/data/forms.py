"""What an entry of a data set becomes: a short answer, a sentence, a choice, a caption.

The paper's third stage shows TGIF-QA and NExT-QA three times: open-ended with the short answer, open-ended
with the answer rephrased as a sentence, and as multiple choice; MSVD-QA and MSRVTT-QA have rephrased answers
too (arXiv 2410.16267, training section). An entry and a form make one record.
"""

from __future__ import annotations

import hashlib
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from blip3v.data.conversation import Turn
from blip3v.data.records import Record, name_of, parse_line
from blip3v.data.skipping import BadEntry, Reason
from blip3v.errors import UserError
from blip3v.video.span import Span

Form = Literal["turns", "open", "sentence", "multiple_choice", "caption"]
FORMS: tuple[Form, ...] = get_args(Form)

CHOICE_INSTRUCTION = "Only give the best option."
CAPTION_QUESTIONS = (
    "Describe this video in detail.",
    "What happens in this video? Tell everything that can be seen.",
    "Write a detailed caption for this video.",
    "Give a full description of the scene, of what is in it and of how it changes.",
    "Explain in detail what this video shows.",
)
"""Asked about captions that come without a question; the paper does not give its own."""

Answers = Mapping[tuple[str | None, str], str]
"""Rephrased answers by (source, id), the source None where the file names none."""


@dataclass(frozen=True)
class Item:
    """What one entry of an annotation file says.

    Attributes:
        id: name of the entry in its data set.
        turns: questions and answers; of a caption one turn with an empty question.
        video: a video file, a folder of frames, or one in a tar.
        image: a still image; at most one of video and image is given.
        kind: sort of question.
        options: the answers to choose from, and `correct`, the place of the right one, which is also the
            answer of the turn.
        span: (begin, end) in seconds of the video.
        source: name of the data set, where the entry itself says it.
    """

    id: str
    turns: tuple[Turn, ...]
    video: Path | None = None
    image: Path | None = None
    kind: str | None = None
    options: tuple[str, ...] = ()
    correct: int | None = None
    span: Span | None = None
    source: str | None = None


def make_record(item: Item, form: Form, source: str, seed: int = 0, answers: Answers | None = None) -> Record:
    """An entry in one form.

    turns: as it stands, with all its turns. open: the short answer as it stands. sentence: the answer of
    `answers` instead. multiple_choice: options with letters under the question, the answer is letter and
    text. caption: a question to the caption, one of CAPTION_QUESTIONS.

    Options are shuffled by (seed, id): a data set may prefer a place for the right answer, and a model would
    learn the place. The same entry has the same order in every epoch, so runs can be repeated; for
    evaluation, where published numbers stand beside ours, use `choice_turn` with the order of the file.

    Records of one entry differ in their id: `7`, `7#sentence`, `7#choice`.

    Raises:
        BadEntry: no rephrased answer, or an entry that this form does not fit.
    """
    name, turns = item.id, item.turns
    if form == "multiple_choice":
        if item.correct is None:
            raise BadEntry(Reason.MALFORMED, "there are no options to choose from")
        name, turns = f"{item.id}#choice", (choice_turn(item, shuffled(len(item.options), item.id, seed)),)
    elif form == "sentence":
        name, turns = f"{item.id}#sentence", (_rephrased(item, source, seed, answers or {}),)
    elif form == "caption":
        turns = (_asked(item, seed),)
    elif form == "open" and len(turns) != 1:
        raise BadEntry(Reason.MALFORMED, f"it has {len(turns)} turns; use the form turns")
    return Record(name, turns, item.video, item.image, item.kind, source, item.span)


def choice_turn(item: Item, order: Sequence[int]) -> Turn:
    """The question with its options in this order, and the right one as `B. text`."""
    letters = string.ascii_uppercase
    lines = [f"{letters[place]}. {item.options[index]}" for place, index in enumerate(order)]
    question = "\n".join([item.turns[0].question, *lines, CHOICE_INSTRUCTION])
    right = [line for line, index in zip(lines, order, strict=True) if index == item.correct]
    return Turn(question, right[0])


def shuffled(count: int, name: str, seed: int) -> list[int]:
    """0 ... count - 1 in an order that (seed, name) decides, on every version of Python alike."""
    return sorted(range(count), key=lambda index: _hash(seed, name, index))


def read_answers(path: Path) -> dict[tuple[str | None, str], str]:
    """The lines {"id": ..., "answer": ..., "source": ...} that `blip3v data rephrase` writes.

    Raises:
        UserError: no such file, or a line that is something else.
    """
    if not path.is_file():
        raise UserError(f"no such file of rephrased answers: {path}; make it with blip3v data rephrase")
    answers = {}
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                fields = parse_line(line)
                answer, source = fields.get("answer"), fields.get("source")
                if not isinstance(answer, str) or not isinstance(source, str | None):
                    raise UserError("'answer' must be text, and 'source' too where it is given")
                answers[source, name_of(fields)] = answer
            except UserError as error:
                raise UserError(f"{path}:{number}: {error}") from error
    return answers


def _rephrased(item: Item, source: str, seed: int, answers: Answers) -> Turn:
    if len(item.turns) != 1:
        raise BadEntry(
            Reason.NOT_REPHRASED, f"it has {len(item.turns)} turns; only single answers are rephrased"
        )
    answer = answers.get((source, item.id)) or answers.get((None, item.id)) or ""
    if not answer.strip():
        raise BadEntry(Reason.NOT_REPHRASED, f"entry {item.id} is not in the file of rephrased answers")
    return Turn(_asked(item, seed).question, answer)


def _asked(item: Item, seed: int) -> Turn:
    question, answer = item.turns[0]
    if question:
        return item.turns[0]
    return Turn(CAPTION_QUESTIONS[_hash(seed, item.id, 0) % len(CAPTION_QUESTIONS)], answer)


def _hash(seed: int, name: str, index: int) -> int:
    digest = hashlib.sha256(f"{seed}/{index}/{name}".encode(errors="surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big")
