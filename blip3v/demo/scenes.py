"""What happens in a clip, and what can be asked about it.

One frame must not answer what needs time. So a single shape is near the centre, whatever it does, in the
frame that a one-frame control sees, and no flash falls on that frame.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from blip3v.demo.render import BACKGROUNDS, COLOURS, RADIUS, SHAPES, SIZE, render

FRAMES = 32
# The evaluation rule of the paper, linspace(n/2, N - n/2, n), sees frames 4 to 28 of 32 when it takes 8.
FIRST, LAST = 4, 28
MIDDLE = 17
"""The fifth of those eight frames, the one that a one-frame control sees."""

MARGIN = RADIUS + 1
DIRECTIONS = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}
LEG_LENGTHS = (34, 19, 15, 12)
"""Pixels between two turns, for a path of 0, 1, 2 or 3; at its ends half a shape may be out of the frame."""

NUMBERS = ("zero", "one", "two", "three", "four", "five", "six")

TEMPORAL = ("direction", "speed", "first mover", "flash order", "turns")
STATIC = ("colour", "shape")
# How often a guess among the possible answers of one clip is right.
CHANCE = {
    "direction": 1 / 4,
    "speed": 1 / 2,
    "first mover": 1 / 2,
    "flash order": 1 / 2,
    "turns": 1 / 4,
    "colour": 1 / len(COLOURS),
    "shape": 1 / len(SHAPES),
}


@dataclass
class Scene:
    """Moving shapes, background colours, a caption, and (kind, question, answer) triples."""

    shapes: list[tuple[str, str, np.ndarray]]  # colour name, shape name, centres [FRAMES,2]
    backgrounds: list[str]
    caption: str
    questions: list[tuple[str, str, str]] = field(default_factory=list)

    def frames(self) -> np.ndarray:
        """uint8 [FRAMES,SIZE,SIZE,3]."""
        drawn = [(SHAPES.index(shape), COLOURS[colour], path) for colour, shape, path in self.shapes]
        return render(drawn, np.array([BACKGROUNDS[name] for name in self.backgrounds]))


def _progress() -> np.ndarray:
    """0 at frame FIRST, 1 at frame LAST, clipped outside: [FRAMES]."""
    return np.clip((np.arange(FRAMES) - FIRST) / (LAST - FIRST), 0, 1)


def _pick(rng: np.random.Generator, names: tuple[str, ...] | list[str], count: int = 1) -> list[str]:
    return [names[i] for i in rng.permutation(len(names))[:count]]


def _centred(rng: np.random.Generator, path: np.ndarray) -> np.ndarray:
    """Shift a path [FRAMES,2] so that its shape is within a pixel of the centre in frame MIDDLE."""
    return path - path[MIDDLE] + SIZE / 2 + rng.uniform(-1, 1, 2)


def _anywhere(rng: np.random.Generator, path: np.ndarray) -> np.ndarray:
    """Shift a path [FRAMES,2] so that it stays inside the frame, uniformly at random among the ways to."""
    return path + rng.uniform(MARGIN - path.min(0), SIZE - MARGIN - path.max(0))


def _flashes(rng: np.random.Generator) -> tuple[list[str], str, tuple[str, str, str]]:
    """Two flashes of the background, before and after MIDDLE.

    Each lasts 5 frames, longer than the gap between sampled frames, so that both are seen.
    """
    first, second = _pick(rng, ["white", "gray", "teal"], 2)
    start = int(rng.integers(FIRST, MIDDLE - 4))
    later = int(rng.integers(MIDDLE + 1, LAST - 3))
    backgrounds = ["black"] * FRAMES
    backgrounds[start : start + 5] = [first] * 5
    backgrounds[later : later + 5] = [second] * 5
    question = f"which flash came first , {' or '.join(_pick(rng, [first, second], 2))} ?"
    return backgrounds, f"{first} flash before {second} flash", ("flash order", question, first)


def _cell(centre: np.ndarray) -> str:
    """Where a shape is, in sixths of the frame."""
    column, row = (NUMBERS[int(c // (SIZE / 6)) + 1] for c in centre)
    return f"row {row} column {column}"


def _static_questions(colour: str, shape: str) -> list[tuple[str, str, str]]:
    return [("colour", "what colour is the shape ?", colour), ("shape", "what shape is it ?", shape)]


def moving(rng: np.random.Generator) -> Scene:
    """One shape moves straight and gets faster or slower."""
    (colour,), (shape,), (way,) = _pick(rng, list(COLOURS)), _pick(rng, SHAPES), _pick(rng, list(DIRECTIONS))
    faster = bool(rng.integers(2))
    time = _progress()
    travelled = time**1.9 if faster else 1 - (1 - time) ** 1.9
    path = _centred(rng, rng.uniform(23, 25.5) * travelled[:, None] * np.array(DIRECTIONS[way]))
    backgrounds, flash_text, flash_question = _flashes(rng)
    word = "faster" if faster else "slower"
    begin, end = (_cell(path[frame]) for frame in (FIRST, LAST))
    return Scene(
        [(colour, shape, path)],
        backgrounds,
        f"a {colour} {shape} moves {way} from {begin} to {end} and gets {word} ; {flash_text}",
        [
            ("direction", "which way does the shape move ?", way),
            ("speed", "does the shape get faster or slower ?", word),
            flash_question,
            *_static_questions(colour, shape),
        ],
    )


def turning(rng: np.random.Generator) -> Scene:
    """One shape at constant speed makes 0 to 3 right-angle turns."""
    (colour,), (shape,), (way,) = _pick(rng, list(COLOURS)), _pick(rng, SHAPES), _pick(rng, list(DIRECTIONS))
    turns = int(rng.integers(4))
    legs = turns + 1
    heading = np.array(DIRECTIONS[way], dtype=float)
    corners = [np.zeros(2)]
    for _ in range(legs):
        corners.append(corners[-1] + LEG_LENGTHS[turns] * heading)
        turned = np.array([-heading[1], heading[0]])
        heading = turned if rng.integers(2) else -turned
    time = _progress() * legs
    path = np.stack([np.interp(time, np.arange(legs + 1), axis) for axis in np.transpose(corners)], axis=1)
    path = _centred(rng, path)
    corner_frames = np.linspace(FIRST, LAST, legs + 1).round().astype(int)
    route = " to ".join(_cell(path[frame]) for frame in corner_frames)
    backgrounds, flash_text, flash_question = _flashes(rng)
    return Scene(
        [(colour, shape, path)],
        backgrounds,
        f"a {colour} {shape} makes {NUMBERS[turns]} turns from {route} ; {flash_text}",
        [
            ("turns", "how many turns does the shape make ?", NUMBERS[turns]),
            flash_question,
            *_static_questions(colour, shape),
        ],
    )


def taking_turns(rng: np.random.Generator) -> Scene:
    """Two shapes side by side move one after the other."""
    colours, shapes = _pick(rng, list(COLOURS), 2), _pick(rng, SHAPES, 2)
    tracks, ways = [], []
    # Both rest in frame MIDDLE.
    for begin, end in ((FIRST, MIDDLE - 1), (MIDDLE, LAST)):
        moved = np.clip((np.arange(FRAMES) - begin) / (end - begin), 0, 1)
        ways.append(_pick(rng, ["up", "down"])[0])
        tracks.append(moved[:, None] * rng.uniform(20, 28) * np.array(DIRECTIONS[ways[-1]]))
    # Both stay in their own column, left or right at random, so they never overlap.
    columns = rng.permutation([SIZE * 0.25, SIZE * 0.75])
    placed = []
    for track, column in zip(tracks, columns, strict=True):
        path = _anywhere(rng, track)
        path[:, 0] = column + rng.uniform(-3, 3)
        placed.append(path)
    backgrounds, flash_text, flash_question = _flashes(rng)
    order = rng.permutation(2)
    question = f"which shape moved first , {colours[order[0]]} or {colours[order[1]]} ?"
    which = int(rng.integers(2))
    side = "left" if columns[which] < columns[1 - which] else "right"
    told = [
        f"a {colours[i]} {shapes[i]} moves {ways[i]} "
        f"from {_cell(placed[i][FIRST])} to {_cell(placed[i][LAST])}"
        for i in range(2)
    ]
    return Scene(
        [(colours[i], shapes[i], placed[i]) for i in range(2)],
        backgrounds,
        f"{told[0]} before {told[1]} ; {flash_text}",
        [
            ("first mover", question, colours[0]),
            flash_question,
            ("colour", f"what colour is the {side} shape ?", colours[which]),
            ("shape", f"what shape is {colours[which]} ?", shapes[which]),
        ],
    )


KINDS = (moving, turning, taking_turns)


def random_scene(rng: np.random.Generator) -> Scene:
    """One of the three kinds of scene."""
    return KINDS[int(rng.integers(len(KINDS)))](rng)


def still(rng: np.random.Generator) -> Scene:
    """A single frame with one or two shapes and a caption that says what and where, for stage 1."""
    count = int(rng.integers(1, 3))
    colours, shapes = _pick(rng, list(COLOURS), count), _pick(rng, SHAPES, count)
    background = "black" if rng.random() < 0.5 else _pick(rng, list(BACKGROUNDS))[0]
    centres = rng.uniform(MARGIN, SIZE - MARGIN, (count, 2))
    while count == 2 and np.abs(centres[0] - centres[1]).max() < 2 * RADIUS + 1:
        centres = rng.uniform(MARGIN, SIZE - MARGIN, (count, 2))
    order = np.argsort(centres[:, 0])
    parts = []
    for i in order:
        parts.append(f"a {colours[i]} {shapes[i]} at {_cell(centres[i])}")
    return Scene(
        [(colours[i], shapes[i], centres[i][None]) for i in range(count)],
        [background],
        f"{' and '.join(parts)} on {background}",
    )


def vocabulary() -> list[str]:
    """Every word that a scene can say or be asked, in a fixed order."""
    words = (*SHAPES, *COLOURS, *BACKGROUNDS, *DIRECTIONS, *NUMBERS, "faster", "slower")
    sentences = (
        "a moves and gets ; flash before makes turns at row column on from through to",
        "which flash came first , or ? what colour is the shape it which way does the move get",
        "how many make moved describe the image . describe the video .",
    )
    return list(dict.fromkeys([*words, *" ".join(sentences).split()]))
