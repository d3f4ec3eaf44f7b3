"""Small trainings of both scripts: in this process, or stopped at a chosen step."""

import os
import signal
import sys
from types import ModuleType
from typing import Any

import pytest

import train
import train_ppo
import training_run
from progress_bar import ProgressBar
from run_options import AgentSpec, Job, prepare
from tests.helpers import SMALL, TOTAL
from training_run import TrainingRun

MODULES: dict[str, ModuleType] = {"train.py": train, "train_ppo.py": train_ppo}
SCRIPTS = tuple(MODULES)
# With few steps, an episode of many frames would not end within them.
GAME = ["--action-repeat", "10", "--max-idle-frames", "30", "--seed", "3", "--device", "cpu"]
FLAGS = {script: [*SMALL[script], *GAME] for script in SCRIPTS}


def spec_of(script: str) -> AgentSpec:
    """What the script says of its agent."""
    spec: AgentSpec = MODULES[script].SPEC
    return spec


def prepared(script: str, *argv: object) -> Job:
    """The job that a command line asks for."""
    return prepare(spec_of(script), MODULES[script].__doc__ or "", [str(arg) for arg in argv])


def train_small(script: str, steps: int, *argv: object) -> int:
    """Train in this process and directory for so many steps, evaluated on one track; the exit code."""
    job = prepared(script, *FLAGS[script], TOTAL[script], steps, "--eval-tracks", 1, *argv)
    code: int = MODULES[script].train(job)
    return code


def resume(script: str, *argv: object) -> int:
    """Go on in this process with the run of a directory; the exit code."""
    code: int = MODULES[script].train(prepared(script, "--resume", *argv))
    return code


def exit_code_of(script: str, monkeypatch: pytest.MonkeyPatch, *argv: object) -> Any:
    """The script's `main` in this process; what it exits with."""
    monkeypatch.setattr(sys, "argv", [script, *map(str, argv)])
    with pytest.raises(SystemExit) as exit_:
        MODULES[script].main()
    return exit_.value.code


def ask_for_a_stop() -> None:
    """The signal that a service manager sends, to this process."""
    os.kill(os.getpid(), signal.SIGTERM)


def stop_in_step(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """Have a training stopped as soon as this step is taken; for PPO that is in the middle of a rollout."""
    is_stopped = []

    class Stopping(ProgressBar):
        def update(self, steps: int, latest_return: float | None) -> None:
            super().update(steps, latest_return)
            if steps >= step and not is_stopped:
                is_stopped.append(True)
                ask_for_a_stop()

    monkeypatch.setattr(training_run, "ProgressBar", Stopping)


def stop_after_update(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """Have a training stopped where it looks whether to save the checkpoint of this step, after its update."""
    real, is_stopped = TrainingRun.is_checkpoint_due, []

    def is_checkpoint_due(self: TrainingRun, at: int) -> bool:
        if at == step and not is_stopped:
            is_stopped.append(True)
            ask_for_a_stop()
        return real(self, at)

    monkeypatch.setattr(TrainingRun, "is_checkpoint_due", is_checkpoint_due)
