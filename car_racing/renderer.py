"""Draws what CarRacing-v3's camera sees, straight at the agent's size.

The stock environment draws about 730 polygons a frame onto a 1000x800 window and shrinks that twice. Here the track,
which is fixed during an episode, is rasterised once at reset into a map with its coarser levels (`track_map`); a frame
is one affine warp of the right level, with the car (`car_sprites`) and the indicators (`indicators`) laid over it.
"""

import math

import cv2
import numpy as np
from gymnasium.envs.box2d.car_dynamics import Car
from gymnasium.envs.box2d.car_racing import PLAYFIELD

from car_racing.camera import FULL_ZOOM, X_SCALE, Y_SCALE, zoom_at
from car_racing.car_sprites import CarSprites
from car_racing.config import FRAME_SIZE
from car_racing.indicators import FIRST_STRIP_ROW, Indicators
from car_racing.palette import Palette, Picture
from car_racing.track_map import MAP_SCALE, N_LEVELS, TrackMap


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
        zoom = zoom_at(t)
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
