"""Where a policy loses time on a lap: how fast it drives before and in bends, and what it does with the pedals there.

python -m benchmarks.lap_pace --checkpoint checkpoints/<run>/best [--tracks 100]

Drives the fast game on the development tracks. Frames are compared with those of a car that always drives along the
middle of the road at its top speed. What a place loses is frames a lap beyond these.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import gymnasium as gym
import numpy as np
from gymnasium.envs.box2d.car_racing import FPS, TRACK_DETAIL_STEP
from numpy.typing import NDArray

from benchmarks.findings import FRACTION, Figure, Table, tell
from benchmarks.policy_probe import probe_asked_for
from car_racing import game_of, make_env
from car_racing.starts import BEND_TILES, turns
from car_racing.track import Track
from scoring import Policy, drive
from settings import fail

# Units a second. At full gas the car is at 100.0 in every game, whatever the engine gives beyond: Box2D moves a body by
# two units a step at most, 50 steps a second.
TOP_SPEED = 100.0
# The car stands still at the start of a lap, and takes about so many tiles to come to its own speed.
TILES_FROM_REST = 25
# A place is as sharp as the sharpest bend from it to so many tiles ahead, which at top speed are 35 frames.
TILES_AHEAD = 20
# The kinds of place, and the radians up to which each goes.
PLACES = (("straight", 0.4), ("slight bend", 0.8), ("bend", 1.2), ("close bend", 1.6), ("sharp bend", math.inf))
FROM_REST = f"the first {TILES_FROM_REST} tiles, from rest"
# The nearest tile is looked for so far around the last one, because two legs of the road may lie close.
TILES_AROUND = 12


@dataclass(frozen=True)
class Lap:
    """The steps of one episode.

    Attributes:
        tiles: int64 (n_steps + 1,), the tile that the car was at before each step and after the last.
        speeds: float64 (n_steps,), how fast it was before each step, in world units a second.
        pedals: float32 (n_steps, 2), gas and brake in [0, 1] at each step's end.
        places: int64 (n_steps,), the index of the kind of place in `PLACES`, or -1 for the tiles from rest.
        is_finished: whether it touched every tile.
    """

    tiles: NDArray[np.int64]
    speeds: NDArray[np.float64]
    pedals: NDArray[np.float32]
    places: NDArray[np.int64]
    is_finished: bool


def drive_lap(policy: Policy, env: gym.Env, track: int) -> Lap:
    """Drive one episode as `scoring.drive` does."""
    game = game_of(env)
    positions, speeds, pedals = [], [], []

    def look(_: NDArray[np.uint8]) -> None:
        assert game.car is not None
        positions.append(tuple(game.car.hull.position))
        speeds.append(math.hypot(*game.car.hull.linearVelocity))
        # A rear wheel's: the game lets the gas rise by a tenth a frame.
        pedals.append((game.car.wheels[2].gas, game.car.wheels[2].brake))

    result = drive(policy, env, track, look)
    tiles = tiles_at(positions, game.track)
    return Lap(
        tiles=tiles,
        speeds=np.array(speeds[:-1]),
        pedals=np.array(pedals[1:], np.float32),
        places=places_of(game.track)[tiles[:-1] % len(game.track)],
        is_finished=result.lap_finished,
    )


def tiles_at(positions: Sequence[tuple[float, float]], track: Track) -> NDArray[np.int64]:
    """The nearest tile to each position of a drive from the start of a lap, int64 (n_positions,); laps count on."""
    middle = np.array([(x, y) for _, _, x, y in track])
    tiles = [0]
    for position in positions[1:]:
        around = np.arange(tiles[-1] - TILES_AROUND, tiles[-1] + TILES_AROUND)
        distances = np.hypot(*(middle[around % len(middle)] - position).T)
        tiles.append(int(around[distances.argmin()]))
    return np.array(tiles)


def places_of(track: Track) -> NDArray[np.int64]:
    """The kind of place that each tile of a track is, an index of `PLACES` or -1 from rest, int64 (n_tiles,)."""
    sharpness = np.abs(turns(track))
    ahead = np.arange(len(track))[:, None] + np.arange(TILES_AHEAD)
    places = np.digitize(sharpness[ahead % len(track)].max(axis=1), [end for _, end in PLACES])
    places[:TILES_FROM_REST] = -1
    return places


def tables_of(laps: Sequence[Lap], action_repeat: int, name: str) -> list[Table]:
    """Speed, pedals and lost frames by kind of place, of all steps of some laps."""
    places = np.concatenate([lap.places for lap in laps])
    speeds = np.concatenate([lap.speeds for lap in laps])
    gas, brake = np.concatenate([lap.pedals for lap in laps]).T
    tiles = np.concatenate([np.diff(lap.tiles) for lap in laps])
    frames_a_tile = TRACK_DETAIL_STEP / TOP_SPEED * FPS
    kinds = [(label, places == i) for i, (label, _) in enumerate(PLACES)] + [(FROM_REST, places == -1)]
    kinds = [(label, at) for label, at in kinds if at.any()]
    lost = {label: (at.sum() * action_repeat - tiles[at].sum() * frames_a_tile) / len(laps) for label, at in kinds}

    def table(title: str, values: Mapping[str, float], unit: str, note: str = "") -> Table:
        return Table(f"{title}, {name}", [Figure(label, [float(value)], unit) for label, value in values.items()], note)

    ends = ", ".join(f"{label} to {end:g}" for label, end in PLACES[:-1])
    return [
        table(
            f"Frames a lap lost against {TOP_SPEED:g} units a second",
            lost | {"in all": sum(lost.values())},
            "frames",
            f"By the sharpest bend within {TILES_AHEAD} tiles, in radians over {BEND_TILES} tiles: {ends}.",
        ),
        table("Mean speed", {label: speeds[at].mean() for label, at in kinds}, "units/s"),
        table("Gas", {label: gas[at].mean() for label, at in kinds}, FRACTION),
        table("Brake", {label: brake[at].mean() for label, at in kinds}, FRACTION),
    ]


def main() -> None:
    probe = probe_asked_for(__doc__, "tracks", 100)
    env = make_env(probe.view)
    laps = [lap for lap in (drive_lap(probe.policy, env, track) for track in probe.tracks) if lap.is_finished]
    if not laps:
        fail(f"--checkpoint {probe.name}: its policy finished no lap of {len(probe.tracks)}; give a better one")
    name = f"{len(laps)} laps finished of {len(probe.tracks)}, {probe.name}"
    tell(tables_of(laps, probe.view.action_repeat, name), probe.json)


if __name__ == "__main__":
    main()
