"""List runs and what they came to, and remove checkpoints that are no longer needed.

A run's best checkpoint and its newest ones always stay.
"""

import startup

if __name__ == "__main__":
    startup.begin()  # before the other imports, which open files and may fail

from runs_options import RunsOptions, parsed_flags

if __name__ == "__main__":
    parsed_flags(__doc__ or "")  # a mistake is answered before the imports below, which take seconds

import contextlib
import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import checkpoint
import text_table
from checkpoint import CheckpointError
from paths import path_from
from process import from_here, lock_directory
from run_history import readable_score
from run_options import best_of
from settings import MAX_NUMBER, SettingError, fail, shown
from startup import complain, one_line

HEADER = ("run", "agent", "steps", "best", "score", "laps", "checkpoints", "size")


@dataclass(frozen=True)
class Run:
    """A run's directory.

    Attributes:
        path: the directory.
        steps: the checkpoints of its steps, the newest in front.
        meta: what the newest says of itself, or the best where there is no other.
    """

    path: Path
    steps: Sequence[Path]
    meta: dict[str, Any]

    @property
    def size(self) -> int:
        """Bytes on the disk, scores and films too."""
        return size_of(self.path)


def find_runs(directory: Path) -> list[Run]:
    """The runs at or below a directory, by name.

    Raises:
        SettingError: if there is no such directory.
    """
    if not directory.is_dir():
        raise SettingError(f"--directory {directory} is no directory; name the one that holds the runs")
    checkpoints = (manifest.parent for manifest in directory.rglob(f"*/{checkpoint.MANIFEST}"))
    paths = {
        path.parent for path in checkpoints if path.name == checkpoint.BEST or checkpoint.STEP_NAME.fullmatch(path.name)
    }
    runs = []
    for path in sorted(paths):
        steps = checkpoint.whole_steps(path)
        try:
            runs.append(Run(path, steps, checkpoint.read_meta(steps[0] if steps else path / checkpoint.BEST)))
        except CheckpointError as error:
            complain(str(error))
    return runs


def size_of(path: Path) -> int:
    """Bytes of the files below a directory. Links are not followed, and files that go meanwhile do not count."""
    size = 0
    # Unlike pathlib's walk, this one passes over directories that a training removes while it looks.
    for directory, _, names in os.walk(path):
        for name in names:
            with contextlib.suppress(OSError):
                status = (Path(directory) / name).lstat()
                size += status.st_size if stat.S_ISREG(status.st_mode) else 0
    return size


def row_of(run: Run) -> tuple[str, ...]:
    """A run's line in the list."""
    best = best_of(run.meta.get("best"))
    score = readable_score(run.path)
    steps = run.meta.get("steps")
    is_count = type(steps) is int and 0 <= steps <= MAX_NUMBER
    return (
        one_line(str(from_here(run.path))),
        shown(run.meta.get("agent")),
        f"{steps:,}" if is_count else "-",
        "-" if best is None else f"{best.mean:.1f}",
        "-" if score is None else f"{score.mean:.1f}",
        "-" if score is None else f"{score.lap_finish_rate:.0%}",
        str(len(run.steps)),
        in_bytes(run.size),
    )


def in_bytes(size: int) -> str:
    """A size for people."""
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"


def prune(runs: Sequence[Run], options: RunsOptions) -> None:
    """Remove the older checkpoints, unless the user says no."""
    old = {run.path: list(run.steps[options.keep :]) for run in runs}
    paths = [path for steps in old.values() for path in steps]
    if not paths:
        print("Nothing to remove.", flush=True)
        return
    size = in_bytes(sum(map(size_of, paths)))
    question = f"Remove {len(paths)} checkpoints, {size}? The best and the newest {options.keep} of a run stay. [y/N] "
    if not options.yes and not _is_confirmed(question):
        print("Nothing was removed.", flush=True)
        return
    for directory, steps in old.items():
        try:
            with lock_directory(directory):
                for path in steps:
                    checkpoint.remove(path)
        except SettingError:
            complain(f"{from_here(directory)} is in training; it was left alone")
    left = sum(path.exists() for path in paths)
    print(f"Removed {len(paths) - left} checkpoints.", flush=True)


def _is_confirmed(question: str) -> bool:
    try:
        return input(question).strip().lower() in ("y", "yes")
    except EOFError:  # Ctrl-D, or no terminal
        print(flush=True)
        return False


def main() -> None:
    try:
        options = RunsOptions(**parsed_flags(__doc__ or ""))
        runs = find_runs(path_from(options.directory, "--directory"))
    except SettingError as error:
        fail(str(error))
    if not runs:
        print(f"No runs below {options.directory}.")
        return
    print(text_table.plain([HEADER, *map(row_of, runs)], n_left=2), flush=True)
    if options.prune:
        prune(runs, options)


if __name__ == "__main__":
    main()
