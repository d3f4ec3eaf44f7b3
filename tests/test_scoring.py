"""Scores against NumPy, and scoring against driving by hand."""

import numpy as np
import pytest

from car_racing import ViewConfig, make_env, make_stock_env
from scoring import SCORING_TRACKS, Score, TrackResult, score


def result(track, episode_return, frames=1000, lap_finished=False):
    return TrackResult(track, episode_return, frames, 100, 100 + track, 0.5, lap_finished)


def test_statistics_are_numpys():
    returns = np.random.default_rng(0).normal(800, 100, 30)
    scored = Score([result(i, r, 700 + i, i % 3 == 0) for i, r in enumerate(returns)])
    assert scored.mean == pytest.approx(np.mean(returns))
    assert scored.std == pytest.approx(np.std(returns))
    assert scored.median == pytest.approx(np.median(returns))
    assert (scored.minimum, scored.maximum) == (min(returns), max(returns))
    assert scored.tiles_missed == pytest.approx(100 + np.mean(np.arange(30)))
    assert scored.lap_finish_rate == pytest.approx(1 / 3)
    assert scored.frames_to_finish == pytest.approx(np.mean(np.arange(700, 730, 3)))
    assert scored.tiles_share == 0.5


def test_without_a_finished_lap_there_are_no_frames_to_finish():
    scored = Score([result(0, 10.0), result(1, 20.0)])
    assert scored.frames_to_finish is None
    assert "0 of 2 laps finished" in str(scored)


def test_a_score_of_nothing_is_refused():
    with pytest.raises(ValueError, match="at least one track"):
        Score([])


def test_hundred_scoring_tracks():
    assert len(SCORING_TRACKS) == 100


def test_the_fast_and_the_stock_environment_score_the_same():
    """The same actions score the same to the last bit, on every track."""

    def score_in(env):
        steps = iter(range(10_000))
        return score(lambda _: np.array([0.3 * np.sin(next(steps)), 0.0, -1.0], np.float32), env, [3, 4])

    view = ViewConfig(action_repeat=10)
    ours = score_in(make_env(view))
    assert ours == score_in(make_stock_env(view))
    assert ours.results[0] != ours.results[1]
