"""The progress of a training on stderr: steps, frames, speed, the time left, the latest return."""

import sys
import time
from collections.abc import Callable
from typing import Self

from tqdm import tqdm

# The speed is believed after so many seconds of it. Before that, the time left is not shown.
MEASURE_S = 10.0


class ProgressBar:
    """Steps, frames, frames a second, time left and the latest episode's return, on stderr.

    The time left follows from the mean speed since the training, or the part of it that `measure_from_here` begins,
    has started. Evaluations and checkpoints count. After `MEASURE_S` seconds, one line says how long all of it takes.

    Where stderr is no terminal it is a line every half minute, so that a log file stays readable.

    Args:
        total_steps: the step at which the training ends.
        initial_steps: the step at which it is now.
        frames_at: the frames driven up to a step.
        headline: what that line begins with: the machine and the settings.
    """

    def __init__(
        self, total_steps: int, initial_steps: int, frames_at: Callable[[int], int], headline: str = ""
    ) -> None:
        is_terminal = sys.stderr.isatty()
        self._bar = tqdm(
            total=total_steps,
            initial=initial_steps,
            unit="step",
            mininterval=0.2 if is_terminal else 30.0,
            maxinterval=0.5 if is_terminal else 60.0,
            dynamic_ncols=is_terminal,
            ascii=not is_terminal,
            bar_format="{l_bar}{bar:20}| {n_fmt}/{total_fmt} steps [{elapsed} elapsed{postfix}]",
        )
        self._total_steps = total_steps
        self._frames_at = frames_at
        self._headline = headline
        self._latest_return: float | None = None
        self._steps = initial_steps
        self._measured_from: tuple[float, int] | None = None  # when, and at which step

    @property
    def steps(self) -> int:
        """The steps of the latest update."""
        return self._steps

    def measure_from_here(self) -> None:
        """Forget the speed so far: the steps from here on take another time than those before."""
        self._measured_from = None

    def update(self, steps: int, latest_return: float | None) -> None:
        """Show `steps`, and the return of the episode that ended last if one did."""
        now, n_new, self._steps = time.perf_counter(), steps - self._steps, steps
        if latest_return is not None:
            self._latest_return = latest_return
        if self._measured_from is None:
            self._measured_from = now, steps
        start, first_step = self._measured_from
        seconds = max(now - start, 1e-9)
        frames = self._frames_at(steps)
        left = "?"
        if seconds > MEASURE_S and steps > first_step:
            steps_per_second = (steps - first_step) / seconds
            left = tqdm.format_interval((self._total_steps - steps) / steps_per_second)
            self._tell_once(f"{steps_per_second:,.0f} steps/s, {left} to go")
        frames_per_second = (frames - self._frames_at(first_step)) / seconds
        shown_return = "-" if self._latest_return is None else f"{self._latest_return:.0f}"
        shown = f"{left} left, {frames:,} frames, {frames_per_second:,.0f} frames/s, return {shown_return}"
        self._bar.set_postfix_str(shown, refresh=False)
        self._bar.update(n_new)

    def _tell_once(self, speed: str) -> None:
        if self._headline:
            self.say(f"{self._headline}: {speed}")
            self._headline = ""

    def say(self, line: str) -> None:
        """Print a line above the bar."""
        tqdm.write(line, file=sys.stderr)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()
