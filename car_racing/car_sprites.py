"""The car as it stands in every frame: drawn once for each steering angle and wheel phase, then looked up."""

import functools
import math
from collections.abc import Sequence

import numpy as np
import pygame
from gymnasium.envs.box2d.car_dynamics import (
    HULL_POLY1,
    HULL_POLY2,
    HULL_POLY3,
    HULL_POLY4,
    SIZE,
    WHEEL_R,
    WHEEL_W,
    WHEEL_WHITE,
    WHEELPOS,
    Car,
)
from gymnasium.envs.box2d.car_racing import WINDOW_H, WINDOW_W
from numpy.typing import NDArray

from car_racing.camera import FULL_ZOOM, shrunk
from car_racing.palette import Colour, Palette, Picture

# The car's place: window pixels, and the frame's rows and columns that they reach into.
CAR_WINDOW = pygame.Rect(450, 550, 100, 100)
CAR_ROWS = slice(57, 69)
CAR_COLS = slice(37, 47)
# A wheel's sprite is looked up by its steering angle (+-0.4 rad) and its phase, in steps that move no edge by more
# than a tenth of a frame pixel.
ANGLE_STEP = 0.05
N_PHASES = 32
BODY_POLYGONS = [[(x * SIZE, y * SIZE) for x, y in poly] for poly in (HULL_POLY1, HULL_POLY2, HULL_POLY3, HULL_POLY4)]
WHEEL_HALF_WIDTH = WHEEL_W * SIZE
WHEEL_RADIUS = WHEEL_R * SIZE
# What the car is drawn in, by its number on an 8-bit surface; 0 is where no car is.
TYRE, STRIPE, HULL = 1, 2, 3
CAR_COLOURS: dict[int, Colour] = {TYRE: (0, 0, 0), STRIPE: WHEEL_WHITE, HULL: (204, 0, 0)}


class CarSprites:
    """The car over the frame: for a pixel, frame = frame * keep + add.

    The car stands still in the frame, its hull for good once the zoom is over, its wheels but for steering and
    spinning. So a wheel is drawn once for each steering angle and phase, with the stock's own drawing calls on a window
    of the car's size, and looked up from then on.

    Args:
        palette: grey or colour.
    """

    # Where each wheel can reach, within the car's place: rows and columns.
    WHEEL_PLACES = (
        (slice(1, 6), slice(2, 5)),
        (slice(1, 6), slice(5, 8)),
        (slice(6, 11), slice(2, 5)),
        (slice(6, 11), slice(5, 8)),
    )

    def __init__(self, palette: Palette) -> None:
        values = [palette(CAR_COLOURS[number]) if number else np.zeros(palette.channels) for number in range(4)]
        self._values = np.array(values, np.float32)
        self._sprites = _shared_sprites(palette.grayscale)
        self._keep, self._add = self._rasterise(FULL_ZOOM, {})

    def draw(self, frame: Picture, car: Car, zoom: float) -> None:
        """Lay the car over a frame."""
        place = frame[CAR_ROWS, CAR_COLS]
        # The front wheels steer together; the rear ones are held straight.
        angle = car.wheels[0].joint.angle
        if zoom != FULL_ZOOM:
            states = {i: (angle if i < 2 else 0.0, wheel.phase) for i, wheel in enumerate(car.wheels)}
            keep, add = self._rasterise(zoom, states)
            place[:] = place * keep + add
            return
        front_angle = round(angle / ANGLE_STEP)
        for i, wheel in enumerate(car.wheels):
            key = (i, front_angle if i < 2 else 0, int(wheel.phase * (N_PHASES / math.tau)) % N_PHASES)
            sprite = self._sprites.get(key)
            if sprite is None:
                sprite = self._sprites[key] = self._wheel(*key)
            rows_cols = self.WHEEL_PLACES[i]
            self._keep[rows_cols], self._add[rows_cols] = sprite
        place[:] = place * self._keep + self._add

    def _wheel(self, wheel: int, angle: int, phase: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        keep, add = self._rasterise(FULL_ZOOM, {wheel: (angle * ANGLE_STEP, (phase + 0.5) * math.tau / N_PHASES)})
        place = self.WHEEL_PLACES[wheel]
        return keep[place].copy(), add[place].copy()

    def _rasterise(
        self, zoom: float, wheels: dict[int, tuple[float, float]]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """The hull and some wheels, given by (angle, phase): keep and add over the car's place."""
        window = pygame.Surface(CAR_WINDOW.size, depth=8)
        for index, (angle, phase) in wheels.items():
            place = (WHEELPOS[index][0] * SIZE, WHEELPOS[index][1] * SIZE)
            for number, corners in _wheel_polygons(phase):
                pygame.draw.polygon(window, number, _in_car_window(corners, zoom, angle, place))
        for polygon in BODY_POLYGONS:
            pygame.draw.polygon(window, HULL, _in_car_window(polygon, zoom))
        numbers = pygame.surfarray.pixels2d(window).T[::-1]
        keep = 1.0 - shrunk((numbers != 0).astype(np.float32), CAR_WINDOW, CAR_ROWS, CAR_COLS)
        add = shrunk(self._values[numbers], CAR_WINDOW, CAR_ROWS, CAR_COLS)
        # Half a level more, so that the cast to whole levels rounds.
        return keep.reshape(*keep.shape, *([1] * (add.ndim - 2))), add + 0.5


def _in_car_window(
    corners: Sequence[tuple[float, float]], zoom: float, angle: float = 0.0, place: tuple[float, float] = (0.0, 0.0)
) -> list[tuple[float, float]]:
    """Points of a part of the car, turned and moved as it is, as pixels of the car's window, y upwards."""
    sin, cos = math.sin(angle), math.cos(angle)
    x0 = WINDOW_W / 2 - CAR_WINDOW.left
    y0 = WINDOW_H / 4 - (WINDOW_H - CAR_WINDOW.bottom)
    return [
        (x0 + zoom * (place[0] + cos * x - sin * y), y0 + zoom * (place[1] + sin * x + cos * y)) for x, y in corners
    ]


def _wheel_polygons(phase: float) -> list[tuple[int, list[tuple[float, float]]]]:
    """A wheel's tyre, and its stripe where it is on the upper side."""
    w, r = WHEEL_HALF_WIDTH, WHEEL_RADIUS
    polygons = [(TYRE, [(-w, r), (w, r), (w, -r), (-w, -r)])]
    sin1, sin2 = math.sin(phase), math.sin(phase + 1.2)
    if sin1 > 0 and sin2 > 0:
        return polygons
    cos1 = math.copysign(1.0, math.cos(phase)) if sin1 > 0 else math.cos(phase)
    cos2 = math.copysign(1.0, math.cos(phase + 1.2)) if sin2 > 0 else math.cos(phase + 1.2)
    return [*polygons, (STRIPE, [(-w, r * cos1), (w, r * cos1), (w, r * cos2), (-w, r * cos2)])]


@functools.cache
def _shared_sprites(_grayscale: bool) -> dict[tuple[int, int, int], tuple[NDArray[np.float32], NDArray[np.float32]]]:
    """The wheels drawn so far: keep and add by (wheel, angle, phase)."""
    return {}
