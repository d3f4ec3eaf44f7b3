"""CarRacing-v3 whose observation is drawn straight at the agent's size."""

from collections.abc import Iterator, Sequence
from typing import Any

import cv2
import numpy as np
from Box2D import b2_staticBody, b2BodyDef
from gymnasium import spaces
from gymnasium.envs.box2d.car_dynamics import Car
from gymnasium.envs.box2d.car_racing import CarRacing
from gymnasium.error import ResetNeeded
from gymnasium.utils import EzPickle
from numpy.typing import NDArray

from car_racing.car import QuickCar
from car_racing.config import FRAME_SIZE
from car_racing.renderer import FrameRenderer
from car_racing.track import draw_track, kerb_corners, kerbs, mirrored, tile_corners

Frame = NDArray[np.uint8]

# A kerb's colours.
WHITE, RED = (255, 255, 255), (255, 0, 0)

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

    Physics, rewards, tracks, random numbers and `render()` are Gymnasium's. `QuickCar` does the car's arithmetic, and
    `track` the track's, with results equal to the last bit. Only the observation is drawn by `renderer`: uint8
    (84, 84), grey, (84, 84, 1) with `keep_dim`, or (84, 84, 3), RGB, close to the stock picture shrunk to that size.

    `reset(options={"mirrored": True})` lays out the mirror image of the track, which runs clockwise.

    Box2D's world cannot be copied. So a copy (`copy.deepcopy`, `pickle`) is a new game with the same settings, which
    must be reset before its first step.

    Args:
        render_mode, lap_complete_percent, domain_randomize, continuous: CarRacing's own.
        verbose: CarRacing's own; nothing is printed of a track's making.
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
        track = draw_track(self.np_random)
        self.track: Any = mirrored(track) if self._mirrored else track
        self._touched.clear()
        self._has_new_track = True
        self.road: Any = []
        # The tiles' colours take turns.
        colours = [tuple(self.road_color + 0.01 * i * 255) for i in range(3)]
        body = b2BodyDef(type=b2_staticBody)
        has_kerb = kerbs(self.track)
        for i, corners in enumerate(tile_corners(self.track)):
            self.fd_tile.shape.vertices = corners
            # CreateStaticBody would make a definition for each tile, which takes longer than all the rest.
            tile: Any = self.world.CreateBody(body)
            tile.CreateFixture(self.fd_tile).sensor = True
            tile.userData = tile
            tile.color = TileColour(colours[i % 3], i, self._touched)
            tile.road_visited = False
            tile.road_friction = 1.0
            tile.idx = i
            self.road.append(tile)
            self.road_poly.append((corners, tile.color))
            if has_kerb[i]:
                self.road_poly.append((kerb_corners(self.track, i), WHITE if i % 2 == 0 else RED))
        return True

    def _render(self, mode: str) -> Any:
        if mode != "state_pixels":
            return super()._render(mode)
        # The stock step draws before it takes the frame's 0.1 off the score that the picture shows.
        self._shown_reward = self.reward
        picture = self.observe() if self._draws_every_frame else self._not_drawn.copy()
        return picture.reshape(self._obs_shape)
