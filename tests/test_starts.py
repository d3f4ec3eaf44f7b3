"""Where an episode of training begins: beside the road, before a sharp bend, before a hairpin."""

import numpy as np
import pytest

from car_racing import FastCarRacing, ViewConfig, make_env
from car_racing.hairpins import CLOSE_LEGS, HAIRPIN_TRACKS, closest_legs
from car_racing.starts import TILES_TO_RECOVER, bends_against, turns
from tests.driving import BRAKE, STOCK_VIEW, centres_of, drive_to_end, nearest_tile, plain_rules, resets, turned_by

# Half gas, half brake.
MIDDLE = np.zeros(3, np.float32)


def test_a_lost_start_is_beside_the_road_in_the_middle_of_a_lap():
    env = make_env(STOCK_VIEW, plain_rules(lost_start_prob=1.0, missed_tile_penalty=100.0))
    fractions, distances, speeds, turns, sides, slides = [], [], [], [], [], []
    for obs, _ in resets(env, 30, seed=5):
        game = env.unwrapped
        n_visited = sum(tile.road_visited for tile in game.road)
        assert n_visited == game.tile_visited_count
        # As in the game, where what has been touched takes the road's own colour, which every third tile has anyway.
        looks_visited = [tuple(tile.color) == tuple(game.road_color) for tile in game.road]
        assert looks_visited == [tile.road_visited or tile.idx % 3 == 0 for tile in game.road]
        centre = centres_of(game)
        hull = np.array(game.car.hull.position)
        fractions.append(n_visited / len(centre))
        distances.append(np.linalg.norm(centre - hull, axis=1).min())
        speeds.append(np.hypot(*game.car.hull.linearVelocity))
        heading = game.track[nearest_tile(game)][1]
        turns.append(np.cos(game.car.hull.angle - heading))
        across = np.array([np.cos(heading), np.sin(heading)])
        sides.append(np.sign(across @ (hull - centre[nearest_tile(game)])))
        assert_as_if_driven_there(game)
        if speeds[-1] > 1.0:
            velocity = np.array(game.car.hull.linearVelocity) / speeds[-1]
            course = np.arctan2(-velocity[0], velocity[1])
            # It slides: its course is halfway between where it looks and where the road goes.
            turn = game.car.hull.angle - heading
            slides.append(abs(np.cos(course - heading - 0.5 * turn)))
        # The picture is of here and now, and the whole stack of it.
        np.testing.assert_array_equal(obs[-1], game.observe())
        np.testing.assert_array_equal(obs[0], obs[-1])
        # What lies before that place is neither a reward (the few tiles of the game's own start are) nor missed.
        _, reward, *_ = env.step(MIDDLE)
        assert -1.0 < reward < 10 * 1000.0 / len(centre)
    assert min(slides) > 0.99
    assert set(sides) == {-1.0, 1.0}, "on both sides of the road"
    assert sum(turn > 0.9999 for turn in turns) < 5, "hardly any looks straight along the road"
    assert max(fractions) > 0.6
    assert min(fractions) < 0.15
    assert max(distances) > 15.0
    assert max(distances) <= 25.0
    assert max(speeds) > 50.0
    assert 0 < sum(speed == 0.0 for speed in speeds) < 15, "some have come to rest"
    assert 0 < sum(turn < 0.0 for turn in turns) < 15, "some look away from where the road goes"


def assert_as_if_driven_there(game):
    """The wheels roll at the car's speed, all of it moves together, and the picture's zoom in is past."""
    velocities = [tuple(body.linearVelocity) for body in (game.car.hull, *game.car.wheels)]
    assert set(velocities) == {velocities[0]}
    speed = np.hypot(*velocities[0])
    assert [wheel.omega * wheel.wheel_rad for wheel in game.car.wheels] == pytest.approx([speed] * 4, abs=1e-4)
    assert game.t == 1.0


def test_a_lost_start_ends_as_a_truncation_once_the_car_is_back_and_counts_as_no_lap():
    def touch(env, n_tiles):
        env.unwrapped.tile_visited_count += n_tiles
        return env.step(BRAKE)[2:]

    few = TILES_TO_RECOVER // 2  # the wheels may stand on some more
    lost = make_env(ViewConfig(), plain_rules(lost_start_prob=1.0))
    for _ in resets(lost, 2, seed=5):
        assert touch(lost, few)[:2] == (False, False), "each episode counts from its own start"
        terminated, truncated, info = touch(lost, TILES_TO_RECOVER - few)
        assert (terminated, truncated, info["start"]) == (False, True, "lost")
        assert info.keys().isdisjoint({"episode", "is_success"})
    lap = make_env(ViewConfig(), plain_rules())
    lap.reset(seed=5)
    terminated, truncated, info = touch(lap, TILES_TO_RECOVER)
    assert (terminated, truncated, info["start"]) == (False, False, "lap")


def test_a_lost_start_that_does_not_come_back_is_cut_like_any_idle_car():
    env = make_env(ViewConfig(action_repeat=10), plain_rules(max_idle_frames=30, lost_start_prob=1.0))
    for _ in resets(env, 5, seed=5):
        terminated, truncated, info = drive_to_end(env, lambda _: BRAKE)
        assert (terminated, truncated, "episode" in info) == (True, False, False)


def test_a_bend_start_is_on_the_road_before_a_sharp_bend_the_other_way():
    env = make_env(ViewConfig(action_repeat=1, road_contrast=False), plain_rules(bend_start_prob=1.0, mirror_prob=0.5))
    speeds, leads, offsets, directions = [], [], [], set()
    for obs, _ in resets(env, 24, seed=5):
        game = env.unwrapped
        n_tiles = len(game.track)
        direction = np.sign(turned_by(game, range(n_tiles + 1)))
        directions.add(direction)
        start = nearest_tile(game)
        assert all(tile.road_visited for tile in game.road[:start])
        assert not any(tile.road_visited for tile in game.road[max(start, 8) : n_tiles - 8]), "but at the lap's start"
        assert game.tile_visited_count == sum(tile.road_visited for tile in game.road)
        ahead = [-direction * turned_by(game, range(at - 6, at + 7)) for at in range(start, start + 61)]
        assert max(ahead) > 1.5
        assert_as_if_driven_there(game)
        offsets.append(np.linalg.norm(np.array(game.car.hull.position) - centres_of(game)[start]))
        leads.append(next(at for at, turn in enumerate(ahead) if turn > 1.5))
        speeds.append(np.hypot(*game.car.hull.linearVelocity))
        heading = game.track[start][1]
        assert game.car.hull.angle == pytest.approx(heading)
        course = np.array(game.car.hull.linearVelocity) / speeds[-1]
        np.testing.assert_allclose(course, [-np.sin(heading), np.cos(heading)], atol=1e-6)
        np.testing.assert_array_equal(obs[-1], game.observe())
        env.step(MIDDLE)
        assert all(wheel.tiles for wheel in game.car.wheels)
    assert directions == {-1.0, 1.0}, "against the track's direction is to the right, in the mirror to the left"
    assert max(offsets) > 2.0, "not all in the middle of the road"
    assert min(leads) < 30
    assert max(leads) > 40
    assert min(speeds) < 35.0
    assert max(speeds) > 55.0


def test_a_bend_start_ends_as_a_truncation_after_the_bend_and_counts_as_no_lap():
    env = make_env(ViewConfig(), plain_rules(bend_start_prob=1.0, bootstrap_lap_end=True))
    lengths = []
    for _ in resets(env, 8, seed=5):
        game = env.unwrapped
        n_visited = game.tile_visited_count
        start = nearest_tile(game)
        terminated = truncated = False
        while not (terminated or truncated):
            game.tile_visited_count += 1
            *_, terminated, truncated, info = env.step(BRAKE)
        assert (terminated, truncated, info["start"]) == (False, True, "bend")
        assert info.keys().isdisjoint({"episode", "is_success"})
        # The wheels roll over some more tiles with each step that touches one.
        expected = [bend - start + TILES_TO_RECOVER for bend in bends_against(game.track)]
        to_lap_end = len(game.track) - n_visited
        driven = game.tile_visited_count - n_visited
        assert any(0 <= driven - min(tiles, to_lap_end) <= 2 for tiles in expected)
        lengths.append(driven)
    assert max(lengths) - min(lengths) > 10


def test_bends_against_the_tracks_direction_are_few_and_those_of_its_mirror_image():
    game = FastCarRacing()
    n_against = n_with = 0
    for track in range(30):
        bends, turn = [], []
        for mirrored in (False, True):
            game.reset(seed=track, options={"mirrored": mirrored})
            bends.append(bends_against(game.track))
            turn.append(turns(game.track))
        assert bends[0] == bends[1]
        np.testing.assert_allclose(turn[0], -turn[1], atol=1e-9)
        np.testing.assert_allclose(turn[1][50], turned_by(game, range(44, 58)), atol=0.3)
        expected, run = [], []
        for tile, against in enumerate([*-turn[0], 0.0]):
            if against > 1.6:
                run.append((against, -tile))
            elif run:
                expected.append(-max(run)[1])
                run = []
        assert bends[0] == expected
        n_against += len(expected)
        n_with += (np.diff((turn[0] > 1.6).astype(int)) == 1).sum()
    assert 5 < n_against < n_with / 3


def test_a_hairpin_start_is_on_the_road_before_close_legs_and_ends_after_them():
    env = make_env(
        ViewConfig(action_repeat=1), plain_rules(hairpin_start_prob=1.0, mirror_prob=0.5, bootstrap_lap_end=True)
    )
    leads, tracks, directions = [], set(), set()
    for _, info in resets(env, 16, seed=5):
        game = env.unwrapped
        tracks.add(info["track_seed"])
        directions.add(np.sign(turned_by(game, range(len(game.track) + 1))))
        distance, first, second = closest_legs(game.track)
        assert distance < CLOSE_LEGS
        start = nearest_tile(game)
        leads.append(first - start)
        env.step(MIDDLE)
        assert all(wheel.tiles for wheel in game.car.wheels), "it is on the road"
        n_visited = game.tile_visited_count
        terminated = truncated = False
        while not (terminated or truncated):
            game.tile_visited_count += 1
            *_, terminated, truncated, info = env.step(BRAKE)
        assert (terminated, truncated, info["start"]) == (False, True, "hairpin")
        to_go = min(second - start + TILES_TO_RECOVER, len(game.track) - n_visited)
        assert abs(game.tile_visited_count - n_visited - to_go) <= 6
    assert tracks <= set(HAIRPIN_TRACKS)
    assert len(tracks) > 10
    assert directions == {-1.0, 1.0}
    assert 0 <= min(leads) < 35
    assert 40 < max(leads) <= 61
