"""Where a policy misses tiles: on bends to the left or to the right?

python -m benchmarks.missed_bends --checkpoint checkpoints/<run>/best [--tracks 400]

Drives the fast game on the development tracks, where policies can be compared and settings tuned without a look at the
scoring tracks.
"""

from typing import Any

import numpy as np

from benchmarks.findings import FRACTION, POINTS, Figure, Table, tell
from benchmarks.policy_probe import probe_asked_for
from car_racing import game_of, make_env
from car_racing.starts import SHARP_BEND, turns
from scoring import Score, drive


def main() -> None:
    probe = probe_asked_for(__doc__, "tracks", 400)
    env = make_env(probe.view)
    game = game_of(env)
    results, sharp = [], np.zeros(2, int)
    missed_on = {"left": 0, "right": 0}
    for track in probe.tracks:
        result = drive(probe.policy, env, track)
        results.append(result)
        road = turns(game.track)
        sharp += [(road > SHARP_BEND).sum(), (road < -SHARP_BEND).sum()]
        if not result.lap_finished:
            tiles: list[Any] = list(game.road or ())
            first = next(tile.idx for tile in tiles if not tile.road_visited)
            side = "left" if road[first] > 0.0 else "right"
            missed_on[side] += 1
            print(f"track {track}: {result.episode_return:.1f}, first missed tile {first}, turn {road[first]:+.1f}")
    score = Score(results)
    figures = [
        Figure("mean return", [score.mean], POINTS),
        Figure("its standard error", [score.std / len(results) ** 0.5], POINTS),
        Figure("median return", [score.median], POINTS),
        Figure("worst return", [score.minimum], POINTS),
        Figure("laps finished", [score.lap_finish_rate], FRACTION),
        Figure("laps whose first missed tile is on a bend to the left", [missed_on["left"]], "laps"),
        Figure("laps whose first missed tile is on a bend to the right", [missed_on["right"]], "laps"),
        Figure("tiles on sharp bends to the left", [int(sharp[0])], "tiles"),
        Figure("tiles on sharp bends to the right", [int(sharp[1])], "tiles"),
    ]
    tell([Table(f"{len(results)} development tracks in the fast game, {probe.name}", figures)], probe.json)


if __name__ == "__main__":
    main()
