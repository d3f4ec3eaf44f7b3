"""Shared by the tests: no display, Ctrl-C heard, and the way back out of an Aim repository."""

import json
import os
import signal

os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
# A shell starts what it puts in the background with Ctrl-C ignored, and the scripts under test would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)

import pytest

import checkpoint
from aim_writer import AimTracker
from benchmarks.soak import read_closed, read_metrics

__all__ = ["UPDATE_METRICS", "read_closed", "read_metrics", "rewrite_manifest"]

# What SB3's PPO logs of every update, by the names that this project gives them.
UPDATE_METRICS = (
    "policy_loss",
    "value_loss",
    "entropy_loss",
    "clip_fraction",
    "explained_variance",
    "approx_kl",
    "learning_rate",
    "n_updates",
    "clip_range",
    "loss",
)


def rewrite_manifest(path, change):
    """Change a manifest as a stranger could: with a checksum that fits."""
    manifest = json.loads((path / "manifest.json").read_text())
    manifest.pop("sha256")
    change(manifest)
    (path / "manifest.json").write_text(checkpoint.sealed(manifest))


@pytest.fixture
def show(record_property):
    """Say a figure that belongs in the log of the tests, whether the test passes or not."""
    return lambda figure: record_property("figure", str(figure))


def pytest_terminal_summary(terminalreporter):
    """The figures, at the end: what the processes that the tests are shared out to print is not to be seen."""
    reports = [report for outcome in ("passed", "failed", "skipped") for report in terminalreporter.getreports(outcome)]
    figures = [value for report in reports if report.when == "call" for _, value in report.user_properties]
    if figures:
        terminalreporter.section("figures")
    for figure in figures:
        terminalreporter.write_line(figure)


@pytest.fixture(autouse=True)
def aim_is_well(monkeypatch):
    """A test in which Aim fails on purpose must not make a later one leave by `os._exit`."""
    monkeypatch.setattr(AimTracker, "has_failed", False)
