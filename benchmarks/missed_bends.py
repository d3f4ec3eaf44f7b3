"""Where a driver misses tiles: on bends to the left or to the right?

python -m benchmarks.missed_bends --checkpoint checkpoints/<run>/best [--tracks 400]

Drives the fast game on the development tracks, where drivers can be compared, and knobs turned, without a look at the
scoring tracks.
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium.envs.box2d.car_racing import CarRacing

import checkpoint
from car_racing import make_env, turns
from drivers import load_driver
from scoring import DEVELOPMENT_TRACKS, Score, drive
from settings import fail

# What a bend must turn by to be counted as sharp, in radians.
SHARP = 2.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--tracks", type=int, default=400)
    options = parser.parse_args()
    torch.set_num_threads(1)
    try:
        driver, view = load_driver(checkpoint.load(options.checkpoint, with_arrays=False))
    except checkpoint.CheckpointError as error:
        fail(f"--checkpoint: {error}")
    env = make_env(view)
    game = env.unwrapped
    assert isinstance(game, CarRacing)
    results, sharp = [], np.zeros(2, int)
    missed_on = {"left": 0, "right": 0}
    for track in DEVELOPMENT_TRACKS[: options.tracks]:
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
