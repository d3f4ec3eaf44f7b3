"""Load the policy of a checkpoint of any of this project's agents.

A new agent needs one entry in `AGENTS`, and a module with all that `AgentModule` names.
"""

from dataclasses import fields, replace
from typing import Any, Protocol

import torch
from torch import nn

import ppo
import recipe
import sac_drq
from car_racing import ViewConfig
from checkpoint import Checkpoint, CheckpointError
from recipe import Recipe
from scoring import ActionDensity, Actions, Policy


class AgentModule(Protocol):
    """What an agent's module offers for its checkpoints.

    Attributes:
        CONFIG_CLASS: the dataclass of its settings.
        TOTAL: the setting that says how many steps to train for.
    """

    CONFIG_CLASS: type
    TOTAL: str

    def load_policy(
        self, checkpoint: Checkpoint, device: torch.device, actions: Actions | None = None
    ) -> tuple[Policy, ViewConfig]:
        """The policy, and the view that it was trained with; errors as for `policies.load_policy`."""
        ...

    def load_density(self, checkpoint: Checkpoint) -> ActionDensity:
        """The density of the policy's distribution; errors as for `policies.load_density`."""
        ...

    def deterministic_network(self, checkpoint: Checkpoint) -> tuple[nn.Module, ViewConfig]:
        """The policy's deterministic action as a network, and the view; see `policies.deterministic_network`."""
        ...

    def policy_state(self, checkpoint: Checkpoint) -> dict[str, Any]:
        """The part of the checkpoint's state that `load_policy` needs; raises CheckpointError if it is not there."""
        ...


AGENTS: dict[str, AgentModule] = {ppo.AGENT: ppo, sac_drq.AGENT: sac_drq}


def load_policy(
    loaded: Checkpoint, actions: Actions | None = None, device: str | torch.device = "cpu"
) -> tuple[Policy, ViewConfig]:
    """The policy of a checkpoint, and the view that it was trained with.

    Args:
        loaded: a checkpoint of any agent, older ones included.
        actions: which action a stochastic policy takes; None for what the checkpoint's settings say.
        device: where the policy's networks run.

    Raises:
        CheckpointError: if the checkpoint holds no policy of a known agent.
        SettingError: if the agent has no such actions.
    """
    return _agent_of(loaded).load_policy(loaded, torch.device(device), actions)


def load_density(loaded: Checkpoint) -> ActionDensity:
    """The density of the distribution that a checkpoint's policy draws its actions from.

    Raises:
        CheckpointError: if the checkpoint holds no policy of a known agent.
    """
    return _agent_of(loaded).load_density(loaded)


def deterministic_network(loaded: Checkpoint) -> tuple[nn.Module, ViewConfig]:
    """A policy's deterministic action as a network, and the view that the policy was trained with.

    The network takes observations, uint8 (batch, *view.obs_shape), and gives actions, float32 (batch, 3) in [-1, 1].
    It is on the CPU, and its parameters need no gradients.

    Raises:
        CheckpointError: if the checkpoint holds no policy of a known agent.
    """
    return _agent_of(loaded).deterministic_network(loaded)


def policy_only(loaded: Checkpoint) -> Checkpoint:
    """A checkpoint without what only training needs: optimisers, critics that the policy does not use, replay buffer.

    Raises:
        CheckpointError: if the checkpoint holds no policy of a known agent.
    """
    return replace(loaded, state=_agent_of(loaded).policy_state(loaded), arrays={})


def recipe_of(loaded: Checkpoint) -> Recipe:
    """The settings of the run that a checkpoint belongs to, as a recipe.

    Raises:
        CheckpointError: if the checkpoint does not say what they were.
    """
    agent = _agent_of(loaded)
    return recipe.from_checkpoint(loaded, agent.CONFIG_CLASS, agent.TOTAL)


def comments_of(loaded: Checkpoint) -> dict[str, str]:
    """What each setting of a checkpoint's agent is, by its name."""
    return {field.name: field.metadata["help"] for field in fields(_agent_of(loaded).CONFIG_CLASS)}


def _agent_of(loaded: Checkpoint) -> AgentModule:
    agent = loaded.meta.get("agent")
    if not isinstance(agent, str) or agent not in AGENTS:
        raise CheckpointError(f"{loaded.path} holds an unknown agent ({agent!r}); known are {', '.join(AGENTS)}")
    return AGENTS[agent]
