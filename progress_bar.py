"""Progress on stderr: of a training its steps, time left, frames, speed and latest return; and of tracks driven."""

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Self, TypeVar

from tqdm import tqdm

from startup import plural

T = TypeVar("T")

# The speed is believed after so many seconds of it. Before that, the time left is not shown.
MEASURE_S = 10.0
# Between two lines where stderr is no terminal.
LINE_INTERVAL_S = 30.0


def counted(items: Iterable[T], what: str, total: int) -> Iterator[T]:
    """Hand on one item for each track, and show how many there have been.

    Where stderr is no terminal, it is a plain line every half minute, and one at the end.

    Args:
        items: one for each track, once it is done.
        what: what is done: "scoring".
        total: how many there will be.
    """
    is_terminal = sys.stderr.isatty()
    start = told = time.perf_counter()
    with tqdm(items, what, total, unit="track", dynamic_ncols=True, disable=not is_terminal) as bar:
        for number, item in enumerate(bar, 1):
            now = time.perf_counter()
            if not is_terminal and (now - told >= LINE_INTERVAL_S or number == total):
                told = now
                left = tqdm.format_interval((total - number) * (now - start) / number)
                print(f"{what}: {number} of {plural(total, 'track')}, {left} left", file=sys.stderr)
            yield item


class ProgressBar:
    """Steps, time left, frames, frames a second and the latest episode's return, on stderr.

    The time left is that of the steps to go, at the mean speed since the training, or the part of it that
    `measure_from_here` begins, has started, and that of the evaluations to go. A checkpoint's time counts as the
    steps'. After `MEASURE_S` seconds, one line says how long all of it takes.

    Where stderr is no terminal, it is a plain line every half minute, and one at the end.

    Args:
        total_steps: the step at which the training ends.
        initial_steps: the step at which it is now.
        frames_at: the frames driven up to a step.
        headline: what that line begins with: the machine and the settings.
        evaluations_after: the number of evaluations after a step.

    Attributes:
        seconds_per_evaluation: what an evaluation takes; 0 until something is known.
        seconds_left: as the training goes now; None until its speed is known.
        report: called when the seconds left are known first, and every half minute from then on.
    """

    def __init__(
        self,
        total_steps: int,
        initial_steps: int,
        frames_at: Callable[[int], int],
        headline: str = "",
        evaluations_after: Callable[[int], int] = lambda _: 0,
    ) -> None:
        self._is_terminal = sys.stderr.isatty()
        # Words before the bar: at 80 columns it is the bar that gives way.
        self._bar = tqdm(
            total=total_steps,
            initial=initial_steps,
            disable=not self._is_terminal,
            mininterval=0.2,
            maxinterval=0.5,
            dynamic_ncols=True,
            bar_format="{desc} {bar}",
        )
        self._total_steps = total_steps
        self._frames_at = frames_at
        self._headline = headline
        self._evaluations_after = evaluations_after
        self.seconds_per_evaluation = 0.0
        self._evaluated_s = 0.0  # in evaluations, since the speed is measured
        self._latest_return: float | None = None
        self._steps = initial_steps
        self._measured_from: tuple[float, int] | None = None  # when, and at which step
        self._told = (time.perf_counter(), initial_steps)  # the latest plain line: when, and of which step
        self.seconds_left: float | None = None
        self.report: Callable[[], None] | None = None
        self._reported: float | None = None  # when

    @property
    def steps(self) -> int:
        """The steps of the latest update."""
        return self._steps

    def measure_from_here(self) -> None:
        """Forget the speed so far: the steps from here on take another time than those before."""
        self._measured_from = None
        self._evaluated_s = 0.0

    def evaluated(self, seconds: float, is_whole: bool) -> None:
        """Take note of an evaluation, whose time is not that of steps; a whole one tells what the next will take."""
        if self._measured_from is not None:
            self._evaluated_s += seconds
        if is_whole:
            self.seconds_per_evaluation = seconds

    def update(self, steps: int, latest_return: float | None) -> None:
        """Show `steps`, and the return of the episode that ended last if one did."""
        now, n_new, self._steps = time.perf_counter(), steps - self._steps, steps
        if latest_return is not None:
            self._latest_return = latest_return
        if self._measured_from is None:
            self._measured_from = now, steps
        self._bar.set_description_str(self._status(now), refresh=False)
        self._bar.update(n_new)
        if not self._is_terminal and now - self._told[0] >= LINE_INTERVAL_S:
            self._tell(now)

    def note(self, what: str) -> None:
        """Show what goes on while no steps are taken, until the next update; only at a terminal."""
        self._bar.set_description_str(f"{self._percentage} of {self._total_steps:,} steps, {what}")

    def say(self, line: str) -> None:
        """Print a line above the bar."""
        tqdm.write(line, file=sys.stderr)

    @property
    def _percentage(self) -> str:
        return f"{self._steps / max(self._total_steps, 1):.0%}"

    def _status(self, now: float) -> str:
        """How far the training is, in 80 columns for trainings of up to some million steps."""
        assert self._measured_from is not None
        start, first_step = self._measured_from
        seconds = max(now - start - self._evaluated_s, 1e-9)
        frames = self._frames_at(self._steps)
        left = "00:00" if self._steps >= self._total_steps else "?"
        if seconds > MEASURE_S and self._steps > first_step:
            steps_per_second = (self._steps - first_step) / seconds
            evaluations_s = self._evaluations_after(self._steps) * self.seconds_per_evaluation
            self.seconds_left = (self._total_steps - self._steps) / steps_per_second + evaluations_s
            left = tqdm.format_interval(self.seconds_left)
            if self.report is not None and (self._reported is None or now - self._reported >= LINE_INTERVAL_S):
                self._reported = now
                self.report()
            self._tell_once(f"{steps_per_second:,.0f} steps/s, {left} to go")
        frames_per_second = (frames - self._frames_at(first_step)) / seconds
        shown_return = "-" if self._latest_return is None else f"{self._latest_return:.0f}"
        return (
            f"{self._percentage} of {self._total_steps:,} steps, {left} left, {frames:,} frames, "
            f"{frames_per_second:,.0f} fps, return {shown_return}"
        )

    def _tell(self, now: float) -> None:
        self._told = now, self._steps
        self.say(f"step {self._steps:,}: {self._status(now)}")

    def _tell_once(self, speed: str) -> None:
        if self._headline:
            self.say(f"{self._headline}: {speed}")
            self._headline = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()
        if not self._is_terminal and self._measured_from is not None and self._told[1] != self._steps:
            self._tell(time.perf_counter())
