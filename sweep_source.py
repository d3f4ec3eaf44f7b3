"""Which trial of a sweep comes next, and which one is not worth going on with."""

from collections.abc import Sequence
from typing import Protocol

from progress_file import Progress
from sweep_plan import Trial
from sweep_trial import Result


class TrialSource(Protocol):
    """Where an engine takes its trials from."""

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

    def next(self) -> Trial | None:
        return self._waiting.pop(0) if self._waiting else None

    def is_hopeless(self, trial: Trial, progress: Progress) -> bool:  # noqa: ARG002
        return False

    def ended(self, trial: Trial, result: Result, progress: Progress | None) -> None:
        """Nothing depends on it."""
