"""Score checkpoints on the stock game over all cores, with one worker process for each core."""

import os
import pickle
import signal
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import active_children, get_context, parent_process, resource_tracker
from multiprocessing.connection import wait

import torch
from tqdm import tqdm

from car_racing import ViewConfig
from checkpoint import Checkpoint
from policies import load_policy, policy_only
from process import STOP_SIGNALS
from scoring import Actions, Policy, Score, TrackResult, drive_stock


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
        BrokenProcessPool, OSError: if a worker process could not be started or has died.
    """
    jobs = [(i, track) for i in range(len(loaded)) for track in tracks]
    n_workers = min(len(os.sched_getaffinity(0)), len(jobs))
    # As one string of bytes, since multiprocessing would put each tensor into a file of its own in shared memory.
    pickled = pickle.dumps([policy_only(one) for one in loaded])
    with ProcessPoolExecutor(n_workers, get_context("spawn"), _start_worker, (pickled, actions)) as pool:
        try:
            futures = _submit(pool, jobs)
            with tqdm(futures, desc="scoring", unit="track") as bar:
                results = [future.result() for future in bar]
        except BaseException:
            for worker in active_children():
                # Not `terminate`: a worker that is still starting would fail with a traceback first.
                worker.kill()
            raise
    return [Score(results[first : first + len(tracks)]) for first in range(0, len(results), len(tracks))]


def _submit(pool: ProcessPoolExecutor, jobs: Sequence[tuple[int, int]]) -> "list[Future[TrackResult]]":
    # Ctrl-C reaches every process of the terminal. The workers are started with it blocked, and the parent ends them.
    # Starting them takes seconds; a stop signal that arrives meanwhile is handled afterwards, not in mid-start.
    with _stop_signals_blocked():
        try:
            # `submit`, not `map`: an interrupted `map` cancels pending futures, which can crash the pool's management
            # thread.
            return [pool.submit(_drive, *job) for job in jobs]
        except RuntimeError as error:  # The pool's own thread could not be started.
            raise OSError(str(error)) from error


@contextmanager
def _stop_signals_blocked() -> Iterator[None]:
    """Block what stops this process until the block ends; children started inside inherit the mask."""
    stops = (*STOP_SIGNALS, signal.SIGHUP)
    # Start the resource tracker first: it unblocks signals when it starts.
    resource_tracker.ensure_running()
    signal.pthread_sigmask(signal.SIG_BLOCK, stops)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, stops)


class _Worker:
    """What a worker process keeps from job to job: the policy and the view of each checkpoint."""

    policies: list[tuple[Policy, ViewConfig]]


def _start_worker(pickled: bytes, actions: Actions | None) -> None:
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    # Blocked when the worker was started, but the parent ends its workers with it.
    signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGTERM,))
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
