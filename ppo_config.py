"""PPO's settings. They import nothing heavy, so that a wrong flag is answered at once."""

from dataclasses import dataclass
from typing import Literal

from car_racing.config import GameConfig
from paths import check_path
from settings import SettingError, setting, with_default


@dataclass(frozen=True)
class PPOConfig(GameConfig):
    """PPO's settings.

    A step is one decision of one environment, `action_repeat` frames of the game.

    Raises:
        SettingError: if a setting is out of its range, or two do not go together.
    """

    total_timesteps: int = setting(
        1_000_000,
        "steps to train for, over all environments; rounded up to whole iterations",
        minimum=1,
        may_change=True,
    )
    start_from: str | None = setting(
        None,
        "start from the networks of this checkpoint instead of untrained ones; the game's rules may differ",
        check=check_path,
    )
    seed: int = setting(1, "seed of the networks, the actions and the training tracks", minimum=0, maximum=2**32 - 1)
    n_envs: int = setting(8, "environments that are stepped together", minimum=1)
    n_workers: int | None = setting(
        None,
        "processes that step environments beside this one [as many as cores and memory allow]",
        minimum=0,
        may_change=True,
        before=None,
    )
    n_steps: int = setting(128, "steps of each environment between two updates", minimum=2)
    batch_size: int = setting(256, "steps in a minibatch; divides n-envs x n-steps", minimum=2)
    n_epochs: int = setting(4, "passes over the collected steps in an update", minimum=1)
    learning_rate: float = setting(2.5e-4, "Adam's step size at the start; annealed linearly to 0", above=0.0)
    clip_range: float = setting(
        0.1, "bound on the probability ratio's distance from 1 (epsilon in the paper)", above=0.0
    )
    ent_coef: float = setting(0.01, "weight of the entropy bonus", minimum=0.0)
    vf_coef: float = setting(0.5, "weight of the value loss", minimum=0.0)
    max_grad_norm: float = setting(0.5, "the norm to which the gradient is clipped", above=0.0)
    gamma: float = setting(0.99, "discount factor of a step", minimum=0.0, maximum=1.0)
    gae_lambda: float = setting(0.9, "lambda of generalized advantage estimation", minimum=0.0, maximum=1.0)
    frame_stack: int = with_default(GameConfig, "frame_stack", 2)
    # The mean of a Beta distribution never comes to 0, and a brake held at 3.6% makes 67 units a second of 81.
    brake_dead_zone: float = with_default(GameConfig, "brake_dead_zone", 0.1)
    feature_dim: int = setting(
        256,
        "size of the features that the CNN gives to policy and value",
        minimum=1,
        formerly="features_dim",
    )
    use_gaussian: bool = setting(False, "use a Gaussian policy, not a Beta one")
    deterministic_action: Literal["mean", "mode"] = setting(
        "mean", "action of the Beta policy when it is scored", choices=("mean", "mode")
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.rollout_size % self.batch_size:
            raise SettingError(
                f"--batch-size {self.batch_size} does not divide --n-envs {self.n_envs} x --n-steps {self.n_steps} "
                f"= {self.rollout_size}; give one that does"
            )

    @property
    def rollout_size(self) -> int:
        """Steps that are collected for an iteration, over all environments."""
        return self.n_envs * self.n_steps

    @property
    def whole_timesteps(self) -> int:
        """Steps of the whole training: the total, rounded up to whole iterations."""
        return -(-self.total_timesteps // self.rollout_size) * self.rollout_size
