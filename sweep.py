"""Train every combination of settings with every seed, and compare them.

    python sweep.py train_ppo.py --recipe quick --seeds 1-3 --name quick3
    python sweep.py train.py --seeds 1-3 --grid tau=0.01,0.02 --name tau
    python sweep.py --resume tau

What is no flag of the sweep goes to the training script, for every trial. A
trial is a run of that script in a directory of its own. Whatever ends early
goes on where it was.
"""

import startup

if __name__ == "__main__":
    startup.begin()  # before the other imports, which open files and may fail

import sys

from sweep_options import SweepOptions, parsed_command_line

if __name__ == "__main__":
    # A mistake is answered before the imports below, which take seconds.
    parsed_command_line(__doc__ or "", sys.argv[1:])

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path

from tqdm import tqdm

import checkpoint
from checkpoint import CheckpointError
from comparison import Group
from comparison_report import text_comparison, write_comparison
from output_file import check_charts
from process import (
    StopSignal,
    from_here,
    lock_directory,
    mistakes_in_one_line,
    python_command,
    shell_command,
)
from run_history import RunHistory, from_directory
from settings import SettingError
from startup import complain, plural
from sweep_local import run_here
from sweep_plan import PLAN_FILE, Plan, Trial, chosen_trials, load_plan, make_plan, save_plan
from sweep_resources import memory_of, share_machine, useful_cores
from sweep_source import GivenTrials, TrialSource, Work
from sweep_trial import LOG_FILE, Result, is_finished, is_over


@dataclass(frozen=True)
class Engine:
    """What runs trials.

    Attributes:
        n_cores: cores for each trial.
        words: what each trial has.
        run: runs them until each has ended, or a stop was asked for, and tells how each ended.
    """

    n_cores: int
    words: str
    run: Callable[[Work], dict[str, Result]]


def tell(line: str) -> None:
    """Print a line, above those of the running trials."""
    tqdm.write(line, file=sys.stdout)
    sys.stdout.flush()


def source_of(plan: Plan, to_run: Sequence[Trial], directory: Path) -> TrialSource:
    """Where the trials come from: the plan, or a search."""
    if plan.search is None:
        return GivenTrials(to_run)
    from sweep_search import OptunaSearch  # a second, which other sweeps need not pay

    return OptunaSearch(plan, directory)


def groups_of(plan: Plan, directory: Path) -> list[Group]:
    """The finished trials by their settings, in the order of the plan; of a search, the best first.

    A trial that cannot be read is named, and left out.
    """
    runs: dict[str, list[RunHistory]] = {}
    for trial in plan.trials:
        if is_finished(directory / trial.name):
            try:
                runs.setdefault(trial.label, []).append(from_directory(directory / trial.name))
            except CheckpointError as error:
                complain(f"{trial.name} is not in the tables: {error}")
    groups = [Group(label, tuple(found)) for label, found in runs.items() if found]
    return groups if plan.search is None else sorted(groups, key=_best_validation, reverse=True)


def _best_validation(group: Group) -> float:
    return max((run.best.mean_return for run in group.runs if run.best is not None), default=-math.inf)


def best_checkpoints(groups: Sequence[Group]) -> list[str]:
    """For each setting the checkpoint with the best validation, and its score where it has one."""
    lines = []
    for group in groups:
        validated = [run for run in group.runs if run.best is not None]
        if validated:
            run = max(validated, key=lambda one: one.best.mean_return if one.best is not None else 0.0)
            assert run.best is not None
            score = "" if run.score is None else f", score {run.score.mean:.1f}"
            path = from_here(Path(run.name).resolve()) / checkpoint.BEST
            lines.append(f"Best of {group.label}: {path} (validation {run.best.mean_return:.1f}{score})")
    return lines


def report(plan: Plan, directory: Path, results: Mapping[str, Result], flags: Sequence[str]) -> None:
    """Print the tables, write the comparison, and name the trials that failed or are left.

    Args:
        plan: the sweep.
        directory: its directory.
        results: how the trials ended that were begun.
        flags: how the sweep is gone on with: where it is, and where it runs.

    Raises:
        OSError: if a file cannot be written.
    """
    groups = groups_of(plan, directory)
    if groups:
        print(f"\n{text_comparison(groups)}\n")
        print("\n".join(best_checkpoints(groups)))
    for trial in plan.trials:
        result = results.get(trial.name)
        if result is not None and result.state == "failed":
            log = from_here((directory / trial.name / LOG_FILE).resolve())
            print(f"Failed: {trial.name}: {result.reason} (log: {log})")
    n_trials = len(plan.trials) if plan.search is None else plan.search.n_trials
    n_left = n_trials - sum(is_over(directory / trial.name) for trial in plan.trials)
    n_failed = sum(result.state == "failed" for result in results.values())
    if n_left:
        again = shell_command("sweep.py", "--resume", directory.name, *flags)
        how = "When that is mended, go on" if n_failed == n_left else "Go on"
        print(f"{n_left} of {plural(n_trials, 'trial')} {'is' if n_left == 1 else 'are'} not finished. {how}: {again}")
    sys.stdout.flush()
    if groups:
        print(f"Written: {', '.join(map(str, write_comparison(directory, groups)))}", flush=True)


def place_flags(options: SweepOptions) -> list[str]:
    """The flags that say where the sweep is and runs, unless that is the default."""
    directory = [] if options.directory == SweepOptions.directory else ["--directory", options.directory]
    return directory + ([] if options.address is None else ["--address", options.address])


@contextmanager
def here(plan: Plan, n_trials: int, options: SweepOptions) -> Iterator[Engine]:
    """This machine, divided among the trials.

    Raises:
        SettingError: if more is asked of it than it has.
    """
    shares = share_machine(plan, n_trials, options)
    with shares.leased() as each:
        yield Engine(shares.n_cores, str(shares), partial(run_here, each))


@contextmanager
def on_cluster(plan: Plan, options: SweepOptions) -> Iterator[Engine]:
    """A Ray cluster.

    Raises:
        SettingError: if there is none, or no Ray, or none of its nodes has the cores that are asked for.
    """
    assert options.address is not None
    if find_spec("ray") is None:
        raise SettingError(
            f"--address needs Ray; install it: {python_command()} -m pip install -r requirements-ray.txt"
        )
    import sweep_ray

    memory = memory_of(plan)
    with sweep_ray.connected(options.address):
        n_cores = sweep_ray.cores_of_a_trial(plan, options.cores or plan.cores, useful_cores(plan), memory)
        words = sweep_ray.cluster_in_words(n_cores, memory)
        yield Engine(n_cores, words, partial(sweep_ray.run_on_cluster, n_cores, memory))


def run(argv: list[str]) -> int:
    """The whole script, except for how it says what is wrong; the exit code.

    Raises:
        SettingError, CheckpointError: for what is wrong with the command line or with what it names.
        OSError: if a file cannot be written.
    """
    given = parsed_command_line(__doc__ or "", argv)
    options = SweepOptions(**given.sweep)
    check_charts("comparison_charts", "the sweep's curves", "mend matplotlib's settings")
    directory = options.path
    plan = load_plan(directory) if given.script is None else make_plan(options, given)
    if options.plan_only:
        save_plan(plan, directory)
        print(f"Written: {directory / PLAN_FILE}, {plural(len(plan.trials), 'trial')}")
        one = shell_command("sweep.py", "--resume", directory.name, *place_flags(options), "--only", "NUMBER")
        print(f"Run each trial, by its number from 1: {one}", flush=True)
        return 0
    trials = chosen_trials(plan, options.only)
    # The jobs of an array are at work in the same directory.
    lock = nullcontext() if options.only else lock_directory(directory, "--directory", "sweep")
    to_run = [trial for trial in trials if not is_over(directory / trial.name)]
    n_to_run = len(to_run) if plan.search is None else plan.search.n_trials - len(trials) + len(to_run)
    results: dict[str, Result] = {}
    stop_code = 0
    if n_to_run:
        engine = here(plan, n_to_run, options) if options.address is None else on_cluster(plan, options)
        # The signals last: Ray has its own way with them once it is connected.
        with engine as machines, lock, StopSignal() as stop:
            if given.script is not None:
                save_plan(replace(plan, cores=machines.n_cores), directory)
            trials_in_words = f"{plural(n_to_run, 'trial')} of {plan.script}"
            tell(f"{plan.name}: {trials_in_words} to run in {directory}; {machines.words}")
            results = machines.run(Work(plan, directory, source_of(plan, to_run, directory), stop, tell))
            stop_code = stop.exit_code
    if options.only:
        n_finished = sum(is_finished(directory / trial.name) for trial in trials)
        print(f"{n_finished} of {len(trials)} chosen trials are finished.", flush=True)
    else:
        # A search has added trials to the plan.
        report(load_plan(directory), directory, results, place_flags(options))
    return stop_code or int(any(result.state in ("failed", "busy") for result in results.values()))


def main() -> None:
    with mistakes_in_one_line():
        sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
