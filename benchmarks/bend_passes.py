"""How often a policy misses tiles of a sharp bend against the track's direction.

python -m benchmarks.bend_passes --checkpoint checkpoints/<run>/best [--tracks 400]

Training's bend starts (`car_racing.starts.before_bend`), but before each such bend of the development tracks that is
not near the lap's start, on the fast game, and with the actions of scoring. There is one on every second lap or so, so
a good policy's score says little about them.
"""

from typing import Any

import numpy as np

from benchmarks.findings import FRACTION, Figure, Table, tell
from benchmarks.policy_probe import make_agent_view, probe_asked_for
from car_racing import AgentView, game_of
from car_racing.rules import LapProgress
from car_racing.starts import before_bend, bends_against, put_car
from scoring import Policy
from settings import fail

# A pass ends when the tiles up to this many after the bend's sharpest are judged, or after this many frames.
TILES_AFTER_BEND = 10
MAX_FRAMES = 300


def tiles_missed(policy: Policy, env: AgentView, track: int, bend: int) -> int:
    """The number of tiles from the start to the bend's end that are left behind untouched or not reached at all."""
    env.reset(seed=track)
    game = game_of(env)
    place = before_bend(game.track, bend, np.random.default_rng([track, bend]))
    put_car(game, place)
    obs = env.refresh_observation()
    end = bend + TILES_AFTER_BEND
    lap = LapProgress(game, place.tile)
    frames = 0
    while lap.n_judged < end and frames < MAX_FRAMES:
        obs, _, terminated, truncated, info = env.step(policy(obs))
        frames += info["frames"]
        lap.count_missed()
        if terminated or truncated:
            break
    tiles: list[Any] = list(game.road or ())
    return sum(not tile.road_visited for tile in tiles[place.tile : end])


def main() -> None:
    probe = probe_asked_for(__doc__, "tracks", 400)
    env = make_agent_view(probe.view)
    game = game_of(env)
    passes = []
    for track in probe.tracks:
        env.reset(seed=track)
        # The game's own start is among the first and last tiles.
        for bend in [bend for bend in bends_against(game.track) if 25 <= bend < len(game.track) - 2 * TILES_AFTER_BEND]:
            passes.append(tiles_missed(probe.policy, env, track, bend))
    if not passes:
        fail("--tracks: no such bend on these; give more")
    figures = [
        Figure(f"of {len(passes)} passes, those with missed tiles", [float(np.mean(np.array(passes) > 0))], FRACTION),
        Figure("tiles missed in all", [float(sum(passes))], "tiles"),
    ]
    tell([Table(f"Sharp bends against the track's direction, {probe.name}", figures)], probe.json)


if __name__ == "__main__":
    main()
