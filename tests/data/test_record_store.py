from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest

from blip3v.data.conversation import Turn
from blip3v.data.record_store import RecordStore, RecordStoreBuilder
from blip3v.data.records import Record, fingerprint

RECORDS = [
    Record("1", (Turn("Größe?", "ein Meter"), Turn("why", "")), video=Path("/data/clips/a.mp4")),
    Record("2", (Turn("colour?", "red"),), image=Path("still.png"), kind="colour", source="made"),
    Record("3", (Turn("no picture", "none 😀"),)),
    Record("4", (Turn("", "x"),), video=Path("/data/clips/b/c.gif"), span=(0.5, 1.25)),
]


def test_what_goes_in_comes_out() -> None:
    store = RecordStore.of(RECORDS)
    assert list(store) == RECORDS and len(store) == 4
    assert store[-1] == RECORDS[-1] and list(store[1:3]) == RECORDS[1:3]
    assert isinstance(store[0].turns[0], Turn) and isinstance(store[3].span, tuple)
    assert list(pickle.loads(pickle.dumps(store))) == RECORDS
    with pytest.raises(IndexError):
        store[4]


def test_a_root_is_stored_once_and_does_not_change_the_digest() -> None:
    stores = []
    for root in ("/data", "/elsewhere/far/away"):
        builder = RecordStoreBuilder()
        for number in range(50):
            builder.add(Record(str(number), (Turn("q", "a"),), Path(root, f"{number}.mp4")), Path(root))
        stores.append(builder.build())
    assert stores[1][7].video == Path("/elsewhere/far/away/7.mp4")
    assert stores[0].nbytes == stores[1].nbytes
    assert stores[0].fingerprint == stores[1].fingerprint


def test_order_may_repeat_and_leave_out() -> None:
    builder = RecordStoreBuilder()
    for record in RECORDS:
        builder.add(record)
    store = builder.build(np.array([3, 0, 0]))
    assert [record.id for record in store] == ["4", "1", "1"]
    assert store.fingerprint != builder.build().fingerprint


def test_without_copies() -> None:
    builder = RecordStoreBuilder()
    for record in (*RECORDS, RECORDS[1]):  # the last one is equal, and a record of its own
        builder.add(record)
    store = builder.build(np.array([3, 4, 3, 1, 4]))
    assert list(store.without_copies()) == [RECORDS[3], RECORDS[1], RECORDS[1]]


def test_nothing_in_it() -> None:
    assert list(RecordStore.of([])) == []


def test_the_digest_is_the_one_of_the_data_set() -> None:
    store = RecordStore.of(RECORDS)
    assert fingerprint(store) == store.fingerprint
    assert RecordStore.of(RECORDS[::-1]).fingerprint != store.fingerprint


def test_half_a_character_is_refused() -> None:
    with pytest.raises(UnicodeEncodeError):
        RecordStoreBuilder().add(Record("1", (Turn("q", "\ud800"),)))


def test_memory() -> None:
    """A record takes its text and about 90 bytes, however long the folder of the videos is called."""
    builder, text, folder = RecordStoreBuilder(), "six letters makes this word long " * 10, Path("/data" * 20)
    for n in range(2000):
        name = folder / f"v_{n:011d}.mp4"
        builder.add(Record(f"v_{n:07d}", (Turn(text[:60], text[:300]),), name, source="made"), folder)
    assert 60 < builder.build().nbytes / 2000 - 360 < 100
