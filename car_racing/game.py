"""CarRacing-v3 as a pixel agent sees and drives it.

The game underneath is Gymnasium's, unchanged: physics, rewards, tracks and random numbers. This module adds

* what the agent sees: the last few frames, grey, 84x84, as one uint8 array (`AgentView`);
* what it does: three numbers in [-1, 1], held for `action_repeat` frames (`AgentView`);
* what only training wants: endless fresh tracks, an early end for a lost car, a price for missed tiles
  (`TrainingRules`).

A *step* is one decision of the agent, a *frame* one tick (1/50 s) of the game.
It imports neither torch nor Stable-Baselines3, so that a worker process that only drives stays small; the factory for n
environments, `make_vec_env`, is therefore next door in `vec_env`.
"""

import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import gymnasium as gym
import numpy as np
import pygame
from gymnasium import spaces
from gymnasium.envs.box2d.car_dynamics import (
    ENGINE_POWER,
    FRICTION_LIMIT,
    SIZE,
    WHEEL_MOMENT_OF_INERTIA,
    Car,
)
from gymnasium.envs.box2d.car_racing import CarRacing
from gymnasium.utils import EzPickle
from gymnasium.wrappers import TimeLimit
from numpy.typing import NDArray

from frame_renderer import FRAME_SIZE, FrameRenderer

Frame = NDArray[np.uint8]

STOCK_ID = "CarRacing-v3"
# Importing this module registers it; `gymnasium.make("car_racing:FastCarRacing-v3")` does both.
FAST_ID = "FastCarRacing-v3"
MAX_EPISODE_FRAMES = 1000

# Every training track's seed is drawn from here and every evaluation track's seed lies below it, so
# that no training run, whatever its own seed, can ever meet a track that it will be scored on.
TRAINING_TRACK_SEEDS = range(1_000_000, 2**31)

# OpenCV's thread pool costs more than it gives on pictures this small.
cv2.setNumThreads(1)

# The road's tiles are drawn in three levels that take turns, 100, 102 and 105, and a touched tile in the darkest: the
# picture's only sign of the lap's direction and of what is left of it, and next to invisible. This map from level to
# level spreads them out, to 97, 115 and 142, at the cost of contrast elsewhere.
ROAD_CONTRAST: Frame = np.interp(np.arange(256), (0, 96, 108, 255), (0, 60, 170, 255)).round().astype(np.uint8)


@dataclass(frozen=True)
class ViewConfig:
    """What one step of the agent means. Part of a policy: it must be scored with what it was trained with.

    Attributes:
        action_repeat: frames for which one action is held.
        frame_stack: frames in one observation, the newest last.
        grayscale: grey frames, else RGB.
        road_contrast: the frames' levels through `ROAD_CONTRAST`, so that touched tiles can be told from the others.
        brake_dead_zone: the lower half of the third action does not brake. With [-1, 1] spread over the whole brake,
            an agent that does not know what to do, its action anywhere around 0, stands on it: it stays where it is.
    """

    action_repeat: int = 4
    frame_stack: int = 4
    grayscale: bool = True
    road_contrast: bool = False
    brake_dead_zone: bool = False

    @property
    def obs_shape(self) -> tuple[int, int, int]:
        """Shape of an observation: (frame_stack, 84, 84), or (3 * frame_stack, 84, 84) in colour."""
        return (self.frame_stack if self.grayscale else 3 * self.frame_stack, FRAME_SIZE, FRAME_SIZE)


def stock_frame(rgb: Frame) -> Frame:
    """The stock picture as the agent sees it: RGB (96, 96, 3) -> grey -> (84, 84) by area, all uint8."""
    grey = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY)
    return cv2.resize(grey, (FRAME_SIZE, FRAME_SIZE), interpolation=cv2.INTER_AREA)  # type: ignore[return-value]


def stock_colour_frame(rgb: Frame) -> Frame:
    """The stock picture at the agent's size in colour: RGB (96, 96, 3) -> (84, 84, 3) by area."""
    return cv2.resize(rgb, (FRAME_SIZE, FRAME_SIZE), interpolation=cv2.INTER_AREA)  # type: ignore[return-value]


class QuickCar(Car):
    """Gymnasium's car, its arithmetic done on plain floats.

    Half of what a frame of physics costs goes into NumPy's functions on single numbers. Here is the same arithmetic in
    the same order without them: every result is equal to the last bit. See `Car.step` for what the physics means.
    """

    def gas(self, gas: float) -> None:
        gas = min(max(float(gas), 0.0), 1.0)
        for w in self.wheels[2:4]:
            w.gas += min(gas - w.gas, 0.1)

    def brake(self, b: float) -> None:
        super().brake(float(b))

    def steer(self, s: float) -> None:
        super().steer(float(s))

    def step(self, dt: float) -> None:
        for w in self.wheels:
            error = w.steer - w.joint.angle
            w.joint.motorSpeed = math.copysign(min(50.0 * abs(error), 3.0), error)

            grass = not w.tiles
            friction_limit = FRICTION_LIMIT * 0.6
            for tile in w.tiles:
                friction_limit = max(friction_limit, FRICTION_LIMIT * tile.road_friction)

            forw = w.GetWorldVector((0, 1))
            side = w.GetWorldVector((1, 0))
            forw_x, forw_y, side_x, side_y = forw.x, forw.y, side.x, side.y
            v = w.linearVelocity
            v_x, v_y = v.x, v.y
            vf = forw_x * v_x + forw_y * v_y
            vs = side_x * v_x + side_y * v_y

            omega = w.omega
            omega += dt * ENGINE_POWER * w.gas / WHEEL_MOMENT_OF_INERTIA / (abs(omega) + 5.0)
            self.fuel_spent += dt * ENGINE_POWER * w.gas
            if w.brake >= 0.9:
                omega = 0.0
            elif w.brake > 0:
                omega -= math.copysign(min(15 * w.brake, abs(omega)), omega)
            w.phase += omega * dt

            f_force = (-vf + omega * w.wheel_rad) * (205000 * SIZE * SIZE)
            p_force = -vs * (205000 * SIZE * SIZE)
            force = math.sqrt(f_force * f_force + p_force * p_force)
            self._leave_skid_trace(w, force, friction_limit, grass)
            if force > friction_limit:
                f_force = f_force / force * friction_limit
                p_force = p_force / force * friction_limit
            w.omega = omega - dt * f_force * w.wheel_rad / WHEEL_MOMENT_OF_INERTIA
            w.ApplyForceToCenter((p_force * side_x + f_force * forw_x, p_force * side_y + f_force * forw_y), True)

    def _leave_skid_trace(self, w: Any, force: float, friction_limit: float, grass: bool) -> None:
        if force <= 2.0 * friction_limit:
            w.skid_start = None
            w.skid_particle = None
        elif w.skid_particle and w.skid_particle.grass == grass and len(w.skid_particle.poly) < 30:
            w.skid_particle.poly.append((w.position[0], w.position[1]))
        elif w.skid_start is None:
            w.skid_start = w.position
        else:
            w.skid_particle = self._create_particle(w.skid_start, w.position, grass)
            w.skid_start = None


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
    with results equal to the last bit. Only the observation is drawn by `frame_renderer`: uint8 (84, 84), grey, or
    (84, 84, 3), RGB, close to the stock picture shrunk to that size.

    `reset(options={"mirrored": True})` lays out the mirror image of the track, which runs clockwise.

    Args:
        render_mode, verbose, lap_complete_percent, domain_randomize, continuous: CarRacing's own.
        grayscale: grey observations, else RGB.
        draws_every_frame: draw the observation of each `step`, as any user of an environment expects. Without it `step`
            returns an empty picture, and the current one is drawn when `observe` asks: inside an action repeat nobody
            looks.
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
        )
        shape = (FRAME_SIZE, FRAME_SIZE) if grayscale else (FRAME_SIZE, FRAME_SIZE, 3)
        self.observation_space = spaces.Box(0, 255, shape, np.uint8)
        self._renderer = FrameRenderer(grayscale)
        self._draws_every_frame = draws_every_frame
        self._not_drawn = np.zeros(shape, np.uint8)
        self._touched: list[int] = []
        self._mirrored = False
        self._has_new_track = False
        self._shown_reward = 0.0

    def observe(self) -> Frame:
        """Draw what the stock step would have drawn of the current state: uint8 (84, 84) or (84, 84, 3)."""
        track = self._renderer.track
        if self._has_new_track:
            self._has_new_track = False
            track.draw(self.bg_color, self.grass_color, self.road_poly)
        else:
            for index in self._touched:
                track.recolour_tile(index, self.road_color)
        self._touched.clear()
        assert self.car is not None, "reset() comes first"
        return self._renderer.draw(self.car, self.t, self._shown_reward)

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
        return self.observe() if self._draws_every_frame else self._not_drawn


gym.register(
    FAST_ID, entry_point="car_racing:FastCarRacing", max_episode_steps=MAX_EPISODE_FRAMES, reward_threshold=900
)


class AgentView(gym.Wrapper):
    """Action repeat, frame stack and action scaling in one wrapper.

    Observation: uint8 (frame_stack, 84, 84), the newest frame last, or (3 * frame_stack, 84, 84) in colour; after a
    reset the first frame fills the stack.
    Action: float32 (3,) in [-1, 1], rescaled to steer [-1, 1], gas [0, 1], brake [0, 1] (see `brake_dead_zone`).
    Reward: the sum over the frames of the step. A step ends early where the episode does.

    `info["frames"]` says how many frames the step took.

    Args:
        env: CarRacing-v3 with its time limit.
        config: action repeat, frame stack and colour.
        frame: turns what `env.step` returned as observation into a frame, (84, 84) or (84, 84, 3). It is called once a
            step, for the last frame only, so that an environment that draws lazily draws no other.
    """

    def __init__(self, env: gym.Env, config: ViewConfig, frame: Callable[[Frame], Frame]) -> None:
        super().__init__(env)
        self.config = config
        self._frame = frame
        self.observation_space = spaces.Box(0, 255, config.obs_shape, np.uint8)
        self.action_space = spaces.Box(-1.0, 1.0, (3,), np.float32)
        self._stack = np.zeros(config.obs_shape, dtype=np.uint8)
        self._channels = config.obs_shape[0] // config.frame_stack

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Frame, dict[str, Any]]:
        obs, info = self.env.reset(seed=seed, options=options)
        return self._fill_stack(obs), info

    def look_anew(self) -> Frame:
        """A stack of nothing but the present picture, after a change to the game, which must draw when it is asked."""
        return self._fill_stack(self._stack)

    def step(self, action: NDArray[np.float32]) -> tuple[Frame, float, bool, bool, dict[str, Any]]:
        brake = max(action[2], 0.0) if self.config.brake_dead_zone else 0.5 * (action[2] + 1.0)
        controls = np.array((action[0], 0.5 * (action[1] + 1.0), brake))
        total_reward = 0.0
        frames = 0
        terminated = truncated = False
        while frames < self.config.action_repeat and not (terminated or truncated):
            obs, reward, terminated, truncated, info = self.env.step(controls)
            total_reward += float(reward)
            frames += 1
        self._stack[: -self._channels] = self._stack[self._channels :]
        self._stack[-self._channels :] = self._picture(obs)
        info["frames"] = frames
        return self._stack.copy(), total_reward, terminated, truncated, info

    def _fill_stack(self, obs: Frame) -> Frame:
        frame = self._picture(obs)
        for first in range(0, len(self._stack), self._channels):
            self._stack[first : first + self._channels] = frame
        return self._stack.copy()

    def _picture(self, obs: Frame) -> Frame:
        frame = self._frame(obs)
        if self.config.road_contrast:
            frame = cv2.LUT(frame, ROAD_CONTRAST)  # type: ignore[assignment]
        return frame if frame.ndim == 2 else frame.transpose(2, 0, 1)


@dataclass(frozen=True)
class TrainingOptions:
    """Changes to the game that help training and never reach evaluation.

    Attributes:
        max_idle_frames: end an episode after so many frames without a new tile; 0 never does. A termination: were the
            value of a car at rest bootstrapped, resting beside the road would cost nothing.
        max_tiles_back: end an episode once the car is so many tiles behind where it has been; 0 never does. A
            termination too. After a spin the road looks good to drive in either direction, and the wrong one leads to
            `max_idle_frames` only: by then what it is worth has a long way to travel back through a one-step target.
        missed_tile_charge: points taken off the reward for each tile that falls more than `TILES_OF_GRACE` behind the
            car untouched, in one step for no more than `TILES_CHARGED_AT_ONCE` of them. A missed tile keeps the lap
            from finishing, but the game says so only at the episode's end, hundreds of steps later; this says it at
            once.
        wheel_off_charge: points taken off for each tile left behind and each of the four wheels that has not touched
            it, for no more than `WHEELS_CHARGED_AT_ONCE` such pairs in one step. The fastest line cuts a bend so
            closely that one wheel touches its innermost tiles, and a line a hand's breadth further in misses them all;
            this asks for a margin.
        endless_road: once the car is round, finished or not, end the episode as a truncation, with the observation from
            halfway round as its last. To an agent with a discount the end of all rewards looks like the fault of its
            last steps; bootstrapped, it looks like more road. Not from the lap's end itself, where the road ahead is
            driven already: that is to be seen nowhere else, so nothing but its own bootstrapping says what it is worth,
            and that drifts. It drifted down, and driving slowly became a way to put it off.
        lost_starts: share of the episodes, in [0, 1], that begin in the middle of a lap with a car that has lost the
            road (`lose_the_road`), and end as a truncation once it is `TILES_TO_BE_BACK` tiles further on. A good
            driver meets that too seldom to learn the way back. Short, so that much of it can be met.
        bend_starts: share, in [0, 1], of the episodes that do not begin lost, that begin shortly before a sharp bend
            against the track's own direction (`start_before_bend`), and end as a truncation `TILES_TO_BE_BACK` tiles
            after it, or at the lap's end. Every lap has many sharp bends the other way and only some have one of these;
            mirroring does not make them more frequent.
        mirrored_tracks: share of the episodes, in [0, 1], on the mirror image of a track. The game's tracks run
            counterclockwise: for one sharp bend to the right they have sixteen to the left, too few to learn from.
        second_tries: share of the episodes, in [0, 1], that begin shortly before a mistake of an earlier one, as long
            as there is one that has not been made good (`SecondTries`). What a good driver still gets wrong is rare:
            so it is practised more often than it is met.
    """

    max_idle_frames: int = 100
    max_tiles_back: int = 0
    missed_tile_charge: float = 0.0
    wheel_off_charge: float = 0.0
    endless_road: bool = False
    lost_starts: float = 0.0
    bend_starts: float = 0.0
    mirrored_tracks: float = 0.0
    second_tries: float = 0.0


# The car is about four tiles long: what lies nearer behind its front wheels may still be touched by the rear ones.
TILES_OF_GRACE = 4
# For a car that has slid off, more would make staying beside the road cheaper than coming back to it further on, and
# one such step would outweigh a whole batch of others.
TILES_CHARGED_AT_ONCE = 5
WHEELS_CHARGED_AT_ONCE = 4 * TILES_CHARGED_AT_ONCE


class TilesUnderWheel(set[Any]):
    """The tiles that a wheel is on, which remembers all that it has been on.

    It takes the place of the set that CarRacing keeps on each wheel.
    """

    def __init__(self, tiles: set[Any]) -> None:
        super().__init__(tiles)
        self.touched = {tile.idx for tile in tiles}

    def add(self, tile: Any) -> None:
        super().add(tile)
        self.touched.add(tile.idx)


class MissedTiles:
    """Counts the tiles of a lap that the car leaves behind untouched, each once, and the wheels that were off them.

    Args:
        game: a CarRacing that has just been reset.
        start: the tile that the car starts from; those before it do not count.

    Attributes:
        n_judged: the lap's tiles before this one have been left behind, touched or not.
    """

    def __init__(self, game: CarRacing, start: int = 0) -> None:
        self._game = game
        self._tiles: list[Any] = list(game.road or ())
        # How far the car has come along the track, in tiles; it goes on counting past a full lap.
        self._position = self._furthest = start
        self._halfway = (start + len(self._tiles)) // 2
        self.n_judged = start
        self._just_judged: list[Any] = []
        # The car stands on the first few, some wheels before them.
        self._first_with_wheels = start + TILES_OF_GRACE
        assert game.car is not None
        self._under_wheels = [TilesUnderWheel(wheel.tiles) for wheel in game.car.wheels]
        for wheel, tiles in zip(game.car.wheels, self._under_wheels, strict=True):
            wheel.tiles = tiles

    @property
    def is_halfway(self) -> bool:
        """Whether the car is past the middle between its start and the lap's end."""
        return self._position >= self._halfway

    @property
    def is_round(self) -> bool:
        """Whether the car has left the last tile of the lap so far behind that all of them are judged."""
        return self.n_judged == len(self._tiles)

    @property
    def n_back(self) -> int:
        """How many tiles the car is behind the furthest place that it has been at."""
        return self._furthest - self._position

    def count_new(self) -> int:
        """How many tiles have been missed since the last call."""
        assert self._game.car is not None
        touched = [tile.idx for wheel in self._game.car.wheels for tile in wheel.tiles]
        if touched:
            self._position += max(self._way_to(index) for index in touched)
            self._furthest = max(self._furthest, self._position)
        n_behind = min(max(self.n_judged, self._position - TILES_OF_GRACE), len(self._tiles))
        behind = self._tiles[self.n_judged : n_behind]
        self.n_judged = n_behind
        self._just_judged = behind
        return sum(not tile.road_visited for tile in behind)

    def count_wheels_off(self) -> int:
        """How often one of the four wheels has not touched one of the tiles that the last `count_new` judged."""
        return sum(
            tile.idx not in tiles.touched
            for tile in self._just_judged
            if tile.idx >= self._first_with_wheels
            for tiles in self._under_wheels
        )

    def _way_to(self, index: int) -> int:
        """Tiles from the car's position to a tile, the shorter way round: negative if it lies behind."""
        half = len(self._tiles) // 2
        return (index - self._position + half) % len(self._tiles) - half


# A lost car is up to so many units off the middle of the road, which is 13 wide, and goes up to so many units a second.
# Half of the lost cars look about where the road goes, so many radians (standard deviation) off, as when they have just
# left it; the others look anywhere, as after a spin. So many of all stand still: a driver that has come to rest on the
# grass, the road behind it, must know that too.
LOST_BY = 25.0
LOST_SPEED = 70.0
LOST_TURN = 0.7
SHARE_SPUN = 0.5
SHARE_AT_REST = 0.2

# A lost car is back when it has touched so many new tiles, and a mistake is made good so many tiles further on.
TILES_TO_BE_BACK = 30


def lose_the_road(game: CarRacing, rng: np.random.Generator) -> int:
    """Put the car of a game that has just been reset beside the road, lost, as if it had driven up to there.

    The tiles before that place count as visited, without a reward, and look it, which tells the way on from the way
    back. It lies in the lap's first three quarters.

    Returns:
        The tile that the car was at.
    """
    start, x, y = _place_beside_the_road(game, rng)
    heading = game.track[start][1]
    turn = rng.uniform(-math.pi, math.pi) if rng.random() < SHARE_SPUN else rng.normal(0.0, LOST_TURN)
    speed = 0.0 if rng.random() < SHARE_AT_REST else rng.uniform(0.0, LOST_SPEED)
    # It slides: it goes halfway between where it looks and where the road does.
    _start_midway(game, start, (x, y), heading + turn, heading + 0.5 * turn, speed)
    return start


def _start_midway(
    game: CarRacing, start: int, place: tuple[float, float], looks: float, course: float, speed: float
) -> None:
    """Put the car of a game that has just been reset to a place at tile `start`, as if it had driven up to there.

    Angles are headings, in radians like the track's, and the speed is in units a second.
    """
    assert game.car is not None
    tiles: list[Any] = list(game.road or ())
    for tile in tiles[:start]:
        game.tile_visited_count += not tile.road_visited
        tile.road_visited = True
        tile.color[:] = game.road_color
    game.car.destroy()
    game.car = Car(game.world, looks, *place)
    for body in (game.car.hull, *game.car.wheels):
        body.linearVelocity = (-speed * math.sin(course), speed * math.cos(course))
    for wheel in game.car.wheels:
        wheel.omega = speed / wheel.wheel_rad
    # The picture's zoom in, over the first second, is past.
    game.t = 1.0


def _place_beside_the_road(game: CarRacing, rng: np.random.Generator) -> tuple[int, float, float]:
    """A tile, and a place beside it, (x, y), to which no other stretch of the road is nearer."""
    centres = np.array([place[2:4] for place in game.track])
    while True:
        start = int(rng.integers(len(centres) * 3 // 4))
        heading, x, y = game.track[start][1:]
        offset = rng.uniform(-LOST_BY, LOST_BY)
        place = np.array([x + offset * math.cos(heading), y + offset * math.sin(heading)])
        nearest = np.linalg.norm(centres - place, axis=1).argmin()
        if abs(nearest - start) <= TILES_OF_GRACE:
            return start, float(place[0]), float(place[1])


# A bend is what the road turns by over so many tiles (of 3.5 units), and sharp from so many radians on.
BEND_TILES = 12
SHARP_BEND = 1.6

# A car that is put before a bend is so many tiles before the sharpest of it, so many units off the middle of the road
# at most, and goes so many units a second: far enough away to come to its own speed.
TILES_BEFORE_BEND = (20, 60)
OFF_MIDDLE_BEFORE_BEND = 4.0
SPEED_BEFORE_BEND = (20.0, 70.0)


def turns(game: CarRacing) -> NDArray[np.float64]:
    """What the road turns by around each of its n tiles, (n,), in radians; to the left is positive."""
    headings = np.array([heading for _, heading, _, _ in game.track])
    steps = (np.roll(headings, -1) - headings + np.pi) % (2 * np.pi) - np.pi
    around = np.arange(len(steps))[:, None] + np.arange(-BEND_TILES // 2, BEND_TILES // 2)
    return steps[around % len(steps)].sum(axis=1)


def bends_against(game: CarRacing) -> list[int]:
    """The sharpest tile of each sharp bend that turns against the direction in which the track as a whole does.

    A bend across the lap's start counts as two, one on either side.
    """
    road = turns(game)
    against = -np.sign(road.sum()) * road
    is_sharp = against > SHARP_BEND
    ends = np.flatnonzero(np.diff(is_sharp, prepend=False, append=False)).reshape(-1, 2)
    return [int(first + against[first:end].argmax()) for first, end in ends]


def start_before_bend(game: CarRacing, bend: int, rng: np.random.Generator) -> int:
    """Put the car of a game that has just been reset on the road before the tile `bend`, going the road's way.

    The tiles before that place are as after `lose_the_road`. It is not before the lap's start, however near the bend.

    Returns:
        The tile that the car is at.
    """
    start = max(bend - int(rng.integers(*TILES_BEFORE_BEND, endpoint=True)), 0)
    heading, x, y = game.track[start][1:]
    off = rng.uniform(-OFF_MIDDLE_BEFORE_BEND, OFF_MIDDLE_BEFORE_BEND)
    place = x + off * math.cos(heading), y + off * math.sin(heading)
    _start_midway(game, start, place, heading, heading, rng.uniform(*SPEED_BEFORE_BEND))
    return start


class TrainingRules(gym.Wrapper):
    """Endless fresh training tracks, and the rules of `TrainingOptions`.

    `reset(seed=s)` seeds the sequence of tracks rather than naming one; each reset then takes the next track seed
    of that sequence, always from `TRAINING_TRACK_SEEDS`. `info["track_seed"]` tells which.
    `info["game_reward"]` is a step's reward before any charge, `info["is_lap"]` whether the episode began neither lost
    nor before a bend, `info["is_mistake"]` whether in this step a tile was left behind or the episode came to a bad
    end, and `info["idle_frames"]` how many frames before the end of the step the road was last driven on, in new tiles.

    Args:
        env: an `AgentView` of a game that draws when it is asked.
        options: the rules.

    Attributes:
        tracks: the generator that track seeds, mirrors and starts are drawn from.
        missed_tile_charge: as in the options, until it is set anew.
    """

    def __init__(self, env: AgentView, options: TrainingOptions) -> None:
        super().__init__(env)
        self._view = env
        self.options = options
        self.missed_tile_charge = options.missed_tile_charge
        self.tracks = np.random.default_rng()
        self._idle_frames = 0
        self._tiles = 0
        self._missed_tiles: MissedTiles
        self._halfway_obs: Frame | None = None
        # How many tiles the car has touched once the episode is over, if it began in the middle of a lap.
        self._tiles_at_end: int | None = None

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Frame, dict[str, Any]]:
        if seed is not None:
            self.tracks = np.random.default_rng(seed)
        obs, info = self._next_track(options)
        start, tiles_to_go = 0, 0
        if self.tracks.random() < self.options.lost_starts:
            start = lose_the_road(_game(self), self.tracks)
            tiles_to_go = TILES_TO_BE_BACK
        elif self._draw(self.options.bend_starts):
            while not (bends := bends_against(_game(self))):
                _, info = self._next_track(options)
            bend = int(self.tracks.choice(bends))
            start = start_before_bend(_game(self), bend, self.tracks)
            tiles_to_go = bend - start + TILES_TO_BE_BACK
        self._tiles = tiles_visited(self)
        self._tiles_at_end = None
        if tiles_to_go:
            obs = self._view.look_anew()
            self._tiles_at_end = self._tiles + tiles_to_go
        self._idle_frames = 0
        self._missed_tiles = MissedTiles(_game(self), start)
        self._halfway_obs = None
        return obs, info

    def _next_track(self, options: dict[str, Any] | None) -> tuple[Frame, dict[str, Any]]:
        """The next training track, at its start."""
        seed = int(self.tracks.integers(TRAINING_TRACK_SEEDS.start, TRAINING_TRACK_SEEDS.stop))
        mirrored = self._draw(self.options.mirrored_tracks)
        obs, info = self.env.reset(seed=seed, options={**(options or {}), "mirrored": mirrored})
        info["track_seed"] = seed
        return obs, info

    def step(self, action: NDArray[np.float32]) -> tuple[Frame, float, bool, bool, dict[str, Any]]:
        obs, reward, terminated, truncated, info = self.env.step(action)
        tiles = tiles_visited(self)
        info["idle_frames"] = self._idle_frames + info["frames"]
        self._idle_frames = 0 if tiles > self._tiles else info["idle_frames"]
        self._tiles = tiles
        n_missed = self._missed_tiles.count_new()
        charge = self.missed_tile_charge * min(n_missed, TILES_CHARGED_AT_ONCE)
        if self.options.wheel_off_charge:
            n_wheels_off = self._missed_tiles.count_wheels_off()
            charge += self.options.wheel_off_charge * min(n_wheels_off, WHEELS_CHARGED_AT_ONCE)
        if self._halfway_obs is None and self._missed_tiles.is_halfway:
            self._halfway_obs = obs
        # What terminates besides a finished lap is leaving the field, on any road.
        has_come_round = info.get("lap_finished", False) if terminated else self._missed_tiles.is_round
        if self.options.endless_road and has_come_round:
            # Who goes round the wrong way is never halfway.
            obs = obs if self._halfway_obs is None else self._halfway_obs
            terminated, truncated = False, True
        elif self._is_hopeless():
            terminated = True
        elif self._tiles_at_end is not None and tiles >= self._tiles_at_end:
            truncated = True
        info["game_reward"] = float(reward)
        info["is_lap"] = self._tiles_at_end is None
        info["is_mistake"] = n_missed > 0 or (terminated and not info.get("lap_finished", False))
        return obs, float(reward) - charge, terminated, truncated, info

    def _is_hopeless(self) -> bool:
        """Whether the car has been without a new tile for too long, or goes back the way it came."""
        idle, back = self.options.max_idle_frames, self.options.max_tiles_back
        return (0 < idle <= self._idle_frames) or (0 < back <= self._missed_tiles.n_back)

    def _draw(self, share: float) -> bool:
        # Only where it matters: without mirrors, say, the tracks and starts are those that they always were.
        return share > 0.0 and bool(self.tracks.random() < share)


class EpisodeStatistics(gym.Wrapper):
    """At a lap's end, `info["episode"]` sums it up in the form that Stable-Baselines3 reads.

    An episode that begins in the middle of a lap is none.

    `r`: return, in the game's own rewards; `l`: length in steps; `frames`: length in frames; `tiles`: tiles visited;
    `tiles_missed`: tiles not visited; `tiles_share`: the visited ones' share of the track, in [0, 1]; `lap_finished`:
    whether every tile was visited. `info["is_success"]` is the last again.
    """

    def __init__(self, env: gym.Env) -> None:
        super().__init__(env)
        self._return = 0.0
        self._steps = 0
        self._frames = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Frame, dict[str, Any]]:
        self._return, self._steps, self._frames = 0.0, 0, 0
        return self.env.reset(seed=seed, options=options)

    def step(self, action: NDArray[np.float32]) -> tuple[Frame, float, bool, bool, dict[str, Any]]:
        obs, reward, terminated, truncated, info = self.env.step(action)
        self._return += info.get("game_reward", float(reward))
        self._steps += 1
        self._frames += info["frames"]
        if (terminated or truncated) and info.get("is_lap", True):
            tiles = tiles_visited(self)
            lap_finished = bool(info.get("lap_finished", False))
            info["is_success"] = lap_finished
            info["episode"] = {
                "r": self._return,
                "l": self._steps,
                "frames": self._frames,
                "tiles": tiles,
                "tiles_missed": len(_game(self).track) - tiles,
                "tiles_share": tiles / len(_game(self).track),
                "lap_finished": lap_finished,
            }
        return obs, float(reward), terminated, truncated, info


@dataclass(frozen=True)
class Moment:
    """A moment of an episode, as how it came about.

    The game is deterministic: the same track and the same actions lead to the same state, to the last bit.

    Attributes:
        tracks: the random state that the track, and the car's place on it, were drawn from.
        actions: float32 (n, 3), those since.
    """

    tracks: dict[str, Any]
    actions: NDArray[np.float32]

    def as_plain(self) -> dict[str, Any]:
        """The moment as plain values, for a checkpoint."""
        return {"tracks": self.tracks, "actions": self.actions.tolist()}

    @classmethod
    def from_plain(cls, plain: dict[str, Any]) -> "Moment":
        """The moment of `as_plain`.

        Raises:
            KeyError, TypeError, ValueError: if it is none.
        """
        actions = plain["actions"]
        return cls(plain["tracks"], np.array(actions, dtype=np.float32).reshape(len(actions), 3))


class ReplayableEpisode(gym.Wrapper):
    """Remembers how the episode in flight came about, and can go to any such `Moment`.

    Args:
        env: one with `TrainingRules` in it.
    """

    def __init__(self, env: gym.Env) -> None:
        super().__init__(env)
        self._tracks: np.random.Generator = env.get_wrapper_attr("tracks")
        self._tracks_before: dict[str, Any] = {}
        self._actions: list[NDArray[np.float32]] = []

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Frame, dict[str, Any]]:
        if seed is not None:
            self._tracks = np.random.default_rng(seed)
            self.env.set_wrapper_attr("tracks", self._tracks)
        self._tracks_before = dict(self._tracks.bit_generator.state)
        self._actions = []
        return self.env.reset(options=options)

    def step(self, action: NDArray[np.float32]) -> tuple[Frame, float, bool, bool, dict[str, Any]]:
        self._actions.append(np.array(action, dtype=np.float32))
        obs, reward, terminated, truncated, info = self.env.step(action)
        return obs, float(reward), terminated, truncated, info

    def moment(self, steps_back: int = 0) -> Moment:
        """The present moment, or the one so many steps ago; no earlier than the episode's beginning."""
        n_actions = max(len(self._actions) - steps_back, 0)
        return Moment(self._tracks_before, np.array(self._actions[:n_actions], dtype=np.float32).reshape(-1, 3))

    def go_to(self, moment: Moment) -> tuple[Frame, dict[str, Any]]:
        """Play an episode up to a moment of it; the tracks that come after it stay those that would have come now.

        Returns:
            The moment's observation and info, as `reset` does.

        Raises:
            KeyError, TypeError, ValueError: if it is no moment of an episode.
        """
        next_tracks = self._tracks.bit_generator.state
        self._tracks.bit_generator.state = moment.tracks
        obs, info = self.reset()
        self._tracks.bit_generator.state = next_tracks
        for action in moment.actions:
            obs, _, terminated, truncated, info = self.step(action)
            if terminated or truncated:
                raise ValueError("the episode ends before its last action")
        return obs, info


@dataclass(frozen=True)
class Mistake:
    """A mistake that is to be made good.

    Attributes:
        start: where the second try begins.
        tiles: how many tiles the car had touched when it was made.
    """

    start: Moment
    tiles: int

    def as_plain(self) -> dict[str, Any]:
        """The mistake as plain values, for a checkpoint."""
        return {"start": self.start.as_plain(), "tiles": self.tiles}

    @classmethod
    def from_plain(cls, plain: dict[str, Any]) -> "Mistake":
        """The mistake of `as_plain`.

        Raises:
            KeyError, TypeError, ValueError: if it is none.
        """
        return cls(Moment.from_plain(plain["start"]), int(plain["tiles"]))


# How many frames before a mistake a second try begins: from the latest at which it may still be avoided to the earliest
# at which it is not yet another story.
FRAMES_BEFORE_MISTAKE = (16, 128)
# Mistakes that an environment remembers: the newest, which are those of the present driver.
MISTAKES_REMEMBERED = 8


class SecondTries(gym.Wrapper):
    """Begins a share of the episodes shortly before a mistake that was made in an earlier one.

    The way there is played again as it was driven, so the car comes at the same bend at the same speed. A second try
    ends as a truncation where the mistake is made good: once the car is `TILES_TO_BE_BACK` tiles further than it had
    come, none of them missed, which strikes the mistake off. A try that goes wrong leaves it, or rather the try's own
    mistake, to be tried again, and goes on. It counts as no lap (`info["episode"]` is taken away).
    (Going back to a state and exploring from there: Ecoffet et al., "First return, then explore", 2021. Practising
    more what goes wrong: Jiang et al., "Prioritized Level Replay", 2021.)

    Also brings back an episode in flight, for a training that is resumed.

    Args:
        env: a `ReplayableEpisode`.
        share: of the episodes, in [0, 1].
    """

    def __init__(self, env: ReplayableEpisode, share: float) -> None:
        super().__init__(env)
        self._episode = env
        self._share = share
        self._action_repeat: int = env.get_wrapper_attr("config").action_repeat
        self._choices = np.random.default_rng()
        self._mistakes: deque[Mistake] = deque(maxlen=MISTAKES_REMEMBERED)
        # How many tiles the car has touched once the mistake is made good, if the episode in flight is a second try;
        # and whether it has had a mistake of its own already.
        self._tiles_when_good: int | None = None
        self._has_erred = False

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Frame, dict[str, Any]]:
        if seed is not None:
            self._choices = np.random.default_rng([seed, 1])
            self._mistakes.clear()
        self._tiles_when_good = None
        self._has_erred = False
        if self._mistakes and self._choices.random() < self._share:
            which = int(self._choices.integers(len(self._mistakes)))
            mistake = self._mistakes[which]
            del self._mistakes[which]
            self._tiles_when_good = mistake.tiles + TILES_TO_BE_BACK
            return self._episode.go_to(mistake.start)
        return self._episode.reset(seed=seed, options=options)

    def step(self, action: NDArray[np.float32]) -> tuple[Frame, float, bool, bool, dict[str, Any]]:
        obs, reward, terminated, truncated, info = self.env.step(action)
        if self._share and info["is_mistake"] and not self._has_erred and info["is_lap"]:
            self._remember(info["idle_frames"])
        if self._tiles_when_good is not None:
            info.pop("episode", None)
            info.pop("is_success", None)
            truncated = truncated or (not terminated and tiles_visited(self) >= self._tiles_when_good)
        return obs, float(reward), terminated, truncated, info

    def _remember(self, frames_ago: int) -> None:
        """Keep the way to a mistake that was made so many frames ago."""
        self._has_erred = True
        frames_back = frames_ago + int(self._choices.integers(*FRAMES_BEFORE_MISTAKE, endpoint=True))
        start = self._episode.moment(steps_back=frames_back // self._action_repeat)
        self._mistakes.append(Mistake(start, tiles_visited(self)))

    def capture_episode(self) -> dict[str, Any]:
        """The episode in flight, and what the choice of the next ones depends on, as plain values."""
        return {
            "present": self._episode.moment().as_plain(),
            "next_tracks": self.get_wrapper_attr("tracks").bit_generator.state,
            "choices": self._choices.bit_generator.state,
            "mistakes": [mistake.as_plain() for mistake in self._mistakes],
            "tiles_when_good": self._tiles_when_good,
            "has_erred": self._has_erred,
        }

    def restore_episode(self, state: dict[str, Any]) -> Frame:
        """Play a captured episode again, up to where it was, and return its latest observation.

        Raises:
            KeyError, TypeError, ValueError: if the state is no such episode.
        """
        obs, _ = self._episode.go_to(Moment.from_plain(state["present"]))
        self.get_wrapper_attr("tracks").bit_generator.state = state["next_tracks"]
        self._choices.bit_generator.state = state["choices"]
        self._mistakes.clear()
        self._mistakes.extend(Mistake.from_plain(mistake) for mistake in state["mistakes"])
        self._tiles_when_good = None if state["tiles_when_good"] is None else int(state["tiles_when_good"])
        self._has_erred = bool(state["has_erred"])
        return obs


def _game(env: gym.Env) -> CarRacing:
    game = env.unwrapped
    assert isinstance(game, CarRacing)
    return game


def tiles_visited(env: gym.Env) -> int:
    """How many tiles of its track the car has touched so far in this episode."""
    return _game(env).tile_visited_count


def make_env(
    view: ViewConfig | None = None, training: TrainingOptions | None = None, render_mode: str | None = None
) -> gym.Env:
    """One environment: the game of the unmodified CarRacing-v3, seen through `FastCarRacing`'s pictures.

    Args:
        view: action repeat and frame stack.
        training: with these, fresh training tracks under the training rules; without, `reset(seed=s)` is track s of
            the plain game, as for scoring.
        render_mode: Gymnasium's own, for `render()`.
    """
    view = view or ViewConfig()
    game = FastCarRacing(render_mode, grayscale=view.grayscale, draws_every_frame=False)
    seen = AgentView(TimeLimit(game, MAX_EPISODE_FRAMES), view, lambda _: game.observe())
    if training is None:
        return EpisodeStatistics(seen)
    return SecondTries(ReplayableEpisode(EpisodeStatistics(TrainingRules(seen, training))), training.second_tries)


class Spectator(gym.Wrapper):
    """Shows every frame of the stock game in the size of its window, those inside an action repeat too.

    Args:
        env: `gymnasium.make("CarRacing-v3", render_mode="rgb_array")`.
        watch: is given each frame's picture, uint8 (WINDOW_H, WINDOW_W, 3) in RGB.
    """

    def __init__(self, env: gym.Env, watch: Callable[[Frame], None]) -> None:
        super().__init__(env)
        self._watch = watch

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Frame, dict[str, Any]]:
        obs, info = self.env.reset(seed=seed, options=options)
        self._show()
        return obs, info

    def step(self, action: NDArray[np.float32]) -> tuple[Frame, float, bool, bool, dict[str, Any]]:
        obs, reward, terminated, truncated, info = self.env.step(action)
        self._show()
        return obs, float(reward), terminated, truncated, info

    def _show(self) -> None:
        # What `render` returns is shrunk; the surface that it has drawn on has the window's size.
        self.env.render()
        window: Any = _game(self).surf
        self._watch(pygame.surfarray.array3d(window).transpose(1, 0, 2))


def make_stock_env(view: ViewConfig | None = None, watch: Callable[[Frame], None] | None = None) -> gym.Env:
    """`gymnasium.make("CarRacing-v3")` itself, every frame of it drawn, seen and driven through the same view.

    Args:
        view: action repeat and frame stack.
        watch: if given, a `Spectator`'s.
    """
    view = view or ViewConfig()
    frame = stock_frame if view.grayscale else stock_colour_frame
    game = gym.make(STOCK_ID) if watch is None else Spectator(gym.make(STOCK_ID, render_mode="rgb_array"), watch)
    return EpisodeStatistics(AgentView(game, view, frame))


class EnvBatch:
    """Steps environments one after the other into arrays that the caller owns, perhaps in shared memory.

    An episode that ends is followed at once by the next: `obs` then holds the new episode's first observation, and
    the old one's last is in its info.

    Args:
        envs: n environments with the same spaces.
        obs: uint8 (n, frame_stack, 84, 84).
        rewards: float32 (n,).
        dones: bool (n,), True where an episode ended with this step.
    """

    def __init__(
        self,
        envs: Sequence[gym.Env],
        obs: Frame,
        rewards: NDArray[np.float32],
        dones: NDArray[np.bool_],
    ) -> None:
        self.envs = envs
        self._obs = obs
        self._rewards = rewards
        self._dones = dones

    def reset(self, seeds: Sequence[int | None]) -> None:
        """Start a new episode everywhere."""
        for i, (env, seed) in enumerate(zip(self.envs, seeds, strict=True)):
            self._obs[i], _ = env.reset(seed=seed)

    def step(self, actions: NDArray[np.float32]) -> dict[int, dict[str, Any]]:
        """One step everywhere, with actions (n, 3).

        Returns:
            For each environment whose episode ended, its last info, with Stable-Baselines3's `terminal_observation`
            and `TimeLimit.truncated` (True where the value after the last step must still be bootstrapped).
        """
        ended = {}
        for i, env in enumerate(self.envs):
            obs, reward, terminated, truncated, info = env.step(actions[i])
            done = terminated or truncated
            if done:
                info["terminal_observation"] = obs
                info["TimeLimit.truncated"] = truncated and not terminated
                ended[i] = info
                obs, _ = env.reset()
            self._obs[i], self._rewards[i], self._dones[i] = obs, reward, done
        return ended
