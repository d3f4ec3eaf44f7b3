"""Updates a second of SAC: ours, its literal version, and Stable-Baselines3's, in one run.

    python -m benchmarks.sac_update [--device cuda] [--compile] [--updates N] [--rounds N]

All three have the same convolutions, features, heads and batch, and learn from the same transitions, each from a replay
buffer of its own kind: ours stores a frame once, the other two whole observations. SB3's is as it comes: an encoder of
its own for the actor, which learns at every update rather than every second one, and no shift. The literal one is the
algorithm of ours, one plain step after another (`references/literal_sac.py`). Returns are of one step, and ours has no
running mean of its parameters, as the others have none. They take turns.
"""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3 import SAC
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import nn

from benchmarks.findings import Figure, Table, benchmark_parser, compared, count, tell
from process import mistakes_in_one_line
from references.literal_sac import LiteralSAC
from replay_buffer import Batch, ReplayBuffer
from run_options import resolve_device
from sac_config import ACTION_DIM, SACConfig
from sac_drq import ENCODERS, SACAgent, make_replay

# The default networks, for a CPU, and DrQ's. The update without what Stable-Baselines3's lacks.
SAME_UPDATE = SACConfig(n_step=1, ema_tau=1.0, encode_once=False)
DRQ = replace(SAME_UPDATE, encoder="drq", hidden_dim=1024, batch_size=128, frame_stack=4)
NETWORKS = (DRQ, SAME_UPDATE)
N_TRANSITIONS = 2_000
EPISODE_STEPS = 200
NOTE = (
    "Stable-Baselines3's SAC is as it comes: its actor has an encoder of its own and learns at every update, not at "
    "every second one, and no picture is shifted. The literal one is our algorithm, one plain step after another."
)


class NaiveReplay:
    """Whole observations, each stored twice, as most replay buffers do."""

    def __init__(self, config: SACConfig, device: torch.device) -> None:
        shape = (config.replay_size, *config.view.obs_shape)
        self.device = device
        self.gamma = config.gamma
        self.size = 0
        self.obs = torch.zeros(shape, dtype=torch.uint8)
        self.next_obs = torch.zeros(shape, dtype=torch.uint8)
        self.actions = torch.zeros((config.replay_size, ACTION_DIM))
        self.rewards = torch.zeros((config.replay_size, 1))
        self.discounts = torch.zeros((config.replay_size, 1))

    def add(self, obs: Any, action: Any, reward: float, next_obs: Any, terminated: bool) -> None:
        i = self.size
        self.obs[i], self.next_obs[i] = torch.from_numpy(obs), torch.from_numpy(next_obs)
        self.actions[i], self.rewards[i] = torch.from_numpy(action), reward
        self.discounts[i] = 0.0 if terminated else self.gamma
        self.size += 1

    def sample(self, batch_size: int, generator: torch.Generator) -> Batch:
        indices = torch.randint(self.size, (batch_size,), generator=generator)
        columns = (self.obs, self.actions, self.rewards, self.next_obs, self.discounts)
        return Batch(*(column[indices].to(self.device) for column in columns))


class PlainEncoder(BaseFeaturesExtractor):
    """The encoder of a `SACConfig` as a user of Stable-Baselines3 would write it."""

    def __init__(self, observation_space: spaces.Box, config: SACConfig) -> None:
        super().__init__(observation_space, config.feature_dim)
        layers: list[nn.Module] = []
        in_channels = observation_space.shape[0]
        for channels, kernel, stride in ENCODERS[config.encoder]:
            layers += [nn.Conv2d(in_channels, channels, kernel, stride), nn.ReLU()]
            in_channels = channels
        convolutions = nn.Sequential(*layers, nn.Flatten())
        with torch.no_grad():
            n_flat = convolutions(torch.zeros(1, *observation_space.shape)).shape[1]
        norm = nn.LayerNorm(config.feature_dim)
        self.layers = nn.Sequential(convolutions, nn.Linear(n_flat, config.feature_dim), norm, nn.Tanh())

    def forward(self, observations: torch.Tensor) -> torch.Tensor:
        return self.layers(observations)


class Spaces(gym.Env):
    """What SB3 wants to know of an environment before it learns from its replay buffer."""

    def __init__(self, config: SACConfig) -> None:
        self.observation_space = spaces.Box(0, 255, config.view.obs_shape, np.uint8)
        self.action_space = spaces.Box(-1.0, 1.0, (ACTION_DIM,), np.float32)


def make_sb3(config: SACConfig, device: torch.device) -> SAC:
    """Stable-Baselines3's SAC with the same encoder, heads and batch."""
    model = SAC(
        "CnnPolicy",
        Spaces(config),
        learning_rate=config.learning_rate,
        buffer_size=config.replay_size,
        batch_size=config.batch_size,
        tau=config.tau,
        gamma=config.gamma,
        target_update_interval=config.target_update_freq,
        target_entropy=config.target_entropy,
        ent_coef=f"auto_{config.init_temperature}",
        policy_kwargs={
            "features_extractor_class": PlainEncoder,
            "features_extractor_kwargs": {"config": config},
            "net_arch": [config.hidden_dim, config.hidden_dim],
        },
        device=device,
        seed=config.seed,
    )
    model.set_logger(Logger(None, []))
    return model


def fill(config: SACConfig, ours: ReplayBuffer, naive: NaiveReplay, sb3: SAC) -> None:
    """The same transitions for all three: random pictures, stacked as the environment stacks them."""
    rng = np.random.default_rng(config.seed)
    shape = config.view.obs_shape
    obs = np.zeros(shape, np.uint8)
    assert sb3.replay_buffer is not None
    for step in range(N_TRANSITIONS):
        if step % EPISODE_STEPS == 0:
            obs = np.repeat(rng.integers(0, 256, (1, *shape[1:]), np.uint8), shape[0], axis=0)
            ours.start_episode(obs)
        next_obs = np.concatenate([obs[1:], rng.integers(0, 256, (1, *shape[1:]), np.uint8)])
        action, reward = rng.uniform(-1, 1, ACTION_DIM).astype(np.float32), float(rng.normal())
        ours.add(action, reward, next_obs, terminated=False)
        naive.add(obs, action, reward, next_obs, terminated=False)
        done, info = np.array([False]), [{"TimeLimit.truncated": False}]
        sb3.replay_buffer.add(obs[None], next_obs[None], action[None], np.array([reward]), done, info)
        obs = next_obs


def rate(update: Callable[[], object], n: int, device: torch.device) -> float:
    """Calls a second, with all that they leave the GPU to do."""
    start = time.perf_counter()
    for _ in range(n):
        update()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return n / (time.perf_counter() - start)


def compare(
    config: SACConfig, device: torch.device, with_compile: bool, n_updates: int, n_rounds: int
) -> Iterator[Table]:
    """The rates of all updates, and those and the sizes of both replay buffers, for one network."""
    agent, replay, naive = SACAgent(config, device), make_replay(config, device), NaiveReplay(config, device)
    literal, sb3 = LiteralSAC(agent), make_sb3(config, device)
    fill(config, replay, naive, sb3)
    updates: dict[str, Callable[[], object]] = {
        "Stable-Baselines3": lambda: sb3.train(gradient_steps=1, batch_size=config.batch_size),
        "literal": lambda: literal.update(naive),
        "ours": lambda: agent.update(replay),
    }
    if with_compile:
        compiled = SACAgent(replace(config, compile=True), device)
        updates["ours, --compile"] = lambda: compiled.update(replay)
    generator = torch.Generator().manual_seed(0)
    samples: dict[str, Callable[[], object]] = {
        "naive replay": lambda: naive.sample(config.batch_size, generator),
        "our replay": lambda: replay.sample(config.batch_size, generator),
    }
    networks = f"{config.encoder} encoder, heads of {config.hidden_dim}, batch of {config.batch_size}, on {device}"
    for unit, group, n in (("updates/s", updates, n_updates), ("batches/s", samples, 20 * n_updates)):
        rates: dict[str, list[float]] = {name: [] for name in group}
        for function in group.values():
            rate(function, 8, device)  # to warm up: compilers, graphs, caches
        for _ in range(n_rounds):
            for name, function in group.items():
                rates[name].append(rate(function, n, device))
        others = [name for name in group if not name.startswith("our")]
        against = {name: others for name in group if name.startswith("our")}
        yield compared(f"{unit.capitalize()}: {networks}", unit, rates, against, NOTE if group is updates else "")
    yield replay_memory(config)


def replay_memory(config: SACConfig) -> Table:
    """The memory of both replay buffers at their default size, by their pictures."""
    n, frame = SACConfig().replay_size, math.prod(config.view.obs_shape[1:])
    naive = 2 * n * config.frame_stack * frame / 1e6
    ours = ReplayBuffer.ring_length(n, config.frame_stack, config.n_step) * frame / 1e6
    figures = [
        Figure("naive replay", [naive], "MB"),
        Figure("our replay", [ours], "MB", {"naive replay": ours / naive}),
    ]
    return Table(
        f"Memory of {n:,} transitions of {config.frame_stack} frames", figures, "By the sizes of the pictures."
    )


def main() -> None:
    parser = benchmark_parser(__doc__)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--compile", action="store_true", help="measure ours with --compile as well")
    parser.add_argument("--updates", type=count, default=10, help="updates in a turn")
    parser.add_argument("--rounds", type=count, default=5, help="turns of each")
    options = parser.parse_args()
    device = resolve_device(options.device)
    tables: list[Table] = []
    for network in NETWORKS:
        config = replace(network, replay_size=N_TRANSITIONS)
        tables += compare(config, device, options.compile, options.updates, options.rounds)
    tell(tables, options.json)


if __name__ == "__main__":
    with mistakes_in_one_line():
        main()
