"""What the pictures of an evaluation cost a training: their time against that of the steps between two evaluations.

    python -m benchmarks.picture_cost [--checkpoint pretrained/ppo_beta]

One policy drives the validation tracks of an evaluation, as a training does it without pictures and with them, tracked
in Aim. The steps are those of PPO at its defaults, and of SAC's update at its defaults, without the game: both take
longer in a training, so the fractions are upper bounds.
"""

import tempfile
from pathlib import Path

import numpy as np
import torch

import ppo
from aim_writer import AimTracker
from benchmarks.checkpoint_cost import seconds
from benchmarks.findings import FRACTION, Figure, Table, benchmark_parser, tell
from benchmarks.policy_probe import policy_of
from car_racing import make_env
from driving_pictures import Trajectory, record
from ppo_config import PPOConfig
from run_settings import RunOptions
from sac_config import SACConfig
from sac_drq import SACAgent, make_replay
from scoring import drive
from tracks import VALIDATION_TRACKS
from training_run import show_driving

CPU = torch.device("cpu")
N_THREADS = torch.get_num_threads()


def ppo_seconds(n_steps: int) -> float:
    """The time that PPO takes for so many steps."""
    config = PPOConfig()
    env = ppo.make_training_env(config)
    model = ppo.make_model(config, env, CPU)
    model.learn(config.rollout_size)
    learning = seconds(lambda: model.learn(config.rollout_size, reset_num_timesteps=False), 3)
    env.close()
    return learning * n_steps / config.rollout_size


def sac_seconds(n_steps: int) -> float:
    """The time that SAC's updates take for so many steps."""
    config = SACConfig(replay_size=2_000)
    agent, replay = SACAgent(config, CPU), make_replay(config, CPU)
    pictures = np.random.default_rng(0).integers(0, 256, (64, *config.view.obs_shape), np.uint8)
    replay.start_episode(pictures[0])
    for step in range(config.replay_size):
        replay.add(np.zeros(3, np.float32), 0.0, pictures[step % 64], terminated=False)

    def update_often() -> None:
        for _ in range(50):
            agent.update(replay)

    update_often()
    return seconds(update_often) / 50 * n_steps


def main() -> None:
    parser = benchmark_parser(__doc__)
    parser.add_argument("--checkpoint", type=Path, default=Path("pretrained/ppo_beta"), help="whose driving to show")
    options = parser.parse_args()
    torch.set_num_threads(1)  # idle threads that spin would blur the difference
    policy, view = policy_of(options.checkpoint)
    env, run = make_env(view), RunOptions()
    tracks = VALIDATION_TRACKS[: run.eval_tracks]

    def show(tracker: AimTracker) -> None:
        """As `TrainingRun` does."""
        trajectories: list[Trajectory] = []
        for track in tracks:
            trajectories.append(record(policy, env, track, keeps_pictures=not trajectories))
        show_driving(tracker, trajectories, 0)

    with tempfile.TemporaryDirectory() as repo, AimTracker(repo, "pictures", {}) as tracker:
        show(tracker)  # Aim's own start
        plain = seconds(lambda: [drive(policy, env, track) for track in tracks], 9)
        cost = seconds(lambda: show(tracker), 9) - plain
    torch.set_num_threads(N_THREADS)
    figures = [
        Figure(f"to drive {len(tracks)} tracks", [plain], "s"),
        Figure("more, with pictures", [cost], "s"),
        Figure(f"of the time of {run.eval_freq:,} steps of PPO", [cost / ppo_seconds(run.eval_freq)], FRACTION),
        Figure(f"of the time of {run.eval_freq:,} steps of SAC", [cost / sac_seconds(run.eval_freq)], FRACTION),
    ]
    note = "The cost is a difference of two times. One that is smaller than their noise may come out negative."
    tell([Table("Pictures of an evaluation", figures, note)], options.json)


if __name__ == "__main__":
    main()
