"""Steps a second of CarRacing-v3: stock Gymnasium, EnvPool and this project's, side by side in one run.

    python -m benchmarks.env_speed [--frames N] [--rounds N]

Every contender drives the same actions in a process of its own, pinned to one core or to all of them. They take turns
for some rounds, so that a machine that speeds up or slows down does so for all, and the median counts. Stock and ours
include the agent's whole view (grey, 84x84, stack of 4; resets as they come); EnvPool's bare step does not.
"""

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmarks.findings import benchmark_parser, compared, count, tell

# A contender steps about so many frames and returns frames a second.
Contender = Callable[[int], float]
NOTE = "Stock and ours include the agent's view (grey, 84x84, a stack of 4) and resets. EnvPool's is its bare step."
ENVPOOL_MEND = "pip install -r benchmarks/requirements.txt"


def driving_actions(n: int, n_envs: int = 1) -> NDArray[np.float32]:
    """Actions (n, n_envs, 3) in [-1, 1] of a car that weaves along at moderate speed, now and then off the road."""
    rng = np.random.default_rng(0)
    time_s = np.arange(n)[:, np.newaxis] / 50.0
    steer = 0.3 * np.sin(2.0 * time_s) + rng.normal(0.0, 0.1, (n, n_envs))
    gas = 2.0 * rng.uniform(0.0, 0.35, (n, n_envs)) - 1.0
    return np.stack([steer, gas, np.full((n, n_envs), -1.0)], axis=-1).clip(-1.0, 1.0).astype(np.float32)


def single(make: str, action_repeat: int) -> Contender:
    """One environment of `car_racing`, by its factory's name."""

    def run(n_frames: int) -> float:
        import car_racing

        env = getattr(car_racing, make)(car_racing.ViewConfig(action_repeat=action_repeat))
        actions = driving_actions(n_frames // action_repeat)[:, 0]

        def drive(steps: NDArray[np.float32]) -> int:
            frames = 0
            for action in steps:
                _, _, terminated, truncated, info = env.step(action)
                frames += info["frames"]
                if terminated or truncated:
                    env.reset()
            return frames

        env.reset(seed=0)
        drive(actions[: len(actions) // 4])
        env.reset(seed=1)
        return _rate(lambda: drive(actions))

    return run


def envpool(n_envs: int, n_threads: int) -> Contender:
    """EnvPool's CarRacing-v3: 96x96 RGB, no grey, no resize, no stack."""

    def run(n_frames: int) -> float:
        import envpool

        env = envpool.make_gymnasium("CarRacing-v3", num_envs=n_envs, num_threads=n_threads, seed=0)
        actions = driving_actions(n_frames // n_envs, n_envs).astype(np.float64)
        actions[..., 1:] = 0.5 * (actions[..., 1:] + 1.0)

        def drive(steps: NDArray[np.float64]) -> int:
            for action in steps:
                env.step(action)
            return steps.shape[0] * n_envs

        env.reset()
        drive(actions[: len(actions) // 4])
        return _rate(lambda: drive(actions))

    return run


def vectorised(n_envs: int, n_workers: int, action_repeat: int) -> Contender:
    """This project's `VecEnv`, in its process (no workers) or over workers."""

    def run(n_frames: int) -> float:
        from car_racing import ViewConfig
        from car_racing.vec_env import make_vec_env

        env = make_vec_env(n_envs, ViewConfig(action_repeat=action_repeat), n_workers=n_workers)
        actions = driving_actions(n_frames // (n_envs * action_repeat), n_envs)

        def drive(steps: NDArray[np.float32]) -> int:
            for action in steps:
                env.step(action)
            return steps.shape[0] * n_envs * action_repeat

        env.seed(0)
        env.reset()
        drive(actions[: len(actions) // 4])
        rate = _rate(lambda: drive(actions))
        env.close()
        return rate

    return run


@dataclass(frozen=True)
class Row:
    """A line of the table.

    Attributes:
        label: what is measured.
        contender: what runs.
        cores: on how many cores.
        frames_scale: frames that it drives as a multiple of those asked for; below 1 for slow ones.
        against: other rows that it is compared with.
    """

    label: str
    contender: Contender
    cores: int
    frames_scale: float = 1.0
    against: tuple[str, ...] = ()


def rows(cores: int) -> dict[str, Row]:
    """All contenders by name, in the table's order."""
    several = 8
    return {
        "stock": Row("stock Gymnasium", single("make_stock_env", 1), 1, frames_scale=0.08),
        "envpool": Row("EnvPool, 1 environment, 1 thread", envpool(1, 1), 1, frames_scale=0.4),
        "ours": Row("ours", single("make_env", 1), 1, against=("stock", "envpool")),
        "stock-4": Row("stock Gymnasium, action repeat 4", single("make_stock_env", 4), 1, frames_scale=0.08),
        "ours-4": Row("ours, action repeat 4", single("make_env", 4), 1, frames_scale=2.0, against=("stock-4",)),
        "envpool-all": Row(f"EnvPool, 16 environments, {cores} threads", envpool(16, cores), cores, frames_scale=0.8),
        "here": Row(f"ours, {several} environments in one process", vectorised(several, 0, 1), cores, frames_scale=2.0),
        "workers": Row(
            f"ours, {several} environments on {cores} cores",
            vectorised(several, cores - 1, 1),
            cores,
            frames_scale=2.0,
            against=("here", "envpool-all"),
        ),
        "here-4": Row(
            f"ours, {several} environments in one process, action repeat 4",
            vectorised(several, 0, 4),
            cores,
            frames_scale=3.0,
        ),
        "workers-4": Row(
            f"ours, {several} environments on {cores} cores, action repeat 4",
            vectorised(several, cores - 1, 4),
            cores,
            frames_scale=3.0,
            against=("here-4",),
        ),
    }


def measure(name: str, cores: int, n_frames: int) -> float | None:
    """Frames a second of one contender in a process of its own; None where what it needs is not installed."""
    command = [sys.executable, "-m", "benchmarks.env_speed", "--contender", name, "--frames", str(n_frames)]
    chosen = sorted(os.sched_getaffinity(0))[:cores]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: os.sched_setaffinity(0, chosen),
    )
    if done.returncode != 0 and "No module named 'envpool'" in done.stderr:
        return None
    done.check_returncode()
    return float(done.stdout.splitlines()[-1])


def main() -> None:
    parser = benchmark_parser(__doc__)
    parser.add_argument("--frames", type=count, default=10_000, help="frames that the fast contenders drive in a round")
    parser.add_argument("--rounds", type=count, default=5, help="turns of each contender")
    parser.add_argument("--contender", help=argparse.SUPPRESS)
    options = parser.parse_args()
    all_cores = len(os.sched_getaffinity(0))
    table = rows(all_cores)
    if options.contender:
        print(table[options.contender].contender(options.frames))
        return
    found: dict[str, list[float]] = {name: [] for name in table}
    for _ in range(options.rounds):
        for name, row in table.items():
            rate = measure(name, row.cores, round(options.frames * row.frames_scale))
            if rate is not None:
                found[name].append(rate)
    missing = [table[name].label for name, rates in found.items() if not rates]
    note = NOTE + (f" Not measured ({ENVPOOL_MEND}): {'; '.join(missing)}." if missing else "")
    rounds = {table[name].label: rates for name, rates in found.items()}
    against = {row.label: [table[other].label for other in row.against] for row in table.values()}
    title = "Frames a second of the game, on one core unless said otherwise"
    tell([compared(title, "frames/s", rounds, against, note)], options.json)


def _rate(work: Callable[[], int]) -> float:
    start = time.perf_counter()
    frames = work()
    return frames / (time.perf_counter() - start)


if __name__ == "__main__":
    main()
