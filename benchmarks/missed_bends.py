"""Where a driver misses tiles: on bends to the left or to the right?

python -m benchmarks.missed_bends --checkpoint checkpoints/<run>/best [--tracks 400]

Drives the fast game on the development tracks, where drivers can be compared, and knobs turned, without a look at the
scoring tracks.
"""

from typing import Any

import numpy as np
from gymnasium.envs.box2d.car_racing import CarRacing

from benchmarks.driver_probe import driver_and_tracks
from car_racing import make_env, turns
from scoring import Score, drive

# What a bend must turn by to be counted as sharp, in radians.
SHARP = 2.0


def main() -> None:
    driver, view, tracks = driver_and_tracks(__doc__, "tracks", 400)
    env = make_env(view)
    game = env.unwrapped
    assert isinstance(game, CarRacing)
    results, sharp = [], np.zeros(2, int)
    missed_on = {"left": 0, "right": 0}
    for track in tracks:
        result = drive(driver, env, track)
        results.append(result)
        road = turns(game)
        sharp += [(road > SHARP).sum(), (road < -SHARP).sum()]
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
