"""CarRacing-v3's tracks as numbers: the middle of the road, the corners of its tiles, where kerbs are.

This is Gymnasium's `CarRacing._create_track` without its game, with the same arithmetic in the same order: every number
is equal to the last bit. Nothing is made in Box2D here, so a track can be looked at before it is laid out.
"""

import itertools
import math
from collections.abc import Sequence

import numpy as np
from gymnasium.envs.box2d.car_racing import (
    BORDER,
    BORDER_MIN_COUNT,
    SCALE,
    TRACK_DETAIL_STEP,
    TRACK_RAD,
    TRACK_TURN_RATE,
    TRACK_WIDTH,
)
from gymnasium.utils import seeding

# A point of the road's middle: the angle at which it is seen from the field's centre, the road's heading, x, y.
TrackPoint = tuple[float, float, float, float]
Track = Sequence[TrackPoint]
Point = tuple[float, float]
Corners = list[Point]

N_CHECKPOINTS = 12
START_ALPHA = 2 * math.pi * (-0.5) / N_CHECKPOINTS
# The road is traced until it has passed its start more than MAX_LAPS times, or for MAX_POINTS. Its last lap is taken.
MAX_LAPS = 4
MAX_POINTS = 2500
# Headings of neighbouring points differ by more than this in a hard turn.
HARD_TURN = TRACK_TURN_RATE * 0.2


def draw_track(rng: np.random.Generator) -> Track:
    """The track that a game with this random generator makes; it draws as many numbers as the game does."""
    while True:
        track = _one_lap(_traced(_checkpoints(rng)))
        if track is not None:
            return track


def track_of_seed(seed: int, is_mirrored: bool = False) -> Track:
    """The track of a game that is reset with this seed, without `domain_randomize`, which draws colours before it."""
    track = draw_track(seeding.np_random(seed)[0])
    return mirrored(track) if is_mirrored else track


def mirrored(track: Track) -> Track:
    """The mirror image of a track, x to -x, which runs the other way round."""
    return [(math.pi - alpha, -heading, -x, y) for alpha, heading, x, y in track]


def tile_corners(track: Track) -> list[Corners]:
    """The four corners of each tile: left and right at its point, right and left at the point before."""
    sides = []
    for _, heading, x, y in track:
        across_x, across_y = TRACK_WIDTH * math.cos(heading), TRACK_WIDTH * math.sin(heading)
        sides.append(((x - across_x, y - across_y), (x + across_x, y + across_y)))
    return [[left, right, sides[i - 1][1], sides[i - 1][0]] for i, (left, right) in enumerate(sides)]


def kerb_corners(track: Track, i: int) -> Corners:
    """The four corners of the kerb at tile `i`, on the inside of the turn."""
    turn = track[i - 1][1] - track[i][1]
    side = (turn > 0) - (turn < 0)
    corners = []
    for _, heading, x, y in (track[i], track[i - 1]):
        cos, sin = math.cos(heading), math.sin(heading)
        inner, outer = side * TRACK_WIDTH, side * (TRACK_WIDTH + BORDER)
        corners += [(x + inner * cos, y + inner * sin), (x + outer * cos, y + outer * sin)]
    return [corners[0], corners[1], corners[3], corners[2]]


def kerbs(track: Track) -> list[bool]:
    """Whether each tile has a kerb: those of hard turns have, and the few before them."""
    headings = np.array([heading for _, heading, _, _ in track])
    steps = headings - np.roll(headings, 1)
    last_steps = np.array([np.roll(steps, back) for back in range(BORDER_MIN_COUNT)])
    lowest, highest = last_steps.min(axis=0), last_steps.max(axis=0)
    has_kerb = [bool(low > HARD_TURN or high < -HARD_TURN) for low, high in zip(lowest, highest, strict=True)]
    for i in range(len(track)):
        if has_kerb[i]:
            # The first tiles' reach back to the last ones. Those then reach further back, when the loop comes to them.
            for back in range(1, BORDER_MIN_COUNT):
                has_kerb[i - back] = True
    return has_kerb


def _checkpoints(rng: np.random.Generator) -> list[tuple[float, float, float]]:
    """What the road is to pass: (alpha, x, y) of each."""
    checkpoints = []
    for c in range(N_CHECKPOINTS):
        noise = rng.uniform(0, 2 * math.pi * 1 / N_CHECKPOINTS)
        alpha = 2 * math.pi * c / N_CHECKPOINTS + noise
        radius = rng.uniform(TRACK_RAD / 3, TRACK_RAD)
        if c == 0:
            alpha, radius = 0, 1.5 * TRACK_RAD
        if c == N_CHECKPOINTS - 1:
            alpha, radius = 2 * math.pi * c / N_CHECKPOINTS, 1.5 * TRACK_RAD
        checkpoints.append((alpha, radius * math.cos(alpha), radius * math.sin(alpha)))
    return checkpoints


def _traced(checkpoints: list[tuple[float, float, float]]) -> Track:
    """Several laps from checkpoint to checkpoint, with turns that a road can have."""
    x, y, beta = 1.5 * TRACK_RAD, 0.0, 0.0
    target = laps = 0
    has_visited_other_side = False
    points: list[TrackPoint] = []
    while laps <= MAX_LAPS and len(points) < MAX_POINTS:
        alpha = math.atan2(y, x)
        if has_visited_other_side and alpha > 0:
            laps += 1
            has_visited_other_side = False
        if alpha < 0:
            has_visited_other_side = True
            alpha += 2 * math.pi
        while alpha > checkpoints[target][0]:
            target = (target + 1) % N_CHECKPOINTS
            if target == 0:
                alpha -= 2 * math.pi
        _, target_x, target_y = checkpoints[target]
        cos, sin = math.cos(beta), math.sin(beta)
        # How far the target lies to the side.
        aside = cos * (target_x - x) + sin * (target_y - y)
        while beta - alpha > 1.5 * math.pi:
            beta -= 2 * math.pi
        while beta - alpha < -1.5 * math.pi:
            beta += 2 * math.pi
        before = beta
        aside *= SCALE
        if aside > 0.3:
            beta -= min(TRACK_TURN_RATE, abs(0.001 * aside))
        if aside < -0.3:
            beta += min(TRACK_TURN_RATE, abs(0.001 * aside))
        x += -sin * TRACK_DETAIL_STEP
        y += cos * TRACK_DETAIL_STEP
        points.append((alpha, before * 0.5 + beta * 0.5, x, y))
    return points


def _one_lap(points: Track) -> Track | None:
    """The last whole lap of a traced road; None where it has none, or its ends do not meet."""
    starts = (i for i in range(len(points) - 1, 0, -1) if points[i][0] > START_ALPHA >= points[i - 1][0])
    last_two = list(itertools.islice(starts, 2))
    if len(last_two) < 2:
        return None
    end, start = last_two
    track = points[start : end - 1]
    heading = track[0][1]
    gap_x = math.cos(heading) * (track[0][2] - track[-1][2])
    gap_y = math.sin(heading) * (track[0][3] - track[-1][3])
    return None if math.sqrt(gap_x * gap_x + gap_y * gap_y) > TRACK_DETAIL_STEP else track
