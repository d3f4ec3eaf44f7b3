"""Several CarRacing environments behind Stable-Baselines3's `VecEnv`, stepped here and in a few workers.

A worker is a bare interpreter that runs `car_racing.worker`: it imports the game, not torch, and so costs tens of
megabytes rather than hundreds. This process steps a part itself while the workers step theirs. Observations, rewards
and actions pass through one block of shared memory. Each environment draws its tracks from a random sequence of its
own, so the results are the same however many workers there are.
"""

import logging
import mmap
import os
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Sequence
from multiprocessing import Pipe
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray
from stable_baselines3.common.env_util import is_wrapped
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvIndices, VecEnvStepReturn

from car_racing.config import RulesConfig, ViewConfig
from car_racing.envs import make_env
from car_racing.worker import (
    ANSWER_IN_PIPE,
    ANSWERED,
    ASLEEP,
    REQUEST_IN_PIPE,
    REQUESTED,
    SPIN_S,
    BatchArrays,
    CallError,
    WorkerSetup,
    call_envs,
)

WORKER_MODULE = "car_racing.worker"
PACKAGE_PARENT = Path(__file__).resolve().parent.parent
# What a worker takes (its own memory, not what it shares), and how much of the machine's free memory workers may take.
WORKER_BYTES = 90_000_000
WORKERS_FRACTION = 0.1
MEMORY_INFO = Path("/proc/meminfo")
# Between two looks for an answer, once waiting for it takes long; and between two looks whether the worker lives.
NAP_S = 5e-5
LIFE_CHECK_S = 0.2
# What may be sent to all processes of a job. This process decides what they mean, and ends its workers.
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)

log = logging.getLogger(__name__)


class WorkerDiedError(RuntimeError):
    """An environment's worker process is gone or failed; the message says which and how."""


class _Worker:
    """This process's side of a worker; `worker.serve` is the other."""

    def __init__(self, setup: WorkerSetup, memory_fd: int, signals: NDArray[np.int64]) -> None:
        self.envs = setup.indices
        self._signals = signals
        self._pipe, theirs = Pipe()
        # A fresh interpreter rather than a fork (torch's and Aim's threads do not survive one) or multiprocessing's
        # spawn (which would import the training script, and torch with it, again).
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)  # which the new process inherits
        try:
            self.process = subprocess.Popen(
                # -P: nothing in the current directory can stand in for a module that the worker imports.
                [sys.executable, "-P", "-m", WORKER_MODULE, str(theirs.fileno()), str(memory_fd)],
                # It multiplies no matrices, and so needs no threads for them.
                env={**os.environ, "PYTHONPATH": _python_path(), "OPENBLAS_NUM_THREADS": "1"},
                pass_fds=(theirs.fileno(), memory_fd),
                stdin=subprocess.DEVNULL,
                process_group=0,  # where no Ctrl-C of the terminal reaches it
            )
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            theirs.close()
        self._send(setup)

    def __str__(self) -> str:
        return f"the worker of environments {self.envs.start} to {self.envs.stop - 1} (process {self.process.pid})"

    def step(self) -> None:
        """Have it step with the actions in shared memory; `answer` waits for it."""
        self._signals[REQUEST_IN_PIPE] = 0
        self._signals[REQUESTED] += 1
        if self._signals[ASLEEP]:
            self._send(None)

    def request(self, command: str, data: Any) -> None:
        """Have it do something rarer; `answer` waits for it."""
        # The number first: what is in the pipe before it is a wake-up call.
        self._signals[REQUEST_IN_PIPE] = 1
        self._signals[REQUESTED] += 1
        self._send((command, data))

    def answer(self) -> Any:
        """Wait for the answer to the last request: None where there is nothing to say."""
        start = time.perf_counter()
        next_life_check = start + LIFE_CHECK_S
        while self._signals[ANSWERED] != self._signals[REQUESTED]:
            now = time.perf_counter()
            if now - start < SPIN_S:
                continue
            if now > next_life_check:
                next_life_check = now + LIFE_CHECK_S
                if self.process.poll() is not None:
                    raise self._death()
            time.sleep(NAP_S)
        if not self._signals[ANSWER_IN_PIPE]:
            return None
        try:
            answer = self._pipe.recv()
        except (EOFError, ConnectionResetError):
            raise self._death() from None
        if isinstance(answer, Exception):
            raise WorkerDiedError(f"{self} failed: {answer!r}") from answer
        return answer

    def close(self) -> None:
        """Let it end; `join` waits for it."""
        self._pipe.close()

    def join(self) -> None:
        try:
            self.process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def _send(self, message: Any) -> None:
        try:
            self._pipe.send(message)
        except (BrokenPipeError, ConnectionResetError):
            raise self._death() from None

    def _death(self) -> WorkerDiedError:
        return WorkerDiedError(f"{self} died with exit code {self.process.wait()}")


class CarRacingVecEnv(VecEnv):
    """n environments, some of which are stepped in this process and the others in workers.

    Args:
        n_envs: how many environments.
        view: what a step is.
        rules: the rules of training, or None for the plain game.
        n_workers: processes beside this one; 0 steps all of them here, as is done where no process can be started.
        render_mode: Gymnasium's own, of every environment.

    Raises:
        WorkerDiedError: from any method that needs a worker that is gone.
    """

    def __init__(
        self,
        n_envs: int,
        view: ViewConfig,
        rules: RulesConfig | None,
        n_workers: int,
        render_mode: str | None = None,
    ) -> None:
        self._closed = False
        self._workers: list[_Worker] = []
        here = range(n_envs)
        n_workers = min(n_workers, n_envs - 1)
        try:
            if n_workers > 0:
                here = self._start_workers(n_envs, n_workers, view, rules, render_mode)
        except OSError as error:
            self._end_workers()
            self._workers.clear()
            log.warning("no worker process can be started (%s); this process steps all environments", error)
        if not self._workers:
            size = BatchArrays.size(n_envs, 0, view.obs_shape)
            self._arrays = BatchArrays(bytearray(size), n_envs, 0, view.obs_shape)
        self._envs = [make_env(view, rules, render_mode) for _ in here]
        self._batch = self._arrays.batch(self._envs, here)
        super().__init__(n_envs, self._envs[0].observation_space, self._envs[0].action_space)
        self.metadata = self._envs[0].metadata

    def _start_workers(
        self, n_envs: int, n_workers: int, view: ViewConfig, rules: RulesConfig | None, render_mode: str | None
    ) -> range:
        """Start the workers over a block of shared memory, and return which environments are left for this process."""
        here, *others = (
            range(int(part[0]), int(part[-1]) + 1) for part in np.array_split(np.arange(n_envs), n_workers + 1)
        )
        size = BatchArrays.size(n_envs, n_workers, view.obs_shape)
        memory_fd = os.memfd_create("car_racing")
        try:
            os.ftruncate(memory_fd, size)
            self._arrays = BatchArrays(mmap.mmap(memory_fd, size), n_envs, n_workers, view.obs_shape)
            for number, indices in enumerate(others):
                setup = WorkerSetup(n_envs, n_workers, number, indices, view, rules, render_mode)
                self._workers.append(_Worker(setup, memory_fd, self._arrays.signals[number]))
        finally:
            os.close(memory_fd)
        return here

    def _end_workers(self) -> None:
        for worker in self._workers:
            worker.close()
        for worker in self._workers:
            worker.join()

    def seed(self, seed: int | None = None) -> Sequence[int | None]:
        """Seed the tracks of every environment, each from its own branch of `seed`; used by the next `reset`."""
        branches = np.random.SeedSequence(seed).spawn(self.num_envs)
        self._seeds = [int(branch.generate_state(1)[0]) for branch in branches]
        return self._seeds

    def reset(self) -> NDArray[np.uint8]:
        for worker in self._workers:
            mine = slice(worker.envs.start, worker.envs.stop)
            worker.request("reset", (self._seeds[mine], self._options[mine]))
        infos = self._batch.reset(self._seeds[: len(self._envs)], self._options[: len(self._envs)])
        for worker in self._workers:
            infos += worker.answer()
        self.reset_infos = infos
        self._reset_seeds()
        self._reset_options()
        return self._arrays.obs.copy()

    def step_async(self, actions: NDArray[np.float32]) -> None:
        # Before any environment moves: they would no longer stand at the same step.
        if np.shape(actions) != self._arrays.actions.shape or not np.isfinite(actions).all():
            raise ValueError(f"actions must be finite numbers of shape {self._arrays.actions.shape}")
        self._arrays.actions[:] = actions
        for worker in self._workers:
            worker.step()

    def step_wait(self) -> VecEnvStepReturn:
        ended = self._batch.step(self._arrays.actions)
        for worker in self._workers:
            for i, its_infos in (worker.answer() or {}).items():
                ended[worker.envs[i]] = its_infos
        infos: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]
        for i, (info, reset_info) in ended.items():
            infos[i], self.reset_infos[i] = info, reset_info
        return self._arrays.obs.copy(), self._arrays.rewards.copy(), self._arrays.dones.copy(), infos

    def close(self) -> None:
        """End the workers. Safe to call twice, and after a worker died."""
        if self._closed:
            return
        self._closed = True
        for env in self._envs:
            env.close()
        self._end_workers()

    def get_images(self) -> Sequence[NDArray[np.uint8] | None]:
        if self.render_mode != "rgb_array":
            warnings.warn(f"render_mode is {self.render_mode}; images need rgb_array", stacklevel=2)
            return [None] * self.num_envs
        return self.env_method("render")

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        return self._call("get_attr", indices, attr_name)

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        self._call("set_attr", indices, attr_name, value)

    def env_method(
        self, method_name: str, *method_args: Any, indices: VecEnvIndices = None, **method_kwargs: Any
    ) -> list[Any]:
        return self._call("env_method", indices, method_name, method_args, method_kwargs)

    def env_is_wrapped(self, wrapper_class: type[gym.Wrapper], indices: VecEnvIndices = None) -> list[bool]:
        # Answered here: unpickling one of SB3's classes would make a worker import torch.
        return [is_wrapped(self._envs[0], wrapper_class)] * len(list(self._get_indices(indices)))

    def _call(self, name: str, indices: VecEnvIndices, *args: Any) -> list[Any]:
        """Ask something of some environments, of all workers at once.

        Raises:
            Exception: what an environment raised, wherever it is; the others have answered by then.
        """
        chosen = [range(self.num_envs)[i] for i in self._get_indices(indices)]
        asked = [(worker, mine) for worker in self._workers if (mine := [i for i in chosen if i in worker.envs])]
        for worker, mine in asked:
            worker.request("call", ([worker.envs.index(i) for i in mine], name, args))
        here = [i for i in chosen if i < len(self._envs)]
        answers = [(here, call_envs([self._envs[i] for i in here], name, args))]
        answers += [(mine, worker.answer()) for worker, mine in asked]
        results: dict[int, Any] = {}
        for mine, answer in answers:
            if isinstance(answer, CallError):
                raise answer.error
            results.update(zip(mine, answer, strict=True))
        return [results[i] for i in chosen]


def _python_path() -> str:
    """Where a worker finds this package first, also where it is not installed."""
    others = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    # Empty entries and "." are the current directory, which -P does not take off PYTHONPATH.
    return os.pathsep.join([str(PACKAGE_PARENT), *(entry for entry in others if entry not in ("", "."))])


def default_workers(n_envs: int) -> int:
    """How many workers step environments beside this process: one for each other core, environment and 90 MB to spare.

    The cores are those that this process may run on.
    """
    by_memory = WORKERS_FRACTION * _available_memory() // WORKER_BYTES
    return int(max(min(len(os.sched_getaffinity(0)) - 1, n_envs - 1, by_memory), 0))


def _available_memory() -> float:
    """Bytes that are free or can be freed; infinity where the system does not say."""
    try:
        lines = MEMORY_INFO.read_text().splitlines()
        return 1024.0 * next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable:"))
    except (OSError, ValueError, IndexError, StopIteration):
        return float("inf")


def make_vec_env(
    n_envs: int,
    view: ViewConfig | None = None,
    rules: RulesConfig | None = None,
    n_workers: int | None = None,
    render_mode: str | None = None,
) -> CarRacingVecEnv:
    """n environments, by default over all cores and as memory allows (`default_workers`).

    `python -m benchmarks.env_speed` measures what the workers gain.
    """
    if n_workers is None:
        n_workers = default_workers(n_envs)
    return CarRacingVecEnv(n_envs, view or ViewConfig(), rules, n_workers, render_mode)
