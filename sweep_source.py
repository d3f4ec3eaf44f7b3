"""What an engine has to do: which trial of a sweep comes next, and which one is not worth going on with."""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from tqdm import tqdm

from process import StopSignal
from progress_file import Progress, read_progress
from sweep_plan import Plan, Trial
from sweep_trial import Result


class TrialSource(Protocol):
    """Where an engine takes its trials from."""

    @property
    def n_waiting(self) -> int:
        """How many trials `next` has still to give."""

    def next(self) -> Trial | None:
        """The trial to begin or to go on with next; None when there are no more."""

    def is_hopeless(self, trial: Trial, progress: Progress) -> bool:
        """Whether a running trial is to be ended early, asked after each of its evaluations."""

    def ended(self, trial: Trial, result: Result, progress: Progress | None) -> None:
        """Take note of how a trial ended. What a stop ended is gone on with another time."""


class GivenTrials:
    """Trials that are known beforehand, each of which is run to its end.

    Args:
        trials: the trials, in this order.
    """

    def __init__(self, trials: Sequence[Trial]) -> None:
        self._waiting = list(trials)

    @property
    def n_waiting(self) -> int:
        return len(self._waiting)

    def next(self) -> Trial | None:
        return self._waiting.pop(0) if self._waiting else None

    def is_hopeless(self, trial: Trial, progress: Progress) -> bool:  # noqa: ARG002
        return False

    def ended(self, trial: Trial, result: Result, progress: Progress | None) -> None:
        """Nothing depends on it."""


@dataclass(frozen=True)
class Work:
    """What an engine is given.

    Attributes:
        plan: the sweep.
        directory: the sweep's directory.
        source: where the trials come from.
        stop: whether a signal has asked for the end.
        tell: shows a line to the user.
    """

    plan: Plan
    directory: Path
    source: TrialSource
    stop: StopSignal
    tell: Callable[[str], None]


class WatchedProgress:
    """The progress of a trial, as its directory showed it when it was last looked at.

    Args:
        trial: the trial.
        directory: its directory.

    Attributes:
        latest: the progress; None while there is none.
    """

    def __init__(self, trial: Trial, directory: Path) -> None:
        self._trial = trial
        self._directory = directory
        self.latest = read_progress(directory)

    def look(self) -> bool:
        """Look again, and tell whether the trial was evaluated since."""
        before, self.latest = self.latest, read_progress(self._directory)
        n_before = 0 if before is None else len(before.evaluations)
        return self.latest is not None and len(self.latest.evaluations) != n_before

    def is_hopeless(self, source: TrialSource) -> bool:
        """Whether the source ends the trial early."""
        return self.latest is not None and source.is_hopeless(self._trial, self.latest)


class SweepClock:
    """How long a sweep will take, by what its trials are known to take.

    It is said as soon as each running trial knows the speed of its steps, and again whenever a trial has ended. A
    trial that waits is taken to need as long as the others do.
    """

    def __init__(self) -> None:
        self._begun: dict[str, float] = {}
        self._taken: list[float] = []
        self._is_due = True

    def began(self, name: str) -> None:
        """Take note that a trial has begun."""
        self._begun[name] = time.monotonic()

    def ended(self, name: str) -> None:
        """Take note that a trial has ended."""
        self._taken.append(time.monotonic() - self._begun[name])
        self._is_due = True

    def words(self, running: Mapping[str, Progress | None], n_waiting: int) -> str | None:
        """The time left in one line, where it is due and known.

        Args:
            running: the progress of each trial that runs.
            n_waiting: how many are to come.
        """
        left = [None if progress is None else progress.seconds_left for progress in running.values()]
        known = [seconds for seconds in left if seconds is not None]
        if not self._is_due or not known or len(known) < len(left):
            return None
        self._is_due = False
        now = time.monotonic()
        whole = [now - self._begun[name] + seconds for name, seconds in zip(running, known, strict=True)]
        waiting = n_waiting * statistics.fmean(self._taken + whole)
        seconds_left = max((sum(known) + waiting) / len(running), *known)
        n_left = n_waiting + len(running)
        trials = f"{n_left} trial{'s' if n_left > 1 else ''} to end, {len(running)} at a time"
        return f"some {tqdm.format_interval(seconds_left)} left: {trials}"
