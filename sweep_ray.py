"""The trials of a sweep on a Ray cluster, whose nodes all reach the code and the sweep's directory under one path.

Ray chooses the node, and starts a trial again elsewhere when its node is lost. The state of a trial is in its
directory: Ray is handed no checkpoints.
"""

import os

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # read when Ray is imported

import contextlib
import logging
import socket
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import ray

from core_leases import leased_cores
from output_file import replacing
from settings import SettingError, shown
from startup import one_line, plural
from sweep_local import LOOK_INTERVAL_S, POLL_INTERVAL_S, ending, failure_of, line_of
from sweep_plan import Plan, Trial, load_plan
from sweep_source import SweepClock, WatchedProgress, Work
from sweep_trial import HERE, LOG_FILE, Result, Share, TrialRun

# How often Ray starts a trial again because its node was lost. That is no failure of the trial.
MAX_NODE_LOSSES = 100
# The part of a GPU that Ray reserves for a trial: several trials fill its time better than one. Ray does not limit
# memory, and a replay buffer on the GPU takes up to half of what is free.
GPU_FRACTION = 0.25
# How long a trial waits for cores of its own, where the trial before it is still ending.
LEASE_WAIT_S = 60.0
CONNECT_TIMEOUT_S = 10.0
# In a trial's directory: that it is to stop, and as what.
STOP_FILE = "stop"
# In a trial's directory: why it failed and went on, a line each time.
FAILURES_FILE = "failures"


@contextlib.contextmanager
def connected(address: str) -> Iterator[None]:
    """A connection to the cluster at an address, or at "auto", the one of this machine.

    Raises:
        SettingError: if there is none.
    """
    _check_answers(address)
    # Workers import this module, and with it the rest.
    environment = {"env_vars": {"PYTHONPATH": str(HERE), "RAY_USAGE_STATS_ENABLED": "0"}}
    try:
        ray.init(address=address, runtime_env=environment, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise _no_cluster(address, error) from None
    try:
        yield
    finally:
        ray.shutdown()


def _check_answers(address: str) -> None:
    """Check that something listens at HOST:PORT: Ray itself would try for minutes."""
    host, colon, port = address.rpartition(":")
    if not colon or not port.isdecimal():
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_TIMEOUT_S).close()
    except (OSError, OverflowError) as error:
        raise _no_cluster(address, error) from None


def _no_cluster(address: str, error: Exception) -> SettingError:
    why = one_line(str(error).splitlines()[0] if str(error) else type(error).__name__)
    mend = "`ray start --head` starts one"
    return SettingError(f"--address {shown(address)}: no Ray cluster answers there ({why}); {mend}")


def cores_of_a_trial(plan: Plan, asked: int | None, n_useful: int, memory: int) -> int:
    """Cores for each trial: as many as are asked for, or else as help it and a node has.

    Raises:
        SettingError: if no node has them together with the memory and the GPU: the trials would wait for ever.
    """
    on_gpu = needs_gpu(plan)
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    fitting = [one for one in nodes if one.get("memory", 0) >= memory and (one.get("GPU", 0) > 0 or not on_gpu)]
    most = max((int(one.get("CPU", 0)) for one in fitting), default=0)
    if most < (asked or 1):
        gpu = " and a GPU" if on_gpu else ""
        raise SettingError(
            f"--address: no node of the cluster has {asked or 1} cores with {memory / 1e9:.1f} GB of memory{gpu}; "
            f"the most cores of one that has the rest are {most}"
        )
    return asked or min(n_useful, most)


def needs_gpu(plan: Plan) -> bool:
    """Whether the trials learn on GPUs: the cluster has some, and the plan takes them."""
    return plan.takes_gpu and bool(ray.cluster_resources().get("GPU", 0) > 0)


def cluster_in_words(n_cores: int, memory: int) -> str:
    """What the cluster has, and what each trial has of it."""
    has = ray.cluster_resources()
    gpus = f" and {plural(int(has['GPU']), 'GPU')}" if has.get("GPU") else ""
    each = f"each trial with {plural(n_cores, 'core')} and some {memory / 1e9:.1f} GB of memory"
    return f"Ray with {plural(int(has.get('CPU', 0)), 'core')}{gpus} on {plural(n_nodes(), 'node')}, {each}"


def n_nodes() -> int:
    """How many nodes of the cluster are at work."""
    return sum(bool(node["Alive"]) for node in ray.nodes())


def run_on_cluster(n_cores: int, memory: int, work: Work) -> dict[str, Result]:
    """Run trials on the connected cluster until there are no more, or a stop was asked for.

    Args:
        n_cores: cores for each trial.
        memory: bytes for each trial.
        work: the sweep.

    Returns:
        How each trial ended that was begun, by its name.
    """
    trials = ClusterTrials(n_cores, memory, work)
    while True:
        trials.tell_lost_nodes()
        trials.start()
        if not trials.running:
            return trials.results
        if work.stop.received is None:
            trials.tell_time_left()
        else:
            trials.cancel_waiting()
        done, _ = ray.wait(list(trials.running), timeout=LOOK_INTERVAL_S)
        trials.tell_failures()
        for ref in done:
            trials.end(ref)
        for tasked in trials.running.values():
            trials.look_at(tasked)


class ClusterTrials:
    """The trials of a sweep that the cluster was given, and how the others ended.

    Args:
        n_cores: cores for each trial.
        memory: bytes for each trial.
        work: the sweep.

    Attributes:
        running: the trials that have not ended, by Ray's reference to their task.
        results: how the others ended, by their names.
    """

    def __init__(self, n_cores: int, memory: int, work: Work) -> None:
        self._n_cores = n_cores
        self._work = work
        self._directory = work.directory.resolve()
        needs = {"num_cpus": n_cores, "memory": memory, "num_gpus": GPU_FRACTION if needs_gpu(work.plan) else 0}
        self._task = ray.remote(_run_one).options(max_retries=MAX_NODE_LOSSES, **needs)
        self._clock = SweepClock()
        self._n_nodes = n_nodes()
        self._has_cancelled = False
        self.running: dict[Any, TaskedTrial] = {}
        self.results: dict[str, Result] = {}

    def tell_lost_nodes(self) -> None:
        """Say how many nodes have been lost since the last call."""
        before, self._n_nodes = self._n_nodes, n_nodes()
        if self._n_nodes < before:
            lost = plural(before - self._n_nodes, "node")
            left = plural(self._n_nodes, "node")
            self._work.tell(f"{lost} lost, {left} left: the trials there go on where there is room")

    def start(self) -> None:
        """Give the cluster as many trials as it has cores for. A node may have come since the last call."""
        n_slots = max(int(ray.cluster_resources().get("CPU", 0)) // self._n_cores, 1)
        while len(self.running) < n_slots and self._work.stop.received is None:
            trial = self._work.source.next()
            if trial is None:
                return
            place = self._directory / trial.name
            for left in (STOP_FILE, FAILURES_FILE):
                (place / left).unlink(missing_ok=True)
            self.running[self._task.remote(self._directory, trial, self._n_cores)] = TaskedTrial(trial, place)

    def tell_time_left(self) -> None:
        """Say how long the sweep will take, where there is something new to say."""
        progress = [tasked.progress for tasked in self.running.values()]
        if (line := self._clock.words(progress, self._work.source.n_waiting)) is not None:
            self._work.tell(line)

    def cancel_waiting(self) -> None:
        """At a stop, take back the trials that no node has room for yet."""
        if self._has_cancelled:
            return
        self._has_cancelled = True
        for ref, tasked in self.running.items():
            if not (tasked.directory / LOG_FILE).exists():
                ray.cancel(ref)

    def tell_failures(self) -> None:
        """Name the failures of trials that go on."""
        for tasked in self.running.values():
            for line in tasked.new_failures():
                self._work.tell(line)

    def end(self, ref: Any) -> None:
        """Take the result of a trial that has ended."""
        tasked = self.running.pop(ref)
        name, result = tasked.trial.name, _result_of(ref)
        self.results[name] = result
        tasked.progress.look()
        self._work.source.ended(tasked.trial, result, tasked.progress.latest)
        self._clock.ended(tasked.progress, result)
        self._work.tell(ending(name, result, tasked.progress.latest))

    def look_at(self, tasked: "TaskedTrial") -> None:
        """Show a running trial's progress, and end it at a stop, or early where the source says so."""
        if self._work.stop.received is not None:
            tasked.stop("stopped")  # one that waits for a node as well: it stops as soon as it begins
        if tasked.progress.look():
            print(line_of(tasked.trial.name, tasked.progress.latest), file=sys.stderr, flush=True)
            if tasked.progress.is_hopeless(self._work.source):
                tasked.stop("pruned")


class TaskedTrial:
    """A trial that Ray was given, as its directory shows it.

    Args:
        trial: the trial.
        directory: its directory.
    """

    def __init__(self, trial: Trial, directory: Path) -> None:
        self.trial = trial
        self.directory = directory
        self.progress = WatchedProgress(trial, directory)
        self._n_failures = 0

    def new_failures(self) -> list[str]:
        """Why it has failed since the last call, a line each time."""
        path = self.directory / FAILURES_FILE
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        new, self._n_failures = lines[self._n_failures :], len(lines)
        return new

    def stop(self, state: str) -> None:
        """Have the task ask the trial for a clean stop, on whatever node it is."""
        if self.directory.is_dir() and not (self.directory / STOP_FILE).exists():
            with replacing(self.directory / STOP_FILE) as new_path:
                new_path.write_text(state, encoding="utf-8")


def _result_of(ref: Any) -> Result:
    try:
        return Result(**ray.get(ref))
    except ray.exceptions.TaskCancelledError:
        return Result("stopped", 0)
    except ray.exceptions.RayError as error:
        words = [line for line in str(error).splitlines() if line.strip()]
        return Result("failed", 1, one_line(f"Ray: {words[-1] if words else type(error).__name__}"))


def _run_one(directory: Path, trial: Trial, n_cores: int) -> dict[str, Any]:
    """A task: one trial, to its end on this node."""
    stop_file = directory / trial.name / STOP_FILE
    with leased_cores(n_cores, LEASE_WAIT_S) as cores:
        run = TrialRun(load_plan(directory), trial, directory / trial.name, Share(cores))
        is_stopping = False
        n_failures = 0
        while (result := run.poll()) is None:
            if len(run.failures) > n_failures:
                n_failures = len(run.failures)
                # A full disk may be what failed.
                failures_file = directory / trial.name / FAILURES_FILE
                with contextlib.suppress(OSError), failures_file.open("a", encoding="utf-8") as failures:
                    failures.write(f"{failure_of(run)}\n")
            if not is_stopping and stop_file.exists():
                is_stopping = True
                run.stop("pruned" if stop_file.read_text() == "pruned" else "stopped")
            time.sleep(POLL_INTERVAL_S)
    stop_file.unlink(missing_ok=True)
    return asdict(result)
