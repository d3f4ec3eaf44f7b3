"""What belongs to a script's process: stop signals, locks, random generators, the progress bar."""

import os
import random
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch
from stable_baselines3.common.utils import set_random_seed

from process import (
    STOP_SIGNALS,
    ProgressBar,
    StopSignal,
    capture_generators,
    check_writable_directory,
    lock_directory,
    restore_generators,
)
from settings import SettingError
from tests.helpers import ROOT


@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_the_first_signal_asks_for_a_stop(number):
    with StopSignal() as stop:
        assert (stop.received, stop.exit_code) == (None, 0)
        os.kill(os.getpid(), number)
        assert (stop.received, stop.exit_code) == (number, 128 + number)


SIGNAL_TWICE = """
import os, signal, time
from process import StopSignal
with StopSignal() as stop:
    os.kill(os.getpid(), signal.SIGINT)
    print(stop.received, flush=True)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(60)
"""


def test_the_second_signal_leaves_at_once():
    done = subprocess.run([sys.executable, "-c", SIGNAL_TWICE], cwd=ROOT, capture_output=True, text=True, timeout=50)
    assert (done.returncode, done.stdout) == (128 + signal.SIGTERM, f"{signal.SIGINT.value}\n")
    assert done.stderr.count("Stopping") == 1


def test_handlers_are_given_back():
    before = [signal.getsignal(number) for number in STOP_SIGNALS]
    with StopSignal():
        assert all(signal.getsignal(number) != handler for number, handler in zip(STOP_SIGNALS, before, strict=True))
    assert [signal.getsignal(number) for number in STOP_SIGNALS] == before


def test_a_directory_is_held_by_one_and_free_afterwards(tmp_path):
    directory = tmp_path / "a" / "run"
    in_use = pytest.raises(SettingError, match=r"run is in use by another training; stop it or name another")
    with lock_directory(directory), in_use, lock_directory(directory):
        pass
    with lock_directory(directory):
        pass


def test_a_directory_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(SettingError, match="file/run cannot be used"), lock_directory(tmp_path / "file" / "run"):
        pass


def test_a_read_only_directory_is_refused(tmp_path, monkeypatch):
    check_writable_directory(tmp_path / "run", "--checkpoint-dir")
    assert not list(tmp_path.iterdir())
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root may write anywhere
    with pytest.raises(SettingError, match=r"--checkpoint-dir .* cannot be written to"):
        check_writable_directory(tmp_path / "run", "--checkpoint-dir")


def draws():
    numpys = [np.random.rand(), np.random.randn()]  # noqa: NPY002, the global generator that SB3 draws from
    return [random.random(), random.gauss(), *numpys, float(torch.rand(()))]


def test_generators_are_brought_back_to_where_they_were():
    set_random_seed(5)
    draws()  # from here on Python and NumPy each have the second number of a Gaussian pair waiting
    state = capture_generators()
    expected = draws()
    assert draws() != expected
    restore_generators(state)
    assert draws() == expected


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
