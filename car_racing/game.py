"""CarRacing-v3 whose observation is drawn straight at the agent's size."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import cv2
import numpy as np
from gymnasium import spaces
from gymnasium.envs.box2d.car_dynamics import Car
from gymnasium.envs.box2d.car_racing import CarRacing
from gymnasium.error import ResetNeeded
from gymnasium.utils import EzPickle
from numpy.typing import NDArray

from car_racing.car import QuickCar
from car_racing.config import FRAME_SIZE
from car_racing.renderer import FrameRenderer

Frame = NDArray[np.uint8]

# OpenCV's thread pool costs more than it gives on pictures this small.
cv2.setNumThreads(1)


class TileColour:
    """A road tile's colour, in place of the array that CarRacing paints over when the car touches the tile.

    Args:
        values: the colour so far, three channels in [0, 255].
        index: the tile's place in the track.
        touched: where the index is put when the tile is painted.
    """

    __slots__ = ("index", "touched", "values")

    def __init__(self, values: Sequence[float], index: int, touched: list[int]) -> None:
        self.values = tuple(values)
        self.index = index
        self.touched = touched

    def __setitem__(self, channels: slice, values: Sequence[float]) -> None:
        if tuple(values) != self.values:
            self.values = tuple(values)
            self.touched.append(self.index)

    def __iter__(self) -> Iterator[float]:
        return iter(self.values)


class FastCarRacing(CarRacing):
    """CarRacing-v3 whose observation is drawn straight at the agent's size, forty times faster.

    Physics, rewards, tracks, random numbers and `render()` are the inherited ones; `QuickCar` does the car's arithmetic
    with results equal to the last bit. Only the observation is drawn by `renderer`: uint8 (84, 84), grey, (84, 84, 1)
    with `keep_dim`, or (84, 84, 3), RGB, close to the stock picture shrunk to that size.

    `reset(options={"mirrored": True})` lays out the mirror image of the track, which runs clockwise.

    Box2D's world cannot be copied. So a copy (`copy.deepcopy`, `pickle`) is a new game with the same settings, which
    must be reset before its first step.

    Args:
        render_mode, verbose, lap_complete_percent, domain_randomize, continuous: CarRacing's own.
        grayscale: grey observations, else RGB.
        draws_every_frame: draw the observation of each `step`, as any user of an environment expects. Without it `step`
            returns an empty picture, and the current one is drawn when `observe` asks: inside an action repeat nobody
            looks.
        keep_dim: give grey observations a channel axis, as Gymnasium's `GrayscaleObservation(keep_dim=True)` does and
            Stable-Baselines3's `CnnPolicy` and `VecFrameStack` need it. `observe` returns pictures without one.
    """

    def __init__(
        self,
        render_mode: str | None = None,
        verbose: bool = False,
        lap_complete_percent: float = 0.95,
        domain_randomize: bool = False,
        continuous: bool = True,
        grayscale: bool = True,
        draws_every_frame: bool = True,
        keep_dim: bool = False,
    ) -> None:
        super().__init__(render_mode, verbose, lap_complete_percent, domain_randomize, continuous)
        EzPickle.__init__(
            self,
            render_mode,
            verbose,
            lap_complete_percent,
            domain_randomize,
            continuous,
            grayscale,
            draws_every_frame,
            keep_dim,
        )
        shape = (FRAME_SIZE, FRAME_SIZE) if grayscale else (FRAME_SIZE, FRAME_SIZE, 3)
        self._obs_shape = (FRAME_SIZE, FRAME_SIZE, 1) if grayscale and keep_dim else shape
        self.observation_space = spaces.Box(0, 255, self._obs_shape, np.uint8)
        self._renderer = FrameRenderer(grayscale)
        self._draws_every_frame = draws_every_frame
        self._not_drawn = np.zeros(shape, np.uint8)
        self._touched: list[int] = []
        self._mirrored = False
        self._has_new_track = False
        self._shown_reward = 0.0

    def observe(self) -> Frame:
        """Draw what the stock step would have drawn of the current state: uint8 (84, 84) or (84, 84, 3)."""
        car = self._car_in_play()
        track = self._renderer.track
        if self._has_new_track:
            self._has_new_track = False
            track.draw(self.bg_color, self.grass_color, self.road_poly)
        else:
            for index in self._touched:
                track.recolour_tile(index, self.road_color)
        self._touched.clear()
        return self._renderer.draw(car, self.t, self._shown_reward)

    @property
    def car(self) -> Car | None:
        return self._car

    @car.setter
    def car(self, car: Car | None) -> None:
        # CarRacing makes its car itself, at each reset.
        if car is not None:
            car.__class__ = QuickCar
        self._car = car

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Frame, dict[str, Any]]:
        self._mirrored = bool(options and options.get("mirrored"))
        return super().reset(seed=seed, options=options)

    def step(self, action: Any) -> Any:
        self._car_in_play()
        return super().step(action)

    def _car_in_play(self) -> Car:
        if self._car is None:
            raise ResetNeeded("the game is new, or a copy of another: call reset() before step() and observe()")
        return self._car

    def _create_track(self) -> bool:
        if not super()._create_track():
            return False
        if self._mirrored:
            self._mirror_track()
        self._touched.clear()
        self._has_new_track = True
        tiles: Iterator[Any] = iter(self.road or [])
        for i, (corners, colour) in enumerate(self.road_poly):
            if not isinstance(colour, tuple):  # a kerb's is
                tile = next(tiles)
                tile.color = TileColour(colour, tile.idx, self._touched)
                self.road_poly[i] = (corners, tile.color)
        return True

    def _mirror_track(self) -> None:
        """Turn the track that has just been made into the one that its mirror image (x to -x) would have been."""
        self.track = [(math.pi - alpha, -heading, -x, y) for alpha, heading, x, y in self.track]
        tiles: Iterator[Any] = iter(self.road or [])
        for i, (corners, colour) in enumerate(self.road_poly):
            corners = [(-x, y) for x, y in corners]
            if not isinstance(colour, tuple):  # a kerb's is
                left, right, right_before, left_before = corners
                corners = [right, left, left_before, right_before]
                tile = next(tiles)
                tile.DestroyFixture(tile.fixtures[0])
                self.fd_tile.shape.vertices = corners
                tile.CreateFixture(self.fd_tile)
                tile.fixtures[0].sensor = True
            self.road_poly[i] = (corners, colour)

    def _render(self, mode: str) -> Any:
        if mode != "state_pixels":
            return super()._render(mode)
        # The stock step draws before it takes the frame's 0.1 off the score that the picture shows.
        self._shown_reward = self.reward
        picture = self.observe() if self._draws_every_frame else self._not_drawn.copy()
        return picture.reshape(self._obs_shape)
