"""How far a training is, for programs that watch it: `progress.json` in its directory.

The progress on the terminal is for people, and a checkpoint may be half an hour old. This file is written at the start,
twice a minute, and after every evaluation.
"""

import contextlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path

from output_file import replacing
from run_history import Evaluation, evaluations_of
from settings import MAX_NUMBER

PROGRESS_FILE = "progress.json"


@dataclass(frozen=True)
class Progress:
    """How far a training is.

    Attributes:
        steps: steps taken.
        total_steps: the step at which it ends.
        seconds_left: as it goes now; None in its first seconds.
        evaluations: its validations so far, by step.
    """

    steps: int
    total_steps: int
    seconds_left: float | None
    evaluations: tuple[Evaluation, ...]


def write_progress(directory: Path, progress: Progress) -> None:
    """Write the file of a run's directory. A disk that does not take it costs nothing else."""
    with contextlib.suppress(OSError), replacing(directory / PROGRESS_FILE) as new_path:
        new_path.write_text(json.dumps(asdict(progress)), encoding="utf-8")


def read_progress(directory: Path) -> Progress | None:
    """What the file of a run's directory says; None where there is none, or none of ours."""
    file = directory / PROGRESS_FILE
    try:
        plain = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
        progress = Progress(plain["steps"], plain["total_steps"], plain["seconds_left"], evaluations_of(plain))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    seconds_left = 0.0 if progress.seconds_left is None else progress.seconds_left
    numbers = (progress.steps, progress.total_steps, seconds_left)
    is_ours = all(isinstance(number, int | float) and 0 <= number <= MAX_NUMBER for number in numbers)
    return progress if is_ours else None
