"""What every training run has, whichever agent it trains: options, device, progress, evaluation, a clean stop.

Nothing here knows PPO or SAC; the training scripts wire these parts to their agents.
"""

import contextlib
import ctypes
import fcntl
import os
import platform
import random
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from types import FrameType
from typing import Any, Self

import gymnasium as gym
import numpy as np
import psutil
import torch
from tqdm import tqdm

import checkpoint
from scoring import VALIDATION_TRACKS, Driver, Score, score
from settings import SettingError, check_settings, setting

PACKAGES = ("torch", "numpy", "gymnasium", "stable-baselines3", "opencv-python-headless", "aim")


@dataclass(frozen=True)
class RunOptions:
    """The run

    Raises:
        SettingError: if an option is out of its range.
    """

    checkpoint_dir: str | None = setting(
        None, "directory for this run's checkpoints [checkpoints/<run name>]", may_change=True
    )
    run_name: str | None = setting(None, "the run's name in Aim [agent, seed and time]", may_change=True)
    device: str = setting("auto", "auto takes CUDA where there is one; or cpu, cuda, cuda:1", may_change=True)
    resume: str | None = setting(
        None, "go on from this checkpoint, or from the newest in this checkpoint directory", may_change=True
    )
    eval_freq: int = setting(25_000, "steps between two evaluations", minimum=1, may_change=True)
    eval_tracks: int = setting(
        8, "validation tracks that an evaluation drives", minimum=1, maximum=len(VALIDATION_TRACKS)
    )
    checkpoint_freq: int = setting(25_000, "steps between two checkpoints", minimum=1, may_change=True)
    score: bool = setting(
        False,
        "at the end, score the best on the 100 unseen tracks and film it: score.json, drive.mp4 among the checkpoints",
        may_change=True,
    )
    aim_repo: str = setting(".", "directory of the Aim repository, or aim://host:port", may_change=True)
    aim: bool = setting(True, "do not track this run in Aim", may_change=True)

    def __post_init__(self) -> None:
        check_settings(self)


def resolve_device(name: str) -> torch.device:
    """The torch device that `--device` means.

    Raises:
        SettingError: for a name that torch does not know or a device that this machine does not have.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise SettingError(f"--device {name} is no device; give auto, cpu, cuda or cuda:<number>") from None
    if device.type not in ("cpu", "cuda"):
        raise SettingError(f"--device {name} is not supported; give auto, cpu, cuda or cuda:<number>")
    if device.type == "cuda" and not 0 <= (device.index or 0) < torch.cuda.device_count():
        raise SettingError(
            f"--device {name}: this machine has {torch.cuda.device_count()} CUDA devices that torch can use; "
            f"give --device cpu or auto"
        )
    return device


def check_writable_directory(path: Path, flag: str) -> None:
    """Make sure, without creating anything, that files can be written in a directory that may not exist yet.

    Raises:
        SettingError: if they cannot.
    """
    existing = path.absolute()
    try:
        while not existing.exists():
            existing = existing.parent
    except OSError as error:
        raise SettingError(f"{flag} {path} cannot be used ({error.strerror}); name another place") from None
    if not existing.is_dir():
        raise SettingError(f"{flag} {path}: {existing} is a file, not a directory; name another place")
    # /proc and /sys let root pass every permission check and still take no directory.
    is_virtual = existing.is_relative_to("/proc") or existing.is_relative_to("/sys")
    if is_virtual or not os.access(existing, os.W_OK | os.X_OK):
        raise SettingError(f"{flag} {path}: {existing} cannot be written to; name another place")


def choose_checkpoint_dir(options: RunOptions, run_name: str) -> Path:
    """Where this run's checkpoints go.

    A resumed run goes on where it was, unless `--checkpoint-dir` says otherwise.

    Raises:
        SettingError: if it cannot be written to, or holds another run already.
    """
    resumed = None if options.resume is None else checkpoint.find_run(Path(options.resume).resolve())
    if options.checkpoint_dir is not None:
        directory = Path(options.checkpoint_dir)
    elif resumed is not None:
        directory = _from_here(resumed)
    else:
        directory = Path("checkpoints") / run_name
    check_writable_directory(directory, "--checkpoint-dir")
    holds_any = checkpoint.holds_run(directory) or (directory / checkpoint.BEST / checkpoint.MANIFEST).exists()
    if holds_any and directory.resolve() != resumed:
        raise SettingError(
            f"--checkpoint-dir {directory} holds a run already; go on with it (--resume {directory}) or name another"
        )
    return directory


def tell_passed_over(loaded: checkpoint.Checkpoint) -> None:
    """Name on stderr each newer checkpoint of the run that was too damaged to take."""
    for line in loaded.passed_over:
        print(f"{Path(sys.argv[0]).name}: {line}; {loaded.path} is taken instead", file=sys.stderr)


@contextlib.contextmanager
def lock_directory(directory: Path) -> Iterator[None]:
    """Make a run's checkpoint directory and hold it for this process. However the process ends, the lock goes with it.

    Raises:
        SettingError: if another training holds it, or it cannot be made.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        fd = os.open(directory, os.O_RDONLY)
    except OSError as error:
        raise SettingError(f"--checkpoint-dir {directory} cannot be used ({error.strerror}); name another") from None
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise SettingError(
                f"--checkpoint-dir {directory} is in use by another training; stop it or name another"
            ) from None
        yield
    finally:
        os.close(fd)


def describe_run() -> dict[str, Any]:
    """Versions, commit, command line and machine, as plain values: enough to make a figure again."""
    return {
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in PACKAGES}},
        "commit": _commit(),
        "command": shlex.join(["python", Path(sys.argv[0]).name, *sys.argv[1:]]),
        "machine": {
            "system": platform.platform(),
            "processor": _processor(),
            "cores": len(os.sched_getaffinity(0)),
            "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
            "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else "none",
        },
    }


def default_run_name(agent: str, seed: int) -> str:
    """A name that tells runs apart: agent, seed and the time of the start."""
    return f"{agent}_s{seed}_{datetime.now():%Y%m%d-%H%M%S}"


def seed_generators(seed: int) -> None:
    """Seed every random generator of this process."""
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002, NumPy's global generator is what SB3 draws from
    torch.manual_seed(seed)


def capture_generators() -> dict[str, Any]:
    """The state of every random generator of this process (Python's, NumPy's, torch's) as tensors and plain values."""
    version, python_state, gauss_next = random.getstate()
    numpy_state: dict[str, Any] = np.random.get_state(legacy=False)  # noqa: NPY002
    inner = numpy_state["state"]
    return {
        "python": {"version": version, "state": torch.tensor(python_state), "gauss_next": gauss_next},
        "numpy": {**numpy_state, "state": {**inner, "key": torch.from_numpy(inner["key"].astype(np.int64))}},
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def restore_generators(state: dict[str, Any]) -> None:
    """Bring every random generator to where `capture_generators` was called; the GPU's only where there are as many."""
    python = state["python"]
    random.setstate((python["version"], tuple(python["state"].tolist()), python["gauss_next"]))
    inner = state["numpy"]["state"]
    inner = {**inner, "key": inner["key"].numpy().astype(np.uint32)}
    np.random.set_state({**state["numpy"], "state": inner})  # noqa: NPY002
    torch.set_rng_state(state["torch"])
    if len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["cuda"])


def keep_freed_memory() -> None:
    """Have the C library keep what is freed for the next tensor, rather than give it back to the system each time.

    A batch's activations are tens of megabytes, gone and wanted again with every update. Fetched from the system, each
    page of them costs a fault. Without glibc, nothing changes.
    """
    mmap_max, trim_threshold = -4, -1  # mallopt's names for them
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(mmap_max, 0)
        libc.mallopt(trim_threshold, 2**31 - 1)


STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopSignal:
    """While entered, Ctrl-C and SIGTERM ask for a clean stop; the second one leaves at once.

    Attributes:
        received: the signal's number once it came, else None.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> Self:
        for number in STOP_SIGNALS:
            self._previous[number] = signal.signal(number, self._on_signal)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    @property
    def exit_code(self) -> int:
        """What a shell expects: 128 + the signal's number, or 0 where none came."""
        return 0 if self.received is None else 128 + self.received

    def _on_signal(self, number: int, _: FrameType | None) -> None:
        if self.received is not None:
            os._exit(128 + number)
        self.received = number
        # Not print: the signal may have come in the middle of one.
        with contextlib.suppress(OSError):
            os.write(2, b"\nStopping: saving a checkpoint and closing the run. Once more leaves at once.\n")


class ProgressBar:
    """Steps, frames, frames a second, time left and the latest episode's return, on stderr.

    Where stderr is no terminal it is a line every half minute, so that a log file stays readable.
    """

    def __init__(self, total_steps: int, initial_steps: int, action_repeat: int) -> None:
        is_terminal = sys.stderr.isatty()
        self._bar = tqdm(
            total=total_steps,
            initial=initial_steps,
            unit="step",
            mininterval=0.2 if is_terminal else 30.0,
            maxinterval=0.5 if is_terminal else 60.0,
            dynamic_ncols=is_terminal,
            ascii=not is_terminal,
            bar_format="{l_bar}{bar:20}| {n_fmt}/{total_fmt} steps [{elapsed} elapsed, {remaining} left{postfix}]",
        )
        self._action_repeat = action_repeat
        self._start = time.perf_counter()
        self._initial_steps = initial_steps
        self._latest_return: float | None = None

    @property
    def steps(self) -> int:
        """The steps shown last."""
        return int(self._bar.n)

    def update(self, steps: int, latest_return: float | None) -> None:
        """Show `steps`, and the return of the episode that ended last if one did."""
        if latest_return is not None:
            self._latest_return = latest_return
        rate = (steps - self._initial_steps) * self._action_repeat / (time.perf_counter() - self._start)
        shown_return = "-" if self._latest_return is None else f"{self._latest_return:.0f}"
        self._bar.set_postfix_str(
            f"{steps * self._action_repeat:,} frames, {rate:,.0f} frames/s, return {shown_return}", refresh=False
        )
        # A log file's full disk or a terminal that is gone must not end the training.
        with contextlib.suppress(OSError):
            self._bar.update(steps - self._bar.n)

    def say(self, line: str) -> None:
        """Print a line above the bar."""
        with contextlib.suppress(OSError):
            tqdm.write(line, file=sys.stderr)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            self._bar.close()


@dataclass(frozen=True)
class BestScore:
    """The best evaluation of a run: its mean return and the step it was made at."""

    mean: float
    step: int


class Evaluator:
    """Scores an agent on the first `n_tracks` validation tracks, and knows the best so far.

    Args:
        env: a plain environment from `car_racing.make_env`, without training rules.
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

    def evaluate(self, driver: Driver, step: int, stop: StopSignal) -> Score | None:
        """Score `driver`; None if a stop called it off."""
        result = score(driver, self.env, self.tracks, lambda: stop.received is not None)
        if result is not None:
            self.latest, self.latest_step = result, step
        return result

    def is_best(self, result: Score) -> bool:
        """Whether a score is better than the best that was kept."""
        return self.best is None or result.mean > self.best.mean


def evaluation_metrics(result: Score) -> dict[str, float]:
    """A score as the metrics that a tracker plots. Without a finished lap there is no `frames_to_finish`."""
    metrics = {
        "eval/mean_return": result.mean,
        "eval/std_return": result.std,
        "eval/min_return": result.minimum,
        "eval/lap_finish_rate": result.lap_finish_rate,
        "eval/tiles_share": result.tiles_share,
    }
    if result.frames_to_finish is not None:
        metrics["eval/frames_to_finish"] = result.frames_to_finish
    return metrics


def python_command() -> str:
    """How the user starts this interpreter from here: `.venv/bin/python`, or plain `python`."""
    executable = _from_here(Path(sys.executable))
    return "python" if executable.is_absolute() else str(executable)


def _from_here(path: Path) -> Path:
    """The path as a user would write it: relative where it lies below the working directory."""
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path


def _version(package: str) -> str:
    try:
        return version(package)
    except ImportError:
        return "not installed"


def _commit() -> str:
    def git(*args: str) -> str:
        done = subprocess.run(
            ["git", *args], cwd=Path(__file__).parent, capture_output=True, text=True, check=True, timeout=10
        )
        return done.stdout.strip()

    try:
        return git("rev-parse", "HEAD") + (" with uncommitted changes" if git("status", "--porcelain") else "")
    except (OSError, subprocess.SubprocessError):
        return "unknown"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")
