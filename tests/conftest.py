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
def show(capsys):
    """Print a figure that belongs in the test's log, whether the test passes or not."""

    def say(figure):
        with capsys.disabled():
            print(f"\n{figure}")

    return say


@pytest.fixture(autouse=True)
def aim_is_well(monkeypatch):
    """A test in which Aim fails on purpose must not make a later one leave by `os._exit`."""
    monkeypatch.setattr(AimTracker, "has_failed", False)
