"""A training run from its opened directory to its summary, whichever agent it trains.

A script names its agent (`run_options.AgentSpec`) and gives its training to `run_script`; `TrainingRun` is what every
training has around it.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, NoReturn

import gymnasium as gym
import torch
from numpy.typing import NDArray

import checkpoint
from aim_writer import AimTracker, Picture, chart_name, leave
from car_racing import make_env
from car_racing.vec_env import WorkerDiedError
from checkpoint import Checkpoint, CheckpointError, error_line
from driving_pictures import Trajectory, animation, caption, record, track_map
from film import check_ffmpeg
from paths import is_server, path_from
from process import (
    StopSignal,
    keep_freed_memory,
    lock_directory,
    quoted,
    shell_command,
    show_command,
    tell_other_versions,
    tell_passed_over,
)
from progress_bar import ProgressBar
from progress_file import Progress, write_progress
from run_history import SCORE_FILE, Evaluation, evaluations_of
from run_options import AgentSpec, BestScore, Job, Stage, best_of, prepare, resolve_device
from run_settings import NOT_IN_CHECKPOINTS, RECIPE_OPTIONS, RunOptions
from scoring import NotFiniteError, Policy, Score, TrackResult, drive, score
from settings import SettingError, as_flags, fail
from startup import complain, heard_signals, one_line
from tracks import VALIDATION_TRACKS


class Evaluator:
    """Scores an agent on the first `n_tracks` validation tracks, and knows the best so far.

    Args:
        env: a plain environment from `car_racing.make_env`, without training rules; each stage has its own.
        n_tracks: how many tracks.
        best: the best so far, when a run is resumed.
        latest_step: the step of the latest evaluation, when a run is resumed.
    """

    def __init__(self, env: gym.Env, n_tracks: int, best: BestScore | None, latest_step: int = 0) -> None:
        self.env = env
        self.tracks = VALIDATION_TRACKS[:n_tracks]
        self.best = best
        self.latest: Score | None = None
        self.latest_step = latest_step

    def evaluate(
        self, policy: Policy, step: int, stop: StopSignal, drive_track: Callable[..., TrackResult] = drive
    ) -> Score | None:
        """Score `policy`, each track driven by `drive_track`; None if a stop called it off."""
        result = score(policy, self.env, self.tracks, lambda: stop.received is not None, drive_track)
        if result is not None:
            self.latest, self.latest_step = result, step
        return result

    def is_best(self, result: Score) -> bool:
        """Whether a score is better than the best that was kept."""
        return self.best is None or result.mean > self.best.mean


def evaluation_metrics(result: Score) -> dict[str, float]:
    """A score as the metrics that a tracker plots. Without a finished lap there is no `frames_to_finish`."""
    metrics = {
        "mean_return": result.mean,
        "std_return": result.std,
        "min_return": result.minimum,
        "lap_finish_rate": result.lap_finish_rate,
        "tiles_fraction": result.tiles_fraction,
    }
    if result.frames_to_finish is not None:
        metrics["frames_to_finish"] = result.frames_to_finish
    return {f"eval/{chart_name(name)}": value for name, value in metrics.items()}


def show_driving(tracker: AimTracker, trajectories: Sequence[Trajectory], step: int) -> None:
    """Track the line driven on each track, and what the agent saw on the first of them."""
    maps = [Picture(track_map(one), caption(one.result)) for one in trajectories]
    seen = Picture(animation(trajectories[0]), caption(trajectories[0].result))
    for name, value in (("driven_lines", maps), ("driving", seen)):
        tracker.track(value, name, step, context={"subset": "eval"})


@contextmanager
def fitting_in_memory(mend: str) -> Iterator[None]:
    """Make something that the settings may have made too large.

    Raises:
        SettingError: if it is, with `mend` as the way out.
        torch.OutOfMemoryError: with the same, for a GPU's memory. Another process may hold it just now, so it is no
            mistake of the user's, and a sweep tries again.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        line = f"the agent does not fit in the GPU's free memory ({error_line(error)}); {mend}"
        raise torch.OutOfMemoryError(line) from None
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, MemoryError) and "allocate memory" not in str(error):
            raise
        raise SettingError(f"the agent does not fit in memory ({error_line(error)}); {mend}") from None


class DivergedError(NotFiniteError):
    """Training has run into numbers that are not finite."""


class TrainingRun:
    """What an agent's training has around it: progress, evaluation, Aim, checkpoints, a clean stop.

    Attributes:
        job: what was asked for.
        stage: the stage in progress.
        device: where the agent learns.
        stop: whether a signal has asked for the end.
        tracker: the Aim run.
        bar: the progress bar.
        evaluator: scores policies and knows the best so far.
        saved_at: the step of the latest checkpoint, or the one that this run was resumed from; None before the first.
    """

    def __init__(
        self,
        job: Job,
        device: torch.device,
        stop: StopSignal,
        tracker: AimTracker,
        bar: ProgressBar,
    ) -> None:
        self.job = job
        self.stage = job.first_stage
        self.device = device
        self.stop = stop
        self.tracker = tracker
        self.bar = bar
        meta = job.resumed_meta
        self.evaluator = Evaluator(
            make_env(self.stage.config.view),
            job.options.eval_tracks,
            _best_in(job.directory),
            meta.get("evaluated_at", 0),
        )
        self.saved_at: int | None = meta.get("steps")
        self._saved_evaluation: int = meta.get("evaluated_at", 0)
        self._tried_to_save_at = self.saved_at or 0
        self._latest_checkpoint = None if job.resumed is None else job.resumed.path
        self._evaluations = list(evaluations_of(meta))
        # Earlier versions did not count them, and what is not known is not made up.
        self._minutes_before: float | None = meta.get("minutes", 0.0 if job.resumed is None else None)
        self._started_at = time.perf_counter()
        bar.report = self._write_progress
        self._write_progress()

    @classmethod
    @contextmanager
    def open(cls, job: Job) -> "Iterator[TrainingRun]":
        """The run, from the lock on its directory to its summary on stdout.

        Args:
            job: what was asked for.

        Raises:
            SettingError: if the checkpoint directory cannot be had.
        """
        device = resolve_device(job.options.device)
        if device.type == "cuda":
            torch.cuda.set_device(device)  # streams and recordings are made on the current device
        with lock_directory(job.directory), StopSignal() as stop, _open_tracker(job, device) as tracker:
            if job.resumed is None and checkpoint.holds_run(job.directory):
                # Since it was looked at, another training has been there.
                raise SettingError(f"--checkpoint-dir {job.directory} holds a run by now; name another")
            if _has_gone_on(job):
                raise SettingError(
                    f"--resume {job.options.resume} has gone on since it was read; give the command again"
                )
            steps = job.resumed_meta.get("steps", 0)
            with ProgressBar(
                job.total_steps, steps, job.frames_at, _headline(job, device), job.evaluations_after
            ) as bar:
                run = cls(job, device, stop, tracker, bar)
                yield run
                run._write_progress()
            run_hash = tracker.run_hash
            tracker.close("finished" if stop.received is None else "stopped")
        print(run._summary(run_hash, run._minutes_here), flush=True)

    def stages_to_go(self) -> Iterator[Stage]:
        """The stages from the first one, or the one that is resumed, up to the last, or to a stop."""
        for stage in self.job.stages[self.stage.index :]:
            if self.stop.received is not None:
                return
            if stage is not self.stage:
                self.stage = stage
                self.evaluator.env.close()
                self.evaluator.env = make_env(stage.config.view)
                self.bar.say(f"step {stage.first_step:,}: stage {stage.index + 1} of {len(self.job.stages)} begins")
            yield stage

    def resume(self, restore: Callable[[Checkpoint], None]) -> None:
        """Have a resumed checkpoint restored, if its stage is the one in progress, and free the memory that it takes.

        Raises:
            CheckpointError: if it does not hold what `restore` needs.
        """
        resumed = self.job.resumed
        if resumed is None or self.stage is not self.job.first_stage:
            return
        try:
            restore(resumed)
        except Exception as error:  # a stranger's file provokes whatever the parts that it is given to raise
            if isinstance(error, WorkerDiedError) and error.__cause__ is None:
                raise
            # A worker that lives has handed on what its own environment raised.
            what = error_line(error)
            raise CheckpointError(f"{resumed.path} is no whole {self.job.spec.name} checkpoint ({what})") from None
        resumed.state.clear()
        resumed.arrays.clear()

    def is_evaluation_due(self, step: int) -> bool:
        """Whether this is the end, or a multiple of `--eval-freq` has been passed since the last evaluation."""
        every, latest = self.job.options.eval_freq, self.evaluator.latest_step
        return step // every > latest // every or (step >= self.job.total_steps and step != latest)

    def is_checkpoint_due(self, step: int) -> bool:
        """Whether this is the end, or a multiple of `--checkpoint-freq` has been passed since the last one."""
        every = self.job.options.checkpoint_freq
        is_last = step >= self.job.total_steps and not self.is_saved(step, self.evaluator.latest_step)
        return step // every > self._tried_to_save_at // every or is_last

    def is_saved(self, step: int, evaluated_at: int) -> bool:
        """Whether the latest checkpoint is of this step and knows of this evaluation."""
        return (self.saved_at, self._saved_evaluation) == (step, evaluated_at)

    @property
    def minutes(self) -> float | None:
        """Minutes of training so far, those before a resume too; None where nobody counted those."""
        return None if self._minutes_before is None else self._minutes_before + self._minutes_here

    @property
    def _minutes_here(self) -> float:
        """Minutes of training in this process."""
        return (time.perf_counter() - self._started_at) / 60

    @property
    def exit_code(self) -> int:
        """What a shell expects: 128 + a stop signal's number, 1 where the end could not be saved, else 0."""
        return self.stop.exit_code or int(self.saved_at != self.bar.steps)

    def measure_speed(self, policy: Policy) -> None:
        """Measure the training's speed from here on, and what an evaluation takes by driving one of its tracks."""
        env, track = self.evaluator.env, self.evaluator.tracks[0]
        policy(env.reset(seed=track)[0])  # the first ones take longer
        start = time.perf_counter()
        drive(policy, env, track)
        self.bar.seconds_per_evaluation = len(self.evaluator.tracks) * (time.perf_counter() - start)
        self.bar.measure_from_here()

    def evaluate(self, policy: Policy, step: int) -> Score | None:
        """Score a policy, say so and show it in Aim; `evaluator.is_best` tells whether to keep it.

        None if a stop called it off.
        """
        trajectories: list[Trajectory] = []
        tracks = self.evaluator.tracks
        # Without a run in Aim nobody would see the pictures.
        shows = self.job.options.pictures and self.tracker.run_hash is not None

        def drive_track(policy: Policy, env: gym.Env, track: int) -> TrackResult:
            self.bar.note(f"validation track {tracks.index(track) + 1} of {len(tracks)}")
            if not shows:
                return drive(policy, env, track)
            trajectories.append(record(policy, env, track, keeps_pictures=not trajectories))
            return trajectories[-1].result

        start = time.perf_counter()
        result = self.evaluator.evaluate(policy, step, self.stop, drive_track)
        if trajectories and result is not None:
            show_driving(self.tracker, trajectories, step)
        self.bar.evaluated(time.perf_counter() - start, result is not None)
        self.bar.update(self.bar.steps, None)
        if result is not None:
            self.bar.say(f"step {step:,}: {result}{' - the best so far' if self.evaluator.is_best(result) else ''}")
            self._remember(result, step)
        return result

    def _remember(self, result: Score, step: int) -> None:
        """Add an evaluation to what checkpoints remember of the run."""
        frames, minutes = self.job.frames_at(step), self.minutes
        # A resumed training may evaluate a step once more; the later evaluation counts.
        self._evaluations = [one for one in self._evaluations if one.step < step]
        self._evaluations.append(Evaluation(step, frames, minutes, result.mean, result.minimum, result.lap_finish_rate))
        if minutes is not None:
            self.tracker.track(minutes, "minutes", step, context={"subset": "time"})
        self._write_progress()

    def _write_progress(self) -> None:
        progress = Progress(self.bar.steps, self.job.total_steps, self.bar.seconds_left, tuple(self._evaluations))
        write_progress(self.job.directory, progress)

    def meta(self, step: int, episodes: int) -> dict[str, Any]:
        """What a checkpoint of this moment says of itself."""
        best = self.evaluator.best
        return {
            "agent": self.job.spec.name,
            "run_name": self.job.run_name,
            "recipe": None if self.job.recipe is None else self.job.recipe.as_plain(),
            "config": asdict(self.stage.config),
            "stage": self.stage.index,
            "stages": [asdict(stage.config) for stage in self.job.stages],
            "intervals": {key: getattr(self.job.options, key) for key in RECIPE_OPTIONS},
            "steps": step,
            "total_steps": self.job.total_steps,
            "frames": self.job.frames_at(step),
            "episodes": episodes,
            "best": None if best is None else asdict(best),
            "evaluated_at": self.evaluator.latest_step,
            "evaluations": [asdict(one) for one in self._evaluations],
            "minutes": self.minutes,
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
        except (OSError, MemoryError) as error:
            why = one_line(str(error)) or type(error).__name__
            kept = "; the one before is whole" if checkpoint.holds_run(self.job.directory) else ""
            self.bar.say(f"The checkpoint at step {step:,} could not be saved ({why}){kept}")
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
            f"({self.job.frames_at(steps):,} frames) after {minutes:.1f} minutes.",
            f"Last evaluation: {self._last_evaluation()}",
            "Best evaluation: none yet" if best is None else f"Best evaluation: {best.mean:.1f} at step {best.step:,}",
            f"Checkpoint:      {latest or 'none yet'}" + ("" if best is None else f" (best: {best_path})"),
            f"Aim run:         {run_hash} in {repo}" if run_hash else "Aim run:         none",
        ]
        is_scored_next = self.job.options.score and not is_stopped
        to_score = latest if best is None else best_path
        if not is_scored_next and to_score is not None:
            lines.append(f"Score it:        {shell_command('evaluate.py', '--checkpoint', to_score)}")
        if run_hash and not is_server(repo):
            lines.append(f"Watch it:        {show_command(Path(repo))}")
        if is_stopped and checkpoint.holds_run(self.job.directory):
            lines.append(f"Go on:           {shell_command(self.job.spec.script, *_resuming_flags(self.job))}")
        return "\n".join(lines)

    def _last_evaluation(self) -> str:
        if self.evaluator.latest is not None:
            return str(self.evaluator.latest)
        if not self._evaluations:
            return "none yet"
        # Made before the run was resumed.
        last = self._evaluations[-1]
        return f"{last.mean_return:.1f} at step {last.step:,}"


def _has_gone_on(job: Job) -> bool:
    """Whether a run that is resumed from its newest checkpoint has got a newer one since that was read."""
    if job.resumed is None or job.options.resume is None or job.resumed.passed_over:
        return False
    run = path_from(job.options.resume, "--resume")
    if (run / checkpoint.MANIFEST).is_file():  # a certain checkpoint was asked for
        return False
    steps = checkpoint.whole_steps(run)
    return bool(steps) and steps[0] != job.resumed.path


def _resuming_flags(job: Job) -> list[str | Path]:
    """The command line's words that resume a run as it was run."""
    defaults = RunOptions()
    given = {name: getattr(job.options, name) for name in NOT_IN_CHECKPOINTS}
    others = {name: value for name, value in given.items() if value != getattr(defaults, name)}
    return ["--resume", job.directory, *as_flags(RunOptions, others)]


def _headline(job: Job, device: torch.device) -> str:
    """The run, where it is kept and shown, and the machine and the settings that its speed depends on."""
    machine, options = job.provenance["machine"], job.options
    gpu = machine["gpu"] if device.type == "cuda" else "no GPU in use"
    size = job.spec.size(job.first_stage.config)
    cores = "1 core" if machine["cores"] == 1 else f"{machine['cores']} cores"
    page = options.aim_repo if is_server(options.aim_repo) else show_command(Path(options.aim_repo))
    where = f"{job.total_steps:,} steps, in {job.directory}, {f'Aim: {page}' if options.aim else 'not in Aim'}"
    return one_line(f"{job.run_name}: {where}; {cores} of {machine['processor']}, {gpu}; {size}")


def run_script(spec: AgentSpec, description: str, train: Callable[[Job], int]) -> NoReturn:
    """A training script's whole `main`: read the command line, train, exit with the right code."""
    keep_freed_memory()
    try:
        job = prepare(spec, description, sys.argv[1:])
        if job.options.score:
            check_ffmpeg(".mp4", "--score")
    except (SettingError, CheckpointError) as error:
        fail(str(error))
    if job.resumed is not None:
        tell_passed_over(job.resumed)
        tell_other_versions(job.resumed)
    try:
        code = train(job)
        leave(_score_best(job) if job.options.score and code == 0 else code)
    except (SettingError, CheckpointError) as error:
        complain(str(error))
        leave(2)
    except RuntimeError as error:
        is_known = isinstance(error, WorkerDiedError | NotFiniteError | torch.AcceleratorError | torch.OutOfMemoryError)
        # cuBLAS and cuDNN report a lost GPU as plain RuntimeErrors.
        if not is_known and not any(word in str(error) for word in ("CUDA error", "cuDNN error", "CUBLAS")):
            raise
        flags = " ".join(map(quoted, _resuming_flags(job)))
        way_on = f"; go on with {flags}" if checkpoint.holds_run(job.directory) else ""
        complain(f"{str(error).splitlines()[0]}{way_on}")
        leave(1)


def _score_best(job: Job) -> int:
    """Run `evaluate.py` as the user would, hand stop signals on to it, and return its exit code."""
    directory, options = job.directory, job.options
    here, best = Path(__file__).parent, directory / checkpoint.BEST
    # Where this process is killed, the scoring ends too.
    tied = [sys.executable, "-I", str(here / "end_with_parent.py"), str(os.getpid())]
    command = [sys.executable, str(here / "evaluate.py"), "--checkpoint", str(best)]
    outputs = ["--json", str(directory / SCORE_FILE), "--video", str(directory / "drive.mp4")]
    tracking = [f"--aim-repo={options.aim_repo}"] if options.aim and not is_server(options.aim_repo) else ["--no-aim"]
    scoring = subprocess.Popen([*tied, *command, *outputs, *tracking])
    for number in heard_signals():
        signal.signal(number, lambda received, _: scoring.send_signal(received))
    code = scoring.wait()
    return code if code >= 0 else 128 - code


def _best_in(directory: Path) -> BestScore | None:
    """The best that a run directory holds. Its own record counts: a step's may be older, or of another directory."""
    best = directory / checkpoint.BEST
    if not (best / checkpoint.MANIFEST).is_file():
        return None
    try:
        found = best_of(checkpoint.load(best, with_arrays=False).meta["best"])
        if found is not None:
            return found
        problem = f"{best} does not say how good it is"
    except (CheckpointError, KeyError, AttributeError) as error:
        problem = str(error)
    complain(f"{problem}; the next evaluation replaces it")
    return None


def _open_tracker(job: Job, device: torch.device) -> AimTracker:
    params: dict[str, Any] = {
        "agent": job.spec.name,
        "hparams": asdict(job.stages[0].config),
        "stages": [asdict(stage.config) for stage in job.stages],
        "recipe": None if job.recipe is None else job.recipe.as_plain(),
        "run": {**asdict(job.options), "checkpoint_dir": str(job.directory), "device": str(device)},
        **job.provenance,
    }
    repo = job.options.aim_repo if job.options.aim else None
    return AimTracker(repo, job.run_name, params, job.resumed_meta.get("aim_run"), tags=job.options.tags)
