"""How often a policy is lost on the tracks whose hairpins are the closest.

python -m benchmarks.hairpin_laps --checkpoint checkpoints/<run>/best [--tracks 20]

Drives whole laps of the fast game, with the actions of scoring, on the tracks of seeds 5000 to 8999 on which two legs
of the road lie closest to each other. They are one track of 200, so a score says little about them. To find them takes
half a minute.
"""

import numpy as np

from benchmarks.development_scores import LOST
from benchmarks.findings import FRACTION, POINTS, Figure, Table, tell
from benchmarks.policy_probe import probe_asked_for
from car_racing import make_env
from car_racing.hairpins import closest_legs
from car_racing.track import track_of_seed
from scoring import Score, drive

# More than the development tracks, which have few such hairpins.
SEEDS = range(5000, 9000)


def closest_tracks(n_tracks: int) -> list[tuple[float, int]]:
    """The distance between the closest legs, and the seed, of so many tracks, the closest first."""
    return sorted((closest_legs(track_of_seed(seed, is_mirrored=False))[0], seed) for seed in SEEDS)[:n_tracks]


def main() -> None:
    probe = probe_asked_for(__doc__, "tracks", 20)
    tracks = closest_tracks(len(probe.tracks))
    env = make_env(probe.view)
    score = Score([drive(probe.policy, env, seed) for _, seed in tracks])
    env.close()
    lost = float(np.mean([result.episode_return < LOST for result in score.results]))
    figures = [
        Figure("mean return", [score.mean], POINTS),
        Figure("laps finished", [score.lap_finish_rate], FRACTION),
        Figure(f"lost, below {LOST:g}", [lost], FRACTION),
    ]
    legs = f"legs {tracks[0][0]:.1f} to {tracks[-1][0]:.1f} units apart"
    tell([Table(f"The {len(tracks)} tracks with the closest hairpins, {legs}, {probe.name}", figures)], probe.json)


if __name__ == "__main__":
    main()
