"""Load the policy of a checkpoint of any of this project's agents.

A new agent needs one entry in `AGENTS`, and a module with the two functions of `AgentModule`.
"""

from dataclasses import replace
from typing import Any, Protocol

import torch

import ppo
import sac_drq
from car_racing import ViewConfig
from checkpoint import Checkpoint, CheckpointError
from scoring import Actions, Policy


class AgentModule(Protocol):
    """What an agent's module offers for its checkpoints."""

    def load_policy(
        self, checkpoint: Checkpoint, device: torch.device, actions: Actions | None = None
    ) -> tuple[Policy, ViewConfig]:
        """The policy, and the view that it was trained with; errors as for `policies.load_policy`."""
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


def policy_only(loaded: Checkpoint) -> Checkpoint:
    """A checkpoint without what only training needs: optimisers, critics that the policy does not use, replay buffer.

    Raises:
        CheckpointError: if the checkpoint holds no policy of a known agent.
    """
    return replace(loaded, state=_agent_of(loaded).policy_state(loaded), arrays={})


def _agent_of(loaded: Checkpoint) -> AgentModule:
    agent = loaded.meta.get("agent")
    if not isinstance(agent, str) or agent not in AGENTS:
        raise CheckpointError(f"{loaded.path} holds an unknown agent ({agent!r}); known are {', '.join(AGENTS)}")
    return AGENTS[agent]
