"""Where the time of a SAC training goes: milliseconds a step of each of its parts, in one run.

    python -m benchmarks.sac_parts [--flags FLAGS] [--steps N]

The training is `train.py`'s own loop without tracking, evaluations and checkpoints. The time of a part is without the
parts inside it that have a row of their own. Reading the clock costs a few microseconds a part.
"""

import shlex
import tempfile
import time
from collections import defaultdict
from typing import Any

import torch

import train
from benchmarks.findings import FRACTION, Figure, Table, benchmark_parser, count, tell
from car_racing import TrainingEpisodes
from process import keep_freed_memory, mistakes_in_one_line
from progress_bar import ProgressBar
from replay_buffer import ReplayBuffer
from run_options import prepare
from sac_drq import Actor, Encoder, SACAgent, TwinQ
from training_run import TrainingRun

LEARNING_STARTS, WARM_UP = 300, 50
# What is timed, by the name of its row. In an act, nothing else is told apart.
ACT = "act"
PARTS: tuple[tuple[str, type, str], ...] = (
    ("the game", TrainingEpisodes, "step"),
    ("the game", TrainingEpisodes, "reset"),
    (ACT, SACAgent, "act"),
    ("store a transition", ReplayBuffer, "add"),
    ("draw a batch", ReplayBuffer, "sample"),
    ("shift and normalise it", SACAgent, "_augmented"),
    ("encoder, forward", Encoder, "forward"),
    ("Qs and actor, forward", TwinQ, "forward"),
    ("Qs and actor, forward", Actor, "sample"),
    ("backward", torch.Tensor, "backward"),
    ("Adam", torch.optim.Adam, "step"),
    ("target critic, running mean", SACAgent, "update_critic_target"),
    ("target critic, running mean", SACAgent, "update_ema_policy"),
    ("rest of the update", SACAgent, "update"),
    ("progress bar", ProgressBar, "update"),
)


class Stopwatch:
    """Times functions while they run inside each other; each second belongs to the innermost one.

    Attributes:
        seconds: of each part.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._inner: list[float] = []
        self._is_acting = False

    def watch(self, part: str, owner: type, name: str) -> None:
        """Time a method of a class from now on."""
        original = getattr(owner, name)

        def timed(*args: Any, **kwargs: Any) -> Any:
            if self._is_acting:
                return original(*args, **kwargs)
            self._is_acting = part == ACT
            self._inner.append(0.0)
            start = time.perf_counter()
            try:
                return original(*args, **kwargs)
            finally:
                seconds = time.perf_counter() - start
                self.seconds[part] += seconds - self._inner.pop()
                if self._inner:
                    self._inner[-1] += seconds
                if part == ACT:
                    self._is_acting = False

        setattr(owner, name, timed)


def main() -> None:
    parser = benchmark_parser(__doc__)
    parser.add_argument("--flags", default="", help="flags of train.py")
    parser.add_argument("--steps", type=count, default=500, help="steps that are timed")
    options = parser.parse_args()
    keep_freed_memory()
    watch, update = Stopwatch(), SACAgent.update
    clock: list[float] = []

    def start_after_warm_up(self: SACAgent, replay: ReplayBuffer) -> None:
        if self.n_updates == WARM_UP:
            watch.seconds.clear()
            clock.append(time.perf_counter())
        update(self, replay)

    def end_before_evaluation(*_: object) -> None:
        clock.append(time.perf_counter())

    SACAgent.update = start_after_warm_up  # type: ignore[method-assign]
    TrainingRun.evaluate = end_before_evaluation  # type: ignore[assignment, method-assign]
    for part in PARTS:
        watch.watch(*part)
    total = LEARNING_STARTS + WARM_UP + options.steps
    with tempfile.TemporaryDirectory() as directory:
        flags = f"--total-steps {total} --learning-starts {LEARNING_STARTS} --eval-freq {10 * total} --no-aim"
        where = ["--checkpoint-dir", f"{directory}/run"]
        job = prepare(train.SPEC, train.__doc__ or "", [*shlex.split(flags), *where, *shlex.split(options.flags)])
        train.train(job)
    start, end = clock
    whole = end - start
    parts = sorted(watch.seconds.items(), key=lambda part: -part[1])
    parts.append(("the rest", whole - sum(watch.seconds.values())))
    figures = [Figure(name, [seconds / whole], FRACTION) for name, seconds in parts]
    figures.append(Figure("a whole step", [1e3 * whole / options.steps], "ms"))
    tell(
        [Table(f"Where the time of a SAC training goes{options.flags and f' ({options.flags})'}", figures)],
        options.json,
    )


if __name__ == "__main__":
    with mistakes_in_one_line():
        main()
