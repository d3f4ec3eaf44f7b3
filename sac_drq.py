"""SAC + DrQ: soft actor-critic from pixels, with randomly shifted observations.

SAC: Haarnoja et al., "Soft Actor-Critic Algorithms and Applications", 2018. DrQ: Kostrikov et al., "Image Augmentation
Is All You Need: Regularizing Deep Reinforcement Learning from Pixels", 2020. One update, `SACAgent.update`:

    (s, a, r, s', d) ~ replay buffer                        r: sum of n rewards; d: gamma^n, or 0 where the game ended
    in half of them, s, a, s' = mirror(s, a, s')            left for right, steering too
    s, s' = shift(s), shift(s')                             DrQ's augmentation
    a' ~ pi(. | s')
    y = r + d (min_i Q'_i(s', a') - alpha log pi(a' | s'))  the soft Bellman target
    critic_loss = mean of (Q_1(s, a) - y)^2 + (Q_2(s, a) - y)^2
    every actor_update_freq updates:
        b = tanh(mu(s) + sigma(s) eps), eps ~ N(0, 1)       so that the gradient passes through the action
        actor_loss = mean of alpha log pi(b | s) - min_i Q_i(s, b)
        alpha_loss = alpha (mean of -log pi(b | s) - target_entropy)
    every target_update_freq updates:
        Q' = Q' + tau (Q - Q')
    ema_policy = ema_policy + ema_tau (policy - ema_policy) the policy that is scored
"""

import copy
import math
from dataclasses import fields, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import nn

from augmentation import half_mirrored, normalize_pixels, random_shift
from car_racing import Frame
from car_racing.config import ViewConfig
from checkpoint import Checkpoint, CheckpointError, check_agent, error_line
from cuda_graph import CudaGraph
from metric_sums import MetricSums
from replay_buffer import Batch, ReplayBuffer, to_device
from sac_config import ACTION_DIM, EncoderName, SACConfig
from scoring import ActionDensity, Actions, Policy
from settings import SettingError, check_alike, from_saved

AGENT = "sac"

NETWORKS = ("critic", "critic_target", "actor")
OPTIMIZERS = ("critic_optimizer", "actor_optimizer", "alpha_optimizer")

# (channels, kernel, stride) of each convolution.
ENCODERS: dict[EncoderName, tuple[tuple[int, int, int], ...]] = {
    "drq": ((32, 3, 2), (32, 3, 1), (32, 3, 1), (32, 3, 1)),
    "light": ((16, 8, 4), (32, 4, 2)),
}


def min_memory(config: SACConfig) -> int:
    """Bytes that a training takes at least: its replay buffer, two batches as floats, the widest layers."""
    channels, height, width = config.view.obs_shape
    replay = config.replay_size * (channels // config.frame_stack * height * width + 16 * config.frame_stack)
    batches = 2 * config.batch_size * channels * height * width * 4
    # Critic, target and actor have five such layers; the first two have gradients and Adam's averages besides.
    widest_layers = config.hidden_dim**2 * 4 * (5 + 3 * 3)
    return replay + batches + widest_layers


def size_in_words(config: SACConfig) -> str:
    """The settings that decide how long a step takes."""
    updates = f"{config.updates_per_step} updates" if config.updates_per_step > 1 else "an update"
    every = f"{config.train_freq} steps" if config.train_freq > 1 else "step"
    networks = f"{config.encoder} encoder, heads of {config.hidden_dim}"
    return f"{networks}, {config.frame_stack} frames, batches of {config.batch_size}, {updates} every {every}"


CONFIG_CLASS: type = SACConfig
TOTAL = "total_steps"


def mlp(in_dim: int, hidden_dim: int, out_dim: int) -> nn.Sequential:
    """Two hidden layers with ReLU."""
    return nn.Sequential(
        nn.Linear(in_dim, hidden_dim),
        nn.ReLU(),
        nn.Linear(hidden_dim, hidden_dim),
        nn.ReLU(),
        nn.Linear(hidden_dim, out_dim),
    )


def init_weights(module: nn.Module) -> None:
    """DrQ's start: orthogonal weights (gain sqrt(2) for convolutions), zero biases."""
    if isinstance(module, (nn.Linear, nn.Conv2d)):
        nn.init.orthogonal_(module.weight, nn.init.calculate_gain("relu") if isinstance(module, nn.Conv2d) else 1.0)
        assert module.bias is not None
        nn.init.zeros_(module.bias)


class Encoder(nn.Module):
    """Pictures to features: convolutions, then a linear layer, LayerNorm and tanh.

    Args:
        obs_shape: (channels, height, width).
        convolutions: (channels, kernel, stride) of each.
        feature_dim: size of the output.
    """

    def __init__(
        self, obs_shape: tuple[int, int, int], convolutions: tuple[tuple[int, int, int], ...], feature_dim: int
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        in_channels = obs_shape[0]
        for channels, kernel, stride in convolutions:
            layers += [nn.Conv2d(in_channels, channels, kernel, stride), nn.ReLU(inplace=True)]
            in_channels = channels
        self.convolutions = nn.Sequential(*layers)
        with torch.no_grad():
            n_flat = self.convolutions(torch.zeros(1, *obs_shape)).numel()
        self.linear = nn.Linear(n_flat, feature_dim)
        self.norm = nn.LayerNorm(feature_dim)
        self.apply(init_weights)
        self.convolutions.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, obs: torch.Tensor) -> torch.Tensor:
        """Features (batch, feature_dim), in (-1, 1), of normalized pixels (batch, channels, height, width)."""
        # Flattened as it lies in memory, channels last, no number has to move.
        hidden = self.convolutions(obs).permute(0, 2, 3, 1).flatten(1)
        return torch.tanh(self.norm(self.linear(hidden)))


class TwinQ(nn.Module):
    """Two Q-functions of features and actions."""

    def __init__(self, config: SACConfig) -> None:
        super().__init__()
        self.q1 = mlp(config.feature_dim + ACTION_DIM, config.hidden_dim, 1)
        self.q2 = mlp(config.feature_dim + ACTION_DIM, config.hidden_dim, 1)
        self.q1.apply(init_weights)
        self.q2.apply(init_weights)

    def forward(self, features: torch.Tensor, actions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Both Q-values, (batch, 1) each, of encoded observations and actions."""
        inputs = torch.cat([features, actions], dim=1)
        return self.q1(inputs), self.q2(inputs)


class Critic(TwinQ):
    """Two Q-functions, and the encoder of what they see; it learns from them alone."""

    def __init__(self, obs_shape: tuple[int, int, int], config: SACConfig) -> None:
        # Before the Qs: the order in which the first weights are drawn decides what a seed stands for.
        encoder = Encoder(obs_shape, ENCODERS[config.encoder], config.feature_dim)
        super().__init__(config)
        self.encoder = encoder


class Actor(nn.Module):
    """A Gaussian squashed into (-1, 1) by tanh, over the critic's features."""

    def __init__(self, config: SACConfig) -> None:
        super().__init__()
        self.trunk = mlp(config.feature_dim, config.hidden_dim, 2 * ACTION_DIM)
        self.log_std_bounds = (config.log_std_min, config.log_std_max)
        self.trunk.apply(init_weights)

    def forward(self, features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and log standard deviation before the tanh, (batch, action_dim) each."""
        mean, log_std = self.trunk(features).chunk(2, dim=1)
        low, high = self.log_std_bounds
        return mean, low + 0.5 * (high - low) * (torch.tanh(log_std) + 1.0)

    def sample(self, features: torch.Tensor, noise: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Actions (batch, action_dim) and their log density (batch, 1), by the reparametrisation trick.

        Args:
            features: (batch, feature_dim).
            noise: standard normal, (batch, action_dim).
        """
        mean, log_std = self(features)
        u = mean + noise * log_std.exp()
        log_prob = -0.5 * noise.square() - log_std - 0.5 * math.log(2.0 * math.pi)
        # SAC's appendix C, with log(1 - tanh(u)^2) in a form that does not underflow.
        log_prob = log_prob - 2.0 * (math.log(2.0) - u - F.softplus(-2.0 * u))
        return torch.tanh(u), log_prob.sum(dim=1, keepdim=True)


class PolicyNetworks(nn.Module):
    """Copies of an encoder and an actor: all that acting takes. They are not trained."""

    def __init__(self, encoder: Encoder, actor: Actor) -> None:
        super().__init__()
        self.encoder = copy.deepcopy(encoder)
        self.actor = copy.deepcopy(actor)
        self.requires_grad_(False)

    def forward(self, obs: torch.Tensor) -> torch.Tensor:
        """Deterministic actions (batch, action_dim) for pixels, uint8 (batch, channels, height, width)."""
        return torch.tanh(self.actor(self.encoder(normalize_pixels(obs, torch.float32)))[0])


class SACAgent:
    """Soft actor-critic on randomly shifted observations.

    All randomness is drawn on the CPU from one generator. So an update is a plain function of parameters, batch and
    draws, and the same on every device. Making an agent seeds torch's global generator, from which its first weights
    are drawn, and on a GPU allows TF32 in matrix products.

    Args:
        config: the settings.
        device: where to learn.
        dtype: of parameters and arithmetic.

    Attributes:
        n_updates: updates made so far.
        ema_policy: the exponential moving average of encoder and actor; None if the latest ones are scored.
    """

    def __init__(self, config: SACConfig, device: torch.device, dtype: torch.dtype = torch.float32) -> None:
        self.config = config
        self.device = device
        self.dtype = dtype
        self.n_updates = 0
        self._is_recorded = config.compile and device.type == "cuda"
        self.generator = torch.Generator().manual_seed(config.seed)
        torch.manual_seed(config.seed)
        if device.type == "cuda":
            # PyTorch has TF32 in convolutions anyway. It is not mixed precision: numbers are stored as float32.
            torch.set_float32_matmul_precision("high")
        obs_shape = config.view.obs_shape
        self.critic = Critic(obs_shape, config).to(device, dtype)
        self.critic_target = (TwinQ(config) if config.encode_once else Critic(obs_shape, config)).to(device, dtype)
        self.critic_target.requires_grad_(False)
        # What the target follows: all of the critic, or its Qs alone.
        by_name = dict(self.critic.named_parameters())
        self._followed: list[torch.Tensor] = [by_name[name] for name, _ in self.critic_target.named_parameters()]
        self._move_target(1.0)
        self.actor = Actor(config).to(device, dtype)
        self.ema_policy = None if config.ema_tau == 1.0 else PolicyNetworks(self.critic.encoder, self.actor)
        # Adam moves log(alpha), so alpha stays positive.
        self.log_alpha = torch.tensor(math.log(config.init_temperature), device=device, dtype=dtype, requires_grad=True)

        # In the order in which older checkpoints hold Adam's averages.
        critic_parts = (self.critic.encoder, self.critic.q1, self.critic.q2)
        critic_parameters = [parameter for part in critic_parts for parameter in part.parameters()]
        self.critic_optimizer = self._adam(critic_parameters, config.learning_rate)
        self.actor_optimizer = self._adam(self.actor.parameters(), config.learning_rate)
        self.alpha_optimizer = self._adam([self.log_alpha], config.alpha_learning_rate)
        self._critic_metrics = MetricSums(("critic_loss", "q1_mean", "q2_mean"), device, dtype)
        self._actor_metrics = MetricSums(("actor_loss", "alpha_loss", "entropy", "alpha"), device, dtype)
        if config.compile:
            self._compile()

    @property
    def alpha(self) -> torch.Tensor:
        """The temperature: how many points of reward a nat of entropy is worth."""
        return self.log_alpha.exp()

    def act(self, obs: Frame, deterministic: bool = False) -> NDArray[np.float32]:
        """An action, float32 (action_dim,) in [-1, 1], for an observation, uint8 (channels, height, width).

        The deterministic one is that of the policy that is scored. Others are drawn from the latest one, to train it.
        """
        with torch.no_grad():
            if deterministic:
                action = torch.tanh(self.distribution(obs)[0])
            else:
                features = self.critic.encoder(self._one_batch(obs))
                action, _ = self.actor.sample(features, self._noise(1))
        return action[0].cpu().numpy().astype(np.float32)

    def distribution(self, obs: Frame) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and log standard deviation, (1, action_dim) each, of the policy that is scored, before the tanh."""
        encoder, actor = self.critic.encoder, self.actor
        if self.ema_policy is not None:
            encoder, actor = self.ema_policy.encoder, self.ema_policy.actor
        mean, log_std = actor(encoder(self._one_batch(obs)))
        return mean, log_std

    def _one_batch(self, obs: Frame) -> torch.Tensor:
        return normalize_pixels(torch.from_numpy(obs[None]).to(self.device), self.dtype)

    def update(self, replay: ReplayBuffer) -> None:
        """One update of SAC + DrQ. Nothing in it waits for the GPU; `pop_metrics` tells how it went."""
        config = self.config
        batch = replay.sample(config.batch_size, self.generator)
        if config.flip:
            # The game is symmetric, but its tracks turn left all in all. So each bend is learnt both ways.
            batch = half_mirrored(batch)
        # Critic and actor see the same shifted pixels, so these are normalized once for both.
        batch = batch._replace(obs=self._augmented(batch.obs), next_obs=self._augmented(batch.next_obs))
        noise, next_noise = self._noise(config.batch_size), self._noise(config.batch_size)
        self.n_updates += 1

        features = self.update_critic(batch, next_noise)
        if self.n_updates % config.actor_update_freq == 0:
            self.update_actor_and_alpha(batch.obs, features, noise)
        if self.n_updates % config.target_update_freq == 0:
            self.update_critic_target()
        if self.ema_policy is not None:
            self.update_ema_policy()

    def update_critic(self, batch: Batch, next_noise: torch.Tensor) -> torch.Tensor:
        """Fit both Q-functions, and with them the encoder, to the soft Bellman target.

        Args:
            batch: transitions whose observations are normalized.
            next_noise: standard normal (batch, action_dim), for the actions after `next_obs`.

        Returns:
            The features of `batch.obs` from before the step, (batch, feature_dim), without gradients.
        """
        loss, q1, q2, features = self._critic_loss(batch, next_noise)
        self.critic_optimizer.zero_grad()
        loss.backward()
        self.critic_optimizer.step()
        self._critic_metrics.add(critic_loss=loss, q1_mean=q1.detach().mean(), q2_mean=q2.detach().mean())
        return features.detach()

    def _critic_loss(
        self, batch: Batch, next_noise: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        # y = r + d (min_i Q'_i(s', a') - alpha log pi(a' | s')), with a' ~ pi(. | s').
        # The smaller of two Qs, since a single one overestimates the actions that its own errors favour. With n-step
        # returns, the entropy of the last action alone counts.
        with torch.no_grad():
            # The actor always reads the trained critic's encoder; a target's own has features that it does not know.
            next_features = self.critic.encoder(batch.next_obs)
            next_actions, next_log_prob = self.actor.sample(next_features, next_noise)
            target = self.critic_target
            target_features = target.encoder(batch.next_obs) if isinstance(target, Critic) else next_features
            target_v = torch.min(*target(target_features, next_actions)) - self.alpha * next_log_prob
            target_q = batch.rewards + batch.discounts * target_v
        # J(Q) = E[(Q_1(s, a) - y)^2 + (Q_2(s, a) - y)^2]
        features = self.critic.encoder(batch.obs)
        q1, q2 = self.critic(features, batch.actions)
        return F.mse_loss(q1, target_q) + F.mse_loss(q2, target_q), q1, q2, features

    def update_actor_and_alpha(self, obs: torch.Tensor, features: torch.Tensor, noise: torch.Tensor) -> None:
        """Move the actor towards what the critic values, and the temperature so that entropy nears its target.

        Args:
            obs: normalized observations (batch, channels, height, width).
            features: their features from before the critic's step, (batch, feature_dim), without gradients.
            noise: standard normal (batch, action_dim), for the actor's actions.
        """
        # The actor's loss does not train the encoder (DrQ), so one encoding without gradients serves actor and critic.
        if not self.config.encode_once:
            # The critic's step has just changed the encoder.
            with torch.no_grad():
                features = self.critic.encoder(obs)
        loss, log_prob = self._actor_loss(features, noise)
        self.actor_optimizer.zero_grad()
        # The gradient passes through the Qs, but only the actor is to keep one.
        loss.backward(inputs=list(self.actor.parameters()))
        self.actor_optimizer.step()

        # J(alpha) = alpha (H - H_target), with H = E[-log pi(a | s)]: alpha falls where entropy is above its target.
        entropy = -log_prob.detach().mean()
        alpha_loss = self.alpha * (entropy - self.config.target_entropy)
        self.alpha_optimizer.zero_grad()
        alpha_loss.backward()
        self.alpha_optimizer.step()
        self._actor_metrics.add(actor_loss=loss, alpha_loss=alpha_loss, entropy=entropy, alpha=self.alpha)

    def _actor_loss(self, features: torch.Tensor, noise: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        # J(pi) = E[alpha log pi(a | s) - min_i Q_i(s, a)], with a = tanh(mu(s) + sigma(s) eps): the reparametrised
        # action is a function of the actor's outputs, so the gradient of Q with respect to it reaches the actor.
        actions, log_prob = self.actor.sample(features, noise)
        q = torch.min(*self.critic(features, actions))
        return (self.alpha.detach() * log_prob - q).mean(), log_prob

    def update_critic_target(self) -> None:
        """Move the target critic slowly to the critic: theta' <- theta' + tau (theta - theta')."""
        self._move_target(self.config.tau)

    def _move_target(self, tau: float) -> None:
        with torch.no_grad():
            torch._foreach_lerp_(list(self.critic_target.parameters()), self._followed, tau)

    def update_ema_policy(self) -> None:
        """Move the exponential moving average to the latest encoder and actor.

        Each of those is as noisy as its latest batches (Nikishin et al., "Improving Stability in Deep Reinforcement
        Learning with Weight Averaging", 2018). The average has no influence on what is trained.
        """
        assert self.ema_policy is not None
        # At first the average spans about the last tenth of all updates, so that untrained parameters soon leave it.
        tau = min(max(self.config.ema_tau, 10.0 / self.n_updates), 1.0)
        latest: list[torch.Tensor] = [*self.critic.encoder.parameters(), *self.actor.parameters()]
        with torch.no_grad():
            torch._foreach_lerp_(list(self.ema_policy.parameters()), latest, tau)

    def _augmented(self, obs: torch.Tensor) -> torch.Tensor:
        """Pixels, uint8 (batch, channels, height, width), randomly shifted and normalized."""
        pad = self.config.pad
        offsets = torch.randint(2 * pad + 1, (len(obs), 2), generator=self.generator)
        return normalize_pixels(random_shift(obs, to_device(offsets, self.device), pad), self.dtype)

    def _noise(self, n: int) -> torch.Tensor:
        return to_device(torch.randn((n, ACTION_DIM), generator=self.generator).to(self.dtype), self.device)

    def random_action(self) -> NDArray[np.float32]:
        """An action, float32 (action_dim,), drawn evenly from [-1, 1]."""
        return (2.0 * torch.rand(ACTION_DIM, generator=self.generator) - 1.0).numpy()

    def start_from(self, other: "SACAgent") -> None:
        """Start from the networks of another agent of the same kind; temperature and optimisers start anew.

        The networks are its latest, not their average, because its critic knows the features of the latest encoder.
        """
        self.critic.load_state_dict(other.critic.state_dict())
        self._move_target(1.0)
        self.actor.load_state_dict(other.actor.state_dict())
        if self.ema_policy is not None:
            self.ema_policy = PolicyNetworks(self.critic.encoder, self.actor)

    def set_lr_scale(self, scale: float) -> None:
        """Set Adam's step sizes to `scale` times those of the settings."""
        config = self.config
        rates = (config.learning_rate, config.learning_rate, config.alpha_learning_rate)
        for name, rate in zip(OPTIMIZERS, rates, strict=True):
            for group in getattr(self, name).param_groups:
                if self._is_recorded:
                    group["lr"].fill_(scale * rate)
                else:
                    group["lr"] = scale * rate

    def pop_metrics(self) -> dict[str, float]:
        """Means over the updates since the last call, by name; empty where there was none. Waits for the GPU."""
        return self._critic_metrics.pop() | self._actor_metrics.pop()

    def is_finite(self) -> bool:
        """Whether every loss since the last `pop_metrics` and every parameter is a finite number. Waits for the GPU."""
        parameters = [parameter for network in self._networks.values() for parameter in network.parameters()]
        tensors = [*parameters, self.log_alpha, self._critic_metrics.sums, self._actor_metrics.sums]
        return all(bool(torch.isfinite(tensor).all()) for tensor in tensors)

    def state_dict(self) -> dict[str, Any]:
        """All that the rest of the training depends on, for `load_state_dict`; the tensors are the agent's own."""
        return {
            **{name: network.state_dict() for name, network in self._networks.items()},
            **{name: getattr(self, name).state_dict() for name in OPTIMIZERS},
            "log_alpha": self.log_alpha.detach(),
            "n_updates": self.n_updates,
            "generator": self.generator.get_state(),
            "critic_sums": self._critic_metrics.sums,
            "actor_sums": self._actor_metrics.sums,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Bring an agent of the same settings to where `state_dict` was called, by an older version too.

        Raises:
            KeyError, TypeError, ValueError, RuntimeError: if the state is another's.
        """
        state = with_current_names(state)
        for name, network in self._networks.items():
            network.load_state_dict(state[name])
        for name in OPTIMIZERS:
            optimizer: torch.optim.Adam = getattr(self, name)
            optimizer.load_state_dict(state[name])
            for group in optimizer.param_groups:
                # The checkpoint may have been saved with another --compile or on another device.
                group["capturable"] = self._is_recorded
                group["lr"] = self._rate(float(group["lr"]))
        with torch.no_grad():
            self.log_alpha.copy_(state["log_alpha"])
        self.n_updates = int(state["n_updates"])
        self.generator.set_state(state["generator"])
        self._critic_metrics.sums.copy_(state["critic_sums"])
        self._actor_metrics.sums.copy_(state["actor_sums"])

    @property
    def saved_networks(self) -> dict[str, nn.Module]:
        """The networks that acting, or starting another training from here, takes, by name."""
        return {name: network for name, network in self._networks.items() if name != "critic_target"}

    @property
    def _networks(self) -> dict[str, nn.Module]:
        names = NETWORKS if self.ema_policy is None else (*NETWORKS, "ema_policy")
        return {name: getattr(self, name) for name in names}

    def _adam(self, parameters: Any, learning_rate: float) -> torch.optim.Adam:
        return torch.optim.Adam(parameters, self._rate(learning_rate), fused=True, capturable=self._is_recorded)

    def _rate(self, learning_rate: float) -> float | torch.Tensor:
        """A step size for Adam. A CUDA graph would record a number for good, but it reads a tensor at each replay."""
        return torch.tensor(learning_rate, device=self.device) if self._is_recorded else learning_rate

    def _compile(self) -> None:
        self._critic_loss = torch.compile(self._critic_loss)  # type: ignore[method-assign]
        self._actor_loss = torch.compile(self._actor_loss)  # type: ignore[method-assign]
        if self._is_recorded:
            update_critic = self.update_critic
            graph = CudaGraph(lambda *tensors: update_critic(Batch(*tensors[:-1]), tensors[-1]))
            self.update_critic = lambda batch, next_noise: graph(*batch, next_noise)  # type: ignore[method-assign]
            self.update_actor_and_alpha = CudaGraph(self.update_actor_and_alpha)  # type: ignore[assignment,method-assign]
            self.update_critic_target = CudaGraph(self.update_critic_target)  # type: ignore[method-assign]


def make_replay(config: SACConfig, device: torch.device) -> ReplayBuffer:
    """The replay buffer of these settings: on the GPU where it takes less than half of what is free there."""
    obs_shape = config.view.obs_shape
    channels, height, width = obs_shape
    n_frames = ReplayBuffer.ring_length(config.replay_size, config.frame_stack, config.n_step)
    n_bytes = n_frames * channels // config.frame_stack * height * width
    fits = device.type == "cuda" and n_bytes < torch.cuda.mem_get_info(device)[0] // 2
    frames_device = device if fits else torch.device("cpu")
    shape = (obs_shape, config.frame_stack, ACTION_DIM)
    return ReplayBuffer(config.replay_size, *shape, config.n_step, config.gamma, device, frames_device)


SHAPE_SETTINGS = ("encoder", "feature_dim", "hidden_dim", "log_std_min", "log_std_max")
# Settings that must be alike under --start-from: the observation, what an action does, and the networks' shapes.
NETWORK_SETTINGS = ("frame_stack", "grayscale", "road_contrast", "brake_dead_zone", *SHAPE_SETTINGS)
# Settings that make a policy. A checkpoint that lacks any other, or has unknown ones, can still be scored.
POLICY_SETTINGS = (*(field.name for field in fields(ViewConfig)), *SHAPE_SETTINGS)
# What older checkpoints call the parts of an agent's state.
FORMER_NAMES = {"average": "ema_policy"}


def with_current_names(state: dict[str, Any]) -> dict[str, Any]:
    """An agent's saved state, which an older version may have saved, under today's names."""
    return {FORMER_NAMES.get(name, name): value for name, value in state.items()}


def policy_of(agent: SACAgent) -> Policy:
    """The agent as a policy for scoring: for one observation the tanh of the mean."""
    return lambda obs: agent.act(obs, deterministic=True)


def sampled_policy_of(agent: SACAgent) -> Policy:
    """The agent as a policy that draws from the distribution that is scored, by torch's global generator."""

    @torch.no_grad()
    def policy(obs: Frame) -> NDArray[np.float32]:
        mean, log_std = agent.distribution(obs)
        noise = torch.randn(mean.shape, dtype=mean.dtype).to(mean.device)
        return torch.tanh(mean + noise * log_std.exp())[0].cpu().numpy().astype(np.float32)

    return policy


def initial_agent(config: SACConfig, checkpoint: Checkpoint) -> SACAgent:
    """The agent of a checkpoint, on the CPU, that a training with these settings is to start from.

    Raises:
        CheckpointError: if there is none in it.
        SettingError: if its networks are others.
    """
    agent = load_agent(checkpoint, torch.device("cpu"))
    check_alike(config, checkpoint.meta["config"], NETWORK_SETTINGS, f"--start-from {checkpoint.path}")
    return agent


def load_agent(checkpoint: Checkpoint, device: torch.device) -> SACAgent:
    """An agent with the networks of a checkpoint. It can act, but not go on with the training.

    Raises:
        CheckpointError: if the checkpoint's settings or parameters do not make an agent.
    """
    check_agent(checkpoint, AGENT)
    try:
        state = with_current_names(checkpoint.state["agent"])
        config = from_saved(SACConfig, checkpoint.meta["config"], POLICY_SETTINGS)
        if "ema_policy" not in state:
            config = replace(config, ema_tau=1.0)
        agent = SACAgent(config, device)
        for name, network in agent.saved_networks.items():
            network.load_state_dict(state[name])
    except Exception as error:  # foreign settings and parameters can raise whatever torch raises
        raise CheckpointError(f"{checkpoint.path} does not hold a SAC agent ({error_line(error)})") from None
    if not agent.is_finite():
        raise CheckpointError(f"{checkpoint.path} holds a SAC agent whose numbers are not finite")
    return agent


def deterministic_network(checkpoint: Checkpoint) -> tuple[nn.Module, ViewConfig]:
    """The deterministic action of `load_policy` for a whole batch, on the CPU, and the view; raises the same."""
    agent = load_agent(checkpoint, torch.device("cpu"))
    return agent.ema_policy or PolicyNetworks(agent.critic.encoder, agent.actor), agent.config.view


def policy_state(checkpoint: Checkpoint) -> dict[str, Any]:
    """The part of a checkpoint's state that `load_policy` needs; raises CheckpointError if it is not there."""
    agent = load_agent(checkpoint, torch.device("cpu"))
    return {"agent": {name: network.state_dict() for name, network in agent.saved_networks.items()}}


def load_density(checkpoint: Checkpoint) -> ActionDensity:
    """The density of a checkpoint's stochastic policy: a Gaussian, squashed by tanh.

    Raises:
        CheckpointError: if the checkpoint's settings or parameters do not make an agent.
    """
    agent = load_agent(checkpoint, torch.device("cpu"))

    @torch.no_grad()
    def density(obs: Frame, actions: NDArray[np.float32]) -> NDArray[np.float32]:
        mean, log_std = agent.distribution(obs)
        values = torch.as_tensor(actions).clamp(-1.0 + 1e-4, 1.0 - 1e-4)[:, None]
        # a = tanh(u) has the density of u, divided by da/du = 1 - a^2.
        gaussian = torch.distributions.Normal(mean, log_std.exp())
        return (gaussian.log_prob(torch.atanh(values)).exp() / (1.0 - values.square())).numpy()

    return density


def load_policy(
    checkpoint: Checkpoint, device: torch.device, actions: Actions | None = None
) -> tuple[Policy, ViewConfig]:
    """The trained policy of a checkpoint, and the view that it was trained with.

    Args:
        checkpoint: of this agent.
        device: where the policy is to run.
        actions: which action it takes; None is "mean", the tanh of the Gaussian's mean. What is drawn comes from
            torch's global generator.

    Raises:
        CheckpointError: if the checkpoint's settings or parameters do not make an agent.
        SettingError: for "mode", since the mode of a squashed Gaussian has no closed form.
    """
    if actions == "mode":
        raise SettingError(f"--actions mode is a Beta policy's, and {checkpoint.path} holds a SAC agent; take mean")
    agent = load_agent(checkpoint, device)
    return (sampled_policy_of(agent) if actions == "sampled" else policy_of(agent)), agent.config.view
