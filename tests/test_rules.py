"""The rules of training: progress round the lap, penalties, early ends, the end of a lap."""

import numpy as np
import pytest
from gymnasium.envs.box2d.car_dynamics import Car

from car_racing import ViewConfig, make_env, tiles_visited
from car_racing.rules import MAX_MISSED_TILES_PER_STEP, MAX_WHEELS_OFF_PER_STEP, LapProgress
from tests.driving import (
    BRAKE,
    GAS,
    along_the_road,
    lap_of,
    lift,
    lifted_round,
    nearest_tile,
    plain_rules,
)


def test_idle_cut_is_a_termination_for_training_only():
    training = make_env(ViewConfig(action_repeat=10), plain_rules(max_idle_frames=30))
    training.reset(seed=0)
    outcomes = [training.step(BRAKE)[2:4] for _ in range(3)]
    assert outcomes == [(False, False), (False, False), (True, False)]
    scoring = make_env(ViewConfig(action_repeat=10))
    scoring.reset(seed=0)
    assert all(scoring.step(BRAKE)[2:4] == (False, False) for _ in range(10))


def test_a_new_tile_starts_the_idle_count_again():
    env = make_env(ViewConfig(action_repeat=10), plain_rules(max_idle_frames=40))
    env.reset(seed=0)
    ended_after = next(step for step in range(100) if env.step(GAS)[2])
    assert ended_after > 4, "the car drives over tiles for a while before it is lost"


def test_missed_tiles_are_counted_once_and_only_behind_the_car():
    game, put = lap_of(100)
    lap = LapProgress(game)

    def at(*indices):
        put(*indices)
        return lap.count_missed()

    assert at(0, -1) == 0  # the start, with a wheel on the lap's last tile
    assert [at(i) for i in range(1, 10)] == [0] * 9
    assert [at(i) for i in (11, 12, 13, 14)] == [0, 0, 0, 0]  # 10 is left out, but not far enough behind
    assert at(15) == 1
    assert at(16) == 0
    assert at() == 0  # off the road
    assert at(30) == 25 - 16 + 0  # tiles 17 to 25 lie more than four behind; 26 to 29 may still be touched
    assert at(10) == 0  # back to the missed one, which is no longer charged nor given back
    assert [at(i) for i in range(26, 100)] == [0] * 74
    assert sum(not tile.road_visited for tile in game.road) == 25 - 16
    assert [at(i) for i in range(100, 130)] == [0] * 30  # the second lap


def test_halfway_lies_between_the_start_and_the_laps_end():
    game, put = lap_of(100)
    lap = LapProgress(game, start=40)
    for tile in range(40, 70):
        put(tile)
        lap.count_missed()
        assert not lap.is_halfway, tile
    put(70)
    lap.count_missed()
    assert lap.is_halfway


def test_missed_tiles_of_a_lap_from_its_middle():
    game, put = lap_of(100)
    lap = LapProgress(game, start=40)
    put(44)
    assert lap.count_missed() == 0
    put(50)
    assert lap.count_missed() == 46 - 40 - 1  # all but 44 of the tiles more than four behind 50
    assert not lap.is_round
    for index in range(51, 105):
        put(index)
        lap.count_missed()
    assert lap.is_round


def test_missed_tiles_are_not_charged_for_driving_backwards():
    game, put = lap_of(100)
    lap = LapProgress(game)
    for index in (0, -1, -2, -10, -30, -45):
        put(index)
        assert lap.count_missed() == 0


def test_a_bootstrapped_lap_ends_with_the_view_from_halfway_round():
    """Where it looks like any road: the one ahead untouched."""
    plain, endless = [], []
    lifted_round(plain_rules(), seen=plain)
    lifted_round(plain_rules(bootstrap_lap_end=True), seen=endless)
    assert len(plain) == len(endless)
    for here, there in zip(plain[:-1], endless[:-1], strict=True):
        np.testing.assert_array_equal(here, there)
    same = [i for i, obs in enumerate(plain) if np.array_equal(obs, endless[-1])]
    assert len(same) == 1
    assert 0.45 < same[0] / len(plain) < 0.55


def test_a_lap_finished_the_wrong_way_round_ends_too():
    seen = []
    terminated, truncated, episode = lifted_round(plain_rules(bootstrap_lap_end=True), seen=seen, backwards=True)
    assert (terminated, truncated, episode["lap_finished"]) == (False, True, True)
    assert not any(np.array_equal(obs, seen[-1]) for obs in seen[:-1]), "its last observation is where it is"


def test_a_bootstrapped_lap_ends_as_a_truncation_finished_or_not():
    endless = plain_rules(bootstrap_lap_end=True)
    terminated, truncated, episode = lifted_round(endless)
    assert (terminated, truncated, episode["lap_finished"]) == (False, True, True)
    terminated, truncated, episode = lifted_round(endless, misses_a_tile=True)
    assert (terminated, truncated, episode["lap_finished"]) == (False, True, False)
    assert 0 < episode["tiles_missed"] <= 8
    terminated, truncated, episode = lifted_round(plain_rules())
    assert (terminated, truncated, episode["lap_finished"]) == (True, False, True)
    assert lifted_round(plain_rules(), misses_a_tile=True) is None


def test_leaving_the_field_is_a_termination_whatever_the_laps_end():
    env = make_env(ViewConfig(), plain_rules(bootstrap_lap_end=True))
    env.reset(seed=5)
    game = env.unwrapped
    lift(game, np.array([400.0, 0.0]))
    _, reward, terminated, truncated, _ = env.step(GAS)
    assert (terminated, truncated) == (True, False)
    assert reward < -99.0


@pytest.mark.parametrize("max_backward_tiles", [0, 12])
def test_the_wrong_way_is_a_termination_if_asked_for(max_backward_tiles):
    env = make_env(ViewConfig(), plain_rules(max_backward_tiles=max_backward_tiles))
    env.reset(seed=3)
    game = env.unwrapped
    for _ in range(60):
        assert env.step(along_the_road(game))[2:4] == (False, False)
    turned_at = nearest_tile(game)
    position, angle = tuple(game.car.hull.position), game.car.hull.angle
    game.car.destroy()
    game.car = Car(game.world, angle + np.pi, *position)
    for _ in range(60):
        terminated, truncated = env.step(along_the_road(game, ahead=-4))[2:4]
        assert not truncated
        if terminated:
            break
    n_back = (turned_at - nearest_tile(game)) % len(game.track)
    if max_backward_tiles:
        assert terminated
        assert n_back == pytest.approx(max_backward_tiles, abs=3), "the car is four tiles long"
    else:
        assert not terminated
        assert n_back > 20


def test_wheels_that_touch_no_tile_left_behind_are_charged():
    def weave(penalty):
        env = make_env(ViewConfig(action_repeat=1), plain_rules(wheel_off_penalty=penalty))
        env.reset(seed=8)
        game = env.unwrapped
        rewards, touched = [], [set() for _ in range(4)]
        for frame in range(400):
            action = along_the_road(game)
            action[0] += 1.0 * np.sin(frame / 25.0)
            rewards.append(env.step(action)[1])
            for wheel, tiles in zip(game.car.wheels, touched, strict=True):
                tiles.update(tile.idx for tile in wheel.tiles)
        furthest = max(index for tiles in touched for index in tiles if index < len(game.track) // 2)
        # The first tiles, on which the car stands at the start, are not counted.
        off = [sum(index not in tiles for tiles in touched) for index in range(4, furthest - 4)]
        return np.array(rewards), off

    rewards, off = weave(0.0)
    assert {0, 2} <= set(off), "on some tiles all four wheels, on others two"
    penalties = rewards - weave(0.5)[0]
    assert penalties.min() > -1e-9
    assert penalties.sum() == pytest.approx(0.5 * sum(off))


def test_a_wheel_touches_tiles_between_two_steps_too():
    rules = plain_rules(wheel_off_penalty=1.0)
    charged, free = (make_env(ViewConfig(action_repeat=20), options) for options in (rules, plain_rules()))
    for env in (charged, free):
        env.reset(seed=7)
    for _ in range(20):
        # Some three tiles a step, no wheel ever off the road.
        action = along_the_road(charged.unwrapped, ahead=6) * np.array([0.3, 1.0, 1.0], np.float32)
        assert charged.step(action)[1] == free.step(action)[1]
    assert tiles_visited(charged) > 30


def drive_past_some_tiles(**settings):
    """The rewards of an episode in which the car is lifted over many tiles and then leaves the road, and its info."""
    env = make_env(ViewConfig(), plain_rules(max_idle_frames=100, **settings))
    env.reset(seed=5)
    game = env.unwrapped
    rewards = []
    while True:
        if len(rewards) == 8:  # from tile 2 or so to tile 20
            lift(game, np.subtract(game.track[20][2:4], game.track[2][2:4]))
        _, reward, terminated, truncated, info = env.step(GAS)
        rewards.append(reward)
        if terminated or truncated:
            return np.array(rewards), info["episode"]


def test_penalties_are_in_the_reward_and_not_in_the_episodes_return():
    plain, episode = drive_past_some_tiles()
    penalized, same_episode = drive_past_some_tiles(missed_tile_penalty=7.0, wheel_off_penalty=0.5)
    assert episode == same_episode
    assert episode["r"] == pytest.approx(plain.sum())
    assert penalized.sum() < episode["r"] - 7.0
    assert episode["tiles_missed"] == round(episode["tiles"] / episode["tiles_fraction"]) - episode["tiles"]


def test_penalties_of_one_step_are_clipped():
    plain, episode = drive_past_some_tiles()
    assert episode["tiles_missed"] > 2 * MAX_MISSED_TILES_PER_STEP
    of_tiles = (plain - drive_past_some_tiles(missed_tile_penalty=7.0)[0]) / 7.0
    np.testing.assert_allclose(of_tiles, np.round(of_tiles), atol=1e-9)
    assert of_tiles.min() > -1e-9
    assert round(of_tiles.max()) == MAX_MISSED_TILES_PER_STEP, "lifted over more of them than are penalized at once"
    of_wheels = (plain - drive_past_some_tiles(wheel_off_penalty=0.5)[0]) / 0.5
    assert of_wheels.max() == pytest.approx(MAX_WHEELS_OFF_PER_STEP)


def test_progress_anneals_the_missed_tile_penalty_and_no_other():
    def rewards(progress, **settings):
        env = make_env(ViewConfig(), plain_rules(**settings))
        if progress is not None:
            env.get_wrapper_attr("set_progress")(progress)
        env.reset(seed=5)
        game = env.unwrapped
        found = []
        for i in range(30):
            if i == 8:
                lift(game, np.subtract(game.track[20][2:4], game.track[2][2:4]))
            found.append(env.step(along_the_road(game))[1])
        return np.array(found)

    plain = rewards(None)
    full = plain - rewards(None, missed_tile_penalty=8.0)
    assert full.max() == pytest.approx(8.0 * MAX_MISSED_TILES_PER_STEP), "without a word of progress it is full"
    for progress in (0.0, 0.25, 1.0):
        np.testing.assert_allclose(plain - rewards(progress, missed_tile_penalty=8.0), progress * full, atol=1e-9)
    of_wheels = rewards(None, wheel_off_penalty=1.0)
    assert (plain - of_wheels).max() > 1.0
    np.testing.assert_array_equal(rewards(0.0, wheel_off_penalty=1.0), of_wheels)


def test_how_far_back_the_car_is_counts_from_the_furthest_place_that_it_reached():
    game, put = lap_of(100)
    lap = LapProgress(game)
    found = []
    for index in (0, 30, 60, 95, 90, 70, 97, 99):
        put(index)
        lap.count_missed()
        found.append((lap.n_backward, lap.is_halfway))
    assert found == [
        (0, False), (0, False), (0, True), (0, True), (5, True), (25, True), (0, True), (0, True),
    ]  # fmt: skip


@pytest.mark.parametrize("progress", [-0.1, 1.1, float("nan")])
def test_a_progress_that_is_no_fraction_is_refused(progress):
    with pytest.raises(ValueError, match=r"in \[0, 1\]"):
        make_env(rules=plain_rules()).set_progress(progress)
