from __future__ import annotations

import numpy as np
import pytest

from blip3v.video.decoders.colours import from_bt601

# Red, green and blue of brightness, as the standards print them.
STANDARDS = {1: (0.2126, 0.7152, 0.0722), 7: (0.212, 0.701, 0.087), 9: (0.2627, 0.6780, 0.0593)}
BT601 = (0.299, 0.587, 0.114)


def _coded(rgb: np.ndarray, weights: tuple[float, float, float]) -> tuple[float, float, float]:
    bright = sum(weight * part for weight, part in zip(weights, rgb, strict=True))
    return bright, (rgb[2] - bright) / (2 * (1 - weights[2])), (rgb[0] - bright) / (2 * (1 - weights[0]))


def _decoded(coded: tuple[float, float, float], weights: tuple[float, float, float]) -> np.ndarray:
    red = coded[0] + 2 * (1 - weights[0]) * coded[2]
    blue = coded[0] + 2 * (1 - weights[2]) * coded[1]
    return np.array([red, (coded[0] - weights[0] * red - weights[2] * blue) / weights[1], blue])


@pytest.mark.parametrize("matrix", STANDARDS)
def test_undoes_decoding_with_the_wrong_matrix(matrix: int) -> None:
    change = from_bt601(matrix)
    assert change is not None
    for rgb in np.random.default_rng(0).random((20, 3)):
        wrong = _decoded(_coded(rgb, STANDARDS[matrix]), BT601)
        assert np.abs(wrong - rgb).max() > 1e-3
        np.testing.assert_allclose(change @ wrong, rgb, atol=1e-12)


def test_grey_stays_grey() -> None:
    change = from_bt601(1)
    assert change is not None
    np.testing.assert_allclose(change @ np.full(3, 127.0), 127.0)


@pytest.mark.parametrize("matrix", [0, 2, 3, 5, 6, 99])
def test_bt601_and_what_is_not_said_are_left_alone(matrix: int) -> None:
    assert from_bt601(matrix) is None
