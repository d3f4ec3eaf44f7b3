"""What every fault of the campaign needs: small trainings, what they come to, and what a fault has led to."""

import math
import os
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch

import checkpoint
from checkpoint import CheckpointError
from tests.helpers import SMALL, TOTAL, Series, read_closed, read_metrics, start

# On top of `helpers.SMALL`: a replay buffer that wraps around late, and environments in several workers.
FLAGS = {
    "train.py": [*SMALL["train.py"], *shlex.split("--learning-starts 50 --replay-size 300 --train-freq 2")],
    "train_ppo.py": [*SMALL["train_ppo.py"], "--n-envs", "3"],
}
INTERVALS = {
    "train.py": "--device cpu --eval-tracks 1 --eval-freq 300 --checkpoint-freq 60",
    "train_ppo.py": "--device cpu --eval-tracks 1 --eval-freq 288 --checkpoint-freq 48",
}
# What is measured with a clock differs from run to run.
CLOCKED = {"fps", "minutes", "updates_per_second"}


@dataclass
class Outcome:
    """What a kind of fault has led to.

    Attributes:
        fault: its name.
        tried: how often it was tried.
        problems: a line for each time that something was lost.
        not_tried: why it could not be tried, if so.
    """

    fault: str
    tried: int = 0
    problems: list[str] = field(default_factory=list)
    not_tried: str = ""

    def check(self, is_well: bool, problem: str) -> None:
        """Count one try."""
        self.tried += 1
        if not is_well:
            self.problems.append(problem)


@dataclass(frozen=True)
class Finished:
    """All of a finished run that must not depend on what happened on the way."""

    meta: dict[str, Any]
    state: dict[str, Any]
    arrays: dict[str, Any]
    best: dict[str, Any]
    series: Series

    @classmethod
    def read(cls, place: Path, run: str = "run") -> "Finished":
        """The run in this directory below `place`, tracked in `place`."""
        last = checkpoint.load(place / run)
        best = checkpoint.load(place / run / checkpoint.BEST)
        series = read_metrics(read_closed(place, last.meta["aim_run"]))
        told = {key: last.meta[key] for key in ("steps", "frames", "episodes", "best", "evaluated_at", "config")}
        evaluations = [{**one, "minutes": None} for one in last.meta["evaluations"]]
        return cls(
            meta={**told, "evaluations": evaluations},
            state=last.state,
            arrays=last.arrays,
            best={"steps": best.meta["steps"], **best.state},
            series={key: points for key, points in series.items() if key[0] not in CLOCKED},
        )

    def differences(self, other: "Finished") -> list[str]:
        """Where two runs are not equal to the last bit."""
        return list(_differences("", vars(self), vars(other)))


def _differences(where: str, a: Any, b: Any) -> Iterator[str]:
    if type(a) is not type(b):
        yield f"{where}: {type(a).__name__} and {type(b).__name__}"
    elif isinstance(a, dict):
        if set(a) != set(b):
            yield f"{where}: {sorted(map(str, set(a) ^ set(b)))} on one side only"
        for key in set(a) & set(b):
            yield from _differences(f"{where}/{key}", a[key], b[key])
    elif isinstance(a, (list, tuple)):
        if len(a) != len(b):
            yield f"{where}: {len(a)} and {len(b)} entries"
        for i, (x, y) in enumerate(zip(a, b, strict=False)):
            yield from _differences(f"{where}/{i}", x, y)
    elif isinstance(a, torch.Tensor):
        if not torch.equal(a, b):
            yield f"{where}: tensors differ"
    elif isinstance(a, np.ndarray):
        if not np.array_equal(a, b):
            yield f"{where}: arrays differ"
    elif a != b and not (isinstance(a, float) and math.isnan(a) and math.isnan(b)):
        yield f"{where}: {a} and {b}"


def begin(script: str, steps: int, place: Path, *more: object, **kwargs: Any) -> psutil.Popen:
    """Start a small training in `place/run`, or go on with it where it has saved anything."""
    place.mkdir(parents=True, exist_ok=True)
    run = place / "run"
    new = [*FLAGS[script], "--checkpoint-dir", "run"]
    which = ["--resume", "run"] if checkpoint.holds_run(run) else new
    return start(script, *which, *INTERVALS[script].split(), TOTAL[script], steps, *more, cwd=place, **kwargs)


def loads(run: Path) -> bool:
    try:
        checkpoint.load(run)
    except CheckpointError:
        return False
    return True


def files_in(directory: Path) -> set[str]:
    # os.walk bears it that a run removes what is being looked at.
    return {str(Path(root, name)) for root, _, names in os.walk(directory) for name in names}


def table(outcomes: list[Outcome]) -> str:
    """Tried, survived and lost of every fault, and what was lost below."""
    lines = [f"{'fault':55} {'tried':>6} {'survived':>9} {'lost':>5}"]
    for outcome in outcomes:
        lost = min(len(outcome.problems), max(outcome.tried, 1))
        counts = f"{outcome.tried:>6} {outcome.tried - lost:>9} {lost:>5}"
        lines.append(f"{outcome.fault:55} {'not tried: ' + outcome.not_tried if outcome.not_tried else counts}")
    lines += [f"LOST {outcome.fault}: {problem}" for outcome in outcomes for problem in outcome.problems]
    return "\n".join(lines)
