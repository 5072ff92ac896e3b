"""Which replies may be trained on: what a language model does wrong is found here, without another model."""

from __future__ import annotations

import re

from blip3v.data.rephrase.prompts import Task

REFUSALS = (
    "as an ai", "as a language model", "i'm sorry", "i am sorry", "i apologize", "i cannot", "i can't",
    "i'm unable", "i am unable", "i do not have", "i don't have", "here is the", "here's the",
    "rephrased", "rewritten", "short answer",
)  # fmt: skip
"""In a reply and not in the original, they speak about the task instead of doing it."""

LONGEST_SENTENCE = 60
"""Words."""
KEPT_SHARE = 0.35
"""Of a caption's content words, in some form, at least."""

_NUMBERS = {
    "zero": "0", "one": "1", "two": "2", "three": "3", "four": "4", "five": "5", "six": "6", "seven": "7",
    "eight": "8", "nine": "9", "ten": "10", "eleven": "11", "twelve": "12",
}  # fmt: skip
_EMPTY = frozenset({
    "a", "an", "the", "of", "in", "on", "at", "to", "and", "or", "is", "are", "was", "were", "be", "been",
    "being", "it", "its", "this", "that", "these", "those", "with", "by", "for", "from", "as", "he", "she",
    "they", "his", "her", "their", "there", "then", "while", "into", "out", "up", "down", "has", "have",
    "had", "do", "does", "did",
})  # fmt: skip
"""Words that a sentence may lose."""


def cleaned(reply: str) -> str:
    """Without the white space and the quotation marks around it."""
    text = reply.strip()
    for left, right in (('"', '"'), ("\u201c", "\u201d"), ("'", "'")):
        if len(text) > 1 and text.startswith(left) and text.endswith(right) and left not in text[1:-1]:
            text = text[1:-1].strip()
    return text


def problem_of(task: Task, question: str, answer: str, reply: str, cut: bool = False) -> str | None:
    """Why a cleaned reply cannot be used, in words that the model understands too; None if it can.

    Args:
        question, answer: the originals.
        cut: the endpoint ended the reply at its largest number of tokens.
    """
    if not reply:
        return "the reply is empty"
    if cut:
        return "the reply is too long and was cut off"
    original, low = f"{question} {answer}".lower(), reply.lower().replace("\u2019", "'")
    if marker := next((text for text in REFUSALS if text in low and text not in original), None):
        return f"the reply speaks about the task ({marker!r}) instead of doing it"
    return _sentence(answer, reply) if task == "sentence" else _caption(answer, reply)


def _sentence(answer: str, reply: str) -> str | None:
    if "\n" in reply:
        return "the reply has several lines"
    if len(reply.split()) > LONGEST_SENTENCE:
        return f"the reply is too long, {LONGEST_SENTENCE} words at most"
    wanted, found = _words(answer), _words(reply)
    content = [word for word in wanted if word not in _EMPTY] or wanted
    lost = [word for word in content if not any(_alike(word, other) for other in found)]
    return f"the short answer is lost, {lost[0]!r} is not in the reply" if lost else None


def _caption(caption: str, reply: str) -> str | None:
    before, after = len(caption.split()), len(reply.split())
    if after > 2 * before + 30:
        return f"the reply is too long, {after} words for {before}"
    if after < before / 3:
        return f"the reply is too short, {after} words for {before}"
    wanted, found = {word for word in _words(caption) if word not in _EMPTY}, set(_words(reply))
    kept = sum(any(_alike(word, other) for other in found) for word in wanted)
    if wanted and kept < KEPT_SHARE * len(wanted):
        return f"the reply says something else, only {kept} of {len(wanted)} words of the caption are in it"
    return None


def _words(text: str) -> list[str]:
    """Lower case, numbers as digits, the dog's as the dog."""
    plain = re.sub("['\u2019]s\\b", "", text.lower())
    return [_NUMBERS.get(word, word) for word in re.findall(r"[^\W_]+", plain)]


def _alike(one: str, other: str) -> bool:
    """The same word, perhaps in another form: run, runs, running; try, tries; not car and carpet."""
    if one == other:
        return True
    if one.isdigit() or other.isdigit():
        return False
    return bool(_stems(one) & _stems(other))


def _stems(word: str) -> set[str]:
    """What may be left of a word without its ending, of 3 letters or more; the word itself is one."""
    stems = {word}
    for ending in ("s", "es", "ed", "d", "ing", "e", "er", "ly", "n", "en"):
        stem = word.removesuffix(ending)
        if stem == word or len(stem) < 3:
            continue
        stems |= {stem, stem.removesuffix("e")}
        if stem[-1] == stem[-2]:
            stems.add(stem[:-1])
        if stem.endswith("i"):
            stems.add(stem[:-1] + "y")
    return stems
