"""The PPO agent: its settings, how Stable-Baselines3's PPO is built from them, and what a checkpoint of it holds.

PPO: Schulman et al., "Proximal Policy Optimization Algorithms", 2017. GAE: Schulman et al., "High-Dimensional
Continuous Control Using Generalized Advantage Estimation", 2016. The algorithm itself is Stable-Baselines3's (2.9.2).
One iteration, and where each line of it stands there:

    collect n_steps in each of n_envs environments      on_policy_algorithm.py, collect_rollouts
        a_t ~ pi(. | s_t), log pi(a_t | s_t), V(s_t)        policies.py, ActorCriticPolicy.forward; beta_policy.py
        r_t += gamma V(s_T) where a time limit cut in       collect_rollouts, "Handle timeout by bootstrapping"
    delta_t = r_t + gamma V(s_t+1) - V(s_t)             buffers.py, RolloutBuffer.compute_returns_and_advantage
    A_t = delta_t + gamma lambda A_t+1                      (A stops at an episode's end)
    R_t = A_t + V(s_t)
    for each of n_epochs, for each minibatch of batch_size:         ppo.py, PPO.train
        A = (A - mean A) / std A
        rho = pi(a | s) / pi_old(a | s)
        policy_loss = -min(rho A, clip(rho, 1 - eps, 1 + eps) A)    eps = clip_range
        value_loss = (R - V(s))^2
        loss = policy_loss - ent_coef H(pi(. | s)) + vf_coef value_loss
        Adam step, with the gradient's norm clipped to max_grad_norm

Rewards are divided by the running deviation of the return (`VecNormalize`) before any of this.
"""

import math
from collections import deque
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3 import PPO
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.policies import ActorCriticCnnPolicy, ActorCriticPolicy, BasePolicy
from stable_baselines3.common.vec_env import VecNormalize
from torch import nn

from beta_policy import BetaActorCriticPolicy, DrivingCNN
from car_racing import Frame
from car_racing.config import ViewConfig
from car_racing.episode_statistics import numbers, summaries
from car_racing.vec_env import default_workers, make_vec_env
from checkpoint import Checkpoint, CheckpointError, check_agent, error_line
from ppo_config import PPOConfig
from scoring import ActionDensity, Actions, Policy
from settings import check_alike, from_saved

AGENT = "ppo"
# At least; 5 MB was measured.
MIN_ENV_BYTES = 4_000_000


def min_memory(config: PPOConfig) -> int:
    """Bytes that a training takes at least: its rollout, a minibatch as floats, its environments, its widest layer."""
    n_pixels = math.prod(config.view.obs_shape)
    rollout, minibatch = config.rollout_size * n_pixels, config.batch_size * n_pixels * 4
    # Parameters of the layer after the convolutions (32 channels of 9x9), their gradients and Adam's two averages.
    widest_layer = 32 * 9 * 9 * config.feature_dim * 4 * 4
    return rollout + minibatch + config.n_envs * MIN_ENV_BYTES + widest_layer


def size_in_words(config: PPOConfig) -> str:
    """The settings that decide how long a step takes."""
    asked = default_workers(config.n_envs) if config.n_workers is None else config.n_workers
    n_processes = 1 + min(asked, config.n_envs - 1)
    stepped = f"{config.n_envs} environments in {n_processes} process{'es' if n_processes > 1 else ''}"
    return f"{stepped}, {config.n_epochs} epochs, minibatches of {config.batch_size}"


CONFIG_CLASS: type = PPOConfig
TOTAL = "total_timesteps"


@dataclass(frozen=True)
class AnnealedRate:
    """A learning rate that falls linearly with each iteration, from its start in the first to 0 after the last.

    SB3 counts an iteration's own steps as done before it asks for the rate of its updates. By its count the last
    iteration would have a rate of 0; so the count at the iteration's beginning is used.

    Attributes:
        start: the first iteration's rate.
        first_step: SB3's count of steps at the beginning.
        total_steps: the steps over which the rate falls.
        rollout_size: steps of an iteration.
    """

    start: float
    first_step: int
    total_steps: int
    rollout_size: int

    def __call__(self, progress_remaining: float) -> float:
        # SB3 gives 1 - count / last count.
        n_done = (1.0 - progress_remaining) * (self.first_step + self.total_steps) - self.first_step
        return self.start * min(max(1.0 - (n_done - self.rollout_size) / self.total_steps, 0.0), 1.0)


def make_training_env(config: PPOConfig) -> VecNormalize:
    """The environments that PPO trains on: training rules, and rewards over the return's running deviation.

    The divided rewards are clipped to +-10. Observations stay uint8; the policy scales them.
    """
    env = make_vec_env(config.n_envs, config.view, config.rules, config.n_workers)
    return VecNormalize(env, norm_obs=False, norm_reward=True, gamma=config.gamma)


def make_model(
    config: PPOConfig, env: VecNormalize, device: torch.device, seed: int | None = None, first_step: int = 0
) -> PPO:
    """Stable-Baselines3's PPO with this project's policy and network.

    Args:
        config: the settings.
        env: from `make_training_env`.
        device: where to learn.
        seed: in place of the settings' own.
        first_step: the step of the whole training at which this model's begins.
    """
    model = PPO(
        policy_class(config),
        env,
        learning_rate=AnnealedRate(config.learning_rate, first_step, config.total_timesteps, config.rollout_size),
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
        seed=config.seed if seed is None else seed,
        device=device,
    )
    # SB3's own logger would leave an empty directory in the temporary one at every start.
    model.set_logger(Logger(folder=None, output_formats=[]))
    model.num_timesteps = first_step
    return model


def policy_class(config: PPOConfig) -> type[ActorCriticPolicy]:
    """Beta, or SB3's Gaussian for pictures."""
    return ActorCriticCnnPolicy if config.use_gaussian else BetaActorCriticPolicy


def policy_kwargs(config: PPOConfig) -> dict[str, Any]:
    """What the policy class is given beyond SB3's defaults: the CNN, and policy and value read off its features."""
    kwargs: dict[str, Any] = {
        "features_extractor_class": DrivingCNN,
        "features_extractor_kwargs": {"features_dim": config.feature_dim},
        "net_arch": [],
    }
    if not config.use_gaussian:
        kwargs["deterministic_action"] = config.deterministic_action
        kwargs["dead_zones"] = (0.0, 0.0, config.brake_dead_zone)
    return kwargs


# Settings that must match under --start-from: network shapes, observation, action mapping.
NETWORK_SETTINGS = ("frame_stack", "grayscale", "road_contrast", "brake_dead_zone", "feature_dim", "use_gaussian")
# All that a policy is made from: its networks, its view, its action.
POLICY_SETTINGS = (
    *(field.name for field in fields(ViewConfig)),
    *("feature_dim", "use_gaussian", "deterministic_action"),
)


def initial_networks(config: PPOConfig, checkpoint: Checkpoint) -> dict[str, torch.Tensor]:
    """The parameters, policy's and value's, of a checkpoint that a training with these settings is to start from.

    Raises:
        CheckpointError: if there are none in it.
        SettingError: if they are those of other networks.
    """
    networks = load_networks(checkpoint).state_dict()
    check_alike(config, checkpoint.meta["config"], NETWORK_SETTINGS, f"--start-from {checkpoint.path}")
    return networks


def is_finite(model: PPO) -> bool:
    """Whether every parameter of the policy still is a finite number."""
    return all(bool(torch.isfinite(parameter).all()) for parameter in model.policy.parameters())


def capture(model: PPO) -> dict[str, Any]:
    """All that the rest of a training depends on, between two updates, but for the process's random generators.

    The values are copies on the CPU: the rest of the training does not change them.
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
    model.num_timesteps = _count(state["num_timesteps"])
    model._n_updates = _count(state["n_updates"])
    statistics = state["reward_statistics"]
    env.ret_rms.mean = np.array(float(statistics["mean"]))
    env.ret_rms.var = np.array(float(statistics["var"]))
    env.ret_rms.count = float(statistics["count"])
    env.returns = _one_per_env(statistics["returns"], np.float64, env.num_envs)
    episodes = zip(range(env.num_envs), state["envs"], strict=True)
    model._last_obs = np.stack([env.env_method("restore_episode", episode, indices=[i])[0] for i, episode in episodes])
    model._last_episode_starts = _one_per_env(state["episode_starts"], np.bool_, env.num_envs)
    model.ep_info_buffer = deque(summaries(state["episodes"], ("r", "l")), maxlen=model._stats_window_size)
    model.ep_success_buffer = deque(numbers(state["successes"]), maxlen=model._stats_window_size)


def _count(value: Any) -> int:
    """A saved count."""
    if type(value) is not int or value < 0:
        raise ValueError(f"{value!r} is no count")
    return value


def _one_per_env(values: Any, dtype: type, n_envs: int) -> np.ndarray[Any, Any]:
    """A saved list as an array (n_envs,)."""
    array: np.ndarray[Any, Any] = np.array(values, dtype=dtype)
    if array.shape != (n_envs,):
        raise ValueError(f"{array.shape} values are not those of {n_envs} environments")
    return array


def _copied(state: Any) -> Any:
    """Nested state with every tensor in it copied to the CPU."""
    if isinstance(state, torch.Tensor):
        return state.detach().to("cpu", copy=True)
    if isinstance(state, dict):
        return {key: _copied(value) for key, value in state.items()}
    return [_copied(value) for value in state] if isinstance(state, list) else state


def policy_of(networks: ActorCriticPolicy, deterministic: bool = True) -> Policy:
    """SB3's policy as a policy for scoring: its action for one observation, deterministic or drawn."""

    def policy(obs: Frame) -> np.ndarray[Any, np.dtype[np.float32]]:
        return networks.predict(obs, deterministic=deterministic)[0]

    return policy


def load_policy(
    checkpoint: Checkpoint, device: torch.device, actions: Actions | None = None
) -> tuple[Policy, ViewConfig]:
    """The trained policy of a checkpoint, and the view that it was trained with.

    Args:
        checkpoint: of this agent.
        device: where the policy is to run.
        actions: what it does; None for the deterministic action of the checkpoint's own settings. What is drawn comes
            from torch's global generator. A Gaussian's mean is its mode.

    Raises:
        CheckpointError: if the checkpoint's settings or parameters do not make a policy.
    """
    networks = load_networks(checkpoint)
    if isinstance(networks, BetaActorCriticPolicy) and actions in ("mean", "mode"):
        networks.action_dist.deterministic_action = actions
    policy = policy_of(networks.to(device), deterministic=actions != "sampled")
    return policy, _policy_config(checkpoint).view


def load_density(checkpoint: Checkpoint) -> ActionDensity:
    """The density of a checkpoint's stochastic policy.

    Raises:
        CheckpointError: if the checkpoint's settings or parameters do not make a policy.
    """
    networks = load_networks(checkpoint)

    @torch.no_grad()
    def density(obs: Frame, actions: NDArray[np.float32]) -> NDArray[np.float32]:
        distribution: Any = networks.get_distribution(torch.as_tensor(obs[None])).distribution
        values = torch.as_tensor(actions)[:, None]
        if isinstance(networks, BetaActorCriticPolicy):
            # The Beta distribution is one of (a + 1) / 2; at its ends it may be infinite.
            inside = ((values + 1.0) / 2.0).clamp(1e-4, 1.0 - 1e-4)
            return (distribution.log_prob(inside).exp() / 2.0).numpy()
        return distribution.log_prob(values).exp().numpy()

    return density


class DeterministicNetwork(nn.Module):
    """What SB3's policy does with a batch of observations when it is asked for the deterministic action.

    Args:
        networks: the policy.
    """

    def __init__(self, networks: ActorCriticPolicy) -> None:
        super().__init__()
        self.networks = networks.requires_grad_(False)

    def forward(self, obs: torch.Tensor) -> torch.Tensor:
        """Actions, float32 (batch, 3) in [-1, 1], for observations, uint8 (batch, channels, height, width)."""
        networks = self.networks
        # Not through SB3's distributions: a Gaussian checks its numbers, which cannot be recorded.
        features = BasePolicy.extract_features(networks, obs, networks.pi_features_extractor)
        raw_params = networks.action_net(networks.mlp_extractor.forward_actor(features))
        if isinstance(networks, BetaActorCriticPolicy):
            return networks.action_dist.actions_from_params(raw_params, deterministic=True)
        return raw_params.clamp(-1.0, 1.0)  # the mean


def deterministic_network(checkpoint: Checkpoint) -> tuple[nn.Module, ViewConfig]:
    """The deterministic action of `load_policy` for a whole batch, on the CPU, and the view; raises the same."""
    return DeterministicNetwork(load_networks(checkpoint)), _policy_config(checkpoint).view


def policy_state(checkpoint: Checkpoint) -> dict[str, Any]:
    """Of a checkpoint's state, what `load_policy` needs.

    Raises:
        CheckpointError: if it is not there.
    """
    return {"policy": load_networks(checkpoint).state_dict()}


def load_networks(checkpoint: Checkpoint) -> ActorCriticPolicy:
    """The networks that a checkpoint holds, policy's and value's, on the CPU.

    Raises:
        CheckpointError: if there are none in it.
    """
    check_agent(checkpoint, AGENT)
    try:
        networks = make_networks(_policy_config(checkpoint))
        networks.load_state_dict(checkpoint.state["policy"])
    except Exception as error:  # a stranger's settings and parameters provoke whatever torch raises
        raise CheckpointError(f"{checkpoint.path} does not hold a PPO policy ({error_line(error)})") from None
    if not all(bool(torch.isfinite(parameter).all()) for parameter in networks.parameters()):
        raise CheckpointError(f"{checkpoint.path} holds a PPO policy whose numbers are not finite")
    return networks


def make_networks(config: PPOConfig) -> ActorCriticPolicy:
    """Untrained networks of these settings, outside of any training."""
    networks = policy_class(config)(
        spaces.Box(0, 255, config.view.obs_shape, np.uint8),
        spaces.Box(-1.0, 1.0, (3,), np.float32),
        lambda _: config.learning_rate,
        **policy_kwargs(config),
    )
    networks.set_training_mode(False)
    return networks


def _policy_config(checkpoint: Checkpoint) -> PPOConfig:
    """The settings that made a checkpoint's policy; the others have their defaults."""
    return from_saved(PPOConfig, checkpoint.meta["config"], POLICY_SETTINGS)


def export_sb3(checkpoint: Checkpoint, path: Path) -> None:
    """Write a checkpoint's policy as a `.zip` of Stable-Baselines3's own, for `PPO.load` or `PPO.load(..., env)`.

    Loading such a file unpickles it and needs `beta_policy` on Python's path, so load none from a stranger; the
    checkpoint itself runs no code.

    Raises:
        CheckpointError: if the checkpoint's settings or parameters do not make a policy.
        OSError: if the file cannot be written.
    """
    config = _policy_config(checkpoint)
    networks = load_networks(checkpoint)
    env = make_vec_env(1, config.view, n_workers=0)
    try:
        # No schedule of this project's goes into the file: what is unpickled should need as little of it as can be.
        model = PPO(policy_class(config), env, policy_kwargs=policy_kwargs(config), device="cpu")
        model.policy.load_state_dict(networks.state_dict())
        model.save(path)
    finally:
        env.close()
