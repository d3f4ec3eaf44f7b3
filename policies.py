"""From a checkpoint of any of this project's agents to what drives."""

from dataclasses import replace
from typing import Any, Protocol

import torch

import ppo
import sac_drq
from car_racing import ViewConfig
from checkpoint import Checkpoint, CheckpointError
from scoring import Actions, Driver


class _AgentModule(Protocol):
    """What an agent's module offers for its checkpoints."""

    def load_driver(
        self, checkpoint: Checkpoint, device: torch.device, actions: Actions | None = None
    ) -> tuple[Driver, ViewConfig]: ...

    def driver_state(self, checkpoint: Checkpoint) -> dict[str, Any]: ...


AGENTS: dict[str, _AgentModule] = {ppo.AGENT: ppo, sac_drq.AGENT: sac_drq}


def load_driver(
    loaded: Checkpoint, actions: Actions | None = None, device: str | torch.device = "cpu"
) -> tuple[Driver, ViewConfig]:
    """The driver that a checkpoint holds, and the view that it drives with.

    Raises:
        CheckpointError: if there is none in it.
        SettingError: if that agent has no such actions.
    """
    return _agent_of(loaded).load_driver(loaded, torch.device(device), actions)


def driver_only(loaded: Checkpoint) -> Checkpoint:
    """A checkpoint's networks that drive, without what only training needs.

    Raises:
        CheckpointError: if they are not in it.
    """
    return replace(loaded, state=_agent_of(loaded).driver_state(loaded), arrays={})


def _agent_of(loaded: Checkpoint) -> _AgentModule:
    agent = loaded.meta.get("agent")
    if not isinstance(agent, str) or agent not in AGENTS:
        raise CheckpointError(f"{loaded.path} holds an unknown agent ({agent!r}); known are {', '.join(AGENTS)}")
    return AGENTS[agent]
