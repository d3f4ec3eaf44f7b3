"""The process that steps a share of the environments for `vec_env.CarRacingVecEnv`; never started by hand.

Usage: env_worker.py PIPE_FD MEMORY_FD. It serves until the pipe closes, so it ends with its parent however that ends.
"""

import mmap
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from car_racing import EnvBatch, TrainingOptions, ViewConfig, make_env


class BatchArrays:
    """Observations, rewards, dones and actions of n environments, laid one after the other over one block of memory.

    Attributes:
        obs: uint8 (n, *obs_shape).
        rewards: float32 (n,).
        dones: bool (n,).
        actions: float32 (n, 3).
    """

    @staticmethod
    def size(n_envs: int, obs_shape: tuple[int, ...]) -> int:
        """Bytes that the block must have."""
        return n_envs * (int(np.prod(obs_shape)) + 4 + 3 * 4 + 1)

    def __init__(self, memory: Any, n_envs: int, obs_shape: tuple[int, ...]) -> None:
        # The float arrays come first, where they are aligned.
        self.rewards: NDArray[np.float32] = np.frombuffer(memory, np.float32, n_envs)
        self.actions: NDArray[np.float32] = np.frombuffer(memory, np.float32, 3 * n_envs, 4 * n_envs).reshape(n_envs, 3)
        self.dones: NDArray[np.bool_] = np.frombuffer(memory, np.bool_, n_envs, 16 * n_envs)
        n_obs = n_envs * int(np.prod(obs_shape))
        self.obs: NDArray[np.uint8] = np.frombuffer(memory, np.uint8, n_obs, 17 * n_envs).reshape(n_envs, *obs_shape)


@dataclass(frozen=True)
class WorkerSetup:
    """What a worker must know to start: the whole batch's shape, its own share of it, and the game's options."""

    n_envs: int
    obs_shape: tuple[int, ...]
    share: range
    view: ViewConfig
    training: TrainingOptions | None


def _env_method(env: gym.Env, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return env.get_wrapper_attr(name)(*args, **kwargs)


# What `VecEnv` may ask of single environments.
ENV_CALLS: dict[str, Callable[..., Any]] = {
    "get_attr": lambda env, name: env.get_wrapper_attr(name),
    "set_attr": lambda env, name, value: env.set_wrapper_attr(name, value),
    "env_method": _env_method,
}


def serve(pipe: Connection, memory_fd: int) -> None:
    """Answer the parent's messages until it closes the pipe."""
    setup: WorkerSetup = pipe.recv()
    size = BatchArrays.size(setup.n_envs, setup.obs_shape)
    arrays = BatchArrays(mmap.mmap(memory_fd, size), setup.n_envs, setup.obs_shape)
    mine = slice(setup.share.start, setup.share.stop)
    envs = [make_env(setup.view, setup.training) for _ in setup.share]
    batch = EnvBatch(envs, arrays.obs[mine], arrays.rewards[mine], arrays.dones[mine])
    actions = arrays.actions[mine]
    while True:
        command, data = pipe.recv()
        try:
            answer: Any = None
            if command == "step":
                answer = batch.step(actions)
            elif command == "reset":
                batch.reset(data)
            elif command == "call":
                indices, name, args = data
                answer = [ENV_CALLS[name](envs[i], *args) for i in indices]
        except Exception as error:  # whatever it is, the parent must hear of it instead of waiting for ever
            answer = error
        pipe.send(answer)


def main() -> None:
    # Ctrl-C reaches the whole process group; only the parent decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    pipe_fd, memory_fd = (int(arg) for arg in sys.argv[1:3])
    try:
        serve(Connection(pipe_fd), memory_fd)
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return  # the parent has closed the pipe, or is gone


if __name__ == "__main__":
    main()
