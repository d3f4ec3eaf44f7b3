"""What each trial of a sweep has of a machine: cores, memory, a GPU; and how many run at a time."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import psutil
import torch

import ppo
import sac_drq
from process import memory_limit
from settings import SettingError
from sweep_options import SweepOptions
from sweep_plan import Plan
from sweep_trial import Share

# Another core helps SAC little: its update is small, and its one environment steps between two of them.
SAC_CORES = 1
# Python, torch, Aim and the evaluation, beside what the settings say (`benchmarks/footprint.py`).
BASE_BYTES = 800_000_000
MIN_MEMORY: dict[str, Callable[[Any], int]] = {"train.py": sac_drq.min_memory, "train_ppo.py": ppo.min_memory}


@dataclass(frozen=True)
class Shares:
    """How a machine is divided.

    Attributes:
        each: what each of the trials that run at a time has.
        memory: bytes that a trial takes at most, by what is known of it.
    """

    each: tuple[Share, ...]
    memory: int

    def __str__(self) -> str:
        cores = len(self.each[0].cores)
        gpus = {share.gpu for share in self.each} - {None}
        on_gpu = f", on {len(gpus)} GPU{'s' if len(gpus) > 1 else ''}" if gpus else ""
        return (
            f"{len(self.each)} at a time, each with {cores} core{'s' if cores > 1 else ''} and some "
            f"{self.memory / 1e9:.1f} GB of memory{on_gpu}"
        )


def memory_of(plan: Plan) -> int:
    """Bytes that the largest trial takes."""
    return BASE_BYTES + max(MIN_MEMORY[plan.script](plan.config_of(trial)) for trial in plan.examples)


def useful_cores(plan: Plan) -> int:
    """How many cores help one trial."""
    return SAC_CORES if plan.script == "train.py" else max(plan.config_of(trial).n_envs for trial in plan.examples)


def share_machine(plan: Plan, n_trials: int, options: SweepOptions) -> Shares:
    """Divide this machine among so many trials, none of which takes another's cores.

    Raises:
        SettingError: if more is asked for than there is.
    """
    cores = sorted(os.sched_getaffinity(0))
    memory = memory_of(plan)
    n_wanted = options.at_once or max(n_trials, 1)
    each = options.cores or plan.cores or min(useful_cores(plan), max(len(cores) // n_wanted, 1))
    if each > len(cores):
        raise SettingError(f"--cores {each}: this machine has {len(cores)}; give fewer")
    if options.at_once is not None and options.at_once * each > len(cores):
        raise SettingError(
            f"--at-once {options.at_once} times --cores {each} is more than this machine's {len(cores)} cores; "
            "give less of one"
        )
    fitting = max(min(psutil.virtual_memory().available, memory_limit()) // memory, 1)
    n_slots = min(n_wanted, max(n_trials, 1), len(cores) // each, options.at_once or fitting)
    n_gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return Shares(
        tuple(
            Share(tuple(cores[slot * each : (slot + 1) * each]), slot % n_gpus if n_gpus else None)
            for slot in range(n_slots)
        ),
        memory,
    )
