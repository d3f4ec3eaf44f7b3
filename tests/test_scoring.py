"""Scores against NumPy, and scoring against driving by hand."""

import itertools

import numpy as np
import pytest

from car_racing import TRAINING_TRACK_SEEDS, ViewConfig, make_env, make_stock_env
from scoring import NotFiniteError, Score, TrackResult, drive, score
from tracks import DEVELOPMENT_TRACKS, SCORING_TRACKS, VALIDATION_TRACKS


def result(track, episode_return, frames=1000, lap_finished=False):
    return TrackResult(track, episode_return, frames, 100, 100 + track, 0.5, lap_finished)


def test_statistics_are_numpys():
    returns = np.random.default_rng(0).normal(800, 100, 30)
    found = Score([result(i, r, 700 + i, i % 3 == 0) for i, r in enumerate(returns)])
    assert found.mean == pytest.approx(np.mean(returns))
    assert found.std == pytest.approx(np.std(returns))
    assert found.median == pytest.approx(np.median(returns))
    assert (found.minimum, found.maximum) == (min(returns), max(returns))
    assert found.tiles_missed == pytest.approx(100 + np.mean(np.arange(30)))
    assert found.lap_finish_rate == pytest.approx(1 / 3)
    assert found.frames_to_finish == pytest.approx(np.mean(np.arange(700, 730, 3)))
    assert found.tiles_fraction == 0.5
    assert f"{np.mean(returns):.1f} ± {np.std(returns):.1f} over 30 tracks" in str(found)
    assert f"(worst {min(returns):.1f})" in str(found)
    assert "10 of 30 laps finished in 714 frames" in str(found)


def test_without_a_finished_lap_there_are_no_frames_to_finish():
    found = Score([result(0, 10.0), result(1, 20.0)])
    assert found.frames_to_finish is None
    assert str(found).endswith("0 of 2 laps finished")


def test_a_score_of_nothing_is_refused():
    with pytest.raises(ValueError, match="at least one track"):
        Score([])


def test_no_track_serves_two_purposes():
    purposes = (SCORING_TRACKS, VALIDATION_TRACKS, DEVELOPMENT_TRACKS, TRAINING_TRACK_SEEDS)
    for one, other in itertools.combinations(purposes, 2):
        assert max(one.start, other.start) >= min(one.stop, other.stop), f"{one} and {other} share seeds"


VIEW = ViewConfig(action_repeat=10)


def weaving():
    """A policy that does not look: it steers left and right without gas, a little later at each call."""
    steps = itertools.count()
    return lambda _: np.array([0.3 * np.sin(next(steps)), 0.0, -1.0], np.float32)


def test_a_result_is_what_happened():
    """The sum of the rewards, the frames, and the tiles of the track itself, counted beside `drive`."""
    env = make_env(VIEW)
    found = drive(weaving(), env, 3)
    tiles = env.unwrapped.road
    visited = sum(tile.road_visited for tile in tiles)

    policy = weaving()
    obs, _ = env.reset(seed=3)
    rewards, frames, ended = 0.0, 0, False
    while not ended:
        obs, reward, terminated, truncated, info = env.step(policy(obs))
        rewards, frames, ended = rewards + reward, frames + info["frames"], terminated or truncated
    assert found.episode_return == pytest.approx(rewards)
    assert (found.track, found.frames, found.lap_finished) == (3, frames, False)
    assert (found.tiles, found.tiles_missed) == (visited, len(tiles) - visited)
    assert found.tiles_fraction == pytest.approx(visited / len(tiles))


def test_the_fast_and_the_stock_environment_score_the_same():
    """The same actions score the same to the last bit: full gas, until the car has left the field."""

    def straight_on(_):
        return np.array([0.0, 1.0, -1.0], np.float32)

    ours = score(straight_on, make_env(VIEW), [36, 31])
    assert ours.results[:1] == score(straight_on, make_stock_env(VIEW), [36]).results
    assert ours.results[0] != ours.results[1]
    assert ours.results[0].frames < 200


def test_an_action_that_is_not_finite_is_an_error():
    with pytest.raises(NotFiniteError, match=r"action on track 3 is \[0.0, nan, 0.0\], which is not finite"):
        drive(lambda obs: np.array([0.0, np.nan, 0.0], np.float32), make_env(), 3)


def test_a_stopped_scoring_has_no_score():
    answers = iter([False, True])
    driven = []

    def policy(obs):
        driven.append(obs)
        return np.array([0.0, 1.0, -1.0], np.float32)

    env = make_env(ViewConfig(action_repeat=100))
    assert score(policy, env, [3, 4], is_stopped=lambda: next(answers)) is None
    n_steps = len(driven)
    drive(policy, env, 3)
    assert len(driven) == 2 * n_steps, "the first track was driven, the second was not"
