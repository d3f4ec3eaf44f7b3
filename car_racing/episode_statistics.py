"""What an episode came to, in the form that Stable-Baselines3 reads."""

import math
from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.envs.box2d.car_racing import CarRacing
from numpy.typing import NDArray

from car_racing.game import Frame


def game_of(env: gym.Env) -> CarRacing:
    """The game itself, under all wrappers."""
    game = env.unwrapped
    assert isinstance(game, CarRacing)
    return game


def tiles_visited(env: gym.Env) -> int:
    """How many tiles of its track the car has touched so far in this episode."""
    return game_of(env).tile_visited_count


class EpisodeRecord:
    """Sums an episode up, step by step."""

    def __init__(self) -> None:
        self._return = 0.0
        self._steps = 0
        self._frames = 0

    def add(self, reward: float, frames: int) -> None:
        """One step, with its reward in the game's own points and the frames that it took."""
        self._return += reward
        self._steps += 1
        self._frames += frames

    def summarize(self, game: CarRacing, info: dict[str, Any]) -> None:
        """Put the summary into the info of the episode's last step.

        `info["episode"]` holds `r`: return, in the game's own rewards; `l`: length in steps; `frames`: length in
        frames; `tiles`: tiles visited; `tiles_missed`: tiles not visited; `tiles_fraction`: the visited ones' fraction
        of the track, in [0, 1]; `lap_finished`: whether every tile was visited. `info["is_success"]` is the last again.
        """
        tiles, n_tiles = game.tile_visited_count, len(game.track)
        lap_finished = bool(info.get("lap_finished", False))
        info["is_success"] = lap_finished
        info["episode"] = {
            "r": self._return,
            "l": self._steps,
            "frames": self._frames,
            "tiles": tiles,
            "tiles_missed": n_tiles - tiles,
            "tiles_fraction": tiles / n_tiles,
            "lap_finished": lap_finished,
        }


class EpisodeStatistics(gym.Wrapper):
    """Puts an `EpisodeRecord`'s summary into the info of each episode's last step.

    Args:
        env: an `AgentView`.
    """

    def __init__(self, env: gym.Env) -> None:
        super().__init__(env)
        self._record = EpisodeRecord()

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Frame, dict[str, Any]]:
        self._record = EpisodeRecord()
        return self.env.reset(seed=seed, options=options)

    def step(self, action: NDArray[np.float32]) -> tuple[Frame, float, bool, bool, dict[str, Any]]:
        obs, reward, terminated, truncated, info = self.env.step(action)
        self._record.add(float(reward), info["frames"])
        if terminated or truncated:
            self._record.summarize(game_of(self), info)
        return obs, float(reward), terminated, truncated, info


def summaries(plain: Any, keys: Sequence[str]) -> list[dict[str, Any]]:
    """Episodes' summaries from a checkpoint.

    Args:
        plain: what it holds in their place.
        keys: the figures that each must have.

    Raises:
        KeyError, TypeError, ValueError: if they are none.
    """
    for summary in plain:
        numbers([summary[key] for key in keys])
    return list(plain)


def numbers(plain: Any) -> list[float]:
    """Finite numbers or booleans from a checkpoint.

    Raises:
        TypeError, ValueError: if they are none.
    """
    if not all(isinstance(value, int | float) and math.isfinite(value) for value in plain):
        raise ValueError("what should be finite numbers is something else")
    return list(plain)
