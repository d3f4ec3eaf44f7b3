"""Draws what CarRacing-v3's camera sees, straight at the agent's size.

The stock environment draws about 730 polygons a frame onto a 1000x800 window and shrinks that twice. Here the track,
which is fixed during an episode, is rasterised once at reset into a map with its coarser levels; a frame is one affine
warp of the right level, with the car and the indicators laid over it.

Coordinates: *world* units are Box2D's, y upwards; *window* pixels are those of the stock 1000x800 window, y downwards;
*frame* pixels are those of the agent's 84x84 picture of that window.
"""

import functools
import math
from collections.abc import Iterable, Sequence
from typing import Any

import cv2
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
from gymnasium.envs.box2d.car_racing import GRASS_DIM, PLAYFIELD, SCALE, STATE_H, STATE_W, WINDOW_H, WINDOW_W, ZOOM
from numpy.typing import NDArray

Picture = NDArray[np.uint8]
Colour = tuple[int, int, int]
Channels = Iterable[float]

FRAME_SIZE = 84
X_SCALE = FRAME_SIZE / WINDOW_W  # frame pixels a window pixel
Y_SCALE = FRAME_SIZE / WINDOW_H
FULL_ZOOM = ZOOM * SCALE  # window pixels a world unit, once the first second's zoom is over

# A map pixel's box and the warp's bilinear tent together blur about as much as the stock's two area averages do at full
# zoom; divisible by 2 ** (N_LEVELS - 1).
MAP_SIZE = 1344
MAP_SCALE = MAP_SIZE / (2 * PLAYFIELD)  # map pixels a world unit
N_LEVELS = 6
# Subpixel bits of cv2's polygon coordinates.
SHIFT = 6
# cv2's antialiased fill reaches 0.7 pixels beyond a polygon, the stock's about half a window pixel: what a polygon must
# be drawn narrower on each side, in world units.
OVERDRAW = 0.7 / MAP_SCALE - 0.5 / FULL_ZOOM
# Neighbouring tiles overlap by this many units, so that no grass shines through their seam.
OVERLAP = 0.3

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


def _area_average(n_from: int, n_to: int) -> NDArray[np.float64]:
    """The matrix (n_to, n_from) that shrinks a row of pixels by area."""
    edges = np.arange(n_to + 1) * (n_from / n_to)
    low, high = edges[:-1, np.newaxis], edges[1:, np.newaxis]
    pixels = np.arange(n_from)
    overlap = np.minimum(high, pixels + 1) - np.maximum(low, pixels)
    return np.clip(overlap, 0.0, None) * (n_to / n_from)


# The stock pipeline shrinks the window to 96x96 first; what is drawn here goes the same way in one product.
X_SHRINK = (_area_average(STATE_W, FRAME_SIZE) @ _area_average(WINDOW_W, STATE_W)).astype(np.float32)
Y_SHRINK = (_area_average(STATE_H, FRAME_SIZE) @ _area_average(WINDOW_H, STATE_H)).astype(np.float32)


def level(colour: Channels) -> Colour:
    """A flat colour as it arrives in the stock picture: pygame's smoothscale loses two levels a channel."""
    red, green, blue = (max(int(channel) - 2, 0) for channel in colour)
    return red, green, blue


def grey(picture: Picture) -> Picture:
    """RGB (..., 3) to grey (...), with the stock pipeline's weights."""
    return cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)  # type: ignore[return-value]


class Palette:
    """Colours as values of the frame: one number where it is grey, three where it is in colour.

    Args:
        grayscale: which.
    """

    def __init__(self, grayscale: bool) -> None:
        self.grayscale = grayscale
        self.channels: tuple[int, ...] = () if grayscale else (3,)
        self._known: dict[Colour, Any] = {}

    def __call__(self, colour: Channels) -> Any:
        """The value of a flat colour: int, or three ints."""
        shown = level(colour)
        if shown not in self._known:
            value = int(grey(np.array([[shown]], np.uint8))[0, 0]) if self.grayscale else shown
            self._known[shown] = value
        return self._known[shown]


class TrackMap:
    """The field from above, in a pyramid of levels, each half as fine as the one before.

    Args:
        palette: grey or colour.
    """

    def __init__(self, palette: Palette) -> None:
        self._palette = palette
        sizes = [MAP_SIZE // 2**i for i in range(N_LEVELS)]
        self.levels = [np.zeros((size, size, *palette.channels), np.uint8) for size in sizes]
        self._field: Picture | None = None
        self._field_colours: tuple[Any, Any] | None = None
        self._tiles: NDArray[np.int32] = np.zeros((0, 4, 2), np.int32)

    def draw(
        self,
        background: Channels,
        grass: Channels,
        road: Sequence[tuple[Sequence[Any], Any]],
    ) -> None:
        """Rasterise a track, given as CarRacing's `road_poly`: corners and colour of each tile and kerb.

        A kerb's colour is a tuple, a tile's is not.
        """
        np.copyto(self.levels[0], self._grass_field(background, grass))
        is_tile = np.array([not isinstance(colour, tuple) for _, colour in road])
        corners = np.array([poly for poly, _ in road], dtype=np.float64)
        drawn = _adjusted(corners, along=np.where(is_tile, OVERLAP, -OVERDRAW), across=-OVERDRAW)
        base = self.levels[0]
        for points, (_, colour) in zip(_fixed_point(drawn), road, strict=True):
            cv2.fillConvexPoly(base, points, self._palette(colour), cv2.LINE_AA, SHIFT)
        # A touched tile is filled again, this time without its soft edge: blending that twice would harden it.
        self._tiles = _fixed_point(_adjusted(corners[is_tile], along=np.zeros(int(is_tile.sum())), across=-0.5))
        for finer, coarser in zip(self.levels, self.levels[1:], strict=False):
            cv2.resize(finer, coarser.shape[:2], dst=coarser, interpolation=cv2.INTER_AREA)

    def recolour_tile(self, index: int, colour: Channels) -> None:
        """Give one tile another colour, on the finest level; the coarser ones are only seen for the first second."""
        cv2.fillConvexPoly(self.levels[0], self._tiles[index], self._palette(colour), cv2.LINE_8, SHIFT)

    def _grass_field(self, background: Channels, grass: Channels) -> Picture:
        colours = (self._palette(background), self._palette(grass))
        if self._field is None or self._field_colours != colours:
            field = np.empty_like(self.levels[0])
            field[:] = colours[0]
            for x in range(-20, 20, 2):
                for y in range(-20, 20, 2):
                    left, top, right, bottom = (
                        round((PLAYFIELD + edge * GRASS_DIM) * MAP_SCALE) for edge in (x, y, x + 1, y + 1)
                    )
                    field[top:bottom, left:right] = colours[1]
            self._field, self._field_colours = field, colours
        return self._field


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
        keep = 1.0 - _shrunk((numbers != 0).astype(np.float32), CAR_WINDOW, CAR_ROWS, CAR_COLS)
        add = _shrunk(self._values[numbers], CAR_WINDOW, CAR_ROWS, CAR_COLS)
        # Half a level more, so that the cast to whole levels rounds.
        return keep.reshape(*keep.shape, *([1] * (add.ndim - 2))), add + 0.5


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


class FrameRenderer:
    """Draws frames of one CarRacing game.

    Args:
        grayscale: frames (84, 84), else (84, 84, 3) in RGB.
    """

    def __init__(self, grayscale: bool = True) -> None:
        self._palette = Palette(grayscale)
        self.track = TrackMap(self._palette)
        self._car = CarSprites(self._palette)
        self._indicators = Indicators(self._palette)

    def draw(self, car: Car, t: float, reward: float) -> Picture:
        """The picture at `t` seconds into the episode, with `reward` as the score: uint8 (84, 84) or (84, 84, 3)."""
        zoom = 0.1 * SCALE * max(1.0 - t, 0.0) + FULL_ZOOM * min(t, 1.0)
        frame = np.empty((FRAME_SIZE, FRAME_SIZE, *self._palette.channels), np.uint8)
        self._draw_track(frame, car, zoom)
        self._car.draw(frame, car, zoom)
        self._indicators.draw(frame, car, reward)
        return frame

    def _draw_track(self, frame: Picture, car: Car, zoom: float) -> None:
        # The level whose pixels are closest to what MAP_SCALE is at full zoom.
        depth = 0 if zoom == FULL_ZOOM else min(max(round(math.log2(FULL_ZOOM / zoom)), 0), N_LEVELS - 1)
        scale = MAP_SCALE / 2**depth
        # Frame pixel (u, v) is at ((u + 0.5) / X_SCALE, (v + 0.5) / Y_SCALE) in the window, where the car's centre is
        # at (W / 2, 3 H / 4) and its heading up. Turn that back by the car's angle and go on from its position.
        position, angle = car.hull.position, car.hull.angle
        du, dv = scale / (X_SCALE * zoom), -scale / (Y_SCALE * zoom)
        sin, cos = math.sin(angle), math.cos(angle)
        u0, v0 = (0.5 - 0.5 * FRAME_SIZE) * du, (0.5 - 0.75 * FRAME_SIZE) * dv
        x0 = (position.x + PLAYFIELD) * scale - 0.5
        y0 = (position.y + PLAYFIELD) * scale - 0.5
        matrix = np.array(
            (
                (cos * du, -sin * dv, x0 + cos * u0 - sin * v0),
                (sin * du, cos * dv, y0 + sin * u0 + cos * v0),
            )
        )
        cv2.warpAffine(
            self.track.levels[depth],
            matrix,
            (FRAME_SIZE, FIRST_STRIP_ROW + 1),
            dst=frame[: FIRST_STRIP_ROW + 1],
            flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
            borderMode=cv2.BORDER_CONSTANT,
            borderValue=0,
        )


def _shrunk(pixels: NDArray[np.float32], window: pygame.Rect, rows: slice, cols: slice) -> NDArray[np.float32]:
    """A cut-out of the window, (h, w) or (h, w, 3), as the frame's rows and columns."""
    y_shrink = Y_SHRINK[rows, window.top : window.bottom]
    x_shrink = X_SHRINK[cols, window.left : window.right]
    channels = pixels[np.newaxis] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
    small: NDArray[np.float32] = np.matmul(np.matmul(y_shrink, channels), x_shrink.T, dtype=np.float32)
    return small[0] if pixels.ndim == 2 else small.transpose(1, 2, 0)


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
    return _shrunk(pixels.astype(np.float32), place, slice(FIRST_STRIP_ROW, FRAME_SIZE), slice(0, SCORE_COLS))


def _adjusted(corners: NDArray[np.float64], along: NDArray[np.float64], across: float) -> NDArray[np.float64]:
    """Pieces of road (n, 4, 2), in CarRacing's corner order (left, right, right, left), adjusted on each side.

    They get longer by `along` (n,) units and wider by `across` units.
    """
    along = along[:, np.newaxis]
    left1, right1, right2, left2 = corners.transpose(1, 0, 2)
    forward1, forward2 = _unit(right1 - right2), _unit(left1 - left2)
    side1, side2 = _unit(right1 - left1), _unit(right2 - left2)
    return np.stack(
        [
            left1 + along * forward2 - across * side1,
            right1 + along * forward1 + across * side1,
            right2 - along * forward1 + across * side2,
            left2 - along * forward2 - across * side2,
        ],
        axis=1,
    )


def _unit(vectors: NDArray[np.float64]) -> NDArray[np.float64]:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.maximum(lengths, 1e-9)


def _fixed_point(corners: NDArray[np.float64]) -> NDArray[np.int32]:
    pixels = (corners + PLAYFIELD) * MAP_SCALE - 0.5
    return np.round(pixels * 2**SHIFT).astype(np.int32)


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


# What depends on nothing but grey or colour is made once for all the environments of a process.
@functools.cache
def _shared_sprites(_grayscale: bool) -> dict[tuple[int, int, int], tuple[NDArray[np.float32], NDArray[np.float32]]]:
    """The wheels drawn so far: keep and add by (wheel, angle, phase)."""
    return {}


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
