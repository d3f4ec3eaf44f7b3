"""How long a sweep is said to take. The clock is the test's own."""

import pytest

import sweep_source
from progress_file import Progress
from sweep_source import SweepClock


@pytest.fixture
def now(monkeypatch):
    """The time, in a list of one; a test sets it."""
    time = [1000.0]
    monkeypatch.setattr(sweep_source.time, "monotonic", lambda: time[0])
    return time


def left(seconds):
    return Progress(10, 100, seconds, ())


def test_a_sweep_takes_what_its_trials_take(now):
    clock = SweepClock()
    clock.began("a")
    clock.began("b")
    assert clock.words({"a": None, "b": left(90.0)}, 4) is None, "nothing is known of one of them"
    now[0] += 10.0
    # Each takes 100 seconds: two more rounds of two trials follow on the 90 seconds left of this one.
    assert clock.words({"a": left(90.0), "b": left(90.0)}, 4) == "some 04:50 left: 6 trials to end, 2 at a time"
    assert clock.words({"a": left(89.0), "b": left(89.0)}, 4) is None, "it was said"


def test_the_time_left_is_said_again_when_a_trial_has_ended(now):
    clock = SweepClock()
    clock.began("a")
    clock.words({"a": left(60.0)}, 1)
    now[0] += 40.0
    clock.ended("a")
    clock.began("b")
    assert clock.words({}, 0) is None
    assert clock.words({"b": left(60.0)}, 0) == "some 01:00 left: 1 trial to end, 1 at a time"


def test_a_sweep_takes_no_less_than_its_longest_trial(now):
    clock = SweepClock()
    clock.began("a")
    clock.began("b")
    assert clock.words({"a": left(600.0), "b": left(0.0)}, 0) == "some 10:00 left: 2 trials to end, 2 at a time"
