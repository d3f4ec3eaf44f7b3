"""For every test: no display, Ctrl-C not ignored, figures at the end, and a clean state of Aim."""

import os
import signal

os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
# A shell starts background jobs with SIGINT ignored, and the scripts under test would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)

import pytest

from aim_writer import AimTracker


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
