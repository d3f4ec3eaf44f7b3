"""What this project gains a whole PPO training: frames a second of ours and of others, in turn, in one run.

    python -m benchmarks.training_speed [--steps N] [--rounds N]

* RL Zoo's recipe on stock: the settings of RL Baselines3 Zoo's `ppo.yml` for CarRacing (64x64, 2 frames a decision, 10
  epochs, gSDE) on `gymnasium.make("CarRacing-v3")`, with all environments in one process, as RL Zoo runs them unless it
  is told otherwise, and with a process each.
* Stable-Baselines3 on stock: our settings, view, rules and policy, with a process for each environment.
* Stable-Baselines3 on our game: its own `CnnPolicy` with our settings, in one process and with a process each.
* Ours: `train_ppo.py`'s own model, environments and threads.

Collecting and updating both count. RL Zoo's rollouts are shorter here than its recipe's, which changes neither the
frames nor the updates of a decision.
"""

import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from typing import Any

import gymnasium as gym
import torch
from gymnasium.wrappers import GrayscaleObservation, ResizeObservation
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecEnv, VecFrameStack, VecNormalize
from torch import nn

from benchmarks.findings import benchmark_parser, compared, count, tell
from car_racing import STOCK_ID, AgentView, TrainingEpisodes, make_env
from ppo import make_model, make_training_env
from ppo_config import PPOConfig
from process import keep_freed_memory
from train_ppo import ThreadsForUpdates

# Laps only, from their start and unmirrored: the stock game knows no others.
CONFIG = PPOConfig(
    total_timesteps=10**9,
    lost_start_prob=0.0,
    bend_start_prob=0.0,
    hairpin_start_prob=0.0,
    retry_start_prob=0.0,
    mirror_prob=0.0,
)
CPU = torch.device("cpu")
VecEnvClass = type[DummyVecEnv] | type[SubprocVecEnv]
ZOO_SKIP = 2
OURS = "ours"
NOTE = (
    "RL Zoo's recipe makes a decision every 2 frames and learns from each in 10 epochs; the others make one every 4 "
    "frames and learn from it in 4. So the ratio to it is one of recipes; the ratio to Stable-Baselines3 with our "
    "settings is one of code."
)


def normalised(env: VecEnv) -> VecNormalize:
    return VecNormalize(env, norm_obs=False, norm_reward=True, gamma=CONFIG.gamma)


class FrameSkip(gym.Wrapper[Any, Any, Any, Any]):
    """Repeats each action and hands on the last picture, as RL Zoo's does."""

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        total_reward, terminated, truncated = 0.0, False, False
        for _ in range(ZOO_SKIP):
            obs, reward, terminated, truncated, info = self.env.step(action)
            total_reward += float(reward)
            if terminated or truncated:
                break
        return obs, total_reward, terminated, truncated, info


def zoo_model(vec_env: VecEnvClass) -> PPO:
    """PPO as RL Baselines3 Zoo trains it on CarRacing."""

    def make() -> gym.Env:
        env: gym.Env = FrameSkip(gym.make(STOCK_ID))
        return GrayscaleObservation(ResizeObservation(env, (64, 64)), keep_dim=True)

    return PPO(
        "CnnPolicy",
        normalised(VecFrameStack(vec_env([make] * 8), 2)),
        learning_rate=1e-4,
        n_steps=CONFIG.n_steps,
        batch_size=128,
        n_epochs=10,
        gamma=0.99,
        gae_lambda=0.95,
        clip_range=0.2,
        ent_coef=0.0,
        use_sde=True,
        sde_sample_freq=4,
        policy_kwargs={
            "log_std_init": -2,
            "ortho_init": False,
            "activation_fn": nn.GELU,
            "net_arch": {"pi": [256], "vf": [256]},
        },
        device=CPU,
    )


def stock_model() -> PPO:
    """Our settings and policy on the stock game, with Stable-Baselines3's own environments."""

    def make() -> gym.Env:
        return TrainingEpisodes(AgentView(gym.make(STOCK_ID), CONFIG.view), CONFIG.rules)

    return make_model(CONFIG, normalised(SubprocVecEnv([make] * CONFIG.n_envs)), CPU)


def sb3_model(vec_env: VecEnvClass) -> PPO:
    """Stable-Baselines3 as it comes, on our game."""

    def make() -> gym.Env:
        return make_env(CONFIG.view, CONFIG.rules)

    return PPO(
        "CnnPolicy",
        normalised(vec_env([make] * CONFIG.n_envs)),
        learning_rate=CONFIG.learning_rate,
        n_steps=CONFIG.n_steps,
        batch_size=CONFIG.batch_size,
        n_epochs=CONFIG.n_epochs,
        gae_lambda=CONFIG.gae_lambda,
        clip_range=CONFIG.clip_range,
        ent_coef=CONFIG.ent_coef,
        device=CPU,
    )


def our_model() -> PPO:
    keep_freed_memory()
    return make_model(CONFIG, make_training_env(CONFIG), CPU)


@dataclass(frozen=True)
class Contender:
    """A training.

    Attributes:
        make: its model.
        action_repeat: frames of a decision.
        steps_scale: decisions that it takes as a multiple of those asked for; above 1 for fast ones.
    """

    make: Callable[[], PPO]
    action_repeat: int
    steps_scale: int


CONTENDERS = {
    "RL Zoo's recipe on stock, in one process": Contender(partial(zoo_model, DummyVecEnv), ZOO_SKIP, 1),
    "RL Zoo's recipe on stock, a process each": Contender(partial(zoo_model, SubprocVecEnv), ZOO_SKIP, 1),
    "Stable-Baselines3 on stock, a process each": Contender(stock_model, CONFIG.action_repeat, 1),
    "Stable-Baselines3 on our game, in one process": Contender(
        partial(sb3_model, DummyVecEnv), CONFIG.action_repeat, 4
    ),
    "Stable-Baselines3 on our game, a process each": Contender(
        partial(sb3_model, SubprocVecEnv), CONFIG.action_repeat, 4
    ),
    OURS: Contender(our_model, CONFIG.action_repeat, 8),
}


def frames_per_second(name: str, steps: int) -> float:
    """Of a contender's training, after one update to warm up."""
    contender = CONTENDERS[name]
    model = contender.make()
    callback = ThreadsForUpdates() if name == OURS else None
    model.learn(CONFIG.rollout_size, callback)
    first, start = model.num_timesteps, time.perf_counter()
    model.learn(steps * contender.steps_scale, callback, reset_num_timesteps=False)
    seconds = time.perf_counter() - start
    assert model.env is not None
    model.env.close()
    return (model.num_timesteps - first) * contender.action_repeat / seconds


def main() -> None:
    parser = benchmark_parser(__doc__)
    parser.add_argument("--steps", type=count, default=2048, help="decisions that the slowest training takes")
    parser.add_argument("--rounds", type=count, default=3, help="turns of each")
    options = parser.parse_args()
    rates: dict[str, list[float]] = {name: [] for name in CONTENDERS}
    for name in [*CONTENDERS] * options.rounds:
        # A process each: what ours asks of the C library must not help the others.
        with ProcessPoolExecutor(1, get_context("spawn")) as pool:
            rates[name].append(pool.submit(frames_per_second, name, options.steps).result())
    others = {OURS: [name for name in CONTENDERS if name != OURS]}
    tell([compared("Frames a second of a whole PPO training", "frames/s", rates, others, NOTE)], options.json)


if __name__ == "__main__":
    main()
