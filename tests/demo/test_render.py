from __future__ import annotations

import math

import numpy as np
import pytest

from blip3v.demo.render import RADIUS, SHAPES, SIZE, render

BLACK = np.zeros((1, 3), int)
WHITE = (255, 255, 255)


def draw(shape: str, x: float, y: float) -> np.ndarray:
    """How white each pixel is, [SIZE,SIZE] from 0 to 1."""
    frame = render([(SHAPES.index(shape), WHITE, np.array([[x, y]]))], BLACK)[0]
    return frame[..., 0] / 255


def test_a_ring_pixel_by_pixel() -> None:
    found, x, y = draw("ring", 20.3, 27.8), 20.3, 27.8
    for row in range(SIZE):
        for column in range(SIZE):
            radius = math.hypot(column + 0.5 - x, row + 0.5 - y)
            cover = min(RADIUS - radius, radius - 0.45 * RADIUS) + 0.5
            assert abs(found[row, column] - min(max(cover, 0.0), 1.0)) <= 1 / 255


@pytest.mark.parametrize("shape", SHAPES)
def test_shapes_lie_around_their_centre_and_differ(shape: str) -> None:
    cover = draw(shape, 24, 24)
    places = np.arange(SIZE) + 0.5
    centre = (cover.sum(0) @ places / cover.sum(), cover.sum(1) @ places / cover.sum())
    assert abs(centre[0] - 24) < 0.05
    assert abs(centre[1] - 24) < (1.5 if shape == "triangle" else 0.05)
    rows, columns = np.nonzero(cover > 0.5)
    assert max(abs(rows + 0.5 - 24).max(), abs(columns + 0.5 - 24).max()) <= 1.2 * RADIUS
    for other in set(SHAPES) - {shape}:
        assert np.abs(cover - draw(other, 24, 24)).sum() > 30


def test_a_path_moves_the_same_picture() -> None:
    path = np.array([[15.0, 20.0], [19.0, 23.0]])
    frames = render([(2, (200, 10, 30), path)], np.zeros((2, 3), int))
    assert frames.dtype == np.uint8
    np.testing.assert_array_equal(np.roll(frames[0], (3, 4), axis=(0, 1)), frames[1])


def test_backgrounds_and_what_lies_on_top() -> None:
    place = np.array([[24.0, 24.0], [24.0, 24.0]])
    backgrounds = np.array([[0, 0, 0], [0, 90, 90]])
    frames = render([(1, (250, 0, 0), place), (1, (0, 0, 250), place)], backgrounds)
    assert frames[0, 0, 0].tolist() == [0, 0, 0]
    assert frames[1, 0, 0].tolist() == [0, 90, 90]
    assert frames[:, 24, 24].tolist() == [[0, 0, 250]] * 2
