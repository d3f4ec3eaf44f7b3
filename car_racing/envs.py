"""The environments put together: for training, for scoring, and the unmodified game.

TrainingEpisodes    starts, penalties, early ends; for training only    (or EpisodeStatistics, for scoring)
  AgentView         frame stack, action repeat, actions in [-1, 1]
    TimeLimit       1000 frames
      FastCarRacing the game: physics, rewards and tracks of CarRacing-v3, drawn when asked
"""

from collections.abc import Callable
from dataclasses import fields
from typing import Any

import gymnasium as gym
import numpy as np
import pygame
from gymnasium.utils import RecordConstructorArgs
from gymnasium.wrappers import TimeLimit
from numpy.typing import NDArray

from car_racing.config import RulesConfig, ViewConfig
from car_racing.episode_statistics import EpisodeStatistics, game_of
from car_racing.episodes import TrainingEpisodes
from car_racing.game import FastCarRacing, Frame
from car_racing.view import AgentView

STOCK_ID = "CarRacing-v3"
MAX_EPISODE_FRAMES = 1000


def make_env(
    view: ViewConfig | None = None, rules: RulesConfig | None = None, render_mode: str | None = None
) -> gym.Env:
    """One environment: the game of the unmodified CarRacing-v3, seen through `FastCarRacing`'s pictures.

    Args:
        view: what the agent sees and does.
        rules: with these, fresh training tracks under the rules of training; without, `reset(seed=s)` is track s of the
            plain game, as for scoring.
        render_mode: Gymnasium's own, for `render()`.
    """
    seen = _seen(view or ViewConfig(), render_mode)
    return EpisodeStatistics(seen) if rules is None else TrainingEpisodes(seen, rules)


def _seen(view: ViewConfig, render_mode: str | None) -> AgentView:
    game = FastCarRacing(render_mode, grayscale=view.grayscale, draws_every_frame=False)
    return AgentView(TimeLimit(game, MAX_EPISODE_FRAMES), view)


class RegisteredView(gym.Wrapper, RecordConstructorArgs):
    """The game as the policies see it, the way `gymnasium.make` calls it.

    There is no `info["episode"]`: Gymnasium's `RecordEpisodeStatistics` and SB3's `Monitor` want to add it themselves.

    Args:
        render_mode: Gymnasium's own.
        **view: fields of `ViewConfig`.

    Raises:
        TypeError: for a keyword argument that is neither.
        SettingError: if one is out of its range.
    """

    # Gymnasium looks here which modes there are, and adds `rgb_array_list` to them, before it makes the environment.
    metadata = FastCarRacing.metadata

    def __init__(self, render_mode: str | None = None, **view: Any) -> None:
        known = [field.name for field in fields(ViewConfig)]
        unknown = sorted(set(view) - set(known))
        if unknown:
            raise TypeError(f"unknown: {', '.join(unknown)}; the keyword arguments are render_mode, {', '.join(known)}")
        RecordConstructorArgs.__init__(self, render_mode=render_mode, **view)
        gym.Wrapper.__init__(self, _seen(ViewConfig(**view), render_mode))
        self.metadata = self.env.metadata


class Spectator(gym.Wrapper):
    """Shows every frame of the stock game in the size of its window, those inside an action repeat too.

    Args:
        env: `gymnasium.make("CarRacing-v3", render_mode="rgb_array")`.
        watch: is given each frame's picture, uint8 (WINDOW_H, WINDOW_W, 3) in RGB, which must not be written to.
    """

    def __init__(self, env: gym.Env, watch: Callable[[Frame], None]) -> None:
        super().__init__(env)
        self._watch = watch

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Frame, dict[str, Any]]:
        obs, info = self.env.reset(seed=seed, options=options)
        self._show()
        return obs, info

    def step(self, action: NDArray[Any]) -> tuple[Frame, float, bool, bool, dict[str, Any]]:
        obs, reward, terminated, truncated, info = self.env.step(action)
        self._show()
        return obs, float(reward), terminated, truncated, info

    def _show(self) -> None:
        # What `render` returns is shrunk; the surface that it has drawn on has the window's size.
        self.env.render()
        window: Any = game_of(self).surf
        # Row by row, as films are; `pygame.surfarray` would go column by column, which takes five times as long.
        pixels = np.frombuffer(pygame.image.tobytes(window, "RGB"), np.uint8)
        self._watch(pixels.reshape(window.get_height(), window.get_width(), 3))


def make_stock_env(view: ViewConfig | None = None, watch: Callable[[Frame], None] | None = None) -> gym.Env:
    """`gymnasium.make("CarRacing-v3")` itself, every frame of it drawn, seen and driven through the same view.

    Args:
        view: what the agent sees and does.
        watch: if given, a `Spectator`'s.
    """
    game = gym.make(STOCK_ID) if watch is None else Spectator(gym.make(STOCK_ID, render_mode="rgb_array"), watch)
    return EpisodeStatistics(AgentView(game, view or ViewConfig()))
