"""SAC + DrQ: soft actor-critic from pixels, its pictures shifted at random.

SAC: Haarnoja et al., "Soft Actor-Critic Algorithms and Applications", 2018. DrQ: Kostrikov et al., "Image Augmentation
Is All You Need: Regularizing Deep Reinforcement Learning from Pixels", 2020. From top to bottom: the settings, the
replay buffer, the random shift, the networks, the agent. The algorithm itself is `SACAgent.update`.
"""

import copy
import math
import warnings
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import nn

from car_racing import Frame, ViewConfig
from checkpoint import Checkpoint, CheckpointError, in_one_line
from game_config import GameConfig, check_same_networks
from scoring import Actions, Driver
from settings import SettingError, as_saved, check_settings, setting, with_default

AGENT = "sac"
ACTION_DIM = 3

CRITIC_METRICS = ("critic_loss", "q1_mean", "q2_mean")
ACTOR_METRICS = ("actor_loss", "alpha_loss", "entropy", "alpha")
NETWORKS = ("critic", "critic_target", "actor")
OPTIMIZERS = ("critic_optimizer", "actor_optimizer", "alpha_optimizer")

EncoderName = Literal["drq", "light"]
# (channels, kernel, stride) of each convolution.
ENCODERS: dict[str, tuple[tuple[int, int, int], ...]] = {
    "drq": ((32, 3, 2), (32, 3, 1), (32, 3, 1), (32, 3, 1)),
    "light": ((16, 8, 4), (32, 4, 2)),
}


@dataclass(frozen=True)
class SACConfig(GameConfig):
    """SAC's settings

    A step is one decision, `action_repeat` frames of the game. No mixed precision: it cost an earlier version its
    performance (a score of 861 fell to 209). Where nothing else is said, the agent's numbers are DrQ's; `n_step` is
    DrQ-v2's; the falling rates, the running mean and the rules of the game are what its best drivers learnt with.

    Raises:
        SettingError: if a setting is out of its range, or two do not go together.
    """

    total_steps: int = setting(1_000_000, "steps to train for", minimum=1, may_change=True)
    start_from: str | None = setting(
        None, "begin with the networks of this checkpoint, whatever game it learnt in, instead of untrained ones"
    )
    seed: int = setting(
        1, "seed of the networks, the actions, the batches and the training tracks", minimum=0, maximum=2**32 - 1
    )
    replay_size: int = setting(30_000, "transitions that the replay buffer keeps, 7.5 kB each", minimum=1)
    batch_size: int = setting(128, "transitions in an update", minimum=1)
    learning_starts: int = setting(
        1_000, "steps before the first update, of random actions or, with --start-from, of the driver's", minimum=1
    )
    updates_per_step: int = setting(1, "updates at a time", minimum=1)
    train_freq: int = setting(
        1,
        "steps from one time of updating to the next; more of them where driving is cheap beside an update",
        minimum=1,
    )
    learning_rate: float = setting(1e-3, "Adam's step size for encoder, critic and actor", above=0.0)
    alpha_learning_rate: float = setting(1e-3, "Adam's step size for the temperature alpha", above=0.0)
    falling_rates: bool = setting(True, "keep Adam's step sizes as they are; else they fall linearly, to 0 at the end")
    gamma: float = setting(0.99, "discount a step", minimum=0.0, maximum=1.0)
    n_step: int = setting(3, "steps whose rewards are summed before the critic is asked for the rest", minimum=1)
    tau: float = setting(0.01, "share of the critic that the target critic takes on at a time", above=0.0, maximum=1.0)
    target_update_freq: int = setting(2, "updates between two of the target critic", minimum=1)
    averaging_tau: float = setting(
        5e-4,
        "share of encoder and actor that their running mean, which is scored in their place, takes on at an update, "
        "more at first; 1 averages nothing",
        above=0.0,
        maximum=1.0,
    )
    actor_update_freq: int = setting(2, "updates between two of actor and temperature", minimum=1)
    init_temperature: float = setting(0.1, "the temperature alpha at the start", above=0.0)
    target_entropy: float = setting(-float(ACTION_DIM), "entropy that the temperature steers to, in nats")
    pad: int = setting(4, "pixels by which a picture may be shifted each way; 0 shifts none", minimum=0, maximum=40)
    encoder: EncoderName = setting(
        "drq",
        "the convolutions: DrQ's four of 3x3, or a light pair with large strides, a tenth of the work, for training "
        "without a GPU",
        choices=tuple(ENCODERS),
    )
    feature_dim: int = setting(50, "size of the features that the encoder gives to actor and critic", minimum=1)
    hidden_dim: int = setting(1024, "width of the two hidden layers of the actor and of each Q", minimum=1)
    log_std_min: float = setting(-10.0, "lower bound of the actor's log standard deviation")
    log_std_max: float = setting(2.0, "upper bound of the actor's log standard deviation")
    compile: bool = setting(
        False,
        "compile the losses (torch.compile; needs a C++ compiler) and, on a GPU, record an update once as a CUDA graph",
        may_change=True,
    )
    grayscale: bool = setting(True, "see in colour; the replay buffer takes three times the memory")
    # The rules that SAC's best drivers learnt under; PPO does without the first two.
    brake_dead_zone: bool = setting(True, "let all of the brake's action brake, also its lower half")
    max_tiles_back: int = with_default(GameConfig, "max_tiles_back", 10)
    missed_tile_charge: float = with_default(GameConfig, "missed_tile_charge", 20.0)
    lost_starts: float = with_default(GameConfig, "lost_starts", 0.2)
    mirrored_tracks: float = with_default(GameConfig, "mirrored_tracks", 0.3)

    def __post_init__(self) -> None:
        check_settings(self)
        if self.log_std_min >= self.log_std_max:
            raise SettingError(
                f"--log-std-min {self.log_std_min} must be below --log-std-max {self.log_std_max}; give a smaller one"
            )
        if self.n_step > self.learning_starts:
            raise SettingError(
                f"--n-step {self.n_step} must be at most --learning-starts {self.learning_starts}, for the replay "
                "buffer not to be empty at the first update; give more of those"
            )


def random_shift(obs: torch.Tensor, offsets: torch.Tensor, pad: int) -> torch.Tensor:
    """Shift each picture by a few pixels, its border pixels repeated outwards (DrQ's augmentation).

    Args:
        obs: (batch, channels, height, width); all channels of a picture move together.
        offsets: int64 (batch, 2), rows and columns, in [0, 2 * pad]; `pad` is no shift.
        pad: pixels repeated on each side.

    Returns:
        Of the shape and dtype of `obs`, channels last in memory.
    """
    batch, channels, height, width = obs.shape
    # F.pad has no uint8 on the GPU, and floats would be four times the memory to move.
    padded = obs.new_empty((batch, channels, height + 2 * pad, width + 2 * pad))
    padded[:, :, pad : pad + height, pad : pad + width] = obs
    padded[:, :, :pad] = padded[:, :, pad : pad + 1]
    padded[:, :, pad + height :] = padded[:, :, pad + height - 1 : pad + height]
    padded[..., :pad] = padded[..., pad : pad + 1]
    padded[..., pad + width :] = padded[..., pad + width - 1 : pad + width]
    # Every position of the window is a view, so that picking one for each picture is a single gather.
    windows = padded.unfold(2, height, 1).unfold(3, width, 1)
    shifted = windows[torch.arange(batch, device=obs.device), :, offsets[:, 0], offsets[:, 1]]
    return shifted.contiguous(memory_format=torch.channels_last)


def scaled(obs: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Pixels, uint8 (batch, channels, height, width), as an encoder takes them: in [-0.5, 0.5].

    They lie channels last in memory, on which convolutions are faster.
    """
    return obs.to(dtype, memory_format=torch.channels_last, copy=True).mul_(1.0 / 255.0).sub_(0.5)


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
        """Features (batch, feature_dim), in (-1, 1), of `scaled` pixels (batch, channels, height, width)."""
        # Flattened as it lies in memory, channels last, no number has to move.
        hidden = self.convolutions(obs).permute(0, 2, 3, 1).flatten(1)
        return torch.tanh(self.norm(self.linear(hidden)))


class Critic(nn.Module):
    """Two Q-functions over one encoder; the encoder learns from them alone."""

    def __init__(self, obs_shape: tuple[int, int, int], config: SACConfig) -> None:
        super().__init__()
        self.encoder = Encoder(obs_shape, ENCODERS[config.encoder], config.feature_dim)
        self.q1 = mlp(config.feature_dim + ACTION_DIM, config.hidden_dim, 1)
        self.q2 = mlp(config.feature_dim + ACTION_DIM, config.hidden_dim, 1)
        self.q1.apply(init_weights)
        self.q2.apply(init_weights)

    def forward(
        self, obs: torch.Tensor, actions: torch.Tensor, detach_encoder: bool = False
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Both Q-values, (batch, 1) each, of `scaled` pixels and actions.

        `detach_encoder` keeps gradients from the encoder.
        """
        features = self.encoder(obs)
        return self.q_values(features.detach() if detach_encoder else features, actions)

    def q_values(self, features: torch.Tensor, actions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Both Q-values, (batch, 1) each, of encoded observations and actions."""
        inputs = torch.cat([features, actions], dim=1)
        return self.q1(inputs), self.q2(inputs)


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


class Policy(nn.Module):
    """All that drives: an encoder and an actor.

    Args:
        encoder, actor: the networks to begin with; they are copied.
    """

    def __init__(self, encoder: Encoder, actor: Actor) -> None:
        super().__init__()
        self.encoder = copy.deepcopy(encoder)
        self.actor = copy.deepcopy(actor)
        self.requires_grad_(False)


class CudaGraph:
    """A function of tensors that returns nothing, recorded once as a CUDA graph: one launch where there were hundreds.

    What it changes (parameters, optimisers, sums) it must change in place. The first calls run it as it is, on a stream
    of their own as CUDA asks for, so that everything it allocates once is there when it is recorded.

    Args:
        function: what to record; its tensors must keep their shapes from call to call.
    """

    N_WARM_UPS = 3

    def __init__(self, function: Callable[..., None]) -> None:
        self._function = function
        self._n_calls = 0
        self._inputs: list[torch.Tensor] = []
        self._graph: torch.cuda.CUDAGraph | None = None

    def __call__(self, *inputs: torch.Tensor) -> None:
        self._n_calls += 1
        if self._n_calls <= self.N_WARM_UPS:
            self._warm_up(inputs)
            return
        if self._graph is None:
            self._inputs = [tensor.clone() for tensor in inputs]
            self._graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self._graph):
                self._function(*self._inputs)
        for recorded, given in zip(self._inputs, inputs, strict=True):
            recorded.copy_(given)
        self._graph.replay()

    def _warm_up(self, inputs: tuple[torch.Tensor, ...]) -> None:
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream), warnings.catch_warnings():
            # Adam wonders why it was made for a recording and is not in one yet.
            warnings.filterwarnings("ignore", message=".*capturable=True.*")
            self._function(*inputs)
        torch.cuda.current_stream().wait_stream(stream)


class SACAgent:
    """Soft actor-critic on randomly shifted pictures.

    All randomness is drawn on the CPU from one generator, so an update is a plain function of parameters, batch and
    draws, and the same on every device. Making an agent seeds torch's global generator, which its first weights come
    from, and on a GPU lets torch use TF32 in matrix products.

    Args:
        config: the settings.
        device: where to learn.
        dtype: of parameters and arithmetic.

    Attributes:
        n_updates: updates made so far.
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
            # TF32 in matrix products, as PyTorch has it in convolutions anyway. Not mixed precision: every number is
            # stored as float32.
            torch.set_float32_matmul_precision("high")
        obs_shape = config.view.obs_shape
        self.critic = Critic(obs_shape, config).to(device, dtype)
        self.critic_target = Critic(obs_shape, config).to(device, dtype)
        self.critic_target.load_state_dict(self.critic.state_dict())
        self.critic_target.requires_grad_(False)
        self.actor = Actor(config).to(device, dtype)
        self.average = None if config.averaging_tau == 1.0 else Policy(self.critic.encoder, self.actor)
        self.log_alpha = torch.tensor(math.log(config.init_temperature), device=device, dtype=dtype, requires_grad=True)

        def adam(parameters: Any, learning_rate: float) -> torch.optim.Adam:
            return torch.optim.Adam(parameters, self._rate(learning_rate), fused=True, capturable=self._is_recorded)

        self.critic_optimizer = adam(self.critic.parameters(), config.learning_rate)
        self.actor_optimizer = adam(self.actor.parameters(), config.learning_rate)
        self.alpha_optimizer = adam([self.log_alpha], config.alpha_learning_rate)
        # Sums since the last `pop_metrics`, on the device, and at the end the number of updates in them.
        self._one = torch.ones((), device=device, dtype=dtype)
        self._critic_sums = torch.zeros(len(CRITIC_METRICS) + 1, device=device, dtype=dtype)
        self._actor_sums = torch.zeros(len(ACTOR_METRICS) + 1, device=device, dtype=dtype)
        if config.compile:
            self._compile()

    @property
    def alpha(self) -> torch.Tensor:
        """The temperature: what a nat of entropy is worth in reward."""
        return self.log_alpha.exp()

    def act(self, obs: Frame, deterministic: bool = False) -> NDArray[np.float32]:
        """An action, float32 (action_dim,) in [-1, 1], for an observation, uint8 (channels, height, width)."""
        with torch.no_grad():
            encoder, actor = self.critic.encoder, self.actor
            if deterministic and self.average is not None:
                encoder, actor = self.average.encoder, self.average.actor
            features = encoder(scaled(torch.from_numpy(obs[None]).to(self.device), self.dtype))
            if deterministic:
                action = torch.tanh(actor(features)[0])
            else:
                action, _ = actor.sample(features, self._noise(1))
        return action[0].cpu().numpy().astype(np.float32)

    def random_action(self) -> NDArray[np.float32]:
        """An action, float32 (action_dim,), drawn evenly from [-1, 1]."""
        return (2.0 * torch.rand(ACTION_DIM, generator=self.generator) - 1.0).numpy()

    def update(self, replay: ReplayBuffer) -> None:
        """One step of SAC + DrQ. Nothing in it waits for the GPU; `pop_metrics` tells how it went."""
        config = self.config
        batch = replay.sample(config.batch_size, self.generator)
        # Scaled once for all that look at them: beside a light encoder that is no small part of the work.
        obs, next_obs = (scaled(self._shifted(pixels), self.dtype) for pixels in (batch.obs, batch.next_obs))
        noise, next_noise = self._noise(config.batch_size), self._noise(config.batch_size)
        self.n_updates += 1

        self.update_critic(obs, batch.actions, batch.rewards, next_obs, batch.discounts, next_noise)
        if self.n_updates % config.actor_update_freq == 0:
            self.update_actor_and_alpha(obs, noise)
        if self.n_updates % config.target_update_freq == 0:
            self.update_critic_target()
        if self.average is not None:
            self.update_average()

    def update_critic(
        self,
        obs: torch.Tensor,
        actions: torch.Tensor,
        rewards: torch.Tensor,
        next_obs: torch.Tensor,
        discounts: torch.Tensor,
        next_noise: torch.Tensor,
    ) -> None:
        """Fit both Q-functions, and the encoder with them, to the soft Bellman target. Both `obs` are `scaled`.

        Of a transition of several steps, the target holds the entropy after the last one alone.
        """
        loss, q1, q2 = self._critic_loss(obs, actions, rewards, next_obs, discounts, next_noise)
        self.critic_optimizer.zero_grad()
        loss.backward()
        self.critic_optimizer.step()
        self._critic_sums += torch.stack([loss.detach(), q1.detach().mean(), q2.detach().mean(), self._one])

    def update_actor_and_alpha(self, obs: torch.Tensor, noise: torch.Tensor) -> None:
        """Move the actor towards what the new critic values, and the temperature towards the target entropy.

        `obs` is `scaled`.
        """
        # The encoder has just changed: features from before the critic's step would be of another encoder. No gradient
        # of the actor's reaches it, so one encoding serves the actor and its Q-values alike.
        with torch.no_grad():
            features = self.critic.encoder(obs)
        loss, log_prob = self._actor_loss(features, noise)
        self.actor_optimizer.zero_grad()
        loss.backward(inputs=list(self.actor.parameters()))
        self.actor_optimizer.step()

        entropy = -log_prob.detach().mean()
        alpha_loss = self.alpha * (entropy - self.config.target_entropy)
        self.alpha_optimizer.zero_grad()
        alpha_loss.backward()
        self.alpha_optimizer.step()
        self._actor_sums += torch.stack([loss.detach(), alpha_loss.detach(), entropy, self.alpha.detach(), self._one])

    def update_critic_target(self) -> None:
        """Let the target critic follow: theta' <- tau theta + (1 - tau) theta'."""
        with torch.no_grad():
            torch._foreach_lerp_(list(self.critic_target.parameters()), list(self.critic.parameters()), self.config.tau)

    def update_average(self) -> None:
        """Let the mean of encoder and actor follow them.

        Each of them alone is as noisy as its latest batches (Nikishin et al., "Improving Stability in Deep
        Reinforcement Learning with Weight Averaging", 2018). What is trained takes no notice of it.
        """
        assert self.average is not None
        # At first it spans about the last tenth of all updates, so that it does not drive as the untrained do.
        share = min(max(self.config.averaging_tau, 10.0 / self.n_updates), 1.0)
        latest: list[torch.Tensor] = [*self.critic.encoder.parameters(), *self.actor.parameters()]
        with torch.no_grad():
            torch._foreach_lerp_(list(self.average.parameters()), latest, share)

    def start_from(self, driver: "SACAgent") -> None:
        """Begin with the networks of another agent of the same kind; temperature and optimisers begin anew.

        They are its latest, not their running mean: its critic knows the features of those.
        """
        self.critic.load_state_dict(driver.critic.state_dict())
        self.critic_target.load_state_dict(driver.critic.state_dict())
        self.actor.load_state_dict(driver.actor.state_dict())
        if self.average is not None:
            self.average = Policy(self.critic.encoder, self.actor)

    def set_rates(self, share: float) -> None:
        """Let both of Adam's step sizes be `share` of what the settings say."""
        config = self.config
        rates = (config.learning_rate, config.learning_rate, config.alpha_learning_rate)
        for name, rate in zip(OPTIMIZERS, rates, strict=True):
            for group in getattr(self, name).param_groups:
                if self._is_recorded:
                    group["lr"].fill_(share * rate)
                else:
                    group["lr"] = share * rate

    def pop_metrics(self) -> dict[str, float]:
        """Means over the updates since the last call, by name; empty where there was none. Waits for the GPU."""
        metrics: dict[str, float] = {}
        for names, sums in ((CRITIC_METRICS, self._critic_sums), (ACTOR_METRICS, self._actor_sums)):
            *totals, n_updates = sums.tolist()
            if n_updates:
                metrics |= {name: total / n_updates for name, total in zip(names, totals, strict=True)}
            sums.zero_()
        return metrics

    def is_finite(self) -> bool:
        """Whether every loss since the last `pop_metrics` and every parameter is a finite number. Waits for the GPU."""
        parameters = [parameter for network in self._networks.values() for parameter in network.parameters()]
        numbers = [*parameters, self.log_alpha, self._critic_sums, self._actor_sums]
        return all(bool(torch.isfinite(tensor).all()) for tensor in numbers)

    def state_dict(self) -> dict[str, Any]:
        """All that the rest of the training depends on, for `load_state_dict`; the tensors are the agent's own."""
        return {
            **{name: network.state_dict() for name, network in self._networks.items()},
            **{name: getattr(self, name).state_dict() for name in OPTIMIZERS},
            "log_alpha": self.log_alpha.detach(),
            "n_updates": self.n_updates,
            "generator": self.generator.get_state(),
            "critic_sums": self._critic_sums,
            "actor_sums": self._actor_sums,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Bring an agent of the same settings to where `state_dict` was called.

        Raises:
            KeyError, TypeError, ValueError, RuntimeError: if the state is another's.
        """
        for name, network in self._networks.items():
            network.load_state_dict(state[name])
        for name in OPTIMIZERS:
            optimizer: torch.optim.Adam = getattr(self, name)
            optimizer.load_state_dict(state[name])
            for group in optimizer.param_groups:
                # Whatever these were where the checkpoint was made.
                group["capturable"] = self._is_recorded
                group["lr"] = self._rate(float(group["lr"]))
        with torch.no_grad():
            self.log_alpha.copy_(state["log_alpha"])
        self.n_updates = state["n_updates"]
        self.generator.set_state(state["generator"])
        self._critic_sums.copy_(state["critic_sums"])
        self._actor_sums.copy_(state["actor_sums"])

    @property
    def driving_networks(self) -> dict[str, nn.Module]:
        """What it takes to drive, or to start another training from, by name."""
        return {name: network for name, network in self._networks.items() if name != "critic_target"}

    @property
    def _networks(self) -> dict[str, nn.Module]:
        names = NETWORKS if self.average is None else (*NETWORKS, "average")
        return {name: getattr(self, name) for name in names}

    def _critic_loss(
        self,
        obs: torch.Tensor,
        actions: torch.Tensor,
        rewards: torch.Tensor,
        next_obs: torch.Tensor,
        discounts: torch.Tensor,
        next_noise: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        with torch.no_grad():
            next_actions, next_log_prob = self.actor.sample(self.critic.encoder(next_obs), next_noise)
            target_v = torch.min(*self.critic_target(next_obs, next_actions)) - self.alpha * next_log_prob
            target_q = rewards + discounts * target_v
        q1, q2 = self.critic(obs, actions, detach_encoder=False)
        return F.mse_loss(q1, target_q) + F.mse_loss(q2, target_q), q1, q2

    def _actor_loss(self, features: torch.Tensor, noise: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        actions, log_prob = self.actor.sample(features, noise)
        q = torch.min(*self.critic.q_values(features, actions))
        return (self.alpha.detach() * log_prob - q).mean(), log_prob

    def _compile(self) -> None:
        self._critic_loss = torch.compile(self._critic_loss)  # type: ignore[method-assign]
        self._actor_loss = torch.compile(self._actor_loss)  # type: ignore[method-assign]
        if self._is_recorded:
            self.update_critic = CudaGraph(self.update_critic)  # type: ignore[assignment,method-assign]
            self.update_actor_and_alpha = CudaGraph(self.update_actor_and_alpha)  # type: ignore[assignment,method-assign]
            self.update_critic_target = CudaGraph(self.update_critic_target)  # type: ignore[method-assign]

    def _rate(self, learning_rate: float) -> float | torch.Tensor:
        """A step size for Adam; what is recorded once reads it anew each time if it is a tensor."""
        return torch.tensor(learning_rate, device=self.device) if self._is_recorded else learning_rate

    def _shifted(self, obs: torch.Tensor) -> torch.Tensor:
        pad = self.config.pad
        offsets = torch.randint(2 * pad + 1, (len(obs), 2), generator=self.generator)
        return random_shift(obs, send(offsets, self.device), pad)

    def _noise(self, n: int) -> torch.Tensor:
        return send(torch.randn((n, ACTION_DIM), generator=self.generator).to(self.dtype), self.device)


def make_replay(config: SACConfig, device: torch.device) -> ReplayBuffer:
    """The replay buffer of these settings: on the GPU where it takes less than half of what is free there."""
    obs_shape = config.view.obs_shape
    channels, height, width = obs_shape
    n_frames = ReplayBuffer.ring_length(config.replay_size, config.frame_stack, config.n_step)
    n_bytes = n_frames * channels // config.frame_stack * height * width
    fits = device.type == "cuda" and n_bytes < torch.cuda.mem_get_info(device)[0] // 2
    frames_device = device if fits else torch.device("cpu")
    return ReplayBuffer(
        config.replay_size,
        obs_shape,
        config.frame_stack,
        ACTION_DIM,
        config.n_step,
        config.gamma,
        device,
        frames_device,
    )


def driver_of(agent: SACAgent, deterministic: bool = True) -> Driver:
    """The agent as a driver for scoring: its action for one observation, deterministic (tanh of the mean) or drawn."""
    return lambda obs: agent.act(obs, deterministic)


# What the networks, the pictures that they read and the actions that they mean are made by.
NETWORK_SETTINGS = (
    *("frame_stack", "grayscale", "road_contrast", "brake_dead_zone"),
    *("encoder", "feature_dim", "hidden_dim", "log_std_min", "log_std_max"),
)


def starting_agent(config: SACConfig, checkpoint: Checkpoint) -> SACAgent:
    """The agent of a checkpoint, on the CPU, that a training with these settings is to start from.

    Raises:
        CheckpointError: if there is none in it.
        SettingError: if its networks are others.
    """
    agent = load_agent(checkpoint, torch.device("cpu"))
    check_same_networks(config, checkpoint, NETWORK_SETTINGS)
    return agent


def load_agent(checkpoint: Checkpoint, device: torch.device) -> SACAgent:
    """An agent with the critic and the actor of a checkpoint, able to drive, not to go on with the training.

    Raises:
        CheckpointError: if the checkpoint's settings or parameters do not make an agent.
    """
    try:
        config = replace(as_saved(SACConfig, checkpoint.meta["config"]), compile=False)
        agent = SACAgent(config, device)
        for name, network in agent.driving_networks.items():
            network.load_state_dict(checkpoint.state["agent"][name])
    except Exception as error:  # a stranger's settings and parameters provoke whatever torch raises
        raise CheckpointError(f"{checkpoint.path} does not hold a SAC agent ({in_one_line(error)})") from None
    if not agent.is_finite():
        raise CheckpointError(f"{checkpoint.path} holds a SAC agent whose numbers are not finite")
    return agent


def driver_state(checkpoint: Checkpoint) -> dict[str, Any]:
    """Of a checkpoint's state, what `load_driver` needs.

    Raises:
        CheckpointError: if it is not there.
    """
    agent = load_agent(checkpoint, torch.device("cpu"))
    return {"agent": {name: checkpoint.state["agent"][name] for name in agent.driving_networks}}


def load_driver(
    checkpoint: Checkpoint, device: torch.device, actions: Actions | None = None
) -> tuple[Driver, ViewConfig]:
    """The trained agent of a checkpoint as a driver, and the view that it drives with.

    Args:
        checkpoint: of this agent.
        device: where the agent is to run.
        actions: what it does; None is "mean", the tanh of the Gaussian's mean. What is drawn comes from torch's global
            generator.

    Raises:
        CheckpointError: if the checkpoint's settings or parameters do not make an agent.
        SettingError: for the mode, which nobody has worked out for a squashed Gaussian.
    """
    if actions == "mode":
        raise SettingError(f"--actions mode is a Beta policy's, and {checkpoint.path} holds a SAC agent; take mean")
    agent = load_agent(checkpoint, device)
    agent.generator = torch.default_generator
    return driver_of(agent, deterministic=actions != "sampled"), agent.config.view
