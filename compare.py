"""Compare runs: learning curves over seeds, scores, and what they took.

    python compare.py checkpoints/a checkpoints/b
    python compare.py 'checkpoints/a_s*=A' 'checkpoints/b_s*=B' --to out
    python compare.py my_run --export csv --to out

A run is its directory, its name or hash in Aim, or a file of scores. Runs with
the same =LABEL are seeds of one setting. A pattern in quotes names several
runs, and is their label where none is given.
"""

import startup

if __name__ == "__main__":
    startup.begin()  # before the other imports, which open files and may fail

from compare_options import CompareOptions, parsed_command_line

if __name__ == "__main__":
    parsed_command_line(__doc__ or "")  # a mistake is answered before the imports below, which take seconds

import fnmatch
import functools
import glob
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from comparison import Group
from comparison_report import text_comparison, write_comparison
from paths import path_from
from process import mistakes_in_one_line
from run_history import RunHistory, from_directory, from_score_file
from settings import SettingError, explicit_flags, shown
from startup import one_line, unwinding_on_stop

if TYPE_CHECKING:
    from aim_reader import TrackedRun

NO_FILE_NAME = re.compile(r"[^\w.+-]")
MAX_STEM = 60


class Finder:
    """Finds the runs that the command line names: on the disk, else in Aim.

    Args:
        repo: directory of the Aim repository.
    """

    def __init__(self, repo: Path) -> None:
        self.repo = repo

    @functools.cached_property
    def tracked(self) -> "list[TrackedRun]":
        """All runs in Aim."""
        from aim_reader import read_runs  # a second and 100 MB, which a comparison of directories need not pay

        return list(read_runs(self.repo))

    def histories(self, pattern: str) -> list[RunHistory]:
        """The runs that a path, a name in Aim or a pattern of either stands for.

        Raises:
            SettingError: if there are none.
            CheckpointError: if one cannot be read.
        """
        found = [history_at(path) for path in paths_of(pattern)] or [run.history() for run in self.in_aim(pattern)]
        if not found:
            raise SettingError(f"{shown(pattern)} {self._nowhere}")
        return found

    def to_export(self, pattern: str) -> "list[TrackedRun]":
        """The runs in Aim that a name or a pattern stands for, or that run directories were tracked in.

        Raises:
            SettingError: if there are none, or a directory's is not there.
            CheckpointError: if a directory cannot be read.
        """
        by_hash = {run.run_hash: run for run in self.tracked}
        found = []
        for path in paths_of(pattern):
            run_hash = from_directory(path).identity if path.is_dir() else ""
            if run_hash not in by_hash:
                raise SettingError(f"{shown(str(path))} was not tracked in {self._place}")
            found.append(by_hash[run_hash])
        found = found or self.in_aim(pattern)
        if not found:
            raise SettingError(f"{shown(pattern)} {self._nowhere}")
        return found

    def in_aim(self, pattern: str) -> "list[TrackedRun]":
        """The runs in Aim by their hash or a pattern of names, by name; of one name, the run evaluated most."""
        matching = (
            run for run in self.tracked if fnmatch.fnmatchcase(run.name, pattern) or pattern in (run.name, run.run_hash)
        )
        by_name = {run.name: run for run in sorted(matching, key=lambda run: len(run.history().evaluations))}
        return [by_name[name] for name in sorted(by_name)]

    @property
    def _place(self) -> str:
        return f"the Aim repository of {self.repo}; --aim-repo names another repository"

    @property
    def _nowhere(self) -> str:
        return f"is neither on the disk nor the name of a run in {self._place}"


def paths_of(pattern: str) -> list[Path]:
    """What there is on the disk of this name or pattern."""
    path = path_from(pattern, "a run")
    return [path] if path.exists() else [Path(name) for name in sorted(glob.glob(str(path)))]  # noqa: PTH207


def history_at(path: Path) -> RunHistory:
    """The run of a directory, a checkpoint or a file of scores.

    Raises:
        CheckpointError: if it cannot be read.
    """
    return from_score_file(path) if path.is_file() else from_directory(path)


def labelled(argument: str) -> tuple[str, str]:
    """A pattern and its label, from RUN or RUN=LABEL. A file may have a = in its name."""
    pattern, equals, label = argument.rpartition("=")
    is_labelled = bool(equals and pattern and label) and not path_from(argument, "a run").exists()
    return (pattern, one_line(label)) if is_labelled else (argument, one_line(argument))


def groups_of(arguments: Sequence[str], finder: Finder) -> list[Group]:
    """The runs on the command line, by label.

    Raises:
        SettingError: if one is not there, or is named twice.
        CheckpointError: if one cannot be read.
    """
    runs: dict[str, list[RunHistory]] = {}
    for pattern, label in map(labelled, arguments):
        runs.setdefault(label, []).extend(finder.histories(pattern))
    named: set[str] = set()
    for run in (run for found in runs.values() for run in found):
        if run.identity in named:
            raise SettingError(f"{shown(run.name)} is named twice; name each run once")
        named.add(run.identity)
    return [Group(label, tuple(found)) for label, found in runs.items()]


def export(kind: str, directory: Path, runs: "Sequence[TrackedRun]") -> None:
    """Write the metrics of each run to a file or directory of its own.

    Raises:
        OSError: if one cannot be written.
    """
    from aim_export import EXPORTS

    for run in runs:
        # A name may hold anything, and several runs may share one.
        name = NO_FILE_NAME.sub("_", run.name)[:MAX_STEM]
        stem = directory / f"{name}-{run.run_hash[:8]}"
        print(f"Written: {EXPORTS[kind](run, stem)}", flush=True)


def run() -> None:
    """The whole script, except for how it says what is wrong.

    Raises:
        SettingError, CheckpointError: for what is wrong with the command line or what it names.
        OSError: if a file cannot be written.
    """
    parsed = parsed_command_line(__doc__ or "")
    options = CompareOptions(**explicit_flags(CompareOptions, parsed))
    if not parsed.runs:
        raise SettingError("no run is named; name directories or runs in Aim: compare.py checkpoints/<run> ...")
    finder = Finder(path_from(options.aim_repo, "--aim-repo"))
    directory = options.directory
    if options.export is not None and directory is not None:
        export(options.export, directory, [run for pattern in parsed.runs for run in finder.to_export(pattern)])
        return
    groups = groups_of(parsed.runs, finder)
    print(text_comparison(groups), flush=True)
    if directory is not None:
        print(f"Written: {', '.join(map(str, write_comparison(directory, groups)))}", flush=True)


def main() -> None:
    # Unfinished files are removed on the way out.
    with mistakes_in_one_line(), unwinding_on_stop():
        run()


if __name__ == "__main__":
    main()
