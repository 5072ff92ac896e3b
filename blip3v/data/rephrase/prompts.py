"""What the language model is asked. A change here is a new version, and old replies are not taken for it."""

from __future__ import annotations

import json
from typing import Literal, get_args

Task = Literal["sentence", "caption"]
TASKS: tuple[Task, ...] = get_args(Task)
Messages = list[dict[str, str]]

VERSION = 1

_INSTRUCTIONS: dict[Task, str] = {
    "sentence": (
        "You turn short answers about videos into full sentences. You get a question and its correct short "
        "answer as JSON. Reply with one natural sentence that answers the question. Keep the words of the "
        "short answer in it. If the short answer is yes or no, begin with that word. Add no fact that is in "
        "neither the question nor the answer. Reply with the sentence alone, without quotation marks."
    ),
    "caption": (
        "You rewrite captions of videos. You get a caption as JSON. Say the same in your own words, in "
        "fluent English and in about the same length. Keep every object, person, action, colour, number and "
        "the order of events. Add nothing and leave nothing out. Do not mention that there is a caption, or "
        "that this is a video unless the caption does. Reply with the new caption alone."
    ),
}


def messages_for(task: Task, question: str, answer: str) -> Messages:
    """The conversation that asks for one rephrased answer."""
    # As JSON, so that a text which reads like an instruction stays a value.
    given = {"question": question, "answer": answer} if task == "sentence" else {"caption": answer}
    return [
        {"role": "system", "content": _INSTRUCTIONS[task]},
        {"role": "user", "content": json.dumps(given, ensure_ascii=False)},
    ]


def asked_again(messages: Messages, reply: str, problem: str) -> Messages:
    """The conversation that goes on after a reply that cannot be used."""
    again = f"This cannot be used: {problem}. Try once more and follow the instructions exactly."
    return [
        *messages,
        {"role": "assistant", "content": reply or "(nothing)"},
        {"role": "user", "content": again},
    ]
