"""Score checkpoints on the stock game over all cores, with one worker process for each core.

Where there is one core, or no worker can be started, this process drives.
"""

import os
import pickle
import signal
import threading
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import active_children, get_context, parent_process, resource_tracker
from multiprocessing.connection import wait
from pathlib import Path

import torch

from car_racing import ViewConfig
from checkpoint import Checkpoint, error_line
from policies import load_policy, policy_only
from progress_bar import counted
from scoring import Actions, Policy, Score, TrackResult, drive_stock
from startup import STOP_SIGNALS, complain


def score_checkpoints(
    loaded: Sequence[Checkpoint], tracks: Sequence[int], actions: Actions | None = None
) -> list[Score]:
    """Score checkpoints on the same tracks of the unmodified CarRacing-v3, with a progress bar.

    The scores are the same on any number of cores.

    Args:
        loaded: the checkpoints. They are in memory, so a training may replace their files meanwhile.
        tracks: the tracks' seeds, at least one.
        actions: which action a stochastic policy takes; None for what its checkpoint says.

    Returns:
        A score for each checkpoint.

    Raises:
        BrokenProcessPool: if a worker process has died.
    """
    jobs = [(i, track) for i in range(len(loaded)) for track in tracks]
    n_workers = min(len(os.sched_getaffinity(0)), len(jobs))
    # As one string of bytes, since multiprocessing would put each tensor into a file of its own in shared memory.
    pickled = pickle.dumps([policy_only(one) for one in loaded])
    with _driven(jobs, n_workers, pickled, actions) as driven:
        results = list(counted(driven, "scoring", len(jobs)))
    return [Score(results[first : first + len(tracks)]) for first in range(0, len(results), len(tracks))]


@contextmanager
def _driven(
    jobs: Sequence[tuple[int, int]], n_workers: int, pickled: bytes, actions: Actions | None
) -> Iterator[Iterable[TrackResult]]:
    """The results of the jobs, in their order, as they are waited for."""
    if n_workers > 1:
        with _memory_file(pickled) as path:
            try:
                pool, futures = _start_pool(jobs, n_workers, path, actions)
            except (OSError, RuntimeError) as error:  # no semaphores in /dev/shm, no more processes or threads
                _kill_workers()
                complain(f"no worker processes can be started ({error_line(error)}); this process drives all tracks")
            except BaseException:  # a stop that came while the workers were started
                _kill_workers()
                raise
            else:
                with pool:
                    try:
                        yield (future.result() for future in futures)
                    except BaseException:
                        _kill_workers()
                        raise
                return
    _load_policies(pickled, actions)
    yield (_drive(*job) for job in jobs)


@contextmanager
def _memory_file(content: bytes) -> Iterator[str]:
    """The path of a file in memory that the workers can read until the block ends.

    What a worker is started with goes through a pipe, which takes 64 kB. With more than that, the parent would wait for
    ever for a worker that died before it read.
    """
    with os.fdopen(os.memfd_create("policies"), "wb") as file:
        file.write(content)
        file.flush()
        yield f"/proc/{os.getpid()}/fd/{file.fileno()}"


def _start_pool(
    jobs: Sequence[tuple[int, int]], n_workers: int, path: str, actions: Actions | None
) -> "tuple[ProcessPoolExecutor, list[Future[TrackResult]]]":
    # Ctrl-C reaches every process of the terminal. The workers are started with it blocked, and the parent ends them.
    # Starting them takes seconds; a stop signal that arrives meanwhile is handled afterwards, not in mid-start.
    with _stop_signals_blocked():
        pool = ProcessPoolExecutor(n_workers, get_context("spawn"), _start_worker, (path, actions))
        # `submit`, not `map`: an interrupted `map` cancels pending futures, which can crash the pool's management
        # thread.
        return pool, [pool.submit(_drive, *job) for job in jobs]


def _kill_workers() -> None:
    for worker in active_children():
        # Not `terminate`: a worker that is still starting would fail with a traceback first.
        worker.kill()


@contextmanager
def _stop_signals_blocked() -> Iterator[None]:
    """Block what stops this process until the block ends; children started inside inherit the mask."""
    # Start the resource tracker first: it unblocks signals when it starts.
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class _Worker:
    """What a process that drives keeps from job to job: the policy and the view of each checkpoint."""

    policies: list[tuple[Policy, ViewConfig]]


def _start_worker(path: str, actions: Actions | None) -> None:
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    # Blocked when the worker was started, but the parent ends its workers with it.
    signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGTERM,))
    _load_policies(Path(path).read_bytes(), actions)


def _load_policies(pickled: bytes, actions: Actions | None) -> None:
    # One thread and one track at a time give the same numbers on any number of cores.
    torch.set_num_threads(1)
    _Worker.policies = [load_policy(one, actions) for one in pickle.loads(pickled)]


def _exit_with_parent() -> None:
    """Wait for the parent's end, and exit: after a SIGKILL the parent cannot end its workers."""
    parent = parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)


def _drive(i: int, track: int) -> TrackResult:
    policy, view = _Worker.policies[i]
    return drive_stock(policy, view, track)
