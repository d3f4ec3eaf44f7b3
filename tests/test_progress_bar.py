"""What the progress bar says of speed and time: a clock that the test turns stands for the real one."""

import pytest

import progress_bar
from progress_bar import ProgressBar


def test_the_progress_bar_tells_frames_steps_and_the_latest_return(capsys):
    with ProgressBar(100, 20, lambda steps: 4 * steps) as bar:
        assert bar.steps == 20
        bar.update(50, 123.4)
        bar.update(100, None)
        bar.say("a line")
        assert bar.steps == 100
    text = capsys.readouterr().err
    assert "a line\n" in text
    assert "100/100 steps" in text
    assert "400 frames" in text
    assert "return 123" in text, "it stays where no other episode has ended"


@pytest.fixture
def clock(monkeypatch):
    """The time, in a list of one; a test sets it."""
    now = [100.0]
    monkeypatch.setattr(progress_bar.time, "perf_counter", lambda: now[0])
    return now


def said(capsys):
    """The lines that were printed, without what the bar draws over itself."""
    return [line.strip() for line in capsys.readouterr().err.replace("\r", "\n").splitlines()]


def test_the_time_left_follows_from_the_mean_speed(clock, capsys):
    with ProgressBar(1000, 0, lambda steps: 4 * steps, "2 cores") as bar:
        bar.update(0, None)
        clock[0] += 9.0
        bar.update(90, None)
        assert not any("to go" in line for line in said(capsys)), "it is too early to say"
        clock[0] += 11.0
        bar.update(200, None)
        bar.update(201, None)
        assert said(capsys).count("2 cores: 10 steps/s, 01:20 to go") == 1
        clock[0] += 60.0  # an evaluation, say
        bar.update(400, None)
    last = said(capsys)[-1]
    assert "elapsed, 02:00 left" in last, "400 steps took 80 seconds, so 600 take 120"
    assert "1,600 frames, 20 frames/s" in last


def test_steps_that_cost_less_than_those_to_come_do_not_count(clock, capsys):
    with ProgressBar(10_000, 0, lambda steps: steps, "2 cores") as bar:
        bar.update(0, None)
        clock[0] += 1.0
        bar.update(1_000, None)
        bar.measure_from_here()
        bar.update(1_000, None)
        clock[0] += 20.0
        bar.update(1_900, None)
    assert "2 cores: 45 steps/s, 03:00 to go" in said(capsys)


def test_a_resumed_training_measures_its_own_steps(clock, capsys):
    with ProgressBar(1_000, 800, lambda steps: steps, "2 cores") as bar:
        bar.update(800, None)
        clock[0] += 20.0
        bar.update(900, None)
    assert "2 cores: 5 steps/s, 00:20 to go" in said(capsys)
