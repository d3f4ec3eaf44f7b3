"""What the fast environment gains a whole PPO training: the same settings on stock Gymnasium and on ours, in one run.

    python -m benchmarks.training_speed [--updates N] [--rounds N]

Stock is what a user of Stable-Baselines3 would take: `SubprocVecEnv` over `gymnasium.make("CarRacing-v3")`, here with
the same view and training rules. The two take turns; collecting and updating both count.
"""

import argparse
import statistics
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import gymnasium as gym
import torch
from stable_baselines3.common.vec_env import SubprocVecEnv, VecEnv, VecNormalize

from car_racing import STOCK_ID, AgentView, TrainingEpisodes
from ppo import make_model, make_training_env
from ppo_config import PPOConfig
from process import keep_freed_memory
from train_ppo import ThreadsForUpdates


def stock_training_env(config: PPOConfig) -> VecNormalize:
    """Stable-Baselines3's own way: a process for each stock environment."""

    def make() -> gym.Env:
        return TrainingEpisodes(AgentView(gym.make(STOCK_ID), config.view), config.rules)

    env: VecEnv = SubprocVecEnv([make] * config.n_envs)
    return VecNormalize(env, norm_obs=False, norm_reward=True, gamma=config.gamma)


def training_rate(is_ours: bool, n_updates: int) -> float:
    """Frames a second of a training of `n_updates` updates, after one to warm up."""
    # Laps only, from their start and unmirrored: the stock game knows no others.
    config = PPOConfig(total_timesteps=10**9, n_envs=8, n_steps=256, lost_start_prob=0.0, mirror_prob=0.0)
    if is_ours:
        keep_freed_memory()
    env = make_training_env(config) if is_ours else stock_training_env(config)
    model = make_model(config, env, torch.device("cpu"))
    callback = ThreadsForUpdates() if is_ours else None
    steps = config.n_envs * config.n_steps
    model.learn(steps, callback)
    start = time.perf_counter()
    model.learn(n_updates * steps, callback, reset_num_timesteps=False)
    seconds = time.perf_counter() - start
    env.close()
    return n_updates * steps * config.action_repeat / seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--updates", type=int, default=2, help="updates of 2,048 steps that each training makes")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each")
    options = parser.parse_args()
    rates: dict[bool, list[float]] = {False: [], True: []}
    for is_ours in [False, True] * options.rounds:
        # A process each: what ours asks of the C library must not help the other.
        with ProcessPoolExecutor(1, get_context("spawn")) as pool:
            rates[is_ours].append(pool.submit(training_rate, is_ours, options.updates).result())
    for name, found in (("stock Gymnasium", rates[False]), ("ours", rates[True])):
        print(f"{name:16} {statistics.median(found):>6,.0f} frames/s ({min(found):,.0f}-{max(found):,.0f})")
    print(f"the whole training: {statistics.median(rates[True]) / statistics.median(rates[False]):.1f}x")


if __name__ == "__main__":
    main()
