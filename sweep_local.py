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
    results: dict[str, Result] = {}
    running: dict[int, WatchedTrial] = {}
    clock = SweepClock()
    has_stopped = False
    with TrialLines(len(shares)) as lines:
        while True:
            if work.stop.received is not None and not has_stopped:
                has_stopped = True
                for watched in running.values():
                    watched.run.stop()
            for slot, share in enumerate(shares):
                if slot not in running and not has_stopped and (trial := work.source.next()) is not None:
                    running[slot] = WatchedTrial(TrialRun(work.plan, trial, work.directory / trial.name, share))
            if not running:
                return results
            progress = [watched.progress for watched in running.values()]
            if not has_stopped and (line := clock.words(progress, work.source.n_waiting)) is not None:
                work.tell(line)
            for slot, watched in list(running.items()):
                n_failures = len(watched.run.failures)
                result = watched.poll(work.source)
                lines.show(slot, watched)
                if result is None and len(watched.run.failures) > n_failures:
                    work.tell(failure_of(watched.run))
                if result is not None:
                    name = watched.run.trial.name
                    results[name] = result
                    del running[slot]
                    lines.clear(slot)
                    clock.ended(watched.progress, result)
                    work.tell(ending(name, result, watched.progress.latest))
            time.sleep(POLL_INTERVAL_S)


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
