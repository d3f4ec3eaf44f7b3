"""What the progress bar says of speed and time: a clock that the test turns stands for the real one."""

import contextlib
import io

import pytest
import tqdm

import progress_bar
from progress_bar import ProgressBar


class Terminal(io.StringIO):
    """A terminal of 80 columns that remembers all that was drawn."""

    def isatty(self):
        return True


@contextlib.contextmanager
def at_a_terminal(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(tqdm.std, "_screen_shape_wrapper", lambda: lambda _: (80, 25))
    with contextlib.redirect_stderr(Terminal()) as stream:
        yield stream


def test_a_terminal_shows_all_of_it_in_80_columns(monkeypatch, clock):
    with at_a_terminal(monkeypatch) as stream, ProgressBar(2_000_000, 0, lambda steps: 4 * steps) as bar:
        bar.update(0, None)
        clock[0] += 10_000.0
        bar.update(1_300_000, -23.4)
    drawn = stream.getvalue().replace("\n", "\r").split("\r")
    assert any("65% of 2,000,000 steps, 1:29:44 left, 5,200,000 frames, 520 fps, return -23" in one for one in drawn)
    assert max(map(len, drawn)) <= 80


def test_what_goes_on_between_steps_is_shown_at_a_terminal(monkeypatch):
    with at_a_terminal(monkeypatch) as stream, ProgressBar(100, 20, lambda steps: 4 * steps) as bar:
        bar.update(50, None)
        bar.note("validation track 3 of 8")
        bar.say("a line")
    assert "50% of 100 steps, validation track 3 of 8" in stream.getvalue()
    assert "a line\n" in stream.getvalue()


def test_a_log_file_has_a_plain_line_every_half_minute(clock, capsys):
    with ProgressBar(1000, 0, lambda steps: 4 * steps) as bar:
        for step in range(0, 1001, 10):
            bar.update(step, 123.4 if step == 500 else None)
            bar.note("validation track 3 of 8")
            clock[0] += 1.0
        assert bar.steps == 1000
    text = capsys.readouterr().err
    assert "\r" not in text
    assert text.splitlines() == [
        "step 300: 30% of 1,000 steps, 01:10 left, 1,200 frames, 40 fps, return -",
        "step 600: 60% of 1,000 steps, 00:40 left, 2,400 frames, 40 fps, return 123",
        "step 900: 90% of 1,000 steps, 00:10 left, 3,600 frames, 40 fps, return 123",
        "step 1,000: 100% of 1,000 steps, 00:00 left, 4,000 frames, 40 fps, return 123",
    ]


@pytest.fixture
def clock(monkeypatch):
    """The time, in a list of one; a test sets it."""
    now = [100.0]
    monkeypatch.setattr(progress_bar.time, "perf_counter", lambda: now[0])
    return now


def said(capsys):
    """The lines that were printed."""
    return capsys.readouterr().err.splitlines()


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
        clock[0] += 60.0  # a checkpoint, say
        bar.update(400, None)
    last = said(capsys)[-1]
    assert "02:00 left" in last, "400 steps took 80 seconds, so 600 take 120"
    assert "1,600 frames, 20 fps" in last


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


def test_evaluations_to_come_are_part_of_the_time_left(clock, capsys):
    def evaluations_after(step):
        return 10 - step // 100

    with ProgressBar(1_000, 0, lambda steps: 4 * steps, "2 cores", evaluations_after) as bar:
        bar.seconds_per_evaluation = 20.0
        bar.update(0, None)
        clock[0] += 20.0
        bar.update(50, None)
        assert "2 cores: 2 steps/s, 09:40 to go" in said(capsys), "950 steps at 2.5, and 10 evaluations of 20 seconds"
        clock[0] += 20.0
        bar.update(100, None)
        clock[0] += 40.0
        bar.evaluated(40.0, is_whole=True)
        bar.update(100, None)
        assert bar.seconds_left == 900 / 2.5 + 9 * 40.0, "the evaluations took longer than was thought"
    assert "400 frames, 10 fps" in said(capsys)[-1], "the speed is that of the steps"


def test_an_evaluation_before_the_first_step_costs_the_steps_nothing(clock):
    with ProgressBar(1_000, 0, lambda steps: steps, "", lambda step: 1) as bar:
        bar.measure_from_here()
        clock[0] += 30.0
        bar.evaluated(30.0, is_whole=True)
        bar.update(0, None)
        clock[0] += 20.0
        bar.update(200, None)
        assert bar.seconds_left == 80.0 + 30.0
        clock[0] += 5.0
        bar.evaluated(5.0, is_whole=False)
        bar.update(200, None)
        assert bar.seconds_left == 80.0 + 30.0, "one that a stop has cut short tells nothing of the next"


def test_a_resumed_training_measures_its_own_steps(clock, capsys):
    with ProgressBar(1_000, 800, lambda steps: steps, "2 cores") as bar:
        bar.update(800, None)
        clock[0] += 20.0
        bar.update(900, None)
    assert "2 cores: 5 steps/s, 00:20 to go" in said(capsys)


def driven(clock, n_tracks, seconds_each):
    """What takes so long for each track."""
    for track in range(n_tracks):
        clock[0] += seconds_each
        yield track


def test_tracks_in_a_log_file_are_plain_lines(clock, capsys):
    assert list(progress_bar.counted(driven(clock, 100, 1.0), "scoring", 100)) == list(range(100))
    text = capsys.readouterr().err
    assert "\r" not in text
    assert text.splitlines() == [
        "scoring: 30 of 100 tracks, 01:10 left",
        "scoring: 60 of 100 tracks, 00:40 left",
        "scoring: 90 of 100 tracks, 00:10 left",
        "scoring: 100 of 100 tracks, 00:00 left",
    ]
    assert list(progress_bar.counted(driven(clock, 1, 1.0), "filming", 1)) == [0]
    assert capsys.readouterr().err == "filming: 1 of 1 track, 00:00 left\n"


def test_tracks_at_a_terminal_are_a_bar(clock, monkeypatch):
    with at_a_terminal(monkeypatch) as stream:
        list(progress_bar.counted(driven(clock, 3, 1.0), "scoring", 3))
    assert "scoring: 100%" in stream.getvalue()
    assert "scoring: 3 of 3" not in stream.getvalue()


def test_programs_are_told_as_soon_as_the_speed_is_known_and_every_half_minute(clock):
    reports = []
    with ProgressBar(1000, 0, lambda steps: steps) as bar:
        bar.report = lambda: reports.append((bar.steps, bar.seconds_left))
        for step in range(0, 101, 5):
            bar.update(step, None)
            clock[0] += 5.0
    assert reports == [(15, 985.0), (45, 955.0), (75, 925.0), (100, 945.0)]
