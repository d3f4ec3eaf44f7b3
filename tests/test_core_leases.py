"""Cores that one process has for itself."""

import os
import subprocess
import sys
import time

import pytest

import core_leases
from core_leases import leased_cores
from tests.helpers import ROOT


@pytest.fixture(autouse=True)
def four_cores(monkeypatch, tmp_path):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {2, 3, 5, 7})
    monkeypatch.setattr(core_leases.tempfile, "gettempdir", lambda: str(tmp_path))
    return tmp_path


def test_what_is_leased_is_free_again_afterwards():
    with leased_cores(3, 0.0) as first:
        assert first == (2, 3, 5)
        with leased_cores(1, 0.0) as second:
            assert second == (7,)
    with leased_cores(9, 0.0) as every:
        assert every == (2, 3, 5, 7)


def test_too_few_are_waited_for_and_then_shared():
    with leased_cores(3, 0.0):
        start = time.monotonic()
        with leased_cores(2, 0.4) as late:
            assert late == (2, 7)
        assert time.monotonic() - start >= 0.4


def test_a_killed_process_leaves_its_cores(four_cores):
    code = (
        f"import os, sys, tempfile; sys.path.insert(0, {str(ROOT)!r}); import core_leases; "
        f"tempfile.gettempdir = lambda: {str(four_cores)!r}; os.sched_getaffinity = lambda _: {{2, 3, 5, 7}}\n"
        "with core_leases.leased_cores(4, 0.0): print('held', flush=True); sys.stdin.read()"
    )
    holder = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert holder.stdout.readline() == "held\n"
    place = four_cores / f"car-racing-cores-{os.getuid()}"
    assert sorted(path.name for path in place.iterdir()) == ["2", "3", "5", "7"]
    with leased_cores(1, 0.0) as shared:
        assert shared == (2,)
        with leased_cores(1, 0.0) as none_is_free:
            assert none_is_free == (2,)
    holder.kill()
    holder.communicate()
    with leased_cores(1, 0.0) as first, leased_cores(1, 0.0) as second:
        assert (first, second) == ((2,), (3,))
