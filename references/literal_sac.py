"""SAC + DrQ written literally: one step after another, without shared or fused computations. Slow, but easy to check.

`LiteralSAC` takes only the layers of its networks from a `SACAgent`. Encoding, Q-values, density and shift are written
out here. It draws its random numbers in the order of `SACAgent.update`, so both must arrive at the same parameters from
the same start.

Paper: Haarnoja et al., "Soft Actor-Critic Algorithms and Applications", 2018; Yarats et al., "Image Augmentation Is All
You Need", 2020 (DrQ).
"""

import copy
from typing import Protocol

import torch
import torch.nn.functional as F
from torch.distributions import Normal, TanhTransform, TransformedDistribution

from replay_buffer import Batch
from sac_config import ACTION_DIM
from sac_drq import Critic, SACAgent

Tensor = torch.Tensor


class Replay(Protocol):
    """A replay buffer, whatever it stores."""

    def sample(self, batch_size: int, generator: torch.Generator) -> Batch:
        """Draw `batch_size` transitions with replacement."""
        ...


def literal_shift(obs: Tensor, offsets: Tensor, pad: int) -> Tensor:
    """DrQ's random shift: pad with the border's pixels, then cut a window of the old size out of each observation.

    Args:
        obs: (batch, channels, height, width).
        offsets: row and column of each window in the padded observation, int (batch, 2) in [0, 2 * pad].
        pad: pixels added on each side.

    Returns:
        The windows, of the shape and dtype of `obs`.
    """
    height, width = obs.shape[2:]
    padded = F.pad(obs, (pad, pad, pad, pad), mode="replicate")
    windows = [
        one[:, row : row + height, column : column + width]
        for one, (row, column) in zip(padded, offsets.tolist(), strict=True)
    ]
    return torch.stack(windows)


def literal_mirror(obs: Tensor) -> Tensor:
    """Pictures (batch, channels, 84, 84) from right to left.

    The lowest ten rows are the indicators' strip. In it only two bars are turned: that of the steering about the edge
    before column 42, and that of the turning about the edge before column 63, ten columns to each side.
    """
    columns = list(range(84))
    for zero in (42, 63):
        for distance in range(10):
            columns[zero + distance], columns[zero - 1 - distance] = zero - 1 - distance, zero + distance
    rows = [obs[:, :, row][..., columns] if row >= 74 else obs[:, :, row].flip(-1) for row in range(84)]
    return torch.stack(rows, dim=2)


class LiteralSAC:
    """A literal twin of an agent that has not been updated yet.

    Args:
        agent: the agent whose networks, dtype, device, settings and generator state are copied.
        stale_features: give the actor the features from before the critic's step, as `encode_once` asks for. Without
            that setting it is a mistake on purpose, with which tests show that the comparison would notice.
    """

    def __init__(self, agent: SACAgent, stale_features: bool = False) -> None:
        self.config, self.device, self.dtype = agent.config, agent.device, agent.dtype
        self.stale_features = stale_features or agent.config.encode_once
        self.critic, self.critic_target, self.actor = (
            copy.deepcopy(network).to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
            for network in (agent.critic, agent.critic_target, agent.actor)
        )
        self.log_alpha = agent.log_alpha.detach().clone().requires_grad_()
        self.critic_optimizer = torch.optim.Adam(self.critic.parameters(), self.config.learning_rate)
        self.actor_optimizer = torch.optim.Adam(self.actor.parameters(), self.config.learning_rate)
        self.alpha_optimizer = torch.optim.Adam([self.log_alpha], self.config.alpha_learning_rate)
        self.generator = torch.Generator()
        self.generator.set_state(agent.generator.get_state())
        self.n_updates = 0

    def encode(self, critic: Critic, obs: Tensor) -> Tensor:
        """Observations (batch, channels, height, width) in [0, 255] to features (batch, feature_dim) in [-1, 1]."""
        hidden = critic.encoder.convolutions(obs.to(self.dtype) / 255.0 - 0.5)
        flat = hidden.permute(0, 2, 3, 1).reshape(len(obs), -1)  # The encoder's linear layer expects channels last.
        return torch.tanh(critic.encoder.norm(critic.encoder.linear(flat)))

    def q_values(self, critic: Critic, features: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        """Both Q-values, (batch, 1) each."""
        inputs = torch.cat([features, actions.to(self.dtype)], dim=1)
        return critic.q1(inputs), critic.q2(inputs)

    def sample(self, features: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Actions (batch, 3) in [-1, 1] of the tanh-squashed Gaussian, and their log-density (batch, 1)."""
        mean, log_std = self.actor.trunk(features).chunk(2, dim=1)
        low, high = self.config.log_std_min, self.config.log_std_max
        std = (low + (torch.tanh(log_std) + 1.0) / 2.0 * (high - low)).exp()
        tanh = TanhTransform(cache_size=1)  # The cache keeps u, so log_prob need not invert tanh, which loses digits.
        actions = tanh(mean + std * noise)
        log_prob = TransformedDistribution(Normal(mean, std), [tanh]).log_prob(actions)
        return actions, log_prob.sum(dim=1, keepdim=True)

    def target_q(self, rewards: Tensor, next_obs: Tensor, discounts: Tensor, next_noise: Tensor) -> Tensor:
        """The soft Bellman target, (batch, 1)."""
        with torch.no_grad():
            next_actions, next_log_prob = self.sample(self.encode(self.critic, next_obs), next_noise)
            encoder_owner = self.critic if self.config.encode_once else self.critic_target
            features = self.encode(encoder_owner, next_obs)
            q1, q2 = self.q_values(self.critic_target, features, next_actions)
            value = torch.minimum(q1, q2) - self.log_alpha.exp() * next_log_prob
            return rewards + discounts * value

    def update(self, replay: Replay) -> None:
        """One update of the critic and, where it is their turn, of the actor, the temperature and the target."""
        batch = replay.sample(self.config.batch_size, self.generator)
        if self.config.flip:
            half = self.config.batch_size // 2
            obs = torch.cat([literal_mirror(batch.obs[:half]), batch.obs[half:]])
            next_obs = torch.cat([literal_mirror(batch.next_obs[:half]), batch.next_obs[half:]])
            sign = torch.ones_like(batch.actions)
            sign[:half, 0] = -1.0
            batch = Batch(obs, sign * batch.actions, batch.rewards, next_obs, batch.discounts)
        obs, next_obs = self._shifted(batch.obs), self._shifted(batch.next_obs)
        noise, next_noise = self._noise(), self._noise()
        rewards, discounts = batch.rewards.to(self.dtype), batch.discounts.to(self.dtype)
        self.n_updates += 1

        stale = self.encode(self.critic, obs).detach() if self.stale_features else None

        target_q = self.target_q(rewards, next_obs, discounts, next_noise)
        q1, q2 = self.q_values(self.critic, self.encode(self.critic, obs), batch.actions)
        critic_loss = F.mse_loss(q1, target_q) + F.mse_loss(q2, target_q)
        self.critic_optimizer.zero_grad()
        critic_loss.backward()
        self.critic_optimizer.step()

        if self.n_updates % self.config.actor_update_freq == 0:
            features = self.encode(self.critic, obs).detach() if stale is None else stale
            actions, log_prob = self.sample(features, noise)
            q_features = self.encode(self.critic, obs).detach() if stale is None else stale
            q1, q2 = self.q_values(self.critic, q_features, actions)
            actor_loss = (self.log_alpha.exp().detach() * log_prob - torch.minimum(q1, q2)).mean()
            self.actor_optimizer.zero_grad()
            actor_loss.backward()  # Also reaches the critic, whose gradients are zeroed before its next step.
            self.actor_optimizer.step()

            alpha_loss = (self.log_alpha.exp() * (-log_prob - self.config.target_entropy).detach()).mean()
            self.alpha_optimizer.zero_grad()
            alpha_loss.backward()
            self.alpha_optimizer.step()

        if self.n_updates % self.config.target_update_freq == 0:
            with torch.no_grad():
                source = dict(self.critic.named_parameters())
                for name, target in self.critic_target.named_parameters():
                    target.copy_((1.0 - self.config.tau) * target + self.config.tau * source[name])

    def _shifted(self, obs: Tensor) -> Tensor:
        pad = self.config.pad
        offsets = torch.randint(2 * pad + 1, (len(obs), 2), generator=self.generator)
        return literal_shift(obs.to(self.dtype), offsets, pad)

    def _noise(self) -> Tensor:
        shape = (self.config.batch_size, ACTION_DIM)
        return torch.randn(shape, generator=self.generator).to(self.device, self.dtype)
