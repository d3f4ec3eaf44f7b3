"""A Beta policy for Stable-Baselines3's actor-critic algorithms, and the small CNN that reads CarRacing's pixels.

A Gaussian has probability mass outside a bounded action space, which clipping then piles up at the bounds; a Beta
distribution has none (Chou, Maturana & Scherer, "Improving Stochastic Policy Gradients in Continuous Control with Deep
Reinforcement Learning using the Beta Distribution", ICML 2017).
"""

import math
from collections.abc import Sequence
from functools import partial
from typing import Any, Literal, Self

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.distributions import Distribution
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.type_aliases import PyTorchObs, Schedule
from torch import nn
from torch.distributions import Beta
from torch.nn import functional as F

DeterministicAction = Literal["mean", "mode"]
# Points in (0, 1) at which a mean effect is integrated: the middles of equal parts.
N_POINTS = 256


class BetaDistributionWrapper(Distribution):
    """Independent Beta distributions, scaled from [0, 1] to the action range [-1, 1].

    With u ~ Beta(alpha, beta) an action is a = 2u - 1, so per dimension

        log p(a) = log Beta(u; alpha, beta) - log 2        (|da/du| = 2)
        H(a)     = H(u) + log 2

    and both are summed over dimensions. alpha, beta = 1 + softplus(.) > 1 keeps every density unimodal and zero at the
    bounds. There log p would be -inf; `log_prob` evaluates it one float epsilon inside, so it is finite on all of
    [-1, 1].

    Args:
        action_dim: number of action dimensions.
        deterministic_action: what `get_actions(deterministic=True)` returns, see `BetaActorCriticPolicy`.
        dead_zones: see `BetaActorCriticPolicy`.
    """

    distribution: Beta

    def __init__(
        self,
        action_dim: int,
        deterministic_action: DeterministicAction = "mean",
        dead_zones: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        self.action_dim = action_dim
        self.deterministic_action = deterministic_action
        self.dead_zones = tuple(dead_zones or (0.0,) * action_dim)

    def proba_distribution_net(self, latent_dim: int) -> nn.Module:
        """The layer that maps the latent (batch, latent_dim) to raw parameters (batch, 2 * action_dim)."""
        return nn.Linear(latent_dim, 2 * self.action_dim)

    def proba_distribution(self, raw_params: torch.Tensor) -> Self:
        """Set alpha and beta from raw parameters (batch, 2 * action_dim): alphas first, then betas."""
        alpha, beta = (1.0 + F.softplus(raw_params)).chunk(2, dim=-1)
        self.distribution = Beta(alpha, beta, validate_args=False)
        return self

    def log_prob(self, actions: torch.Tensor) -> torch.Tensor:
        """Log density (batch,) of actions (batch, action_dim) in [-1, 1]."""
        log_prob = self.distribution.log_prob(_inside_unit_interval(0.5 * (actions + 1.0)))
        return (log_prob - math.log(2.0)).sum(dim=-1)

    def entropy(self) -> torch.Tensor:
        """Differential entropy (batch,) of the scaled action."""
        return (self.distribution.entropy() + math.log(2.0)).sum(dim=-1)

    def sample(self) -> torch.Tensor:
        """A reparameterised draw (batch, action_dim), strictly inside (-1, 1)."""
        return _to_action(_inside_unit_interval(self.distribution.rsample()))

    def mean(self) -> torch.Tensor:
        """E[a] (batch, action_dim); with a dead zone, the action whose effect is the mean effect.

        Where the lowest part d of u has no effect, that is u = d + E[max(u - d, 0)]. The plain mean would do less than
        the drawn actions do on average: E[u] may lie in the dead zone while many a draw does not.
        """
        means = [
            self._mean_effect(i, dead_zone) if dead_zone > 0.0 else self.distribution.mean[..., i]
            for i, dead_zone in enumerate(self.dead_zones)
        ]
        return _to_action(torch.stack(means, dim=-1))

    def _mean_effect(self, i: int, dead_zone: float) -> torch.Tensor:
        """d + E[max(u - d, 0)] (batch,) of one dimension, integrated over the density."""
        alpha, beta = self.distribution.concentration1[..., i, None], self.distribution.concentration0[..., i, None]
        u = (torch.arange(N_POINTS, device=alpha.device, dtype=alpha.dtype) + 0.5) / N_POINTS
        # The softmax of the log density at evenly spaced points: what each counts, without the Beta's constant.
        weights = torch.softmax((alpha - 1.0) * u.log() + (beta - 1.0) * torch.log1p(-u), dim=-1)
        return dead_zone + (weights * (u - dead_zone).clamp(min=0.0)).sum(dim=-1)

    def mode(self) -> torch.Tensor:
        """The density's exact maximum (batch, action_dim): u = (alpha - 1) / (alpha + beta - 2).

        Where softplus has underflowed and alpha = beta = 1, every action is as likely, and the middle is returned.
        """
        alpha, beta = self.distribution.concentration1, self.distribution.concentration0
        # Not alpha + beta - 2, which rounds so coarsely near 2 that the mode could leave the range.
        excess = (alpha - 1.0) + (beta - 1.0)
        is_uniform = excess <= 0.0
        mode = (alpha - 1.0) / torch.where(is_uniform, 1.0, excess)
        return _to_action(torch.where(is_uniform, 0.5, mode))

    def get_actions(self, deterministic: bool = False) -> torch.Tensor:
        """A sample, or the deterministic action of this distribution's setting."""
        if not deterministic:
            return self.sample()
        return self.mean() if self.deterministic_action == "mean" else self.mode()

    def actions_from_params(self, raw_params: torch.Tensor, deterministic: bool = False) -> torch.Tensor:
        """Actions (batch, action_dim) for raw parameters (batch, 2 * action_dim)."""
        return self.proba_distribution(raw_params).get_actions(deterministic)

    def log_prob_from_params(self, raw_params: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Sampled actions (batch, action_dim) and their log density (batch,)."""
        actions = self.actions_from_params(raw_params)
        return actions, self.log_prob(actions)


def _inside_unit_interval(u: torch.Tensor) -> torch.Tensor:
    eps = torch.finfo(u.dtype).eps
    return u.clamp(eps, 1.0 - eps)


def _to_action(u: torch.Tensor) -> torch.Tensor:
    return 2.0 * u - 1.0


class BetaActorCriticPolicy(ActorCriticPolicy):
    """`ActorCriticPolicy` whose action distribution is a Beta on [-1, 1].

    Takes every argument of SB3's class that does not belong to a Gaussian (`use_sde`, `log_std_init` and their like
    have no meaning here).

    Args:
        observation_space: as in SB3.
        action_space: a Box of [-1, 1] in every dimension.
        lr_schedule: as in SB3.
        deterministic_action: the action of `predict(..., deterministic=True)`. "mean", the default, or "mode". While a
            policy is still learning its alpha and beta are close to 1, where the mode runs to the bounds long before
            the policy means it: one and the same CarRacing policy scored 787 by its mean and 70 by its mode.
        dead_zones: fraction of each action, from below, that has no effect in the environment; None if there is none.
            The mean is that of the effect then.

    Raises:
        ValueError: for another action space, for gSDE, for an unknown `deterministic_action`, or for dead zones that
            are not one for each action, at least 0 and below 1.
    """

    action_dist: BetaDistributionWrapper

    def __init__(
        self,
        observation_space: spaces.Space,
        action_space: spaces.Space,
        lr_schedule: Schedule,
        *args: Any,
        deterministic_action: DeterministicAction = "mean",
        dead_zones: Sequence[float] | None = None,
        **kwargs: Any,
    ) -> None:
        if not isinstance(action_space, spaces.Box) or action_space.shape is None or len(action_space.shape) != 1:
            raise ValueError(f"a Beta policy needs a one-dimensional Box of actions, not {action_space}")
        if not (np.all(action_space.low == -1.0) and np.all(action_space.high == 1.0)):
            raise ValueError(f"a Beta policy needs actions in [-1, 1] (gymnasium's RescaleAction), not {action_space}")
        if deterministic_action not in ("mean", "mode"):
            raise ValueError(f"deterministic_action must be 'mean' or 'mode', not {deterministic_action!r}")
        if dead_zones is not None and not (
            len(dead_zones) == action_space.shape[0] and all(0.0 <= one < 1.0 for one in dead_zones)
        ):
            raise ValueError(f"dead_zones must be one fraction in [0, 1) for each action, not {dead_zones!r}")
        self.deterministic_action: DeterministicAction = deterministic_action
        self.dead_zones = dead_zones
        super().__init__(observation_space, action_space, lr_schedule, *args, **kwargs)

    def _build(self, lr_schedule: Schedule) -> None:
        if self.use_sde:
            raise ValueError("gSDE is Gaussian noise: it does not go with a Beta policy")
        assert self.action_space.shape is not None
        self.action_dist = BetaDistributionWrapper(
            self.action_space.shape[0], self.deterministic_action, self.dead_zones
        )
        self._build_mlp_extractor()
        self.action_net = self.action_dist.proba_distribution_net(self.mlp_extractor.latent_dim_pi)
        self.value_net = nn.Linear(self.mlp_extractor.latent_dim_vf, 1)
        if self.ortho_init:
            # A shared features extractor is one key here, initialised once.
            gains: dict[nn.Module, float] = {
                self.pi_features_extractor: math.sqrt(2),
                self.vf_features_extractor: math.sqrt(2),
                self.mlp_extractor: math.sqrt(2),
                self.action_net: 0.01,
                self.value_net: 1.0,
            }
            for module, gain in gains.items():
                module.apply(partial(self.init_weights, gain=gain))
        self.optimizer = self.optimizer_class(self.parameters(), lr=lr_schedule(1), **self.optimizer_kwargs)  # type: ignore[call-arg]

    def extract_features(  # type: ignore[override]  # SB3's own subclass differs from its base class so too
        self, obs: PyTorchObs, features_extractor: BaseFeaturesExtractor | None = None
    ) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
        """Features of observations, as SB3's: of uint8 pictures (batch, stack, height, width), or of anything else.

        Pictures that are the whole observation are brought to channels-last here, where a number is still a byte: as
        floats it would be four times the memory to move.
        """
        if isinstance(obs, torch.Tensor) and obs.ndim == 4:
            obs = torch.stack(obs.unbind(dim=1), dim=-1).permute(0, 3, 1, 2)
        return super().extract_features(obs, features_extractor)

    def _get_action_dist_from_latent(self, latent_pi: torch.Tensor) -> BetaDistributionWrapper:
        return self.action_dist.proba_distribution(self.action_net(latent_pi))

    def _get_constructor_parameters(self) -> dict[str, Any]:
        mine = {"deterministic_action": self.deterministic_action, "dead_zones": self.dead_zones}
        return {**super()._get_constructor_parameters(), **mine}


class DrivingCNN(BaseFeaturesExtractor):
    """Two convolutions and a linear layer: enough for CarRacing's flat colours, and several times lighter on a CPU
    than the Nature CNN. Channels-last, in which the convolutions' backward pass takes half the time. Layer
    normalisation (Ba, Kiros & Hinton, "Layer Normalization", 2016) keeps the features in use: without it half of them
    soon were 0 for every picture, and the others large and nearly always positive.

    Args:
        observation_space: Box (stack, height, width), already scaled to [0, 1] by the policy.
        features_dim: size of the output.
    """

    def __init__(self, observation_space: spaces.Box, features_dim: int = 256) -> None:
        super().__init__(observation_space, features_dim)
        self.convolutions = nn.Sequential(
            nn.Conv2d(observation_space.shape[0], 16, kernel_size=8, stride=4),
            nn.ReLU(),
            nn.Conv2d(16, 32, kernel_size=4, stride=2),
            nn.ReLU(),
            nn.Flatten(),
        )
        with torch.no_grad():
            n_flat = self.convolutions(torch.zeros(1, *observation_space.shape)).shape[1]
        self.linear = nn.Sequential(nn.Linear(n_flat, features_dim), nn.LayerNorm(features_dim), nn.ReLU())

    def forward(self, observations: torch.Tensor) -> torch.Tensor:
        """Features (batch, features_dim) of observations (batch, stack, height, width)."""
        return self.linear(self.convolutions(observations.contiguous(memory_format=torch.channels_last)))
