"""What belongs to the process of a script: a clean stop, locks, random generators, memory, progress, provenance."""

import contextlib
import ctypes
import errno
import os
import platform
import random
import resource
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from types import FrameType
from typing import Any, Self

import numpy as np
import psutil
import torch
from filelock import FileLock, Timeout

from checkpoint import Checkpoint, CheckpointError, error_line
from settings import SettingError, fail, shown
from startup import complain, heard_signals

PACKAGES = ("torch", "numpy", "gymnasium", "stable-baselines3", "opencv-python-headless", "aim")
# Where a container says how much memory it may have: control groups, version 2 and 1.
CGROUP_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))
LOCK_NAME = ".training.lock"
# What a file system without locks answers.
NO_LOCKS = (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK, errno.EBADF, errno.EINVAL)


def tell_passed_over(loaded: Checkpoint) -> None:
    """Name on stderr each newer checkpoint of the run that was too damaged to take."""
    for line in loaded.passed_over:
        complain(f"{line}; {loaded.path} is taken instead")


@contextlib.contextmanager
def mistakes_in_one_line() -> Iterator[None]:
    """End the process with one line and exit code 2 for the user's mistake, or a file that cannot be written."""
    try:
        yield
    except (SettingError, CheckpointError) as error:
        fail(str(error))
    except OSError as error:
        fail(f"{error.filename or 'a file'} could not be written ({error_line(error)}); name another place")


class InUseError(SettingError):
    """A directory that another process holds."""


@contextlib.contextmanager
def lock_directory(
    directory: Path, flag: str = "--checkpoint-dir", holder: str = "training", file: str = LOCK_NAME
) -> Iterator[None]:
    """Make a run's directory and hold it for this process. However the process ends, the lock goes with it.

    What is locked is a file in the directory, since network file systems lock nothing but files that can be written to.
    Forked processes do not keep the lock.

    Args:
        directory: the run's directory, or a sweep's.
        flag: the flag that names it, for messages.
        holder: what else may hold it.
        file: the name of the file in it that is locked.

    Raises:
        InUseError: if another one holds it.
        SettingError: if it cannot be made.
    """
    lock = FileLock(directory / file, blocking=False, fallback_to_soft=False)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout:
        raise InUseError(f"{flag} {directory} is in use by another {holder}; stop it or name another") from None
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise SettingError(f"{flag} {directory} cannot be used ({error.strerror}); name another") from None
        complain(f"{flag} {directory}: nothing can be locked there; start no other {holder} in it")
    try:
        yield
    finally:
        # Removed while it is held. Whoever waits for a removed file's lock opens a new one.
        with contextlib.suppress(OSError):
            (directory / file).unlink()
        with contextlib.suppress(OSError):
            lock.release()


def describe_run() -> dict[str, Any]:
    """Versions, commit, command line and machine, as plain values: enough to make a figure again."""
    return {
        "versions": _versions(),
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


def memory_limit() -> int:
    """Bytes that this process can have at most: the machine's memory with its swap, or a limit that was set."""
    limits = [psutil.virtual_memory().total + psutil.swap_memory().total]
    address_space, _ = resource.getrlimit(resource.RLIMIT_AS)
    if address_space != resource.RLIM_INFINITY:
        limits.append(address_space)
    for file in CGROUP_LIMITS:
        with contextlib.suppress(OSError, ValueError):  # not there, or "max"
            limits.append(int(file.read_text()))
    return min(limits)


# A second one of these leaves at once. A hang-up comes twice, from the shell and from the terminal, and a cluster's
# warning is followed by SIGTERM: neither is a user's wish to lose what is being saved.
FORCING_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopSignal:
    """While entered, a stop signal asks for a clean stop; a second Ctrl-C or SIGTERM leaves at once.

    Attributes:
        received: the number of the first signal once it came, else None.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._leaves_next_time = False
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> Self:
        for number in heard_signals():
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
        if self._leaves_next_time and number in FORCING_SIGNALS:
            os._exit(128 + number)
        self._leaves_next_time |= number in FORCING_SIGNALS
        if self.received is None:
            self.received = number
        # Not print: the signal may have come in the middle of one.
        with contextlib.suppress(OSError):
            os.write(2, b"\nStopping: saving a checkpoint and closing the run. Once more leaves at once.\n")


def shell_command(script: str, *args: str | Path) -> str:
    """A command that starts one of this project's scripts, as it can be pasted into a shell in this directory."""
    path = from_here(Path(__file__).resolve().with_name(script))
    return " ".join([python_command(), *map(quoted, (path, *args))])


def show_command(repo: Path) -> str:
    """The command that shows an Aim repository's runs: `make ui` where that means it."""
    here = Path(__file__).resolve().parent
    if repo.resolve() == Path.cwd() == here:
        return "make ui"
    return shell_command("aim_page.py", "--repo", repo)


def python_command() -> str:
    """How this interpreter is started from this directory: `.venv/bin/python`, or `python` where that means it."""
    executable = Path(sys.executable)
    found = shutil.which("python")
    # By their directories: the interpreters of several environments are links to the same file.
    if found is not None and Path(found).parent == executable.parent:
        return "python"
    return quoted(from_here(executable))


def quoted(argument: str | Path) -> str:
    """An argument for a shell. A path whose - or ~ in front would be taken for more than a name begins with ./ then."""
    is_special = isinstance(argument, Path) and str(argument).startswith(("-", "~"))
    return shlex.quote(f"./{argument}" if is_special else str(argument))


def tell_other_versions(loaded: Checkpoint) -> None:
    """Name on stderr, in one line, each package whose version is another one than when the checkpoint was saved."""
    saved, here = loaded.meta.get("versions"), _versions()
    if not isinstance(saved, dict):
        return
    others = [name for name in here if name in saved and saved[name] != here[name]]
    if others:
        listed = ", ".join(f"{name} {shown(saved[name])} (here {here[name]})" for name in others)
        line = f"{loaded.path} was saved with {listed}; the run goes on, with results that may differ a little"
        complain(line)


def from_here(path: Path) -> Path:
    """The path as a user would write it: relative where it lies below the working directory."""
    try:
        here = Path.cwd()
    except OSError:  # It has been deleted.
        return path
    return path.relative_to(here) if path.is_relative_to(here) else path


def _versions() -> dict[str, str]:
    return {"python": platform.python_version(), **{name: _version(name) for name in PACKAGES}}


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
