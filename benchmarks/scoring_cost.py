"""Where the time of a scoring goes on the unmodified game, and whether more processes than cores shorten it.

    python -m benchmarks.scoring_cost [--checkpoint pretrained/ppo_beta] [--steps N] [--rounds N]

One process drives the policy and times each part. Then all cores drive: one process for each core, as `evaluate.py`
has them, and two for each, in turns.
"""

import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from os import sched_getaffinity
from pathlib import Path
from typing import Any

import torch

from benchmarks.findings import FRACTION, Figure, Table, benchmark_parser, compared, count, tell
from benchmarks.policy_probe import policy_of
from car_racing import make_stock_env
from tracks import DEVELOPMENT_TRACKS


class Watch:
    """Adds up the time that functions take."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def timed(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, with its time added."""

        def call(*args: Any, **kwargs: Any) -> Any:
            start = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                self.seconds += time.perf_counter() - start

        return call


def parts_of(path: Path, n_steps: int) -> Table:
    """The parts of a step of scoring, as fractions of its time."""
    policy, view = policy_of(path)
    env = make_stock_env(view)
    game: Any = env.unwrapped
    acting, stepping, playing, drawing = Watch(), Watch(), Watch(), Watch()
    game.step, game._render = playing.timed(game.step), drawing.timed(game._render)
    act, step = acting.timed(policy), stepping.timed(env.step)
    obs, _ = env.reset(seed=DEVELOPMENT_TRACKS[0])
    playing.seconds = drawing.seconds = 0.0  # the game's reset makes a step, and draws it
    for _ in range(n_steps):
        obs, _, terminated, truncated, _ = step(act(obs))
        if terminated or truncated:
            break
    env.close()
    whole = acting.seconds + stepping.seconds
    parts = {
        "Gymnasium's drawing": drawing.seconds,
        "Gymnasium's physics and rewards": playing.seconds - drawing.seconds,
        "our view of its picture": stepping.seconds - playing.seconds,
        "the policy": acting.seconds,
    }
    return Table("A step of a scoring", [Figure(name, [part / whole], FRACTION) for name, part in parts.items()])


class Start:
    """What the processes wait at, so that all begin to drive at once."""

    barrier: Any


def meet_at(barrier: Any) -> None:
    """Make a process ready."""
    torch.set_num_threads(1)
    Start.barrier = barrier


def driven_per_second(path: Path, n_steps: int) -> float:
    """The frames a second of this process over so many steps, once all are ready."""
    policy, view = policy_of(path)
    env = make_stock_env(view)
    obs, _ = env.reset(seed=DEVELOPMENT_TRACKS[0])
    Start.barrier.wait()
    start = time.perf_counter()
    for _ in range(n_steps):
        obs, _, terminated, truncated, _ = env.step(policy(obs))
        if terminated or truncated:
            obs, _ = env.reset(seed=DEVELOPMENT_TRACKS[0])
    seconds = time.perf_counter() - start
    env.close()
    return n_steps * view.action_repeat / seconds


def frames_per_second(path: Path, n_processes: int, n_steps: int) -> float:
    """What so many processes drive together, `n_steps` each."""
    context = get_context("spawn")
    with ProcessPoolExecutor(n_processes, context, meet_at, (context.Barrier(n_processes),)) as pool:
        drives = [pool.submit(driven_per_second, path, n_steps) for _ in range(n_processes)]
        return n_processes * min(drive.result() for drive in drives)  # until the slowest is done


def main() -> None:
    parser = benchmark_parser(__doc__)
    parser.add_argument("--checkpoint", type=Path, default=Path("pretrained/ppo_beta"), help="whose driving to time")
    parser.add_argument("--steps", type=count, default=150, help="steps that each process drives [150]")
    parser.add_argument("--rounds", type=count, default=3, help="how often the contenders take turns [3]")
    options = parser.parse_args()
    torch.set_num_threads(1)
    parts = parts_of(options.checkpoint, options.steps)
    measured = partial(frames_per_second, options.checkpoint)
    n_cores = len(sched_getaffinity(0))
    one, two = f"one process for each core, {n_cores}", f"two for each, {2 * n_cores}"
    rounds: dict[str, list[float]] = {one: [], two: []}
    for _ in range(options.rounds):
        rounds[one].append(measured(n_cores, options.steps))
        rounds[two].append(measured(2 * n_cores, options.steps))
    speed = compared("Frames of all processes together", "frames/s", rounds, {two: [one]})
    tell([parts, speed], options.json)


if __name__ == "__main__":
    main()
