from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from blip3v.data.conversation import Turn
from blip3v.data.forms import (
    CAPTION_QUESTIONS,
    CHOICE_INSTRUCTION,
    Item,
    choice_turn,
    make_record,
    read_answers,
    shuffled,
)
from blip3v.data.records import Record
from blip3v.data.skipping import BadEntry, Reason
from blip3v.errors import UserError

OPTIONS = ("jump", "step", "nod", "wave", "blink")
CHOICE = Item(
    "7", (Turn("What?", "nod"),), Path("x.gif"), kind="action", options=OPTIONS, correct=2, span=(1.0, 2.0)
)
CAPTION = Item("c", (Turn("", "A cat walks."),), Path("x.mp4"))


def test_open_is_the_answer_as_it_stands() -> None:
    expected = Record("7", CHOICE.turns, Path("x.gif"), None, "action", "tgif", (1.0, 2.0))
    assert make_record(CHOICE, "open", "tgif") == make_record(CHOICE, "turns", "tgif") == expected


def test_several_turns_have_no_short_answer() -> None:
    talk = Item("t", (Turn("a", "b"), Turn("c", "d")), Path("x.mp4"))
    assert make_record(talk, "turns", "s").turns == talk.turns
    for form in ("open", "sentence"):
        with pytest.raises(BadEntry, match="2 turns"):
            make_record(talk, form, "s", answers={(None, "t"): "x"})


def test_multiple_choice_asks_all_options_and_answers_letter_and_text() -> None:
    record = make_record(CHOICE, "multiple_choice", "tgif", seed=3)
    question, *lines, instruction = record.turns[0].question.split("\n")
    assert (record.id, question, instruction) == ("7#choice", "What?", CHOICE_INSTRUCTION)
    assert [line[:3] for line in lines] == ["A. ", "B. ", "C. ", "D. ", "E. "]
    assert sorted(line[3:] for line in lines) == sorted(OPTIONS)
    assert record.turns[0].answer in lines and record.turns[0].answer[3:] == "nod"
    assert choice_turn(CHOICE, range(5)).answer == "C. nod"
    with pytest.raises(BadEntry, match="no options"):
        make_record(CAPTION, "multiple_choice", "s")


def test_two_options_may_read_alike() -> None:
    item = Item("1", (Turn("What?", "nod"),), options=("nod", "nod"), correct=1)
    assert choice_turn(item, [1, 0]).answer == "A. nod"


def test_the_right_answer_has_no_favourite_place() -> None:
    places = Counter(shuffled(5, str(name), 0).index(2) for name in range(5000))
    assert all(abs(places[place] - 1000) < 4 * (5000 * 0.2 * 0.8) ** 0.5 for place in range(5))
    # Written down, because a run that goes on elsewhere must ask the same question.
    assert shuffled(5, "7", 3) == shuffled(5, "7", 3) != shuffled(5, "7", 4)
    assert shuffled(5, "7", 3) == [4, 0, 3, 2, 1]


def test_a_sentence_comes_from_the_file_of_answers(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    path.write_text(
        '{"id": "7", "answer": "He nods.", "source": "tgif"}\n\n{"id": 7, "answer": "Any."}\n'
        '{"id": "c", "answer": " "}\n'
    )
    answers = read_answers(path)
    record = make_record(CHOICE, "sentence", "tgif", answers=answers)
    assert (record.id, record.turns) == ("7#sentence", (Turn("What?", "He nods."),))
    assert make_record(CHOICE, "sentence", "other", answers=answers).turns[0].answer == "Any."
    for item, known in ((CAPTION, answers), (CHOICE, None)):
        with pytest.raises(BadEntry) as error:
            make_record(item, "sentence", "x", answers=known)
        assert error.value.reason is Reason.NOT_REPHRASED


@pytest.mark.parametrize(
    "line", ["{", '{"id": 1}', '{"answer": "x"}', '{"id": 1, "answer": "x", "source": 3}']
)
def test_a_bad_file_of_answers(tmp_path: Path, line: str) -> None:
    path = tmp_path / "answers.jsonl"
    path.write_text(f'{{"id": 1, "answer": "x"}}\n{line}\n')
    with pytest.raises(UserError, match=r"answers\.jsonl:2"):
        read_answers(path)
    with pytest.raises(UserError, match="blip3v data rephrase"):
        read_answers(tmp_path / "gone.jsonl")


def test_captions_are_asked_for_in_several_words() -> None:
    asked = {make_record(Item(str(n), CAPTION.turns), "caption", "s").turns[0].question for n in range(60)}
    assert asked == set(CAPTION_QUESTIONS)
    record = make_record(CAPTION, "caption", "s", seed=5)
    assert record == make_record(CAPTION, "caption", "s", seed=5)
    assert record.turns[0].answer == "A cat walks."
    rephrased = make_record(CAPTION, "sentence", "s", seed=5, answers={("s", "c"): "One cat."})
    assert rephrased.turns == (Turn(record.turns[0].question, "One cat."),)
