"""A training run from its command line to its summary, whichever agent it trains.

A script names its agent (`AgentKind`), and gets its command line read and checked (`prepare`), everything around the
agent opened and closed again (`TrainingRun.open`), and its mistakes told in one line (`run_script`).
"""

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NoReturn

import torch
from numpy.typing import NDArray

import checkpoint
from aim_writer import AimTracker
from car_racing import make_env
from checkpoint import Checkpoint, CheckpointError
from scoring import Driver, Score
from session import (
    BestScore,
    Evaluator,
    ProgressBar,
    RunOptions,
    StopSignal,
    check_writable_directory,
    choose_checkpoint_dir,
    default_run_name,
    describe_run,
    lock_directory,
    python_command,
    resolve_device,
)
from settings import OneLineParser, SettingError, add_flags, fail, from_saved, given
from vec_env import WorkerDiedError


@dataclass(frozen=True)
class AgentKind:
    """What a training script must say of its agent before anything runs.

    Attributes:
        name: the agent's name in checkpoints.
        config_class: the dataclass of its settings; has `seed`, `action_repeat` and `view`.
        total: the setting that says how many steps to train for.
        label: what the names of its runs begin with, by its settings.
        script: the script's file.
        needs: what a checkpoint's state must hold for a training to go on with it.
    """

    name: str
    config_class: type
    total: str
    label: Callable[[Any], str]
    script: str
    needs: tuple[str, ...]


@dataclass(frozen=True)
class Job:
    """A training whose every input has been checked, and nothing of which has been created yet."""

    kind: AgentKind
    config: Any
    options: RunOptions
    run_name: str
    directory: Path
    resumed: Checkpoint | None
    provenance: dict[str, Any]

    @property
    def total_steps(self) -> int:
        """Steps that the user asked for."""
        return getattr(self.config, self.kind.total)

    @property
    def resumed_meta(self) -> dict[str, Any]:
        """What the resumed checkpoint says of itself; empty for a new run."""
        return {} if self.resumed is None else self.resumed.meta


def prepare(kind: AgentKind, description: str, argv: list[str]) -> Job:
    """Read and check the command line.

    Raises:
        SettingError, CheckpointError: for the first thing in it that cannot work.
    """
    parser = OneLineParser(description)
    add_flags(parser, kind.config_class)
    add_flags(parser, RunOptions)
    namespace = parser.parse_args(argv)
    wishes = given(kind.config_class, namespace)
    options = RunOptions(**given(RunOptions, namespace))
    config: Any
    if options.resume is None:
        resumed = None
        config = kind.config_class(**wishes)
        run_name = options.run_name or default_run_name(kind.label(config), config.seed)
    else:
        resumed = checkpoint.load(Path(options.resume))
        config = _resumed_config(kind, resumed, wishes, options.resume)
        run_name = options.run_name or resumed.meta["run_name"]
    resolve_device(options.device)
    directory = choose_checkpoint_dir(options, run_name)
    if options.aim and not options.aim_repo.startswith("aim://"):
        check_writable_directory(Path(options.aim_repo), "--aim-repo")
    return Job(kind, config, options, run_name, directory, resumed, describe_run())


def _resumed_config(kind: AgentKind, resumed: Checkpoint, wishes: dict[str, Any], flag_value: str) -> Any:
    agent = resumed.meta.get("agent")
    if agent != kind.name:
        raise SettingError(f"--resume {flag_value} holds a {agent} agent, not a {kind.name} one")
    missing = [key for key in kind.needs if key not in resumed.state]
    if missing:
        raise SettingError(
            f"--resume {flag_value} holds a driver, not a whole training (no {', no '.join(missing)}); "
            f"name the run's directory or one of its steps"
        )
    try:
        config: Any = from_saved(kind.config_class, resumed.meta["config"], wishes)
        steps_done, _ = resumed.meta["steps"] + 0, resumed.meta["run_name"] + ""
    except (KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{resumed.path} is no whole {kind.name} checkpoint ({error!r})") from None
    if steps_done >= getattr(config, kind.total):
        raise SettingError(
            f"--resume {flag_value} has done its {steps_done:,} steps; give a larger --{kind.total.replace('_', '-')}"
        )
    return config


class DivergedError(RuntimeError):
    """Training has run into numbers that are not finite."""


class TrainingRun:
    """What an agent's training has around it: progress, evaluation, Aim, checkpoints, a clean stop.

    Attributes:
        job: what was asked for.
        device: where the agent learns.
        stop: whether a signal has asked for the end.
        tracker: the Aim run.
        bar: the progress bar.
        evaluator: scores drivers and knows the best so far.
        saved_at: the step of the latest checkpoint, or the one that this run was resumed from; None before the first.
    """

    def __init__(self, job: Job, device: torch.device, stop: StopSignal, tracker: AimTracker, bar: ProgressBar) -> None:
        self.job = job
        self.device = device
        self.stop = stop
        self.tracker = tracker
        self.bar = bar
        meta = job.resumed_meta
        self.evaluator = Evaluator(
            make_env(job.config.view), job.options.eval_tracks, _best_in(job.directory), meta.get("evaluated_at", 0)
        )
        self.saved_at: int | None = meta.get("steps")
        self._latest_checkpoint: Path | None = None

    @classmethod
    @contextmanager
    def open(cls, job: Job, steps_in_all: int) -> "Iterator[TrainingRun]":
        """The run, from the lock on its directory to its summary on stdout.

        Args:
            job: what was asked for.
            steps_in_all: where the progress bar ends.

        Raises:
            SettingError: if the checkpoint directory cannot be had.
        """
        device = resolve_device(job.options.device)
        lock_directory(job.directory)
        start = time.perf_counter()
        with StopSignal() as stop, _open_tracker(job, device) as tracker:
            with ProgressBar(steps_in_all, job.resumed_meta.get("steps", 0), job.config.action_repeat) as bar:
                run = cls(job, device, stop, tracker, bar)
                yield run
            run_hash = tracker.run_hash
            tracker.close("finished" if stop.received is None else "stopped")
        print(run._summary(run_hash, minutes=(time.perf_counter() - start) / 60), flush=True)
        if tracker.is_hung:
            os._exit(stop.exit_code)

    def resume(self, restore: Callable[[Checkpoint], None]) -> None:
        """Have a resumed checkpoint restored, if there is one, and let go of what it takes in memory.

        Raises:
            CheckpointError: if it does not hold what `restore` needs.
        """
        resumed = self.job.resumed
        if resumed is None:
            return
        try:
            restore(resumed)
        except (KeyError, TypeError, ValueError, RuntimeError, AttributeError, IndexError) as error:
            what = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
            raise CheckpointError(f"{resumed.path} is no whole {self.job.kind.name} checkpoint ({what})") from None
        resumed.state.clear()
        resumed.arrays.clear()

    def is_evaluation_due(self, step: int) -> bool:
        """Whether a multiple of `--eval-freq` has been passed since the last evaluation."""
        every = self.job.options.eval_freq
        return step // every > self.evaluator.latest_step // every

    def is_checkpoint_due(self, step: int) -> bool:
        """Whether a multiple of `--checkpoint-freq` has been passed since the last checkpoint."""
        every = self.job.options.checkpoint_freq
        return step // every > (self.saved_at or 0) // every

    def evaluate(self, driver: Driver, step: int) -> tuple[Score, bool] | None:
        """Score a driver and say so; also whether it is the best so far. None if a stop called it off."""
        evaluation = self.evaluator.evaluate(driver, step, self.stop)
        if evaluation is not None:
            result, is_best = evaluation
            self.bar.say(f"step {step:,}: {result}{' - the best so far' if is_best else ''}")
        return evaluation

    def save_best(self, step: int, episodes: int, state: Mapping[str, Any]) -> None:
        """Keep this state as the run's best. A disk that does not take it is said, and training goes on."""
        self._save(
            step, lambda: checkpoint.save(self.job.directory, checkpoint.BEST, self._meta(step, episodes), state)
        )

    def save_step(
        self,
        step: int,
        episodes: int,
        state: Mapping[str, Any],
        arrays: Mapping[str, NDArray[Any]] | None = None,
    ) -> None:
        """Save the checkpoint of a step. A disk that does not take it is said, and training goes on."""
        self.saved_at = step

        def save() -> None:
            meta = self._meta(step, episodes)
            self._latest_checkpoint = checkpoint.save_step(self.job.directory, step, meta, state, arrays)

        self._save(step, save)

    def _save(self, step: int, save: Callable[[], object]) -> None:
        try:
            save()
        except OSError as error:
            self.bar.say(f"The checkpoint at step {step:,} could not be saved ({error}); the one before is whole")

    def _meta(self, step: int, episodes: int) -> dict[str, Any]:
        best = self.evaluator.best
        return {
            "agent": self.job.kind.name,
            "run_name": self.job.run_name,
            "config": asdict(self.job.config),
            "steps": step,
            "frames": step * self.job.config.action_repeat,
            "episodes": episodes,
            "best": None if best is None else asdict(best),
            "evaluated_at": self.evaluator.latest_step,
            "aim_run": self.tracker.run_hash or self.job.resumed_meta.get("aim_run"),
            **self.job.provenance,
        }

    def _summary(self, run_hash: str | None, minutes: float) -> str:
        steps = self.bar.steps
        best, latest = self.evaluator.best, self._latest_checkpoint
        repo = self.job.options.aim_repo
        best_path = self.job.directory / checkpoint.BEST
        lines = [
            f"{'Trained' if self.stop.received is None else 'Stopped'} at {steps:,} steps "
            f"({steps * self.job.config.action_repeat:,} frames) after {minutes:.1f} minutes.",
            f"Last evaluation: {self.evaluator.latest or 'none yet'}",
            "Best evaluation: none yet" if best is None else f"Best evaluation: {best.mean:.1f} at step {best.step:,}",
            f"Checkpoint:      {latest or 'none yet'}" + ("" if best is None else f" (best: {best_path})"),
            f"Aim run:         {run_hash} in {repo}" if run_hash else "Aim run:         none",
        ]
        if best is not None or latest is not None:
            to_score = latest if best is None else best_path
            lines.append(f"Score it:        {python_command()} evaluate.py --checkpoint {to_score}")
        if run_hash and not repo.startswith("aim://"):
            lines.append("Watch it:        make ui" + ("" if repo == "." else f" REPO={repo}"))
        if steps < self.job.total_steps and checkpoint.holds_run(self.job.directory):
            lines.append(f"Go on:           {python_command()} {self.job.kind.script} --resume {self.job.directory}")
        return "\n".join(lines)


def run_script(kind: AgentKind, description: str, train: Callable[[Job], int]) -> NoReturn:
    """A training script's whole `main`: read the command line, train, exit with the right code."""
    try:
        job = prepare(kind, description, sys.argv[1:])
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)
    except (SettingError, CheckpointError) as error:
        fail(str(error))
    if job.resumed is not None:
        for line in job.resumed.passed_over:
            print(f"{kind.script}: {line}; going on from {job.resumed.path} instead", file=sys.stderr)
    try:
        sys.exit(train(job))
    except (SettingError, CheckpointError) as error:
        fail(str(error))
    except (WorkerDiedError, DivergedError, torch.AcceleratorError, torch.OutOfMemoryError) as error:
        way_on = f"; go on with --resume {job.directory}" if checkpoint.holds_run(job.directory) else ""
        sys.exit(f"{kind.script}: {str(error).splitlines()[0]}{way_on}")


def _best_in(directory: Path) -> BestScore | None:
    """The best that a run directory holds. Its own record counts: a step's may be older, or of another directory."""
    best = directory / checkpoint.BEST
    if not (best / checkpoint.MANIFEST).is_file():
        return None
    try:
        return BestScore(**checkpoint.load(best, with_arrays=False).meta["best"])
    except (CheckpointError, KeyError, TypeError) as error:
        print(f"{error}; the next evaluation replaces it", file=sys.stderr)
        return None


def _open_tracker(job: Job, device: torch.device) -> AimTracker:
    params: dict[str, Any] = {
        "agent": job.kind.name,
        "hparams": asdict(job.config),
        "run": {**asdict(job.options), "checkpoint_dir": str(job.directory), "device": str(device)},
        **job.provenance,
    }
    repo = job.options.aim_repo if job.options.aim else None
    return AimTracker(repo, job.run_name, params, job.resumed_meta.get("aim_run"))
