"""Where a policy misses tiles: on bends to the left or to the right?

python -m benchmarks.missed_bends --checkpoint checkpoints/<run>/best [--tracks 400]

Drives the fast game on the development tracks, where policies can be compared and settings tuned without a look at the
scoring tracks.
"""

from typing import Any

import numpy as np

from benchmarks.policy_probe import policy_and_tracks
from car_racing import game_of, make_env
from car_racing.starts import SHARP_BEND, turns
from scoring import Score, drive


def main() -> None:
    policy, view, tracks = policy_and_tracks(__doc__, "tracks", 400)
    env = make_env(view)
    game = game_of(env)
    results, sharp = [], np.zeros(2, int)
    missed_on = {"left": 0, "right": 0}
    for track in tracks:
        result = drive(policy, env, track)
        results.append(result)
        road = turns(game)
        sharp += [(road > SHARP_BEND).sum(), (road < -SHARP_BEND).sum()]
        if not result.lap_finished:
            tiles: list[Any] = list(game.road or ())
            first = next(tile.idx for tile in tiles if not tile.road_visited)
            side = "left" if road[first] > 0.0 else "right"
            missed_on[side] += 1
            print(f"track {track}: {result.episode_return:.1f}, first missed tile {first}, turn {road[first]:+.1f}")
    score = Score(results)
    standard_error = score.std / len(results) ** 0.5
    print(f"{score}; median {score.median:.1f}; standard error of the mean {standard_error:.1f}")
    print(f"laps whose first missed tile is on a bend to the left: {missed_on['left']}, right: {missed_on['right']}")
    print(f"tiles on sharp bends to the left: {sharp[0]}, to the right: {sharp[1]}")


if __name__ == "__main__":
    main()
