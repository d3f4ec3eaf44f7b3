"""What each trial of a sweep has of a machine: cores, memory, a GPU; and how many run at a time."""

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import psutil
import torch

import ppo
import sac_drq
from core_leases import leased_cores
from process import memory_limit
from settings import SettingError
from startup import plural
from sweep_options import SweepOptions
from sweep_plan import Plan
from sweep_trial import Share

# Another core makes SAC 1.45 times as fast (docs/benchmarks.md), so two trials side by side do more with two cores.
SAC_CORES = 1
# Python, torch, Aim, the evaluation and environment workers, beside what the settings say (`benchmarks/footprint.py`).
BASE_BYTES = 1_000_000_000
MIN_MEMORY: dict[str, Callable[[Any], int]] = {"train.py": sac_drq.min_memory, "train_ppo.py": ppo.min_memory}


@dataclass(frozen=True)
class Shares:
    """How a machine is divided.

    Attributes:
        n_slots: how many trials run at a time.
        n_cores: cores for each.
        memory: bytes that each takes at most, by what is known of it.
        gpus: the GPUs that are dealt out in turn; empty without one.
    """

    n_slots: int
    n_cores: int
    memory: int
    gpus: tuple[str, ...]

    def __str__(self) -> str:
        on_gpu = f", on {plural(len(self.gpus), 'GPU')}" if self.gpus else ""
        return (
            f"{self.n_slots} at a time, each with {plural(self.n_cores, 'core')} and some "
            f"{self.memory / 1e9:.1f} GB of memory{on_gpu}"
        )

    @contextmanager
    def leased(self) -> Iterator[tuple[Share, ...]]:
        """What each of the trials has that run at a time, for as long as this is entered."""
        with ExitStack() as held:
            cores = [held.enter_context(leased_cores(self.n_cores, wait_s=0.0)) for _ in range(self.n_slots)]
            yield tuple(
                Share(mine, self.gpus[slot % len(self.gpus)] if self.gpus else None) for slot, mine in enumerate(cores)
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
    n_slots = min(n_wanted, max(n_trials, 1), len(cores) // each, options.at_once or int(fitting))
    return Shares(n_slots, each, memory, _gpus() if plan.takes_gpu else ())


def _gpus() -> tuple[str, ...]:
    """The GPUs that this process sees, as CUDA_VISIBLE_DEVICES names them."""
    if not torch.cuda.is_available():
        return ()
    named = [name.strip() for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    return tuple(named or map(str, range(torch.cuda.device_count())))
