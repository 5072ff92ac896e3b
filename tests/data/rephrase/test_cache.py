from __future__ import annotations

from pathlib import Path

import pytest

from blip3v.data.rephrase import cache as cache_module
from blip3v.data.rephrase.cache import Reply, ReplyCache, key_of
from blip3v.data.rephrase.prompts import messages_for

MESSAGES = messages_for("sentence", "what ?", "dog")


def test_a_key_changes_with_all_that_decides_a_reply(monkeypatch: pytest.MonkeyPatch) -> None:
    key = key_of("m", {"temperature": 0}, MESSAGES)
    assert key == key_of("m", {"temperature": 0}, messages_for("sentence", "what ?", "dog"))
    others = [
        key_of("n", {"temperature": 0}, MESSAGES),
        key_of("m", {"temperature": 1}, MESSAGES),
        key_of("m", {"temperature": 0}, messages_for("sentence", "what ?", "cat")),
        key_of("m", {"temperature": 0}, messages_for("caption", "what ?", "dog")),
    ]
    monkeypatch.setattr(cache_module, "VERSION", 2)
    others.append(key_of("m", {"temperature": 0}, MESSAGES))
    assert len({key, *others}) == 6


def test_replies_are_on_disk_at_once_and_survive(tmp_path: Path) -> None:
    path = tmp_path / "new" / "cache.jsonl"
    keys = [key_of("m", {}, messages_for("sentence", "q", str(n))) for n in range(3)]
    with ReplyCache(path) as cache:
        assert cache.get(keys[0]) is None
        cache.put(keys[0], Reply("Ein Hund \u2014 l\u00e4uft.", False, 5, 6))
        assert path.read_bytes().endswith(b"\n")  # before the cache is closed
        cache.put(keys[1], Reply("", True))
    with path.open("ab") as file:
        file.write(b'{"key": "00", "te')  # killed while writing
    with ReplyCache(path) as cache:
        assert len(cache) == 2 and keys[2] not in cache
        cache.put(keys[2], Reply("third"))
    with ReplyCache(path) as cache:
        assert [cache.get(key) for key in keys] == [
            Reply("Ein Hund \u2014 l\u00e4uft.", False, 5, 6), Reply("", True), Reply("third"),
        ]  # fmt: skip


@pytest.mark.parametrize(
    "line", ["[]", "{}", '{"key": 3}', '{"key": "zz", "text": "", "cut": false}', "\x00"]
)
def test_foreign_lines_are_passed_over(tmp_path: Path, line: str) -> None:
    key = key_of("m", {}, MESSAGES)
    with ReplyCache(tmp_path / "c") as cache:
        cache.put(key, Reply("a"))
    text = (tmp_path / "c").read_text()
    (tmp_path / "c").write_text(line + "\n" + text)
    with ReplyCache(tmp_path / "c") as cache:
        assert (len(cache), cache.get(key)) == (1, Reply("a"))
