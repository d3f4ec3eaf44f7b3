"""Several CarRacing environments behind Stable-Baselines3's `VecEnv`, in this process or in a few workers.

A worker is a bare interpreter that runs `env_worker.py`: it imports the game, not torch, and so costs tens of megabytes
rather than hundreds. Observations, rewards and actions pass through one block of shared memory; only a few bytes a
step, and the summary of an episode that ended, travel through a pipe. Each environment draws its tracks from a
random sequence of its own, so the results are the same however many workers there are.
"""

import mmap
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray
from stable_baselines3.common.env_util import is_wrapped
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvIndices, VecEnvStepReturn

from car_racing import EnvBatch, TrainingOptions, ViewConfig, make_env
from env_worker import ENV_CALLS, BatchArrays, WorkerSetup

WORKER_SCRIPT = Path(__file__).with_name("env_worker.py")


class WorkerDiedError(RuntimeError):
    """An environment's worker process is gone or failed; the message says which and how."""


@dataclass
class _Worker:
    process: "subprocess.Popen[bytes]"
    pipe: "Connection[Any, Any]"
    envs: range

    def __str__(self) -> str:
        return f"the worker of environments {self.envs.start} to {self.envs.stop - 1} (process {self.process.pid})"

    def send(self, message: Any) -> None:
        try:
            self.pipe.send(message)
        except (BrokenPipeError, ConnectionResetError):
            self.receive()

    def receive(self) -> Any:
        try:
            answer = self.pipe.recv()
        except (EOFError, ConnectionResetError):
            raise WorkerDiedError(f"{self} died with exit code {self.process.wait()}") from None
        if isinstance(answer, Exception):
            raise WorkerDiedError(f"{self} failed: {answer!r}") from answer
        return answer


class CarRacingVecEnv(VecEnv):
    """n environments, stepped in this process (`n_workers=0`) or shared out over worker processes.

    Args:
        n_envs: how many environments.
        view: what a step is.
        training: the training rules, or None for the plain game.
        n_workers: processes to share them out over; 0 steps them here.

    Raises:
        WorkerDiedError: from any method that needs a worker that is gone.
    """

    def __init__(self, n_envs: int, view: ViewConfig, training: TrainingOptions | None, n_workers: int) -> None:
        self._example = make_env(view, training)
        obs_shape = self._example.observation_space.shape
        assert obs_shape is not None
        size = BatchArrays.size(n_envs, obs_shape)
        self._workers: list[_Worker] = []
        self._here: EnvBatch | None = None
        self._closed = False
        if n_workers == 0:
            self._arrays = BatchArrays(bytearray(size), n_envs, obs_shape)
            envs = [make_env(view, training) for _ in range(n_envs)]
            self._here = EnvBatch(envs, self._arrays.obs, self._arrays.rewards, self._arrays.dones)
        else:
            memory_fd = os.memfd_create("car_racing")
            os.ftruncate(memory_fd, size)
            self._arrays = BatchArrays(mmap.mmap(memory_fd, size), n_envs, obs_shape)
            for indices in np.array_split(np.arange(n_envs), min(n_workers, n_envs)):
                share = range(int(indices[0]), int(indices[-1]) + 1)
                self._workers.append(_start_worker(WorkerSetup(n_envs, obs_shape, share, view, training), memory_fd))
            os.close(memory_fd)
        super().__init__(n_envs, self._example.observation_space, self._example.action_space)

    def seed(self, seed: int | None = None) -> Sequence[int | None]:
        """Seed the tracks of every environment, each from its own branch of `seed`; used by the next `reset`."""
        branches = np.random.SeedSequence(seed).spawn(self.num_envs)
        self._seeds = [int(branch.generate_state(1)[0]) for branch in branches]
        return self._seeds

    def reset(self) -> NDArray[np.uint8]:
        if self._here is not None:
            self._here.reset(self._seeds)
        for worker in self._workers:
            worker.send(("reset", [self._seeds[i] for i in worker.envs]))
        for worker in self._workers:
            worker.receive()
        self._reset_seeds()
        return self._arrays.obs.copy()

    def step_async(self, actions: NDArray[np.float32]) -> None:
        self._arrays.actions[:] = actions
        for worker in self._workers:
            worker.send(("step", None))

    def step_wait(self) -> VecEnvStepReturn:
        ended = self._here.step(self._arrays.actions) if self._here is not None else {}
        for worker in self._workers:
            ended.update({worker.envs[i]: info for i, info in worker.receive().items()})
        infos = [ended.get(i, {}) for i in range(self.num_envs)]
        return self._arrays.obs.copy(), self._arrays.rewards.copy(), self._arrays.dones.copy(), infos

    def close(self) -> None:
        """End the workers. Safe to call twice, and after a worker died."""
        if self._closed:
            return
        self._closed = True
        if self._here is not None:
            self._here.close()
        for worker in self._workers:
            worker.pipe.close()
        for worker in self._workers:
            try:
                worker.process.wait(timeout=5)
            except subprocess.TimeoutExpired:
                worker.process.kill()
                worker.process.wait()

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
        return [is_wrapped(self._example, wrapper_class)] * len(list(self._get_indices(indices)))

    def _call(self, name: str, indices: VecEnvIndices, *args: Any) -> list[Any]:
        chosen = list(self._get_indices(indices))
        if self._here is not None:
            return [ENV_CALLS[name](self._here.envs[i], *args) for i in chosen]
        results: dict[int, Any] = {}
        for worker in self._workers:
            mine = [i for i in chosen if i in worker.envs]
            worker.send(("call", ([worker.envs.index(i) for i in mine], name, args)))
            results.update(zip(mine, worker.receive(), strict=True))
        return [results[i] for i in chosen]


def make_vec_env(
    n_envs: int,
    view: ViewConfig | None = None,
    training: TrainingOptions | None = None,
    n_workers: int | None = None,
) -> CarRacingVecEnv:
    """n environments; by default over as many workers as there are cores, at most one an environment.

    On a single core, or with one environment, a worker would only add its own cost: they are stepped here.
    """
    if n_workers is None:
        cores = len(os.sched_getaffinity(0))
        n_workers = min(cores, n_envs) if min(cores, n_envs) > 1 else 0
    return CarRacingVecEnv(n_envs, view or ViewConfig(), training, n_workers)


def _start_worker(setup: WorkerSetup, memory_fd: int) -> _Worker:
    ours, theirs = Pipe()
    # A fresh interpreter rather than a fork (torch's and Aim's threads do not survive one) or multiprocessing's spawn
    # (which would import the training script, and torch with it, again).
    process = subprocess.Popen(
        [sys.executable, str(WORKER_SCRIPT), str(theirs.fileno()), str(memory_fd)],
        pass_fds=(theirs.fileno(), memory_fd),
        stdin=subprocess.DEVNULL,
    )
    theirs.close()
    worker = _Worker(process, ours, setup.share)
    worker.send(setup)
    return worker
