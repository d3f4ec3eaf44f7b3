"""The trials of a sweep on this machine, as many at a time as it has room for."""

import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from tqdm import tqdm

from process import StopSignal
from progress_file import Progress, read_progress
from sweep_plan import Plan
from sweep_source import TrialSource
from sweep_trial import Result, Share, TrialRun

POLL_INTERVAL_S = 0.3
# Between two looks at a trial's progress.
LOOK_INTERVAL_S = 2.0


def run_here(
    plan: Plan,
    directory: Path,
    shares: Sequence[Share],
    tell: Callable[[str], None],
    source: TrialSource,
    stop: StopSignal,
) -> dict[str, Result]:
    """Run trials until there are no more, or a stop was asked for.

    Args:
        plan: the sweep.
        directory: the sweep's directory.
        shares: what each of the trials has that run at a time.
        tell: shows a line to the user.
        source: where the trials come from.
        stop: whether a signal has asked for the end.

    Returns:
        How each trial ended that was begun, by its name.
    """
    results: dict[str, Result] = {}
    running: dict[int, WatchedTrial] = {}
    has_stopped = False
    with TrialLines(len(shares)) as lines:
        while True:
            if stop.received is not None and not has_stopped:
                has_stopped = True
                for watched in running.values():
                    watched.run.stop()
            for slot, share in enumerate(shares):
                if slot not in running and not has_stopped and (trial := source.next()) is not None:
                    running[slot] = WatchedTrial(TrialRun(plan, trial, directory / trial.name, share))
            if not running:
                return results
            for slot, watched in list(running.items()):
                result = watched.poll(source)
                lines.show(slot, watched)
                if result is not None:
                    results[watched.run.trial.name] = result
                    del running[slot]
                    lines.clear(slot)
                    tell(ending(watched.run.trial.name, result, watched.progress))
            time.sleep(POLL_INTERVAL_S)


class WatchedTrial:
    """A running trial, and its progress as it was last looked at.

    Args:
        run: the trial.
    """

    def __init__(self, run: TrialRun) -> None:
        self.run = run
        self.progress = read_progress(run.directory)
        self._looked_at = time.monotonic()

    def poll(self, source: TrialSource) -> Result | None:
        """Carry it on, and end it early where the source says so; how it ended, once it has."""
        result = self.run.poll()
        now = time.monotonic()
        if result is None and now - self._looked_at < LOOK_INTERVAL_S:
            return None
        self._looked_at = now
        n_before = 0 if self.progress is None else len(self.progress.evaluations)
        self.progress = read_progress(self.run.directory)
        if result is not None:
            source.ended(self.run.trial, result, self.progress)
            return result
        is_new = self.progress is not None and len(self.progress.evaluations) != n_before
        if self.progress is not None and is_new and source.is_hopeless(self.run.trial, self.progress):
            self.run.stop("pruned")
        return None


def ending(name: str, result: Result, progress: Progress | None) -> str:
    """How a trial ended, in one line."""
    if result.state == "failed":
        return f"{name}: given up after {result.attempts} attempt{'s' if result.attempts > 1 else ''}: {result.reason}"
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
        line = line_of(watched.run.trial.name, watched.progress)
        if line != self._shown[slot]:
            self._shown[slot] = line
            self._bars[slot].set_description_str(line)
            if not self._is_terminal:
                print(line, file=sys.stderr, flush=True)

    def clear(self, slot: int) -> None:
        """Take away the line of a trial that has ended."""
        self._bars[slot].set_description_str("")

    def __enter__(self) -> "TrialLines":
        return self

    def __exit__(self, *_: object) -> None:
        for bar in self._bars:
            bar.close()
