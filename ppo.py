"""The PPO agent: its settings, how Stable-Baselines3's PPO is built from them, and what a checkpoint of it holds.

PPO: Schulman et al., "Proximal Policy Optimization Algorithms", 2017.
"""

import math
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.policies import ActorCriticCnnPolicy, ActorCriticPolicy
from stable_baselines3.common.vec_env import VecNormalize

from beta_policy import BetaActorCriticPolicy, DeterministicAction, DrivingCNN
from car_racing import Frame, ViewConfig
from checkpoint import Checkpoint, CheckpointError, in_one_line
from game_config import GameConfig, check_same_networks
from scoring import Actions, Driver
from settings import SettingError, as_saved, check_settings, setting, with_default
from vec_env import make_vec_env

AGENT = "ppo"


@dataclass(frozen=True)
class PPOConfig(GameConfig):
    """PPO's settings

    A step is one decision of one environment, `action_repeat` frames of the game.

    Raises:
        SettingError: if a setting is out of its range, or two do not go together.
    """

    total_timesteps: int = setting(660_000, "steps to train for, over all environments", minimum=1, may_change=True)
    start_from: str | None = setting(
        None, "begin with the networks of this checkpoint, whatever game it learnt in, instead of untrained ones"
    )
    seed: int = setting(1, "seed of the networks, the actions and the training tracks", minimum=0, maximum=2**32 - 1)
    n_envs: int = setting(16, "environments driven side by side", minimum=1)
    n_steps: int = setting(128, "steps of each environment between two updates", minimum=2)
    batch_size: int = setting(256, "steps in a minibatch; divides n-envs x n-steps", minimum=2)
    n_epochs: int = setting(4, "passes over the collected steps in an update", minimum=1)
    learning_rate: float = setting(5e-4, "Adam's step size at the start; falls linearly to 0 at the end", above=0.0)
    clip_range: float = setting(0.2, "how far the probability ratio may leave 1 (epsilon in the paper)", above=0.0)
    ent_coef: float = setting(0.0, "weight of the entropy bonus", minimum=0.0)
    vf_coef: float = setting(0.5, "weight of the value loss", minimum=0.0)
    max_grad_norm: float = setting(0.5, "the gradient's norm is clipped to this", above=0.0)
    gamma: float = setting(0.99, "discount a step", minimum=0.0, maximum=1.0)
    gae_lambda: float = setting(0.9, "lambda of generalised advantage estimation", minimum=0.0, maximum=1.0)
    frame_stack: int = with_default(GameConfig, "frame_stack", 2)
    features_dim: int = setting(256, "size of the features that the CNN gives to policy and value", minimum=1)
    use_gaussian: bool = setting(False, "a Gaussian policy in place of the default Beta")
    deterministic_action: DeterministicAction = setting(
        "mean", "what the Beta policy does when it is scored", choices=("mean", "mode")
    )

    def __post_init__(self) -> None:
        check_settings(self)
        n_collected = self.n_envs * self.n_steps
        if n_collected % self.batch_size:
            raise SettingError(
                f"--batch-size {self.batch_size} does not divide --n-envs {self.n_envs} x --n-steps {self.n_steps} "
                f"= {n_collected}; give one that does"
            )

    @property
    def n_updates(self) -> int:
        """Updates of the whole training; the steps are rounded up to whole ones."""
        return math.ceil(self.total_timesteps / (self.n_envs * self.n_steps))


@dataclass(frozen=True)
class FallingRate:
    """A learning rate that falls linearly, an equal part at each update, to 0 after the last.

    SB3 counts an update's own steps as done before it asks, and so would make the last update with a rate of 0.

    Attributes:
        start: the first update's rate.
        share_of_update: one update's share of the training.
    """

    start: float
    share_of_update: float

    def __call__(self, progress_remaining: float) -> float:
        return self.start * min(max(progress_remaining, 0.0) + self.share_of_update, 1.0)


def make_training_env(config: PPOConfig) -> VecNormalize:
    """The environments that PPO trains on: training rules, and rewards over the return's running deviation.

    The divided rewards are clipped to +-10. Observations stay uint8; the policy scales them.
    """
    env = make_vec_env(config.n_envs, config.view, config.training)
    return VecNormalize(env, norm_obs=False, norm_reward=True, gamma=config.gamma)


def make_model(config: PPOConfig, env: VecNormalize, device: torch.device) -> PPO:
    """Stable-Baselines3's PPO with this project's policy and network."""
    return PPO(
        policy_class(config),
        env,
        learning_rate=FallingRate(config.learning_rate, 1.0 / config.n_updates),
        n_steps=config.n_steps,
        batch_size=config.batch_size,
        n_epochs=config.n_epochs,
        gamma=config.gamma,
        gae_lambda=config.gae_lambda,
        clip_range=config.clip_range,
        ent_coef=config.ent_coef,
        vf_coef=config.vf_coef,
        max_grad_norm=config.max_grad_norm,
        policy_kwargs=policy_kwargs(config),
        seed=config.seed,
        device=device,
    )


def policy_class(config: PPOConfig) -> type[ActorCriticPolicy]:
    """Beta, or SB3's Gaussian for pictures."""
    return ActorCriticCnnPolicy if config.use_gaussian else BetaActorCriticPolicy


def policy_kwargs(config: PPOConfig) -> dict[str, Any]:
    """What the policy class is given beyond SB3's defaults: the CNN, and policy and value read off its features."""
    kwargs: dict[str, Any] = {
        "features_extractor_class": DrivingCNN,
        "features_extractor_kwargs": {"features_dim": config.features_dim},
        "net_arch": [],
    }
    if not config.use_gaussian:
        kwargs["deterministic_action"] = config.deterministic_action
    return kwargs


class ThreadsForUpdates(BaseCallback):
    """Lets torch use all cores for the updates, and one while steps are collected.

    A few observations at a time are too little to share out, and torch's threads, which wait for more of it awake,
    would keep the environments' workers from their cores.
    """

    def __init__(self) -> None:
        super().__init__()
        self._n_threads = torch.get_num_threads()

    def _on_rollout_start(self) -> None:
        torch.set_num_threads(1)

    def _on_rollout_end(self) -> None:
        torch.set_num_threads(self._n_threads)

    def _on_training_end(self) -> None:
        torch.set_num_threads(self._n_threads)

    def _on_step(self) -> bool:
        return True


class RisingCharge(BaseCallback):
    """Lets the charge for missed tiles rise with the steps, linearly from 0 to its setting at the end of the training.

    Dear from the start, it would keep a beginner, who misses most tiles, from coming back to the road at all. A driver
    that the training starts from is no beginner, and pays in full.
    """

    def __init__(self, config: PPOConfig) -> None:
        super().__init__()
        self._config = config

    def _on_rollout_start(self) -> None:
        share = self.num_timesteps / self._config.total_timesteps if self._config.start_from is None else 1.0
        self.training_env.set_attr("missed_tile_charge", self._config.missed_tile_charge * share)

    def _on_step(self) -> bool:
        return True


# What the networks of a policy, the pictures that they read and the actions that they mean are made by.
NETWORK_SETTINGS = ("frame_stack", "grayscale", "road_contrast", "brake_dead_zone", "features_dim", "use_gaussian")


def starting_networks(config: PPOConfig, checkpoint: Checkpoint) -> dict[str, torch.Tensor]:
    """The parameters, policy's and value's, of a checkpoint that a training with these settings is to start from.

    Raises:
        CheckpointError: if there are none in it.
        SettingError: if they are those of other networks.
    """
    networks = load_policy(checkpoint).state_dict()
    check_same_networks(config, checkpoint, NETWORK_SETTINGS)
    return networks


def is_finite(model: PPO) -> bool:
    """Whether every parameter of the policy still is a finite number."""
    return all(bool(torch.isfinite(parameter).all()) for parameter in model.policy.parameters())


def capture(model: PPO) -> dict[str, Any]:
    """All that the rest of a training depends on, between two updates, but for the process's random generators.

    Copies on the CPU, which what the training does next leaves as they are.
    """
    env = model.get_vec_normalize_env()
    assert env is not None
    assert model.ep_info_buffer is not None
    assert model.ep_success_buffer is not None
    return {
        "policy": _copied(model.policy.state_dict()),
        "optimizer": _copied(model.policy.optimizer.state_dict()),
        "num_timesteps": model.num_timesteps,
        "n_updates": model._n_updates,
        "reward_statistics": {
            "mean": float(env.ret_rms.mean),
            "var": float(env.ret_rms.var),
            "count": float(env.ret_rms.count),
            "returns": env.returns.tolist(),
        },
        "envs": env.env_method("capture_episode"),
        "episode_starts": np.asarray(model._last_episode_starts).tolist(),
        "episodes": list(model.ep_info_buffer),
        "successes": list(model.ep_success_buffer),
    }


def restore(model: PPO, state: dict[str, Any]) -> None:
    """Bring a freshly made model, and its environments, to where `capture` was called.

    Raises:
        KeyError, TypeError, ValueError, RuntimeError: if the state is another's.
    """
    env = model.get_vec_normalize_env()
    assert env is not None
    model.policy.load_state_dict(state["policy"])
    model.policy.optimizer.load_state_dict(state["optimizer"])
    model.num_timesteps = state["num_timesteps"]
    model._n_updates = state["n_updates"]
    statistics = state["reward_statistics"]
    env.ret_rms.mean = np.array(statistics["mean"])
    env.ret_rms.var = np.array(statistics["var"])
    env.ret_rms.count = statistics["count"]
    env.returns = np.array(statistics["returns"])
    episodes = zip(range(env.num_envs), state["envs"], strict=True)
    model._last_obs = np.stack([env.env_method("restore_episode", episode, indices=[i])[0] for i, episode in episodes])
    model._last_episode_starts = np.array(state["episode_starts"], dtype=bool)
    model.ep_info_buffer = deque(state["episodes"], maxlen=model._stats_window_size)
    model.ep_success_buffer = deque(state["successes"], maxlen=model._stats_window_size)


def _copied(state: Any) -> Any:
    """Nested state with every tensor in it copied to the CPU."""
    if isinstance(state, torch.Tensor):
        return state.detach().to("cpu", copy=True)
    if isinstance(state, dict):
        return {key: _copied(value) for key, value in state.items()}
    return [_copied(value) for value in state] if isinstance(state, list) else state


def driver_of(policy: ActorCriticPolicy, deterministic: bool = True) -> Driver:
    """The policy as a driver for scoring: its action for one observation, deterministic or drawn."""

    def driver(obs: Frame) -> np.ndarray[Any, np.dtype[np.float32]]:
        return policy.predict(obs, deterministic=deterministic)[0]

    return driver


def load_driver(
    checkpoint: Checkpoint, device: torch.device, actions: Actions | None = None
) -> tuple[Driver, ViewConfig]:
    """The trained policy of a checkpoint as a driver, and the view that it drives with.

    Args:
        checkpoint: of this agent.
        device: where the policy is to run.
        actions: what it does; None for the deterministic action of the checkpoint's own settings. What is drawn comes
            from torch's global generator. A Gaussian's mean is its mode.

    Raises:
        CheckpointError: if the checkpoint's settings or parameters do not make a policy.
    """
    policy = load_policy(checkpoint)
    if isinstance(policy, BetaActorCriticPolicy) and actions in ("mean", "mode"):
        policy.action_dist.deterministic_action = actions
    driver = driver_of(policy.to(device), deterministic=actions != "sampled")
    return driver, as_saved(PPOConfig, checkpoint.meta["config"]).view


def driver_state(checkpoint: Checkpoint) -> dict[str, Any]:
    """Of a checkpoint's state, what `load_driver` needs.

    Raises:
        CheckpointError: if it is not there.
    """
    return {"policy": load_policy(checkpoint).state_dict()}


def make_policy(config: PPOConfig) -> ActorCriticPolicy:
    """An untrained policy of these settings, outside of any training."""
    policy = policy_class(config)(
        spaces.Box(0, 255, config.view.obs_shape, np.uint8),
        spaces.Box(-1.0, 1.0, (3,), np.float32),
        FallingRate(config.learning_rate, 1.0 / config.n_updates),
        **policy_kwargs(config),
    )
    policy.set_training_mode(False)
    return policy


def export_sb3(checkpoint: Checkpoint, path: Path) -> None:
    """Write a checkpoint's policy as a `.zip` of Stable-Baselines3's own, for `PPO.load` or `PPO.load(..., env)`.

    Loading such a file unpickles it and needs `beta_policy` on Python's path, so load none from a stranger; the
    checkpoint itself runs no code.

    Raises:
        CheckpointError: if the checkpoint's settings or parameters do not make a policy.
        OSError: if the file cannot be written.
    """
    policy = load_policy(checkpoint)
    config = as_saved(PPOConfig, checkpoint.meta["config"])
    env = make_training_env(config)
    try:
        model = make_model(config, env, torch.device("cpu"))
        model.policy.load_state_dict(policy.state_dict())
        model.save(path)
    finally:
        env.close()


def load_policy(checkpoint: Checkpoint) -> ActorCriticPolicy:
    """The policy that a checkpoint holds, on the CPU.

    Raises:
        CheckpointError: if there is none in it.
    """
    try:
        policy = make_policy(as_saved(PPOConfig, checkpoint.meta["config"]))
        policy.load_state_dict(checkpoint.state["policy"])
    except Exception as error:  # a stranger's settings and parameters provoke whatever torch raises
        raise CheckpointError(f"{checkpoint.path} does not hold a PPO policy ({in_one_line(error)})") from None
    if not all(bool(torch.isfinite(parameter).all()) for parameter in policy.parameters()):
        raise CheckpointError(f"{checkpoint.path} holds a PPO policy whose numbers are not finite")
    return policy
