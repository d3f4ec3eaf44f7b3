"""CarRacing-v3 as a pixel agent sees and drives it.

The game underneath is Gymnasium's, unchanged: physics, rewards, tracks and random numbers. This module adds

* what the agent sees: the last four frames, grey, 84x84, as one uint8 array (`AgentView`);
* what it does: three numbers in [-1, 1], held for `action_repeat` frames (`AgentView`);
* what only training wants: endless fresh tracks, and an early end for a lost car (`TrainingRules`).

A *step* is one decision of the agent, a *frame* one tick (1/50 s) of the game.
It imports neither torch nor Stable-Baselines3, so that a worker process that only drives stays small.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.envs.box2d.car_racing import CarRacing
from gymnasium.wrappers import TimeLimit
from numpy.typing import NDArray

Frame = NDArray[np.uint8]

STOCK_ID = "CarRacing-v3"
MAX_EPISODE_FRAMES = 1000
FRAME_SIZE = 84

# Every training track's seed is drawn from here and every evaluation track's seed lies below it, so
# that no training run, whatever its own seed, can ever meet a track that it will be scored on.
TRAINING_TRACK_SEEDS = range(1_000_000, 2**31)

# OpenCV's thread pool costs more than it gives on pictures this small.
cv2.setNumThreads(1)


@dataclass(frozen=True)
class ViewConfig:
    """What one step of the agent means. Part of a policy: it must be scored with what it was trained with.

    Attributes:
        action_repeat: frames for which one action is held.
        frame_stack: frames in one observation, the newest last.
    """

    action_repeat: int = 4
    frame_stack: int = 4


def stock_frame(rgb: Frame) -> Frame:
    """The stock picture as the agent sees it: RGB (96, 96, 3) -> grey -> (84, 84) by area, all uint8."""
    grey = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY)
    return cv2.resize(grey, (FRAME_SIZE, FRAME_SIZE), interpolation=cv2.INTER_AREA)  # type: ignore[return-value]


class LazyCarRacing(CarRacing):
    """CarRacing-v3 that draws an observation only when `observe` asks for it.

    99% of a stock step is spent on drawing, and a frame inside an action repeat is seen by nobody. Drawing reads
    the game's state and never changes it, so leaving it out changes nothing else. `step` and `reset` return an
    empty picture; `render` for people is as ever.
    """

    def _render(self, mode: str) -> Any:
        if mode == "state_pixels":
            self._shown_reward = self.reward
            return np.zeros(self.observation_space.shape or (), dtype=np.uint8)
        return super()._render(mode)

    def observe(self) -> Frame:
        """Draw the current state as the stock step would have: uint8 (84, 84), grey."""
        # The stock step draws before it takes the frame's 0.1 off the score that the picture shows.
        reward, self.reward = self.reward, self._shown_reward
        try:
            return stock_frame(super()._render("state_pixels"))
        finally:
            self.reward = reward


class AgentView(gym.Wrapper):
    """Action repeat, frame stack and action scaling in one wrapper.

    Observation: uint8 (frame_stack, 84, 84), the newest frame last; after a reset the first frame fills the stack.
    Action: float32 (3,) in [-1, 1], rescaled to steer [-1, 1], gas [0, 1], brake [0, 1].
    Reward: the sum over the frames of the step. A step ends early where the episode does.

    `info["frames"]` says how many frames the step took.

    Args:
        env: CarRacing-v3 with its time limit.
        config: action repeat and frame stack.
        frame: turns what `env.step` returned as observation into the (84, 84) frame. It is called once a step,
            for the last frame only, so that an environment that draws lazily draws no other.
    """

    def __init__(self, env: gym.Env, config: ViewConfig, frame: Callable[[Frame], Frame]) -> None:
        super().__init__(env)
        self.config = config
        self._frame = frame
        shape = (config.frame_stack, FRAME_SIZE, FRAME_SIZE)
        self.observation_space = spaces.Box(0, 255, shape, np.uint8)
        self.action_space = spaces.Box(-1.0, 1.0, (3,), np.float32)
        self._stack = np.zeros(shape, dtype=np.uint8)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Frame, dict[str, Any]]:
        obs, info = self.env.reset(seed=seed, options=options)
        self._stack[:] = self._frame(obs)
        return self._stack.copy(), info

    def step(self, action: NDArray[np.float32]) -> tuple[Frame, float, bool, bool, dict[str, Any]]:
        controls = np.array((action[0], 0.5 * (action[1] + 1.0), 0.5 * (action[2] + 1.0)))
        total_reward = 0.0
        frames = 0
        terminated = truncated = False
        while frames < self.config.action_repeat and not (terminated or truncated):
            obs, reward, terminated, truncated, info = self.env.step(controls)
            total_reward += float(reward)
            frames += 1
        self._stack[:-1] = self._stack[1:]
        self._stack[-1] = self._frame(obs)
        info["frames"] = frames
        return self._stack.copy(), total_reward, terminated, truncated, info


@dataclass(frozen=True)
class TrainingOptions:
    """Changes to the game that help training and never reach evaluation.

    Attributes:
        max_idle_frames: end an episode (as a truncation: its value is still bootstrapped) after so many frames
            without a new tile; 0 never does.
    """

    max_idle_frames: int = 100


class TrainingRules(gym.Wrapper):
    """Endless fresh training tracks, and the rules of `TrainingOptions`.

    `reset(seed=s)` seeds the sequence of tracks rather than naming one; each reset then takes the next track seed
    of that sequence, always from `TRAINING_TRACK_SEEDS`. `info["track_seed"]` tells which.
    """

    def __init__(self, env: gym.Env, options: TrainingOptions) -> None:
        super().__init__(env)
        self.options = options
        self._tracks = np.random.default_rng()
        self._idle_frames = 0
        self._tiles = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Frame, dict[str, Any]]:
        if seed is not None:
            self._tracks = np.random.default_rng(seed)
        track_seed = int(self._tracks.integers(TRAINING_TRACK_SEEDS.start, TRAINING_TRACK_SEEDS.stop))
        obs, info = self.env.reset(seed=track_seed, options=options)
        self._idle_frames = 0
        self._tiles = tiles_visited(self)
        info["track_seed"] = track_seed
        return obs, info

    def step(self, action: NDArray[np.float32]) -> tuple[Frame, float, bool, bool, dict[str, Any]]:
        obs, reward, terminated, truncated, info = self.env.step(action)
        tiles = tiles_visited(self)
        self._idle_frames = 0 if tiles > self._tiles else self._idle_frames + info["frames"]
        self._tiles = tiles
        if self.options.max_idle_frames and self._idle_frames >= self.options.max_idle_frames:
            truncated = True
        return obs, float(reward), terminated, truncated, info


class EpisodeStatistics(gym.Wrapper):
    """At an episode's end, `info["episode"]` sums it up in the form that Stable-Baselines3 reads.

    `r`: return; `l`: length in steps; `frames`: length in frames; `tiles`: tiles visited; `tiles_share`: their
    share of the track, in [0, 1]; `lap_finished`: whether every tile was. `info["is_success"]` is the last again.
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
        self._return += float(reward)
        self._steps += 1
        self._frames += info["frames"]
        if terminated or truncated:
            tiles = tiles_visited(self)
            lap_finished = bool(info.get("lap_finished", False))
            info["is_success"] = lap_finished
            info["episode"] = {
                "r": self._return,
                "l": self._steps,
                "frames": self._frames,
                "tiles": tiles,
                "tiles_share": tiles / len(_game(self).track),
                "lap_finished": lap_finished,
            }
        return obs, float(reward), terminated, truncated, info


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
    """One environment. The game, its rewards and its pictures are those of the unmodified CarRacing-v3.

    Args:
        view: action repeat and frame stack.
        training: with these, fresh training tracks under the training rules; without, `reset(seed=s)` is track s of
            the plain game, as for scoring.
        render_mode: Gymnasium's own, for `render()`.
    """
    game = LazyCarRacing(render_mode=render_mode)
    env: gym.Env = AgentView(TimeLimit(game, MAX_EPISODE_FRAMES), view or ViewConfig(), lambda _: game.observe())
    if training is not None:
        env = TrainingRules(env, training)
    return EpisodeStatistics(env)


def make_stock_env(view: ViewConfig | None = None, render_mode: str | None = None) -> gym.Env:
    """`gymnasium.make("CarRacing-v3")` itself, every frame of it drawn, seen and driven through the same view."""
    game = gym.make(STOCK_ID, render_mode=render_mode)
    return EpisodeStatistics(AgentView(game, view or ViewConfig(), stock_frame))


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

    def close(self) -> None:
        """Close every environment."""
        for env in self.envs:
            env.close()
