"""Whether a training slows down as it ages: its steps a second by quarters.

    python -m benchmarks.ageing                        # two short trainings, tracked in Aim
    python -m benchmarks.ageing checkpoints/<run> ...  # trainings that ran before

It follows from the steps and the minutes of the evaluations, which every checkpoint holds. Minutes count evaluations
too, and no pauses. What else ran on the machine meanwhile shows as well.
"""

import itertools
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import checkpoint
from benchmarks.findings import Figure, Table, benchmark_parser, tell
from benchmarks.short_training import run_training
from checkpoint import CheckpointError
from run_history import Evaluation, evaluations_of
from settings import fail

QUARTERS = 4
# SAC's replay buffer is full early on, as it is for most of a long training.
TRAININGS: dict[str, tuple[str, int, dict[str, object]]] = {
    "PPO": ("train_ppo.py", 64_512, {}),
    "SAC": ("train.py", 2_997, {"--learning-starts": 300, "--replay-size": 600}),
}
# One of them begins the first quarter, and two more end each.
N_EVALUATIONS = 1 + 2 * QUARTERS


def evaluations_in(run: Path) -> tuple[Evaluation, ...]:
    """The evaluations of a run's directory, by step."""
    return evaluations_of(checkpoint.load(run, with_arrays=False).meta)


def by_quarters(name: str, evaluations: Sequence[Evaluation]) -> Table:
    """Steps a second between the evaluations nearest to the ends of each quarter.

    The first quarter begins at the first evaluation: what came before it is the start.
    """
    timed = [one for one in evaluations if one.minutes is not None]
    if len(timed) <= QUARTERS:
        fail(f"{name}: it has {len(timed)} evaluations with their time; name a run with more than {QUARTERS}")
    first, last = timed[0].step, timed[-1].step
    ends = [first + (last - first) * quarter / QUARTERS for quarter in range(QUARTERS + 1)]
    points = [min(timed, key=lambda one: abs(one.step - end)) for end in ends]
    if len({one.step for one in points}) < len(points):
        fail(f"{name}: its evaluations lie too unevenly for {QUARTERS} quarters; name another run")
    rates = []
    for one, other in itertools.pairwise(points):
        assert one.minutes is not None
        assert other.minutes is not None
        rates.append((other.step - one.step) / (60.0 * (other.minutes - one.minutes)))
    figures = [Figure("quarter 1", [rates[0]], "steps/s")]
    for number, rate in enumerate(rates[1:], 2):
        figures.append(Figure(f"quarter {number}", [rate], "steps/s", {"quarter 1": rate / rates[0]}))
    return Table(f"Steps a second of {name}, {last:,} steps", figures)


def short_run_by_quarters(agent: str) -> Table:
    """The speed of one of `TRAININGS`."""
    script, steps, flags = TRAININGS[agent]
    every = {"--eval-freq": steps // N_EVALUATIONS, "--eval-tracks": 1}
    with TemporaryDirectory() as directory:
        run = run_training(script, steps, {**flags, **every}, Path(directory), tracks=True)
        return by_quarters(f"a training of {agent}, tracked in Aim", evaluations_in(run))


def main() -> None:
    parser = benchmark_parser(__doc__, "[RUN ...] ")
    parser.add_argument("runs", nargs="*", type=Path, metavar="RUN", help="a run's directory [two short trainings]")
    options = parser.parse_args()
    tables = []
    try:
        for run in options.runs:
            tables.append(by_quarters(str(run), evaluations_in(run)))
    except CheckpointError as error:
        fail(f"RUN: {error}")
    if not options.runs:
        tables = [short_run_by_quarters(agent) for agent in TRAININGS]
    tell(tables, options.json)


if __name__ == "__main__":
    main()
