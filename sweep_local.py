"""The trials of a sweep on this machine, as many at a time as it has room for."""

import sys
import time
from collections.abc import Sequence
from typing import Self

from tqdm import tqdm

from progress_file import Progress
from startup import plural
from sweep_source import SweepClock, TrialSource, WatchedProgress, Work
from sweep_trial import Result, Share, TrialRun

POLL_INTERVAL_S = 0.3
# Between two looks at a trial's progress.
LOOK_INTERVAL_S = 2.0


def run_here(shares: Sequence[Share], work: Work) -> dict[str, Result]:
    """Run trials until there are no more, or a stop was asked for.

    Args:
        shares: what each of the trials has that run at a time.
        work: the sweep.

    Returns:
        How each trial ended that was begun, by its name.
    """
    with TrialLines(len(shares)) as lines:
        trials = LocalTrials(shares, work, lines)
        while True:
            if work.stop.received is not None:
                trials.stop()
            trials.start()
            if not trials.running:
                return trials.results
            trials.tell_time_left()
            for slot in list(trials.running):
                trials.carry_on(slot)
            time.sleep(POLL_INTERVAL_S)


class LocalTrials:
    """The trials of a sweep that run on this machine, and how the others ended.

    Args:
        shares: what each of the trials has that run at a time; a trial's place among them is its slot.
        work: the sweep.
        lines: show how far each trial is.

    Attributes:
        running: the trials that have not ended, by their slots.
        results: how the others ended, by their names.
    """

    def __init__(self, shares: Sequence[Share], work: Work, lines: "TrialLines") -> None:
        self._shares = shares
        self._work = work
        self._lines = lines
        self._clock = SweepClock()
        self._has_stopped = False
        self.running: dict[int, WatchedTrial] = {}
        self.results: dict[str, Result] = {}

    def stop(self) -> None:
        """Ask the running trials for a clean stop, once, and start no more."""
        if self._has_stopped:
            return
        self._has_stopped = True
        for watched in self.running.values():
            watched.run.stop()

    def start(self) -> None:
        """Start a trial in each slot that is free."""
        work = self._work
        for slot, share in enumerate(self._shares):
            if slot not in self.running and not self._has_stopped and (trial := work.source.next()) is not None:
                self.running[slot] = WatchedTrial(TrialRun(work.plan, trial, work.directory / trial.name, share))

    def tell_time_left(self) -> None:
        """Say how long the sweep will take, where there is something new to say and it has not been stopped."""
        progress = [watched.progress for watched in self.running.values()]
        if not self._has_stopped and (line := self._clock.words(progress, self._work.source.n_waiting)) is not None:
            self._work.tell(line)

    def carry_on(self, slot: int) -> None:
        """Look after the trial of a slot, and take its result once it has ended."""
        watched = self.running[slot]
        n_failures = len(watched.run.failures)
        result = watched.poll(self._work.source)
        self._lines.show(slot, watched)
        if result is not None:
            self._end(slot, result)
        elif len(watched.run.failures) > n_failures:
            self._work.tell(failure_of(watched.run))

    def _end(self, slot: int, result: Result) -> None:
        watched = self.running.pop(slot)
        name = watched.run.trial.name
        self.results[name] = result
        self._lines.clear(slot)
        self._clock.ended(watched.progress, result)
        self._work.tell(ending(name, result, watched.progress.latest))


class WatchedTrial:
    """A running trial, and its progress as it was last looked at.

    Args:
        run: the trial.
    """

    def __init__(self, run: TrialRun) -> None:
        self.run = run
        self.progress = WatchedProgress(run.trial, run.directory)
        self._looked_at = time.monotonic()

    def poll(self, source: TrialSource) -> Result | None:
        """Carry it on, and end it early where the source says so; how it ended, once it has."""
        result = self.run.poll()
        now = time.monotonic()
        if result is None and now - self._looked_at < LOOK_INTERVAL_S:
            return None
        self._looked_at = now
        was_evaluated = self.progress.look()
        if result is not None:
            source.ended(self.run.trial, result, self.progress.latest)
        elif was_evaluated and self.progress.is_hopeless(source):
            self.run.stop("pruned")
        return result


def failure_of(run: TrialRun) -> str:
    """Why a trial that goes on has failed, in one line."""
    times = f"{len(run.failures)} of at most {plural(run.plan.retries + 1, 'time')}"
    return f"{run.trial.name}: failed ({times}) and goes on: {run.failures[-1]}"


def ending(name: str, result: Result, progress: Progress | None) -> str:
    """How a trial ended, in one line."""
    if result.state == "failed":
        return f"{name}: given up after {plural(result.attempts, 'attempt')}: {result.reason}"
    if result.state == "busy":
        return f"{name}: left alone, since another process is at work on it"
    return f"{name}: {result.state}{'' if progress is None else ', ' + validation_in_words(progress)}"


def line_of(name: str, progress: Progress | None) -> str:
    """How far a trial is, in one line."""
    if progress is None:
        return f"{name}: starting"
    left = "" if progress.seconds_left is None else f", {tqdm.format_interval(progress.seconds_left)} left"
    done = progress.steps / max(progress.total_steps, 1)
    return f"{name}: {done:.0%}{left}, {validation_in_words(progress)}"


def validation_in_words(progress: Progress) -> str:
    """The latest and the best validation of a trial."""
    if not progress.evaluations:
        return "not validated yet"
    latest = progress.evaluations[-1].mean_return
    best = max(one.mean_return for one in progress.evaluations)
    return f"validation {latest:.1f}, best {best:.1f}"


class TrialLines:
    """A line for each running trial: redrawn at a terminal, and printed when it has changed elsewhere.

    Args:
        n_slots: how many trials run at a time.
    """

    def __init__(self, n_slots: int) -> None:
        self._is_terminal = sys.stderr.isatty()
        self._bars = [
            tqdm(position=slot, bar_format="{desc}", dynamic_ncols=True, leave=False, disable=not self._is_terminal)
            for slot in range(n_slots)
        ]
        self._shown = [""] * n_slots

    def show(self, slot: int, watched: WatchedTrial) -> None:
        """Show a trial's progress, if there is something new."""
        line = line_of(watched.run.trial.name, watched.progress.latest)
        if line != self._shown[slot]:
            self._shown[slot] = line
            self._bars[slot].set_description_str(line)
            if not self._is_terminal:
                print(line, file=sys.stderr, flush=True)

    def clear(self, slot: int) -> None:
        """Take away the line of a trial that has ended."""
        self._bars[slot].set_description_str("")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for bar in self._bars:
            bar.close()
