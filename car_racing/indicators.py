"""The strip below the picture: score, speed, ABS sensors, steering and gyro."""

import functools
import math

import numpy as np
import pygame
from gymnasium.envs.box2d.car_dynamics import Car
from gymnasium.envs.box2d.car_racing import WINDOW_H, WINDOW_W
from numpy.typing import NDArray

from car_racing.camera import X_SCALE, X_SHRINK, Y_SCALE, Y_SHRINK, shrunk
from car_racing.config import FRAME_SIZE
from car_racing.palette import Colour, Palette, Picture, grey

# Indicators, in window pixels: a unit is 1/40 of the window each way. The strip begins in the middle of a frame row.
UNIT_X = WINDOW_W // 40
UNIT_Y = WINDOW_H // 40
STRIP_TOP = WINDOW_H - 5 * UNIT_Y
FIRST_STRIP_ROW = int(STRIP_TOP * Y_SCALE)
N_STRIP_ROWS = FRAME_SIZE - FIRST_STRIP_ROW
BAR_BASE = WINDOW_H - UNIT_Y
SCORE_CENTRE = (60, WINDOW_H * 15 // 16)
SCORE_WIDTH = 5 * UNIT_X
SCORE_COLS = 11
VERTICAL_BARS: list[tuple[int, Colour]] = [
    (5, (255, 255, 255)),
    (7, (0, 0, 255)),
    (8, (0, 0, 255)),
    (9, (51, 0, 255)),
    (10, (51, 0, 255)),
]
HORIZONTAL_BARS: list[tuple[int, Colour]] = [(20, (0, 255, 0)), (30, (255, 0, 0))]
SMALLEST_SHOWN = 1e-4

# What changes in the strip where the game is mirrored, in frame pixels: the rows that are all strip, and the columns of
# the two bars that point left or right, each symmetric about the bar's zero.
STRIP_ROWS = slice(-(-STRIP_TOP * FRAME_SIZE // WINDOW_H), FRAME_SIZE)
_ZEROS = [round(place * UNIT_X * X_SCALE) for place, _ in HORIZONTAL_BARS]
_REACH = (_ZEROS[1] - _ZEROS[0]) // 2
SIDEWAYS_BARS = [slice(zero - _REACH, zero + _REACH) for zero in _ZEROS]


class Indicators:
    """The strip below the picture: score, speed, four ABS sensors, steering and gyro.

    A bar is a product of how much of each row and of each column it covers, looked up by its end in window pixels
    (index 0: not drawn), so all seven are one small matrix product.

    Args:
        palette: grey or colour.
    """

    def __init__(self, palette: Palette) -> None:
        self._palette = palette
        self._rows_of_end = _vertical_table()
        self._cols_of_end = _horizontal_tables(palette.grayscale)
        n_bars = len(VERTICAL_BARS) + len(HORIZONTAL_BARS)
        # One bar more, a constant half, rounds the product.
        self._rows = np.zeros((n_bars + 1, N_STRIP_ROWS), np.float32)
        self._cols = np.zeros((n_bars + 1, FRAME_SIZE, *palette.channels), np.float32)
        self._rows[-1], self._cols[-1] = 1.0, 0.5
        for bar, (place, colour) in enumerate(VERTICAL_BARS):
            self._cols[bar] = np.multiply.outer(_cols_covered(place * UNIT_X, (place + 1) * UNIT_X), palette(colour))
        self._rows[len(VERTICAL_BARS) : -1] = _rows_covered(WINDOW_H - 4 * UNIT_Y, WINDOW_H - 2 * UNIT_Y)
        # Contiguous views for the product.
        self._rows_transposed = self._rows.T
        self._cols_flat = self._cols.reshape(n_bars + 1, -1)
        self._strip = np.zeros((N_STRIP_ROWS, *self._cols.shape[1:]), np.float32)
        self._strip_flat = self._strip.reshape(N_STRIP_ROWS, -1)
        self._scores = _shared_scores(palette.grayscale)

    def draw(self, frame: Picture, car: Car, reward: float) -> None:
        """Fill the frame's strip; half of its first row belongs to the picture above, and stays."""
        velocity = car.hull.linearVelocity
        wheels = car.wheels
        ends = (
            _vertical_end(0.02, math.hypot(velocity.x, velocity.y)),
            _vertical_end(0.01, wheels[0].omega),
            _vertical_end(0.01, wheels[1].omega),
            _vertical_end(0.01, wheels[2].omega),
            _vertical_end(0.01, wheels[3].omega),
        )
        self._rows_of_end.take(ends, axis=0, out=self._rows[: len(ends)], mode="clip")
        steering, gyro = len(ends), len(ends) + 1
        self._cols[steering] = self._cols_of_end[0][_horizontal_end(20, -10.0, wheels[0].joint.angle)]
        self._cols[gyro] = self._cols_of_end[1][_horizontal_end(30, -0.8, car.hull.angularVelocity)]
        np.matmul(self._rows_transposed, self._cols_flat, out=self._strip_flat)
        text = f"{reward:04.0f}"
        score = self._scores.get(text)
        if score is None:
            score = self._scores[text] = _score(text, self._palette)
        self._strip[:, :SCORE_COLS] += score
        self._strip[0] += frame[FIRST_STRIP_ROW] * np.float32(0.5)
        frame[FIRST_STRIP_ROW:] = self._strip


def _score(text: str, palette: Palette) -> NDArray[np.float32]:
    """The score's text as the stock renders it, over the first columns of the strip."""
    place = pygame.Rect(0, STRIP_TOP, SCORE_WIDTH, WINDOW_H - STRIP_TOP)
    window = pygame.Surface(place.size)
    # Not kept: a window for people that is closed ends pygame's fonts for the whole process.
    pygame.font.init()
    font = pygame.font.Font(pygame.font.get_default_font(), 42)
    rendered = font.render(text, True, (255, 255, 255), (0, 0, 0))
    window.blit(rendered, rendered.get_rect(center=(SCORE_CENTRE[0], SCORE_CENTRE[1] - STRIP_TOP)))
    rgb = np.maximum(pygame.surfarray.array3d(window).swapaxes(0, 1).astype(np.int16) - 2, 0).astype(np.uint8)
    pixels = grey(rgb) if palette.grayscale else rgb
    return shrunk(pixels.astype(np.float32), place, slice(FIRST_STRIP_ROW, FRAME_SIZE), slice(0, SCORE_COLS))


@functools.cache
def _shared_scores(_grayscale: bool) -> dict[str, NDArray[np.float32]]:
    """The scores drawn so far, by their text."""
    return {}


@functools.cache
def _vertical_table() -> NDArray[np.float32]:
    """Rows that a vertical bar covers, by `_vertical_end`: (101, 11)."""
    drawn = [_rows_covered(BAR_BASE, end) for end in range(STRIP_TOP, WINDOW_H)]
    return np.array([np.zeros_like(drawn[0]), *drawn])


@functools.cache
def _horizontal_tables(grayscale: bool) -> list[NDArray[np.float32]]:
    """For each horizontal bar, its colour over the columns that it covers, by `_horizontal_end`: (1001, 84[, 3])."""
    palette = Palette(grayscale)
    tables = []
    for place, colour in HORIZONTAL_BARS:
        drawn = [_cols_covered(place * UNIT_X, end) for end in range(WINDOW_W)]
        cover = np.array([np.zeros_like(drawn[0]), *drawn])
        tables.append(np.multiply.outer(cover, np.array(palette(colour), np.float32)))
    return tables


def _rows_covered(start: int, end: int) -> NDArray[np.float32]:
    """How much of each of the strip's rows a bar from window pixel `start` to `end`, both included, covers."""
    return Y_SHRINK[FIRST_STRIP_ROW:, min(start, end) : max(start, end) + 1].sum(axis=1)


def _cols_covered(start: int, end: int) -> NDArray[np.float32]:
    """The same for the frame's columns."""
    return X_SHRINK[:, min(start, end) : max(start, end) + 1].sum(axis=1)


def _vertical_end(factor: float, value: float) -> int:
    if abs(value) <= SMALLEST_SHOWN:
        return 0
    end = int(WINDOW_H - (UNIT_Y + UNIT_Y * factor * value))
    return min(max(end, STRIP_TOP), WINDOW_H - 1) - STRIP_TOP + 1


def _horizontal_end(place: int, factor: float, value: float) -> int:
    if abs(value) <= SMALLEST_SHOWN:
        return 0
    end = int((place + factor * value) * UNIT_X)
    return min(max(end, 0), WINDOW_W - 1) + 1
