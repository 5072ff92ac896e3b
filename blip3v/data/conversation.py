"""Questions and answers about videos, written as the text that the language model is trained and asked with.

The layout is the one of Phi-3's chat as BLIP-3-Video uses it (xGen-MM); the tokenizer puts the
begin-of-sequence token in front.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from blip3v.errors import UserError

SYSTEM_PROMPT = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)
VIDEO_MARK = "<image>"
END_MARK = "<|end|>"

_DATASET_MARKS = re.compile(r"\s*<(?:video|image)>\s*")
_SPECIAL = re.compile(r"<(?=\|[^<>|]*\|>|/?s>|unk>|pad>|image>|image placeholder>)")


class Turn(NamedTuple):
    """One question of the user and the assistant's answer, as plain text."""

    question: str
    answer: str


class Segment(NamedTuple):
    """A stretch of rendered text; the loss is taken on the tokens of targets only."""

    text: str
    is_target: bool


def plain_text(text: str) -> str:
    """Text that can stand inside a turn without acting as markup.

    A special token written out by a user or a data set (`<|end|>`, `<|assistant|>`, `<s>`, `<image>`, ...)
    gets a space behind its `<`. It stays readable, and no tokenizer takes it for the token: nobody can close
    a turn, open another role or ask for a video from inside a question or an answer.
    """
    return _SPECIAL.sub("< ", text).strip()


def question_text(question: str) -> str:
    """A question made plain, without the `<video>` and `<image>` marks of data sets ("<video>\\nWhat ...").

    Where the videos stand is decided by `render`, never by marks inside the text.
    """
    # A space in the place of each mark, so that what stands around it cannot join into a mark or a token.
    return plain_text(_DATASET_MARKS.sub(" ", question))


def format_prompt(question: str, with_video: bool | int = True, system: str = SYSTEM_PROMPT) -> str:
    """The prompt up to the place where the answer begins.

    Args:
        question: the user's text; marks and special tokens in it are handled as in `question_text`.
        with_video: one `<image>` for True, none for False, or how many videos the question is about.
        system: the system message; empty for a prompt without one.
    """
    return _opening(system) + _user_turn(question, int(with_video))


def render(
    turns: Sequence[tuple[str, str]], num_videos: int = 1, system: str = SYSTEM_PROMPT
) -> list[Segment]:
    """A conversation as alternating segments: context, target, context, target, ...

    `turns` are `Turn`s or (question, answer) pairs. Targets are the answer and its `<|end|>`. All videos
    stand in the first question, one `<image>` and a line break each. An empty answer leaves `<|end|>` as its
    only target, so the model learns to stop there. The line break after an `<|end|>` belongs to that segment:
    the token swallows it only if both are tokenized together.

    Raises:
        UserError: no turns, or a negative number of videos.
    """
    if not turns:
        raise UserError("a conversation needs at least one turn; leave the record out")
    segments = []
    for index, (question, answer) in enumerate(turns):
        context = _opening(system) if index == 0 else ""
        context += _user_turn(question, num_videos if index == 0 else 0)
        separator = "" if index == len(turns) - 1 else "\n"
        segments.append(Segment(context, False))
        segments.append(Segment(plain_text(answer) + END_MARK + separator, True))
    return segments


def _opening(system: str) -> str:
    return "" if not system else f"<|system|>\n{plain_text(system)}{END_MARK}\n"


def _user_turn(question: str, num_videos: int) -> str:
    if num_videos < 0:
        raise UserError(f"a conversation cannot have {num_videos} videos; give 0, 1 or more")
    marks = f"{VIDEO_MARK}\n" * num_videos
    return f"<|user|>\n{marks}{question_text(question)}{END_MARK}\n<|assistant|>\n"
