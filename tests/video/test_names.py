from __future__ import annotations

from blip3v.video.names import natural_key


def test_numbers_in_names_count_as_numbers() -> None:
    names = ["c01_10.jpg", "c01_9.jpg", "c2_1.jpg", "a.jpg", "007.jpg", "30.jpg"]
    assert sorted(names, key=natural_key) == [
        "007.jpg",
        "30.jpg",
        "a.jpg",
        "c01_9.jpg",
        "c01_10.jpg",
        "c2_1.jpg",
    ]
