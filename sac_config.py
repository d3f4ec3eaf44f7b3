"""SAC's settings. They import nothing heavy, so that a wrong flag is answered at once."""

import typing
from dataclasses import dataclass
from typing import Literal

from car_racing.config import GameConfig
from paths import check_path
from settings import SettingError, setting, with_default

ACTION_DIM = 3
EncoderName = Literal["drq", "light"]


@dataclass(frozen=True)
class SACConfig(GameConfig):
    """SAC's settings.

    A step is one decision, `action_repeat` frames of the game. The defaults train on a CPU: smaller networks and
    batches than DrQ's, whose numbers are the recipe `drq`. `n_step` is DrQ-v2's. There is no mixed precision, because
    with it an earlier version's score fell from 861 to 209.

    Raises:
        SettingError: if a setting is out of its range, or two do not go together.
    """

    total_steps: int = setting(1_000_000, "steps to train for", minimum=1, may_change=True)
    start_from: str | None = setting(
        None,
        "start from the networks of this checkpoint instead of untrained ones; the game's rules may differ",
        check=check_path,
    )
    seed: int = setting(1, "seed of networks, actions, batches and training tracks", minimum=0, maximum=2**32 - 1)
    replay_size: int = setting(30_000, "transitions that the replay buffer keeps, one frame of memory each", minimum=1)
    batch_size: int = setting(64, "transitions in an update", minimum=1)
    learning_starts: int = setting(1_000, "steps before the first update, random without --start-from", minimum=1)
    updates_per_step: int = setting(1, "updates made in a row, every --train-freq steps", minimum=1)
    train_freq: int = setting(1, "steps between updates; more pay where a step is cheap beside an update", minimum=1)
    learning_rate: float = setting(7e-4, "Adam's step size at the start, for encoder, critic and actor", above=0.0)
    alpha_learning_rate: float = setting(1e-3, "Adam's step size at the start, for the temperature alpha", above=0.0)
    flip: bool = setting(
        True, "learn from half of each batch as its mirror image: left for right, steering too", before=False
    )
    encode_once: bool = setting(
        True,
        "encode each observation once in an update, as DrQ-v2 does: the target critic has no encoder of its own, and "
        "the actor learns from the features before the critic's step",
        before=False,
    )
    anneal_lr: bool = setting(True, "anneal both step sizes linearly to 0 over the training", formerly="falling_rates")
    gamma: float = setting(0.98, "discount factor of a step", minimum=0.0, maximum=1.0)
    n_step: int = setting(3, "steps whose rewards are summed before the target critic values the rest", minimum=1)
    tau: float = setting(0.01, "fraction by which the target critic moves to the critic", above=0.0, maximum=1.0)
    target_update_freq: int = setting(2, "updates between two of the target critic", minimum=1)
    ema_tau: float = setting(
        5e-4,
        "fraction by which the averaged policy, which is scored, moves to the latest at an update; 1 averages nothing",
        above=0.0,
        maximum=1.0,
        formerly="averaging_tau",
    )
    actor_update_freq: int = setting(2, "updates between two of actor and temperature", minimum=1)
    init_temperature: float = setting(0.1, "the temperature alpha at the start", above=0.0)
    target_entropy: float = setting(-float(ACTION_DIM), "entropy that the temperature steers to, in nats")
    pad: int = setting(2, "pixels by which an observation is shifted at most, each way", minimum=0, maximum=40)
    encoder: EncoderName = setting(
        "light",
        "the convolutions: two with large strides, or DrQ's four of 3x3, ten times the work, for a GPU",
        choices=typing.get_args(EncoderName),
    )
    feature_dim: int = setting(50, "size of the features that the encoder gives to actor and critic", minimum=1)
    hidden_dim: int = setting(512, "width of the two hidden layers of the actor and of each Q", minimum=1)
    log_std_min: float = setting(
        -10.0, "lower bound of the actor's log standard deviation", minimum=-80.0, maximum=80.0
    )
    log_std_max: float = setting(2.0, "upper bound of the actor's log standard deviation", minimum=-80.0, maximum=80.0)
    compile: bool = setting(
        False,
        "compile the losses (torch.compile; needs a C++ compiler) and, on a GPU, record an update once as a CUDA graph",
        may_change=True,
    )
    frame_stack: int = with_default(GameConfig, "frame_stack", 2)
    brake_dead_zone: float = with_default(GameConfig, "brake_dead_zone", 0.5)
    missed_tile_penalty: float = with_default(GameConfig, "missed_tile_penalty", 20.0)
    mirror_prob: float = with_default(GameConfig, "mirror_prob", 0.0)
    # With 0.1 and a penalty for wheels, SAC lost more tracks (docs/results.md).
    hairpin_start_prob: float = with_default(GameConfig, "hairpin_start_prob", 0.0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.log_std_min >= self.log_std_max:
            raise SettingError(
                f"--log-std-min {self.log_std_min} must be below --log-std-max {self.log_std_max}; give a smaller one"
            )
        if self.n_step > self.learning_starts:
            raise SettingError(
                f"--n-step {self.n_step} must be at most --learning-starts {self.learning_starts}, so that the first "
                "update finds a transition; give more of those"
            )
