"""Where an episode of training begins: at the start of a lap, lost beside the road, before a sharp bend or a hairpin.

A start is plain values (`EpisodeStart`): the same values make the same start, to the last bit.
"""

import math
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
from gymnasium.envs.box2d.car_dynamics import Car
from gymnasium.envs.box2d.car_racing import CarRacing
from numpy.typing import NDArray

from car_racing.hairpins import CLOSE_LEGS, closest_legs
from car_racing.rules import GRACE_TILES
from car_racing.track import Track

StartKind = Literal["lap", "lost", "bend", "hairpin"]

# A lost car is up to LOST_OFFSET units off the middle of the road, which is 13 wide, and moves at up to LOST_SPEED
# units a second. With SPUN_PROB it looks anywhere, as after a spin; otherwise about where the road goes, with a
# standard deviation of LOST_TURN radians, as when it has just left the road. With AT_REST_PROB it stands still: a
# policy that has come to rest on the grass must know that too.
LOST_OFFSET = 25.0
LOST_SPEED = 70.0
LOST_TURN = 0.7
SPUN_PROB = 0.5
AT_REST_PROB = 0.2

# A bend is what the road turns by over BEND_TILES tiles (of 3.5 units), and it is sharp from SHARP_BEND radians on.
BEND_TILES = 12
SHARP_BEND = 1.6
# A car before a bend is this many tiles before the sharpest of it, or before a hairpin's first leg, at most this many
# units off the middle of the road, and moves at this many units a second: far enough away to come to its own speed.
TILES_BEFORE_BEND = (20, 60)
OFFSET_BEFORE_BEND = 4.0
SPEED_BEFORE_BEND = (20.0, 70.0)

# An episode that begins in the middle of a lap ends this many new tiles past its place, bend or hairpin.
TILES_TO_RECOVER = 30


@dataclass(frozen=True)
class EpisodeStart:
    """How an episode begins.

    Attributes:
        kind: at the start of a lap, lost beside the road, before a sharp bend, or before a hairpin.
        track_seed: the track's seed.
        is_mirrored: whether the track is laid out as its mirror image.
        place_seed: seed of the car's place, for the kinds in the middle of a lap.
    """

    kind: StartKind
    track_seed: int
    is_mirrored: bool
    place_seed: int


class Placement(NamedTuple):
    """A car's place in the middle of a lap.

    Attributes:
        tile: the tile that it is at.
        position: (x, y), in units.
        heading: where it looks, in radians like the track's headings.
        course: where it moves, likewise.
        speed: units a second.
        tiles_to_go: new tiles after which the episode ends.
    """

    tile: int
    position: tuple[float, float]
    heading: float
    course: float
    speed: float
    tiles_to_go: int


def find_placement(kind: StartKind, track: Track, rng: np.random.Generator) -> Placement | None:
    """A place for a start in the middle of a lap; None where the track has none.

    A bend against its direction is not on every track, and a hairpin with close legs only on few.
    """
    if kind == "lost":
        return _beside_the_road(track, rng)
    if kind == "hairpin":
        return _before_hairpin(track, rng)
    bends = bends_against(track)
    return before_bend(track, int(rng.choice(bends)), rng) if bends else None


def put_car(game: CarRacing, place: Placement) -> None:
    """Put the car of a game that has just been reset to a place, as if it had driven up to there.

    The tiles before that place count as visited, without a reward, and look it, which tells the road ahead from the
    road behind.
    """
    assert game.car is not None
    tiles: list[Any] = list(game.road or ())
    for tile in tiles[: place.tile]:
        game.tile_visited_count += not tile.road_visited
        tile.road_visited = True
        tile.color[:] = game.road_color
    game.car.destroy()
    game.car = Car(game.world, place.heading, *place.position)
    velocity = (-place.speed * math.sin(place.course), place.speed * math.cos(place.course))
    for body in (game.car.hull, *game.car.wheels):
        body.linearVelocity = velocity
    for wheel in game.car.wheels:
        wheel.omega = place.speed / wheel.wheel_rad
    # The picture's zoom in, over the first second, is past.
    game.t = 1.0


def _beside_the_road(track: Track, rng: np.random.Generator) -> Placement:
    """A place of a car that has lost the road, in the lap's first three quarters.

    A good policy loses the road too seldom to learn the way back.
    """
    tile, position = _offset_from_road(track, rng)
    heading = track[tile][1]
    turn = rng.uniform(-math.pi, math.pi) if rng.random() < SPUN_PROB else rng.normal(0.0, LOST_TURN)
    speed = 0.0 if rng.random() < AT_REST_PROB else rng.uniform(0.0, LOST_SPEED)
    # It slides: its course is halfway between where it looks and where the road goes.
    return Placement(tile, position, heading + turn, heading + 0.5 * turn, speed, TILES_TO_RECOVER)


def _offset_from_road(track: Track, rng: np.random.Generator) -> tuple[int, tuple[float, float]]:
    """A tile, and a place beside it, (x, y), to which no other stretch of the road is nearer."""
    centres = np.array([point[2:4] for point in track])
    while True:
        tile = int(rng.integers(len(centres) * 3 // 4))
        heading, x, y = track[tile][1:]
        offset = rng.uniform(-LOST_OFFSET, LOST_OFFSET)
        position = np.array([x + offset * math.cos(heading), y + offset * math.sin(heading)])
        nearest = np.linalg.norm(centres - position, axis=1).argmin()
        if abs(nearest - tile) <= GRACE_TILES:
            return tile, (float(position[0]), float(position[1]))


def before_bend(track: Track, bend: int, rng: np.random.Generator) -> Placement:
    """A place on the road before the tile `bend`, on course, but not before the lap's start."""
    tile = max(bend - int(rng.integers(*TILES_BEFORE_BEND, endpoint=True)), 0)
    heading, x, y = track[tile][1:]
    offset = rng.uniform(-OFFSET_BEFORE_BEND, OFFSET_BEFORE_BEND)
    position = x + offset * math.cos(heading), y + offset * math.sin(heading)
    return Placement(tile, position, heading, heading, rng.uniform(*SPEED_BEFORE_BEND), bend - tile + TILES_TO_RECOVER)


def _before_hairpin(track: Track, rng: np.random.Generator) -> Placement | None:
    """A place on the road before a hairpin with close legs; None where the track has none."""
    distance, first, second = closest_legs(track)
    if distance >= CLOSE_LEGS:
        return None
    place = before_bend(track, first, rng)
    return place._replace(tiles_to_go=second - place.tile + TILES_TO_RECOVER)


def turns(track: Track) -> NDArray[np.float64]:
    """What the road turns by around each of its n tiles, (n,), in radians; to the left is positive."""
    headings = np.array([heading for _, heading, _, _ in track])
    steps = (np.roll(headings, -1) - headings + np.pi) % (2 * np.pi) - np.pi
    around = np.arange(len(steps))[:, None] + np.arange(-BEND_TILES // 2, BEND_TILES // 2)
    return steps[around % len(steps)].sum(axis=1)


def bends_against(track: Track) -> list[int]:
    """The sharpest tile of each sharp bend that turns against the direction in which the track as a whole does.

    Every lap has many sharp bends the other way and only some have one of these; mirroring does not make them more
    frequent. A bend across the lap's start counts as two, one on either side.
    """
    road = turns(track)
    against = -np.sign(road.sum()) * road
    is_sharp = against > SHARP_BEND
    ends = np.flatnonzero(np.diff(is_sharp, prepend=False, append=False)).reshape(-1, 2)
    return [int(first + against[first:end].argmax()) for first, end in ends]
