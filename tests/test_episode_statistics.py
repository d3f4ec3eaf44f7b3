"""Episodes' summaries that come from a checkpoint, which may be a stranger's."""

import pytest

from car_racing.episode_statistics import numbers, summaries


def test_summaries_are_taken_as_they_are():
    episodes = [{"r": 1.5, "l": 3, "lap_finished": True, "more": "words"}, {"r": -2, "l": 0, "lap_finished": False}]
    assert summaries(episodes, ("r", "l", "lap_finished")) == episodes
    assert summaries([], ("r",)) == []
    assert numbers([True, 2, 0.5]) == [True, 2, 0.5]


@pytest.mark.parametrize("plain", [5, None, "x", ["x"], [5], [{"r": 1.0}], [{"r": "x", "l": 1}], [{"r": [], "l": 1}]])
def test_what_is_no_summary_is_refused(plain):
    with pytest.raises((KeyError, TypeError, ValueError)):
        summaries(plain, ("r", "l"))


@pytest.mark.parametrize("plain", [1, None, "yes", ["yes"], [None], [float("nan")], [float("inf")], [[1]]])
def test_what_is_no_number_is_refused(plain):
    with pytest.raises((TypeError, ValueError)):
        numbers(plain)
