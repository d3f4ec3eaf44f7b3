"""For every test: no display, no ignored signals, figures at the end, a clean state of Aim, trained runs to share."""

import functools
import hashlib
import os
import signal
import sys
from types import ModuleType

os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
# Tests run beside each other; threads that wait for work would spin on the cores that others need.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# A shell starts background jobs with SIGINT ignored, nohup ignores SIGHUP, and the scripts under test would inherit it.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)

import pytest

from aim_writer import AimTracker
from tests.helpers import TOTAL, finish, start
from tests.trainings import FLAGS


@pytest.fixture
def show(record_property):
    """A function that puts a figure into the log of the tests, whether the test passes or not."""
    return lambda figure: record_property("figure", str(figure))


def pytest_terminal_summary(terminalreporter):
    """Print the figures at the end, since the output of xdist's worker processes is not shown."""
    reports = [report for outcome in ("passed", "failed", "skipped") for report in terminalreporter.getreports(outcome)]
    figures = [value for report in reports if report.when == "call" for _, value in report.user_properties]
    if figures:
        terminalreporter.section("figures")
    for figure in figures:
        terminalreporter.write_line(figure)


@pytest.fixture(autouse=True)
def aim_is_well(monkeypatch):
    """Forget an earlier test's failure of Aim, which would make a script exit by `os._exit`."""
    monkeypatch.setattr(AimTracker, "has_failed", False)


@pytest.fixture
def films(monkeypatch):
    """What moviepy is given, which Gymnasium and SB3 film with and this project does not require.

    A list with (number of frames, channels, frames a second) of each film.
    """
    films = []

    class Clip:
        def __init__(self, frames, fps):
            films.append((len(frames), frames[0].shape[2], fps))

        def write_videofile(self, path, **kwargs):
            assert path.endswith(".mp4")

    for name in ("moviepy", "moviepy.video", "moviepy.video.io", "moviepy.video.io.ImageSequenceClip"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setattr(sys.modules["moviepy.video.io.ImageSequenceClip"], "ImageSequenceClip", Clip, raising=False)
    return films


# The replay buffer has wrapped around at the end; PPO has made three iterations.
SHARED_RUNS = {
    "train.py": (120, ["--eval-freq", "60", "--checkpoint-freq", "50"]),
    "train_ppo.py": (96, ["--eval-freq", "64", "--checkpoint-freq", "64"]),
}


@pytest.fixture(scope="session")
def whole_run(tmp_path_factory):
    """A function from a script to a small whole run of it, as a user starts it: its place, and how the process ended.

    It is shared by many tests, so none may write to it; copy it first.
    """

    @functools.cache
    def train_once(script):
        place = tmp_path_factory.mktemp("whole_run")
        steps, intervals = SHARED_RUNS[script]
        args = [*FLAGS[script], *intervals, "--eval-tracks", 1, "--run-name", "small", TOTAL[script], steps]
        done = finish(start(script, *args, cwd=place))
        assert done[0] == 0, done
        made.append((place, fingerprint(place / "checkpoints")))
        return place, done

    made = []
    yield train_once
    for place, before in made:
        assert fingerprint(place / "checkpoints") == before, "a test has written to a run that others share"


def fingerprint(directory):
    """The files below a directory, with their contents' checksums."""
    files = (path for path in sorted(directory.rglob("*")) if path.is_file())
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
