"""What the agent sees and does: a stack of frames, an action that is held, three numbers in [-1, 1]."""

from typing import Any

import cv2
import gymnasium as gym
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from car_racing.config import FRAME_SIZE, ViewConfig
from car_racing.game import FastCarRacing, Frame

# The road's tiles are drawn in three levels that take turns, 100, 102 and 105, and a touched tile in the darkest: the
# picture's only sign of the lap's direction and of what is left of it, and next to invisible. This map from level to
# level spreads them out, to 97, 115 and 142, at the cost of contrast elsewhere.
ROAD_CONTRAST: Frame = np.interp(np.arange(256), (0, 96, 108, 255), (0, 60, 170, 255)).round().astype(np.uint8)


def stock_frame(rgb: Frame) -> Frame:
    """The stock picture as the agent sees it: RGB (96, 96, 3) -> grey -> (84, 84) by area, all uint8."""
    grey = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY)
    return cv2.resize(grey, (FRAME_SIZE, FRAME_SIZE), interpolation=cv2.INTER_AREA)  # type: ignore[return-value]


def stock_colour_frame(rgb: Frame) -> Frame:
    """The stock picture at the agent's size in colour: RGB (96, 96, 3) -> (84, 84, 3) by area."""
    return cv2.resize(rgb, (FRAME_SIZE, FRAME_SIZE), interpolation=cv2.INTER_AREA)  # type: ignore[return-value]


def controls_of(action: NDArray[np.float32], config: ViewConfig) -> NDArray[np.float64]:
    """What an action, (3,) in [-1, 1], does in the game: steer in [-1, 1], gas and brake in [0, 1]."""
    released = 2.0 * config.brake_dead_zone - 1.0  # up to here in [-1, 1] the brake is not touched
    brake = min(max((action[2] - released) / (1.0 - released), 0.0), 1.0)  # float32 may round it up
    return np.array((action[0], 0.5 * (action[1] + 1.0), brake))


def action_of(controls: NDArray[np.float64], config: ViewConfig) -> NDArray[np.float32]:
    """The action that does these controls; the inverse of `controls_of`."""
    released = 2.0 * config.brake_dead_zone - 1.0
    return np.array((controls[0], 2.0 * controls[1] - 1.0, released + (1.0 - released) * controls[2]), np.float32)


class AgentView(gym.Wrapper):
    """Action repeat, frame stack and action scaling in one wrapper.

    Observation: uint8 (frame_stack, 84, 84), the newest frame last, or (3 * frame_stack, 84, 84) in colour; after a
    reset the first frame fills the stack.
    Action: float32 (3,) in [-1, 1], rescaled to steer [-1, 1], gas [0, 1], brake [0, 1] (see `brake_dead_zone`).
    Reward: the sum over the frames of the step. A step ends early where the episode does.

    `info["frames"]` says how many frames the step took. Of a `FastCarRacing` only the last frame of a step is drawn.
    `metadata["render_fps"]` is the game's divided by the action repeat: what renders once a step plays at its speed.

    Args:
        env: CarRacing-v3 with its time limit; a `FastCarRacing`, or Gymnasium's own.
        config: action repeat, frame stack and colour.

    Attributes:
        draws: whether `step` draws a picture. While it does not, it returns the latest observation from before.
    """

    def __init__(self, env: gym.Env, config: ViewConfig) -> None:
        super().__init__(env)
        self.config = config
        self.draws = True
        self.observation_space = spaces.Box(0, 255, config.obs_shape, np.uint8)
        self.action_space = spaces.Box(-1.0, 1.0, (3,), np.float32)
        self.metadata = {**env.metadata, "render_fps": env.metadata["render_fps"] / config.action_repeat}
        self._stack = np.zeros(config.obs_shape, dtype=np.uint8)
        self._channels = config.obs_shape[0] // config.frame_stack

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Frame, dict[str, Any]]:
        obs, info = self.env.reset(seed=seed, options=options)
        return self._fill_stack(obs), info

    def refresh_observation(self) -> Frame:
        """A stack of nothing but the present picture, after a change to a `FastCarRacing`."""
        return self._fill_stack(self._stack)

    def step(self, action: NDArray[np.float32]) -> tuple[Frame, float, bool, bool, dict[str, Any]]:
        controls = controls_of(action, self.config)
        total_reward = 0.0
        frames = 0
        terminated = truncated = False
        while frames < self.config.action_repeat and not (terminated or truncated):
            obs, reward, terminated, truncated, info = self.env.step(controls)
            total_reward += float(reward)
            frames += 1
        if self.draws:
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

    def _frame(self, obs: Frame) -> Frame:
        """A frame, (84, 84) or (84, 84, 3), of what the game returned as its observation."""
        # Looked up each time, so that a copy of this wrapper draws its own game.
        game = self.unwrapped
        if isinstance(game, FastCarRacing):
            return game.observe()
        return stock_frame(obs) if self.config.grayscale else stock_colour_frame(obs)
