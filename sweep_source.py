"""What an engine has to do: which trial of a sweep comes next, and which one is not worth going on with."""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from tqdm import tqdm

from process import StopSignal
from progress_file import Progress, read_progress
from startup import plural
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
        self.latest = self._found = read_progress(directory)
        self._begun_at: float | None = None

    def look(self) -> bool:
        """Look again, and tell whether the trial was evaluated since."""
        before, self.latest = self.latest, read_progress(self._directory)
        # Progress that was there at the start is that of an earlier sitting.
        if self._begun_at is None and self.latest != self._found:
            self._begun_at = time.monotonic()
        n_before = 0 if before is None else len(before.evaluations)
        return self.latest is not None and len(self.latest.evaluations) != n_before

    def is_hopeless(self, source: TrialSource) -> bool:
        """Whether the source ends the trial early."""
        return self.latest is not None and source.is_hopeless(self._trial, self.latest)

    @property
    def seconds_left(self) -> float | None:
        """What the trial says of itself; None until its training has measured its speed in this sitting."""
        return None if self._begun_at is None or self.latest is None else self.latest.seconds_left

    @property
    def whole_seconds(self) -> float | None:
        """What a whole trial takes by this one, of which an earlier sitting may have done a part; None if unknown."""
        if self._begun_at is None or self.latest is None or self.seconds_left is None:
            return None
        n_before = 0 if self._found is None else self._found.steps
        here = time.monotonic() - self._begun_at + self.seconds_left
        return here * self.latest.total_steps / max(self.latest.total_steps - n_before, 1)


class SweepClock:
    """How long a sweep will take, by what its trials are known to take.

    It is said as soon as each running trial knows its speed, and again when that is so after a trial has ended. A trial
    that waits is taken to need as long as the others do.
    """

    def __init__(self) -> None:
        self._taken: list[float] = []
        self._is_due = True

    def ended(self, watched: WatchedProgress, result: Result) -> None:
        """Take note of how a trial ended."""
        self._is_due = True
        if result.state == "finished" and (seconds := watched.whole_seconds) is not None:
            self._taken.append(seconds)

    def words(self, running: Sequence[WatchedProgress], n_waiting: int) -> str | None:
        """The time left in one line, where it is due and known.

        Args:
            running: the trials that run.
            n_waiting: how many are to come.
        """
        left = [seconds for one in running if (seconds := one.seconds_left) is not None]
        whole = [seconds for one in running if (seconds := one.whole_seconds) is not None]
        if not self._is_due or not running or len(left) < len(running):
            return None
        self._is_due = False
        waiting = n_waiting * statistics.fmean(self._taken + whole)
        seconds_left = max((sum(left) + waiting) / len(running), *left)
        n_left = n_waiting + len(running)
        return (
            f"some {tqdm.format_interval(seconds_left)} left: {plural(n_left, 'trial')} to end, "
            f"{len(running)} at a time"
        )
