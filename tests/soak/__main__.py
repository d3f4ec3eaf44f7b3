"""A fault campaign on the real scripts: kills, damaged checkpoints, planted code, full disks, streams, limits, locks.

    python -m tests.soak [--kills N] [--mutations N] [--minutes N] [--seed N]        (or: make soak)

Every fault is tried on a small training of its own. Then the campaign looks at what the user has left: does the run go
on, and is it equal to the undisturbed run to the last bit? The table says how many faults were tried, how many were
survived, and how many lost something. Full disks need the right to mount a tmpfs, read-only directories the right to
make one immutable; without it the table says that they were not tried.
"""

import argparse
import random
import signal
import sys
import tempfile
from pathlib import Path

from tests.helpers import finish
from tests.soak import faults, surroundings
from tests.soak.runs import FLAGS, Outcome, begin, table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20, help="kills of each script's run")
    parser.add_argument("--mutations", type=int, default=250, help="damaged files of each script's checkpoints")
    parser.add_argument("--minutes", type=float, default=5.0, help="minutes of each script's long life")
    parser.add_argument("--seed", type=int, default=0, help="seed of the faults' times and places")
    options = parser.parse_args()
    rng = random.Random(options.seed)
    outcomes: list[Outcome] = []

    def tell(outcome: Outcome) -> None:
        outcomes.append(outcome)
        print(table([outcome]).splitlines()[1], flush=True)

    with tempfile.TemporaryDirectory(prefix="soak-") as directory:
        for script in FLAGS:
            place = Path(directory) / script
            steps = 400 + 250 * options.kills
            tell(faults.kill_and_resume(script, steps, place / "kills", options.kills, rng))
            if script == "train_ppo.py":
                tell(faults.kill_and_resume(script, steps, place / "one", options.kills, rng, is_alone=True))
            for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1):
                stops = place / number.name
                tell(faults.kill_and_resume(script, steps // 2, stops, options.kills // 2, rng, number))
            small = place / "small"
            code, _, stderr = finish(begin(script, 400, small))
            assert code == 0, stderr
            tell(faults.damaged_files(script, small, options.mutations, rng))
            tell(faults.forged_files(script, small, options.mutations, rng))
            tell(faults.planted_pickles(script, 400, small))
            tell(faults.full_disk(script, 800, place / "full"))
            tell(faults.read_only_directory(script, 800, place / "read_only"))
            tell(faults.lost_aim(script, 400, place / "aim"))
            tell(surroundings.planted_links(script, small))
            tell(surroundings.other_versions(script, 800, small))
            tell(surroundings.odd_streams(script, 200, place / "streams"))
            tell(surroundings.limits(script, 200, place / "limits"))
            tell(surroundings.shared_directories(script, 200, place / "locks"))
            tell(surroundings.readers_beside(script, 2_000, place / "readers"))
            tell(surroundings.lost_place(script, place / "lost"))
            tell(surroundings.killed_parent(script, 400, place / "parent"))
            tell(faults.long_life(script, place / "life", options.minutes))
        tell(faults.killed_worker(1_200, Path(directory) / "worker"))
    print("\n" + table(outcomes))
    sys.exit(any(outcome.problems for outcome in outcomes))


if __name__ == "__main__":
    main()
