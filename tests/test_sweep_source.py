"""How long a sweep is said to take. The clock is the test's own."""

import pytest

import sweep_source
from progress_file import Progress, write_progress
from sweep_plan import Trial
from sweep_source import SweepClock, WatchedProgress
from sweep_trial import Result


@pytest.fixture
def now(monkeypatch):
    """The time, in a list of one; a test sets it."""
    time = [1000.0]
    monkeypatch.setattr(sweep_source.time, "monotonic", lambda: time[0])
    return time


@pytest.fixture
def begin(tmp_path):
    """A function that begins a trial, at a step that an earlier sitting came to."""

    def begin(name, steps=0):
        (tmp_path / name).mkdir()
        if steps:
            write_progress(tmp_path / name, Progress(steps, 100, 7.0, ()))
        return WatchedProgress(Trial(name, "", {}, 1), tmp_path / name)

    def tell(watched, steps, seconds_left):
        write_progress(watched._directory, Progress(steps, 100, seconds_left, ()))
        watched.look()

    begin.tell = tell
    return begin


def test_a_sweep_takes_what_its_trials_take(now, begin):
    clock, a, b = SweepClock(), begin("a"), begin("b")
    begin.tell(a, 0, None)
    begin.tell(b, 0, None)
    now[0] += 10.0
    begin.tell(a, 10, 90.0)
    assert clock.words([a, b], 4) is None, "nothing is known of one of them"
    begin.tell(b, 10, 90.0)
    # Each takes 100 seconds: two more rounds of two trials follow on the 90 seconds left of this one.
    assert clock.words([a, b], 4) == "some 04:50 left: 6 trials to end, 2 at a time"
    assert clock.words([a, b], 4) is None, "it was said"


def test_it_is_said_again_once_the_next_trial_knows_its_speed(now, begin):
    clock, a, b, c = SweepClock(), begin("a"), begin("b"), begin("c")
    for one in (a, b):
        begin.tell(one, 50, 50.0)
    assert clock.words([a, b], 1) is not None
    now[0] += 50.0
    begin.tell(a, 100, 0.0)
    clock.ended(a, Result("finished", 1))
    begin.tell(b, 90, 10.0)
    assert clock.words([b, c], 0) is None, "nothing is known of the newcomer"
    begin.tell(c, 1, 99.0)
    assert clock.words([b, c], 0) == "some 01:39 left: 2 trials to end, 2 at a time"


def test_what_an_earlier_sitting_left_is_no_speed_of_this_one(now, begin):
    clock, a = SweepClock(), begin("a", steps=75)
    a.look()
    assert clock.words([a], 1) is None
    begin.tell(a, 75, None)
    now[0] += 5.0
    begin.tell(a, 80, 20.0)
    # The last quarter takes 25 seconds, so the trial that waits takes 100.
    assert clock.words([a], 1) == "some 02:00 left: 2 trials to end, 1 at a time"


def test_a_trial_that_fails_tells_nothing_of_the_others(now, begin):
    clock, a, b = SweepClock(), begin("a"), begin("b")
    begin.tell(a, 50, 1.0)
    clock.ended(a, Result("failed", 1))
    begin.tell(b, 50, 50.0)
    assert clock.words([b], 1) == "some 01:40 left: 2 trials to end, 1 at a time"
