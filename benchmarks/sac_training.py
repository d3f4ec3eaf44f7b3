"""Steps a second of a whole SAC training: of this checkout and of another, in turn, in one run.

    python -m benchmarks.sac_training [--other DIR] [--flags FLAGS] [--other-flags FLAGS] [--steps N] [--rounds N]

Each turn is a process of its own that runs the checkout's `train.py` without tracking and counts the seconds from one
update to the last, so acting, the game, the replay buffer and the updates count, and the start does not. Each is run on
all cores, and the other one on a single core with a single thread as well.
"""

import os
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.findings import benchmark_parser, compared, tell

ROOT = Path(__file__).resolve().parent.parent
# One update a step with small networks: today's defaults, which older checkouts must be told.
SKETCH = (
    "--train-freq 1 --encoder light --hidden-dim 512 --batch-size 64 --frame-stack 2 --gamma 0.98 "
    "--learning-rate 7e-4 --pad 2"
)
LEARNING_STARTS, WARM_UP = 300, 50
# What a turn runs: the checkout's own script, with a clock in its updates.
TURN = """
import sys, time
sys.path.insert(0, sys.argv.pop(1))
warm_up = int(sys.argv.pop(1))
import sac_drq, train
update, times = sac_drq.SACAgent.update, []
def timed(self, replay):
    times.append(time.perf_counter())
    update(self, replay)
sac_drq.SACAgent.update = timed
sys.argv[0] = train.__file__
try:
    train.main()
except SystemExit as end:
    assert not end.code, end.code
print((len(times) - 1 - warm_up) / (times[-1] - times[warm_up]))
"""


def rate(checkout: Path, flags: str, steps: int, is_on_one_core: bool) -> float:
    """Steps a second of a training of `steps` updates, one a step."""
    total = LEARNING_STARTS + WARM_UP + steps
    common = f"--total-steps {total} --learning-starts {LEARNING_STARTS} --eval-freq {10 * total} --eval-tracks 1"
    core = ["taskset", "-c", str(min(os.sched_getaffinity(0)))] if is_on_one_core else []
    threads = {"OMP_NUM_THREADS": "1"} if is_on_one_core else {}
    with tempfile.TemporaryDirectory() as directory:
        command = [*core, sys.executable, "-c", TURN, str(checkout), str(WARM_UP), *shlex.split(flags)]
        ended = subprocess.run(
            [*command, *shlex.split(common), "--checkpoint-dir", "run", "--no-aim", "--device", "cpu"],
            cwd=directory,
            env={**os.environ, **threads},
            capture_output=True,
            text=True,
            check=False,
        )
    if ended.returncode:
        sys.exit(ended.stderr)
    return float(ended.stdout.splitlines()[-1])


def main() -> None:
    parser = benchmark_parser(__doc__)
    parser.add_argument("--other", type=Path, default=ROOT, help="another checkout of this project [this one]")
    parser.add_argument("--flags", default="", help="this checkout's flags")
    parser.add_argument("--other-flags", default=SKETCH, help="the other checkout's flags")
    parser.add_argument("--steps", type=int, default=400, help="steps of a turn that are timed")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each")
    options = parser.parse_args()
    turns = {
        "the other, one core": (options.other.resolve(), options.other_flags, True),
        "the other": (options.other.resolve(), options.other_flags, False),
        "this": (ROOT, options.flags, False),
    }
    rates: dict[str, list[float]] = {name: [] for name in turns}
    for _ in range(options.rounds):
        for name, (checkout, flags, is_on_one_core) in turns.items():
            rates[name].append(rate(checkout, flags, options.steps, is_on_one_core))
    against = {name: ["the other"] for name in turns if name != "the other"}
    note = f"This: {options.flags or 'the defaults'}. The other: {options.other_flags or 'the defaults'}."
    tell([compared("Steps a second of a whole SAC training", "steps/s", rates, against, note)], options.json)


if __name__ == "__main__":
    main()
