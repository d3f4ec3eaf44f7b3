"""Steps a second of a whole SAC training: on one core and on all, and of another checkout, in turn, in one run.

    python -m benchmarks.sac_training [--flags FLAGS] [--other DIR] [--other-flags FLAGS] [--steps N] [--rounds N]

Each turn is a process of its own that runs the checkout's `train.py` without tracking and counts the seconds from one
update to the last, so acting, the game, the replay buffer and the updates count, and the start does not. On one core
there is one thread.
"""

import os
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.findings import benchmark_parser, compared, count, tell
from benchmarks.short_training import ROOT

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
    parser.add_argument("--other", type=Path, help="another checkout of this project to compare with")
    parser.add_argument("--flags", default="", help="this checkout's flags")
    parser.add_argument("--other-flags", default=SKETCH, help="the other checkout's flags")
    parser.add_argument("--steps", type=count, default=400, help="steps of a turn that are timed")
    parser.add_argument("--rounds", type=count, default=3, help="turns of each")
    options = parser.parse_args()
    one_core, all_cores = "one core, one thread", f"{len(os.sched_getaffinity(0))} cores"
    turns = {one_core: (ROOT, options.flags, True), all_cores: (ROOT, options.flags, False)}
    if options.other is not None:
        turns[f"the other, {one_core}"] = (options.other.resolve(), options.other_flags, True)
        turns[f"the other, {all_cores}"] = (options.other.resolve(), options.other_flags, False)
    rates: dict[str, list[float]] = {name: [] for name in turns}
    for _ in range(options.rounds):
        for name, (checkout, flags, is_on_one_core) in turns.items():
            rates[name].append(rate(checkout, flags, options.steps, is_on_one_core))
    against = {all_cores: [one_core, *(name for name in turns if name.startswith("the other"))]}
    other = "" if options.other is None else f" The other: `{options.other_flags}`."
    note = f"This: {f'`{options.flags}`' if options.flags else 'the defaults'}.{other}"
    tell([compared("Steps a second of a whole SAC training", "steps/s", rates, against, note)], options.json)


if __name__ == "__main__":
    main()
