"""The process that steps a part of the environments for `vec_env.CarRacingVecEnv`; never started by hand.

Usage: python -m car_racing.worker PIPE_FD MEMORY_FD. It serves until the pipe closes, so it ends with its parent,
however that ends.

Parent and worker talk through a few numbers in shared memory, so that a step costs no system call while both are busy:
to wake a process that waits in one costs more than most steps. The pipe carries the rest: calls, resets, episodes that
ended, errors.
"""

import mmap
import pickle
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from car_racing.config import RulesConfig, ViewConfig
from car_racing.envs import make_env
from car_racing.game import Frame

# How long a worker polls shared memory for the next step before it waits on the pipe.
SPIN_S = 2e-4
# How long it waits on the pipe at a time. It then looks at shared memory again, in case the parent's message and the
# worker's going to wait have crossed.
NAP_S = 0.02

# The numbers of a worker in shared memory: how many requests were made and answered, whether a request or an answer has
# its content in the pipe, and whether the worker waits on the pipe.
REQUESTED, ANSWERED, REQUEST_IN_PIPE, ANSWER_IN_PIPE, ASLEEP = range(5)
N_SIGNALS = 5


class EnvBatch:
    """Steps environments one after the other into arrays that the caller owns, perhaps in shared memory.

    An episode that ends is followed at once by the next: `obs` then holds the new episode's first observation, and
    the old one's last is in its info.

    Args:
        envs: n environments with the same spaces.
        obs: uint8 (n, frame_stack, 84, 84).
        rewards: float32 (n,).
        dones: bool (n,), True where an episode ended with this step.
    """

    def __init__(
        self,
        envs: Sequence[gym.Env],
        obs: Frame,
        rewards: NDArray[np.float32],
        dones: NDArray[np.bool_],
    ) -> None:
        self.envs = envs
        self._obs = obs
        self._rewards = rewards
        self._dones = dones

    def reset(self, seeds: Sequence[int | None], options: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """Start a new episode everywhere, and return each one's info."""
        infos = []
        for i, (env, seed) in enumerate(zip(self.envs, seeds, strict=True)):
            self._obs[i], info = env.reset(seed=seed, options=options[i] or None)
            infos.append(info)
        return infos

    def step(self, actions: NDArray[np.float32]) -> dict[int, tuple[dict[str, Any], dict[str, Any]]]:
        """One step everywhere, with actions (n, 3).

        Returns:
            For each environment whose episode ended, its last info, with Stable-Baselines3's `terminal_observation`
            and `TimeLimit.truncated` (True where the value after the last step must still be bootstrapped), and the
            info of the reset that followed.
        """
        ended = {}
        for i, env in enumerate(self.envs):
            obs, reward, terminated, truncated, info = env.step(actions[i])
            done = terminated or truncated
            if done:
                info["terminal_observation"] = obs
                info["TimeLimit.truncated"] = truncated and not terminated
                obs, reset_info = env.reset()
                ended[i] = info, reset_info
            self._obs[i], self._rewards[i], self._dones[i] = obs, reward, done
        return ended


class BatchArrays:
    """What n environments and their workers share, laid one after the other over one block of memory.

    Attributes:
        signals: int64 (n_workers, N_SIGNALS).
        rewards: float32 (n,).
        actions: float32 (n, 3).
        dones: bool (n,).
        obs: uint8 (n, *obs_shape).
    """

    @staticmethod
    def size(n_envs: int, n_workers: int, obs_shape: tuple[int, ...]) -> int:
        """Bytes that the block must have."""
        return 8 * N_SIGNALS * n_workers + n_envs * (4 + 3 * 4 + 1 + int(np.prod(obs_shape)))

    def __init__(self, memory: Any, n_envs: int, n_workers: int, obs_shape: tuple[int, ...]) -> None:
        offset = 0

        def take(dtype: Any, *shape: int) -> Any:
            nonlocal offset
            count = int(np.prod(shape))
            array = np.frombuffer(memory, dtype, count, offset).reshape(shape)
            offset += array.nbytes
            return array

        # The wider types come first, where they are aligned.
        self.signals: NDArray[np.int64] = take(np.int64, n_workers, N_SIGNALS) if n_workers else np.zeros((0, 0), int)
        self.rewards: NDArray[np.float32] = take(np.float32, n_envs)
        self.actions: NDArray[np.float32] = take(np.float32, n_envs, 3)
        self.dones: NDArray[np.bool_] = take(np.bool_, n_envs)
        self.obs: NDArray[np.uint8] = take(np.uint8, n_envs, *obs_shape)

    def batch(self, envs: list[gym.Env], indices: range) -> EnvBatch:
        """Environments that step in their part of the arrays."""
        mine = slice(indices.start, indices.stop)
        return EnvBatch(envs, self.obs[mine], self.rewards[mine], self.dones[mine])


@dataclass(frozen=True)
class WorkerSetup:
    """What a worker must know to start: the whole batch, its own number and environments, and the game's settings."""

    n_envs: int
    n_workers: int
    number: int
    indices: range
    view: ViewConfig
    rules: RulesConfig | None
    render_mode: str | None


def _env_method(env: gym.Env, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return env.get_wrapper_attr(name)(*args, **kwargs)


# What `VecEnv` may ask of single environments.
ENV_CALLS: dict[str, Callable[..., Any]] = {
    "get_attr": lambda env, name: env.get_wrapper_attr(name),
    "set_attr": lambda env, name, value: env.set_wrapper_attr(name, value),
    "env_method": _env_method,
}


@dataclass(frozen=True)
class CallError:
    """An error that an environment raised in answer to one of `ENV_CALLS`, to be raised again in the parent."""

    error: Exception


def call_envs(envs: Sequence[gym.Env], name: str, args: tuple[Any, ...]) -> list[Any] | CallError:
    """Ask something of each environment."""
    try:
        return [ENV_CALLS[name](env, *args) for env in envs]
    except Exception as error:
        return CallError(error)


def serve(pipe: Connection, memory_fd: int) -> None:
    """Answer the parent's requests until it closes the pipe."""
    setup: WorkerSetup = pipe.recv()
    shape = setup.view.obs_shape
    memory = mmap.mmap(memory_fd, BatchArrays.size(setup.n_envs, setup.n_workers, shape))
    arrays = BatchArrays(memory, setup.n_envs, setup.n_workers, shape)
    signals = arrays.signals[setup.number]
    envs = [make_env(setup.view, setup.rules, setup.render_mode) for _ in setup.indices]
    batch = arrays.batch(envs, setup.indices)
    actions = arrays.actions[setup.indices.start : setup.indices.stop]
    while True:
        _wait_for_request(pipe, signals)
        command: str = "step"
        data: Any = None
        answer: Any = None
        if signals[REQUEST_IN_PIPE]:
            command, data = _read(pipe)
        try:
            if command == "step":
                answer = batch.step(actions) or None
            elif command == "reset":
                answer = batch.reset(*data)
            else:
                indices, name, args = data
                answer = call_envs([envs[i] for i in indices], name, args)
        except Exception as error:  # whatever it is, the parent must be told instead of waiting for ever
            answer = error
        message = None if answer is None else _pickled(answer)
        # The number first: a parent that waits for it does not read the pipe, and a long answer would not fit in.
        signals[ANSWER_IN_PIPE] = message is not None
        signals[ANSWERED] += 1
        if message is not None:
            pipe.send_bytes(message)


def _pickled(answer: Any) -> bytes:
    try:
        return pickle.dumps(answer)
    except Exception as error:
        return pickle.dumps(RuntimeError(f"the answer cannot be sent: {error}"))


def _wait_for_request(pipe: Connection, signals: NDArray[np.int64]) -> None:
    deadline = time.perf_counter() + SPIN_S
    while signals[REQUESTED] == signals[ANSWERED]:
        if time.perf_counter() < deadline:
            continue
        signals[ASLEEP] = 1
        # Anything in the pipe ends the wait: a bare wake-up, a request, or the end of the parent.
        if signals[REQUESTED] == signals[ANSWERED] and pipe.poll(NAP_S) and signals[REQUESTED] == signals[ANSWERED]:
            _drop_wake_up(pipe)
        signals[ASLEEP] = 0


def _drop_wake_up(pipe: Connection) -> None:
    """Read a wake-up that needs no answer; raises EOFError where the parent is gone."""
    message = pipe.recv()
    assert message is None, "a request came without its number"


def _read(pipe: Connection) -> Any:
    """The next request in the pipe, past wake-ups."""
    while True:
        message = pipe.recv()
        if message is not None:
            return message


def main() -> None:
    # Started with stop signals blocked: the parent decides what they mean, and this process ends when the pipe closes.
    pipe_fd, memory_fd = (int(arg) for arg in sys.argv[1:3])
    try:
        serve(Connection(pipe_fd), memory_fd)
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return  # the parent has closed the pipe, or is gone


if __name__ == "__main__":
    # What is pickled here must be known to the parent by this module's name, not as part of __main__.
    from car_racing import worker

    worker.main()
