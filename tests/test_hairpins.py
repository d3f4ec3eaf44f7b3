"""Hairpins whose legs lie close, and the list of training tracks that have one."""

import math

import pytest

from car_racing import TRAINING_TRACK_SEEDS
from car_racing.hairpins import CLOSE_LEGS, HAIRPIN_TRACKS, LEG_TILES, closest_legs
from car_racing.track import track_of_seed


def test_the_closest_legs_are_those_that_looking_at_each_pair_finds():
    for seed in (2, 5843):
        track = track_of_seed(seed, False)
        pairs = [
            (math.dist(track[one][2:], track[other][2:]), one, other)
            for one in range(len(track))
            for other in range(one)
            if LEG_TILES <= one - other <= len(track) - LEG_TILES
        ]
        distance, last, first = min(pairs)
        assert closest_legs(track) == (pytest.approx(distance), first, last)
        assert distance < CLOSE_LEGS


def test_every_listed_track_has_close_legs_in_the_mirror_too():
    assert len(set(HAIRPIN_TRACKS)) == len(HAIRPIN_TRACKS) > 50
    for seed in HAIRPIN_TRACKS:
        assert seed in TRAINING_TRACK_SEEDS, "so no scoring track is among them"
        plain, mirrored = (closest_legs(track_of_seed(seed, is_mirrored)) for is_mirrored in (False, True))
        assert plain == mirrored
        assert plain[0] < CLOSE_LEGS


def test_the_list_leaves_none_out_of_the_first_two_thousand():
    seeds = range(TRAINING_TRACK_SEEDS.start, TRAINING_TRACK_SEEDS.start + 2000)
    found = [seed for seed in seeds if closest_legs(track_of_seed(seed, False))[0] < CLOSE_LEGS]
    assert found == [seed for seed in HAIRPIN_TRACKS if seed in seeds]
    assert len(found) > 2
