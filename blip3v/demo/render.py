"""Antialiased shapes on a plain background, many frames at once."""

from __future__ import annotations

import numpy as np

SIZE = 48
RADIUS = 8.0
SHAPES = ("ring", "square", "triangle", "cross")
COLOURS = {
    "red": (225, 45, 45),
    "green": (40, 190, 70),
    "blue": (60, 110, 255),
    "yellow": (240, 215, 40),
    "purple": (190, 70, 220),
    "orange": (250, 140, 30),
}
BACKGROUNDS = {"black": (0, 0, 0), "white": (245, 245, 245), "gray": (120, 120, 120), "teal": (0, 90, 90)}


def _distances(dx: np.ndarray, dy: np.ndarray) -> list[np.ndarray]:
    """Signed distance in pixels to the edge of each of SHAPES (positive inside), at offsets from the
    centre.
    """
    square = 0.88 * RADIUS - np.maximum(abs(dx), abs(dy))
    # Apex up; the three half planes of an equilateral triangle with inradius RADIUS / 2, a little enlarged.
    lower, side = RADIUS * 0.62 - dy, RADIUS * 0.62 - (0.866 * abs(dx) - 0.5 * dy)
    arm = 0.3 * RADIUS
    bars = np.maximum(
        np.minimum(arm - abs(dx), RADIUS - abs(dy)),
        np.minimum(arm - abs(dy), RADIUS - abs(dx)),
    )
    radius = np.hypot(dx, dy)
    # A ring, not a disc: at this size a disc and a square differ in a few corner pixels only.
    ring = np.minimum(RADIUS - radius, radius - 0.45 * RADIUS)
    return [ring, square, np.minimum(lower, side), bars]


def render(shapes: list[tuple[int, tuple[int, int, int], np.ndarray]], backgrounds: np.ndarray) -> np.ndarray:
    """Draw each shape along its path.

    Args:
        shapes: (index into SHAPES, RGB, centres [T,2] as x, y in pixels), later ones on top.
        backgrounds: RGB of each frame, [T,3].

    Returns:
        uint8 [T,SIZE,SIZE,3].
    """
    frames: np.ndarray = np.tile(backgrounds[:, None, None, :].astype(np.float32), (1, SIZE, SIZE, 1))
    axis = np.arange(SIZE, dtype=np.float32) + 0.5
    for kind, colour, centres in shapes:
        dx = axis[None, None, :] - centres[:, 0, None, None].astype(np.float32)
        dy = axis[None, :, None] - centres[:, 1, None, None].astype(np.float32)
        dx, dy = np.broadcast_arrays(dx, dy)
        cover = np.clip(_distances(dx, dy)[kind] + 0.5, 0, 1)[..., None]
        frames = frames * (1 - cover) + cover * np.asarray(colour, np.float32)
    return (frames + 0.5).astype(np.uint8)
