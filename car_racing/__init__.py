"""CarRacing-v3, forty times faster and the same game, for agents that see pixels.

Importing this package registers two environments:

* `FastCarRacing-v3`: Gymnasium's CarRacing-v3 whose observation is drawn straight at 84x84, grey;
* `FastCarRacingView-v3`: the same as an agent sees and drives it: the pictures of the last decisions in one
  observation, an action held for several frames, actions in [-1, 1]. Its keyword arguments are the fields of
  `ViewConfig`.

A plain loop:

    env = gymnasium.make("car_racing:FastCarRacingView-v3", frame_stack=2)
    obs, info = env.reset(seed=7)                 # track 7, obs uint8 (2, 84, 84)
    obs, reward, terminated, truncated, info = env.step(env.action_space.sample())

Several at once with Gymnasium, and with Stable-Baselines3 over all cores:

    envs = gymnasium.make_vec("car_racing:FastCarRacingView-v3", num_envs=4, vectorization_mode="async")
    venv = car_racing.vec_env.make_vec_env(8, car_racing.ViewConfig(), car_racing.RulesConfig())

A *step* is one decision of the agent, a *frame* one tick (1/50 s) of the game. `make_env` makes one environment, with
the rules of training or without. The package needs neither torch nor Stable-Baselines3, except for
`car_racing.vec_env`, so that a worker process that only steps the game stays small.
"""

import gymnasium as gym

from car_racing.config import FRAME_SIZE, GameConfig, RulesConfig, ViewConfig
from car_racing.envs import MAX_EPISODE_FRAMES, STOCK_ID, Spectator, make_env, make_stock_env
from car_racing.episode_statistics import EpisodeStatistics, game_of, tiles_visited
from car_racing.episodes import TRAINING_TRACK_SEEDS, TrainingEpisodes
from car_racing.game import FastCarRacing, Frame
from car_racing.settings import SettingError
from car_racing.view import AgentView, action_of, controls_of, stock_colour_frame, stock_frame

__all__ = [
    "FAST_ID",
    "FRAME_SIZE",
    "MAX_EPISODE_FRAMES",
    "STOCK_ID",
    "TRAINING_TRACK_SEEDS",
    "VIEW_ID",
    "AgentView",
    "EpisodeStatistics",
    "FastCarRacing",
    "Frame",
    "GameConfig",
    "RulesConfig",
    "SettingError",
    "Spectator",
    "TrainingEpisodes",
    "ViewConfig",
    "action_of",
    "controls_of",
    "game_of",
    "make_env",
    "make_stock_env",
    "stock_colour_frame",
    "stock_frame",
    "tiles_visited",
]

FAST_ID = "FastCarRacing-v3"
VIEW_ID = "FastCarRacingView-v3"

gym.register(
    FAST_ID, entry_point="car_racing.game:FastCarRacing", max_episode_steps=MAX_EPISODE_FRAMES, reward_threshold=900
)
# Its time limit counts frames and lies inside, under the action repeat.
gym.register(VIEW_ID, entry_point="car_racing.envs:RegisteredView", reward_threshold=900)
