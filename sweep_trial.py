"""One trial of a sweep: the training script's own run, begun, resumed and tried again until it is done or given up.

A trial keeps nothing but its directory. Whoever reaches that can go on with it, and by the exact resume of the scripts
it ends as if nothing had disturbed it.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Collection, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import checkpoint
from output_file import replacing
from paths import is_server
from process import InUseError, lock_directory
from run_history import SCORE_FILE, readable_score
from settings import SettingError
from startup import one_line
from sweep_plan import Plan, Trial

RESULT_FILE = "trial.json"
LOG_FILE = "log.txt"
LOCK_FILE = ".trial.lock"
HERE = Path(__file__).resolve().parent
# A predecessor on a node that is lost may hold the directory for a moment.
LOCK_WAIT_S = 120.0
# What a script exits with after a mistake in its input. Trying again would come to the same.
USAGE_ERROR = 2
MAX_REASON = 300
MAX_TAIL_BYTES = 10_000

State = Literal["finished", "failed", "pruned", "stopped", "busy"]


@dataclass(frozen=True)
class Result:
    """How a trial ended.

    Attributes:
        state: finished; failed, and given up; pruned, since others do better; stopped, to be gone on with; or busy,
            since another process is at work on it. The last two are not written down.
        attempts: how often a process of it was started in this sitting.
        reason: why it failed, in one line.
    """

    state: State
    attempts: int
    reason: str = ""


@dataclass(frozen=True)
class Share:
    """What a trial has of its machine.

    Attributes:
        cores: the cores that it runs on; its torch threads and environment workers follow them.
        gpu: the GPU that it sees, as CUDA_VISIBLE_DEVICES names it; None for all there are.
    """

    cores: tuple[int, ...]
    gpu: str | None = None

    @property
    def environment(self) -> dict[str, str]:
        """The environment variables of its processes."""
        gpu = {} if self.gpu is None else {"CUDA_VISIBLE_DEVICES": self.gpu}
        return {**os.environ, "OMP_NUM_THREADS": str(len(self.cores)), **gpu}


def read_result(directory: Path) -> Result | None:
    """How the trial in a directory ended; None where it has not, or nobody knows."""
    try:
        plain = json.loads((directory / RESULT_FILE).read_text(encoding="utf-8"))
        return Result(plain["state"], int(plain["attempts"]), str(plain["reason"]))
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def is_finished(directory: Path) -> bool:
    """Whether the trial in a directory was run to its end, now or earlier."""
    result = read_result(directory)
    return result is not None and result.state == "finished"


def is_over(directory: Path) -> bool:
    """Whether the trial in a directory was run to its end or pruned."""
    result = read_result(directory)
    return result is not None and result.state in ("finished", "pruned")


class TrialRun:
    """A trial in progress. `poll` carries it on and never waits.

    Args:
        plan: the sweep.
        trial: the trial.
        directory: the trial's directory.
        share: what it has of the machine.

    Attributes:
        attempts: how often a process of it was started.
        failures: why each of them failed that did.
    """

    def __init__(self, plan: Plan, trial: Trial, directory: Path, share: Share) -> None:
        self.plan = plan
        self.trial = trial
        self.directory = directory.resolve()
        self.share = share
        self.attempts = 0
        self.failures: list[str] = []
        self._process: subprocess.Popen[bytes] | None = None
        self._lock: contextlib.ExitStack | None = None
        self._stops_as: Literal["pruned", "stopped"] | None = None
        self._waits_since: float | None = None

    def poll(self) -> Result | None:
        """Start what is to be done next, once nothing runs; how the trial ended, once it has."""
        result = self._carry_on()
        if result is not None and self._lock is not None:
            self._lock.close()
            self._lock = None
        return result

    def _carry_on(self) -> Result | None:
        if self._process is None:
            return self._begin()
        code = self._process.poll()
        if code is None:
            return None
        self._process = None
        if self._stops_as is not None:
            return self._stopped()
        if code == 0:
            return None
        words = self._last_words() or f"exit code {code}"
        return self._end("failed", words) if code == USAGE_ERROR else self._failed(words)

    def _failed(self, why: str) -> Result | None:
        """Count a failure; how the trial ends, if that was one too many."""
        self.failures.append(why)
        return self._end("failed", why) if len(self.failures) > self.plan.retries else None

    def stop(self, state: Literal["pruned", "stopped"] = "stopped") -> None:
        """Ask for a clean stop, after which it could be resumed."""
        self._stops_as = state
        if self._process is not None:
            # Not SIGTERM, of which a second one leaves at once: a service manager may send it one of its own.
            self._process.send_signal(signal.SIGUSR1)

    def _stopped(self) -> Result:
        return self._end("pruned", "") if self._stops_as == "pruned" else Result("stopped", self.attempts)

    def _begin(self) -> Result | None:
        if self._stops_as is not None:
            return self._stopped()
        try:
            if self._lock is None:
                # A training locks its directory only once it is up, and a scoring never does. So the trial has a lock.
                lock = contextlib.ExitStack()
                lock.enter_context(lock_directory(self.directory, "the directory", "sweep", LOCK_FILE))
                self._lock = lock
            with lock_directory(self.directory):
                command = self._next_command()
        except InUseError:
            self._waits_since = self._waits_since or time.monotonic()
            has_waited = time.monotonic() - self._waits_since >= LOCK_WAIT_S
            return Result("busy", self.attempts) if has_waited else None
        except SettingError as error:
            return self._end("failed", str(error))
        except OSError as error:
            return self._end("failed", f"{self.directory} cannot be used ({error.strerror})")
        self._waits_since = None
        if command is None:
            return self._end("finished", "")
        try:
            self._start(command)
        except OSError as error:  # no room for a process, or for its log
            return self._failed(one_line(f"it cannot be started ({error.strerror})"))
        return None

    def _next_command(self) -> list[str] | None:
        """What is to be run next; None if everything is done."""
        if not is_trained(self.directory):
            script = str(HERE / self.plan.script)
            if checkpoint.holds_run(self.directory):
                return [script, *self.plan.resuming_flags(self.trial, self.directory)]
            # A run that was killed after its first evaluation and before its first checkpoint begins again.
            checkpoint.remove(self.directory / checkpoint.BEST)
            return [script, *self.plan.new_flags(self.trial, self.directory)]
        if self.plan.is_scored and readable_score(self.directory) is None:
            options = self.plan.options_of(self.trial)
            repo = options.get("aim_repo", ".")
            # A score is added to a repository on the disk only.
            is_tracked = options.get("aim", True) and not is_server(repo)
            tracking = [f"--aim-repo={repo}"] if is_tracked else ["--no-aim"]
            best, to = self.directory / checkpoint.BEST, self.directory / SCORE_FILE
            return [str(HERE / "evaluate.py"), f"--checkpoint={best}", f"--json={to}", *tracking]
        return None

    def _start(self, command: Sequence[str]) -> None:
        self.attempts += 1
        (self.directory / RESULT_FILE).unlink(missing_ok=True)  # how an earlier sitting ended
        tied = [sys.executable, "-I", str(HERE / "end_with_parent.py"), str(os.getpid())]
        with (self.directory / LOG_FILE).open("ab") as log, _on_cores(self.share.cores):
            # A session of its own: a Ctrl-C at the terminal reaches the sweep, which asks for one clean stop.
            self._process = subprocess.Popen(
                [*tied, sys.executable, *command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self.share.environment,
                cwd=self.plan.begun_in if Path(self.plan.begun_in).is_dir() else None,
                start_new_session=True,
            )

    def _end(self, state: State, reason: str) -> Result:
        result = Result(state, self.attempts, reason)
        with contextlib.suppress(OSError), replacing(self.directory / RESULT_FILE) as new_path:
            new_path.write_text(json.dumps(asdict(result)), encoding="utf-8")
        return result

    def _last_words(self) -> str:
        """The last line of the log."""
        with contextlib.suppress(OSError), (self.directory / LOG_FILE).open("rb") as log:
            log.seek(max(log.seek(0, os.SEEK_END) - MAX_TAIL_BYTES, 0))
            lines = log.read().decode(errors="replace").splitlines()
            return one_line(next((line for line in reversed(lines) if line.strip()), ""))[:MAX_REASON]
        return ""


@contextlib.contextmanager
def _on_cores(cores: Collection[int]) -> Iterator[None]:
    """Have this thread, and so what it starts, run on these cores only."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def is_trained(directory: Path) -> bool:
    """Whether the training in a directory has come to its end, its last evaluation and its last checkpoint too."""
    steps = checkpoint.whole_steps(directory)
    if not steps:
        return False
    meta = checkpoint.read_meta(steps[0])
    total = meta.get("total_steps")
    return type(total) is int and meta.get("steps", 0) >= total and meta.get("evaluated_at") == meta.get("steps")
