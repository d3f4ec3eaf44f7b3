"""What checkpoints cost a training: the time of a save against the time of the steps between two, at the defaults.

    python -m benchmarks.checkpoint_cost [--device cuda] [--directory DIR]

SAC with a full replay buffer, its update with DrQ's encoder and with the light one; PPO with its snapshot before every
rollout. Saved, flushed to the disk and checksummed, as in training.
"""

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

import checkpoint
import ppo
from benchmarks.findings import FRACTION, Figure, Table, benchmark_parser, tell
from benchmarks.sac_update import DRQ
from ppo_config import PPOConfig
from process import capture_generators, mistakes_in_one_line
from run_options import resolve_device
from run_settings import RunOptions
from sac_config import SACConfig
from sac_drq import SACAgent, make_replay


def seconds(function: Callable[[], object], n: int = 5) -> float:
    """Median time of a call."""
    times = []
    for _ in range(n):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def sac_cost(config: SACConfig, device: torch.device, directory: Path) -> Table:
    """SAC's. A step costs at least an update, so the fraction is an upper bound."""
    agent, replay = SACAgent(config, device), make_replay(config, device)
    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 256, (64, *config.view.obs_shape), np.uint8)
    replay.start_episode(pictures[0])
    for step in range(config.replay_size):
        replay.add(np.zeros(3, np.float32), 0.0, pictures[step % 64], terminated=False)

    def save() -> None:
        state = replay.state_dict()
        frames = state.pop("frames").cpu().numpy()
        whole = {"agent": agent.state_dict(), "replay": state}
        checkpoint.save_step(directory, 1, {}, whole, {"replay_frames": frames})

    def update() -> None:
        agent.update(replay)
        agent.pop_metrics()  # waits for the GPU

    update()
    every = RunOptions().checkpoint_freq
    return table(f"SAC, {config.encoder} encoder", seconds(save), every * seconds(update), every)


def ppo_cost(config: PPOConfig, device: torch.device, directory: Path) -> Table:
    """PPO's: snapshots before every rollout, and a save."""
    env = ppo.make_training_env(config)
    model = ppo.make_model(config, env, device)
    steps = config.n_envs * config.n_steps
    model.learn(steps)
    learning = seconds(lambda: model.learn(steps, reset_num_timesteps=False), 3)
    snapshot = seconds(lambda: ppo.capture(model))
    save = seconds(lambda: checkpoint.save_step(directory, 1, {}, {**ppo.capture(model), **capture_generators()}))
    env.close()
    every = RunOptions().checkpoint_freq
    return table("PPO", save + snapshot * every / steps, learning * every / steps, every)


def table(name: str, saving: float, training: float, every: int) -> Table:
    """The time of saving against that of the steps between two saves."""
    figures = [
        Figure("saving", [saving], "s"),
        Figure(f"{every:,} steps, between two saves", [training], "s"),
        Figure("saving takes", [saving / training], FRACTION),
    ]
    return Table(f"Checkpoints of {name}", figures)


def main() -> None:
    parser = benchmark_parser(__doc__)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--directory", help="on the disk to save to [the system's temporary one]")
    options = parser.parse_args()
    device = resolve_device(options.device)
    with tempfile.TemporaryDirectory(dir=options.directory) as directory:
        tables = [
            sac_cost(DRQ, device, Path(directory) / "drq"),
            sac_cost(SACConfig(), device, Path(directory) / "light"),
            ppo_cost(PPOConfig(), device, Path(directory) / "ppo"),
        ]
    tell(tables, options.json)


if __name__ == "__main__":
    with mistakes_in_one_line():
        main()
