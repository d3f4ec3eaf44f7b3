"""A training run from its command line to its summary, whichever agent it trains.

A script names its agent (`AgentKind`), and gets its command line read and checked (`prepare`), everything around the
agent opened and closed again (`TrainingRun.open`), and its mistakes told in one line (`run_script`).
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NoReturn

import torch
from numpy.typing import NDArray

import checkpoint
from aim_writer import AimTracker
from car_racing import make_env
from checkpoint import Checkpoint, CheckpointError, in_one_line
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
    keep_freed_memory,
    lock_directory,
    python_command,
    resolve_device,
    tell_passed_over,
)
from settings import OneLineParser, SettingError, add_flags, check_complete, fail, from_saved, given
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
        options = from_saved(RunOptions, {"eval_tracks": resumed.meta["eval_tracks"]}, given(RunOptions, namespace))
    resolve_device(options.device)
    directory = choose_checkpoint_dir(options, run_name)
    if options.aim and not options.aim_repo.startswith("aim://"):
        check_writable_directory(Path(options.aim_repo), "--aim-repo")
    return Job(kind, config, options, run_name, directory, resumed, describe_run())


def _resumed_config(kind: AgentKind, resumed: Checkpoint, wishes: dict[str, Any], flag_value: str) -> Any:
    agent = resumed.meta.get("agent")
    if agent != kind.name:
        raise SettingError(f"--resume {flag_value} holds a {agent!r} agent, not a {kind.name} one")
    missing = [key for key in kind.needs if key not in resumed.state]
    if missing:
        raise SettingError(
            f"--resume {flag_value} holds a driver, not a whole training (no {', no '.join(missing)}); "
            f"name the run's directory or one of its steps"
        )
    _check_meta(kind, resumed)
    config: Any = from_saved(kind.config_class, resumed.meta["config"], wishes)
    steps_done, total = resumed.meta["steps"], getattr(config, kind.total)
    # A stop may have called off the last evaluation: then that is what is left to do.
    if steps_done >= total and resumed.meta["evaluated_at"] == steps_done:
        raise SettingError(
            f"--resume {flag_value} has done its {steps_done:,} steps; give a larger --{kind.total.replace('_', '-')}"
        )
    return config


def _check_meta(kind: AgentKind, resumed: Checkpoint) -> None:
    """Raise CheckpointError where a checkpoint does not say of itself what every one of ours says."""
    meta = resumed.meta
    best = meta.get("best")
    counts = [meta.get(key) for key in ("steps", "episodes", "evaluated_at", "eval_tracks")]
    is_whole = (
        all(type(count) is int and count >= 0 for count in counts)
        and isinstance(meta.get("run_name"), str)
        and isinstance(meta.get("config"), dict)
        and isinstance(meta.get("aim_run"), str | None)
        and (best is None or (isinstance(best, dict) and _best_of(best) is not None))
    )
    if not is_whole:
        raise CheckpointError(f"{resumed.path} is no whole {kind.name} checkpoint (its manifest lacks something)")
    try:
        check_complete(kind.config_class, meta["config"])
    except SettingError as error:
        raise CheckpointError(f"{resumed.path} cannot be resumed: {error}") from None


def _best_of(plain: dict[str, Any]) -> BestScore | None:
    """A best score from a manifest, None where it is none."""
    mean, step = plain.get("mean"), plain.get("step")
    return BestScore(mean, step) if isinstance(mean, float) and type(step) is int else None


@contextmanager
def fitting_in_memory(mend: str) -> Iterator[None]:
    """Make something that the settings may have made too large.

    Raises:
        SettingError: if it is, with `mend` as the way out.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        is_too_large = isinstance(error, MemoryError | torch.OutOfMemoryError) or "memory" in str(error)
        if not is_too_large:
            raise
        raise SettingError(f"the agent does not fit in memory ({in_one_line(error)}); {mend}") from None


class DivergedError(RuntimeError):
    """Training has run into numbers that are not finite."""


class TrainingRun:
    """What an agent's training has around it: progress, evaluation, Aim, checkpoints, a clean stop.

    Attributes:
        job: what was asked for.
        steps_in_all: the step at which the training ends.
        device: where the agent learns.
        stop: whether a signal has asked for the end.
        tracker: the Aim run.
        bar: the progress bar.
        evaluator: scores drivers and knows the best so far.
        saved_at: the step of the latest checkpoint, or the one that this run was resumed from; None before the first.
    """

    def __init__(
        self,
        job: Job,
        steps_in_all: int,
        device: torch.device,
        stop: StopSignal,
        tracker: AimTracker,
        bar: ProgressBar,
    ) -> None:
        self.job = job
        self.steps_in_all = steps_in_all
        self.device = device
        self.stop = stop
        self.tracker = tracker
        self.bar = bar
        meta = job.resumed_meta
        self.evaluator = Evaluator(
            make_env(job.config.view), job.options.eval_tracks, _best_in(job.directory), meta.get("evaluated_at", 0)
        )
        self.saved_at: int | None = meta.get("steps")
        self._saved_evaluation: int = meta.get("evaluated_at", 0)
        self._tried_to_save_at = self.saved_at or 0
        self._latest_checkpoint = None if job.resumed is None else job.resumed.path

    @classmethod
    @contextmanager
    def open(cls, job: Job, steps_in_all: int) -> "Iterator[TrainingRun]":
        """The run, from the lock on its directory to its summary on stdout.

        Args:
            job: what was asked for.
            steps_in_all: the step at which the training ends.

        Raises:
            SettingError: if the checkpoint directory cannot be had.
        """
        device = resolve_device(job.options.device)
        if device.type == "cuda":
            torch.cuda.set_device(device)  # streams and recordings are made on the current device
        start = time.perf_counter()
        with lock_directory(job.directory), StopSignal() as stop, _open_tracker(job, device) as tracker:
            if job.resumed is None and checkpoint.holds_run(job.directory):
                # Since it was looked at, another training has been there.
                raise SettingError(f"--checkpoint-dir {job.directory} holds a run by now; name another")
            with ProgressBar(steps_in_all, job.resumed_meta.get("steps", 0), job.config.action_repeat) as bar:
                run = cls(job, steps_in_all, device, stop, tracker, bar)
                yield run
            run_hash = tracker.run_hash
            tracker.close("finished" if stop.received is None else "stopped")
        with suppress(OSError):
            print(run._summary(run_hash, minutes=(time.perf_counter() - start) / 60), flush=True)

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
        except WorkerDiedError:
            raise
        except Exception as error:  # a stranger's file provokes whatever the parts that it is given to raise
            what = in_one_line(error)
            raise CheckpointError(f"{resumed.path} is no whole {self.job.kind.name} checkpoint ({what})") from None
        resumed.state.clear()
        resumed.arrays.clear()

    def is_evaluation_due(self, step: int) -> bool:
        """Whether this is the end, or a multiple of `--eval-freq` has been passed since the last evaluation."""
        every, latest = self.job.options.eval_freq, self.evaluator.latest_step
        return step // every > latest // every or (step >= self.steps_in_all and step != latest)

    def is_checkpoint_due(self, step: int) -> bool:
        """Whether this is the end, or a multiple of `--checkpoint-freq` has been passed since the last one."""
        every = self.job.options.checkpoint_freq
        is_last = step >= self.steps_in_all and not self.is_saved(step, self.evaluator.latest_step)
        return step // every > self._tried_to_save_at // every or is_last

    def is_saved(self, step: int, evaluated_at: int) -> bool:
        """Whether the latest checkpoint is of this step and knows of this evaluation."""
        return (self.saved_at, self._saved_evaluation) == (step, evaluated_at)

    def evaluate(self, driver: Driver, step: int) -> Score | None:
        """Score a driver and say so; `evaluator.is_best` tells whether to keep it. None if a stop called it off."""
        result = self.evaluator.evaluate(driver, step, self.stop)
        if result is not None:
            self.bar.say(f"step {step:,}: {result}{' - the best so far' if self.evaluator.is_best(result) else ''}")
        return result

    def meta(self, step: int, episodes: int) -> dict[str, Any]:
        """What a checkpoint of this moment says of itself."""
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
            "eval_tracks": self.job.options.eval_tracks,
            "aim_run": self.tracker.run_hash or self.job.resumed_meta.get("aim_run"),
            **self.job.provenance,
        }

    def save_best(self, result: Score, meta: dict[str, Any], state: Mapping[str, Any]) -> None:
        """Keep this state as the run's best. A disk that does not take it is said, and training goes on."""
        best = BestScore(result.mean, meta["steps"])
        meta = {**meta, "best": asdict(best)}
        if self._save(meta["steps"], lambda: checkpoint.save(self.job.directory, checkpoint.BEST, meta, state)):
            self.evaluator.best = best

    def save_step(
        self, meta: dict[str, Any], state: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]] | None = None
    ) -> None:
        """Save the checkpoint of a step. A disk that does not take it is said, and training goes on."""
        step = self._tried_to_save_at = meta["steps"]

        def save() -> None:
            self._latest_checkpoint = checkpoint.save_step(self.job.directory, step, meta, state, arrays)

        if self._save(step, save):
            self.saved_at, self._saved_evaluation = step, meta["evaluated_at"]

    def _save(self, step: int, save: Callable[[], object]) -> bool:
        try:
            save()
        except OSError as error:
            kept = "; the one before is whole" if checkpoint.holds_run(self.job.directory) else ""
            self.bar.say(f"The checkpoint at step {step:,} could not be saved ({error}){kept}")
            return False
        return True

    def _summary(self, run_hash: str | None, minutes: float) -> str:
        is_stopped = self.stop.received is not None
        # A stop between two saves of PPO's falls back to the last one.
        steps = self.saved_at if is_stopped and self.saved_at is not None else self.bar.steps
        best, latest = self.evaluator.best, self._latest_checkpoint
        repo = self.job.options.aim_repo
        best_path = self.job.directory / checkpoint.BEST
        lines = [
            f"{'Stopped' if is_stopped else 'Trained'} at {steps:,} steps "
            f"({steps * self.job.config.action_repeat:,} frames) after {minutes:.1f} minutes.",
            f"Last evaluation: {self.evaluator.latest or 'none yet'}",
            "Best evaluation: none yet" if best is None else f"Best evaluation: {best.mean:.1f} at step {best.step:,}",
            f"Checkpoint:      {latest or 'none yet'}" + ("" if best is None else f" (best: {best_path})"),
            f"Aim run:         {run_hash} in {repo}" if run_hash else "Aim run:         none",
        ]
        is_scored_next = self.job.options.score and not is_stopped
        if not is_scored_next and (best is not None or latest is not None):
            to_score = latest if best is None else best_path
            lines.append(f"Score it:        {python_command()} evaluate.py --checkpoint {to_score}")
        if run_hash and not repo.startswith("aim://"):
            lines.append("Watch it:        make ui" + ("" if repo == "." else f" REPO={repo}"))
        if is_stopped and checkpoint.holds_run(self.job.directory):
            lines.append(f"Go on:           {python_command()} {self.job.kind.script} --resume {self.job.directory}")
        return "\n".join(lines)


def run_script(kind: AgentKind, description: str, train: Callable[[Job], int]) -> NoReturn:
    """A training script's whole `main`: read the command line, train, exit with the right code."""
    keep_freed_memory()
    try:
        job = prepare(kind, description, sys.argv[1:])
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)
    except (SettingError, CheckpointError) as error:
        fail(str(error))
    if job.resumed is not None:
        tell_passed_over(job.resumed)
    try:
        code = train(job)
        _leave(_score_best(job.directory) if job.options.score and code == 0 else code)
    except (SettingError, CheckpointError) as error:
        print(f"{kind.script}: {error}", file=sys.stderr)
        _leave(2)
    except RuntimeError as error:
        is_known = isinstance(error, WorkerDiedError | DivergedError | torch.AcceleratorError | torch.OutOfMemoryError)
        # cuBLAS and cuDNN report a lost GPU as plain RuntimeErrors.
        if not is_known and not any(word in str(error) for word in ("CUDA error", "cuDNN error", "CUBLAS")):
            raise
        way_on = f"; go on with --resume {job.directory}" if checkpoint.holds_run(job.directory) else ""
        print(f"{kind.script}: {str(error).splitlines()[0]}{way_on}", file=sys.stderr)
        _leave(1)


def _score_best(directory: Path) -> int:
    """Run `evaluate.py` as the user would, and return its exit code."""
    best = directory / checkpoint.BEST
    command = [sys.executable, str(Path(__file__).with_name("evaluate.py")), "--checkpoint", str(best)]
    outputs = ["--json", str(directory / "score.json"), "--video", str(directory / "drive.mp4")]
    scoring = subprocess.Popen([*command, *outputs])
    # A Ctrl-C in the terminal reaches it too; it puts away what is half done, which takes a moment.
    signal.signal(signal.SIGINT, lambda *_: None)
    signal.signal(signal.SIGTERM, lambda *_: scoring.terminate())
    return scoring.wait()


def _leave(code: int) -> NoReturn:
    """Exit, past whatever Aim may still have running where it has failed."""
    if AimTracker.has_failed:
        with suppress(OSError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def _best_in(directory: Path) -> BestScore | None:
    """The best that a run directory holds. Its own record counts: a step's may be older, or of another directory."""
    best = directory / checkpoint.BEST
    if not (best / checkpoint.MANIFEST).is_file():
        return None
    try:
        found = _best_of(checkpoint.load(best, with_arrays=False).meta["best"])
        if found is not None:
            return found
        problem = f"{best} does not say how good it is"
    except (CheckpointError, KeyError, AttributeError) as error:
        problem = str(error)
    print(f"{problem}; the next evaluation replaces it", file=sys.stderr)
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
