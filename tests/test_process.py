"""What belongs to a script's process: stop signals, locks, random generators."""

import ast
import errno
import fcntl
import os
import random
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from stable_baselines3.common.utils import set_random_seed

from checkpoint import Checkpoint
from paths import path_from
from process import (
    StopSignal,
    capture_generators,
    describe_run,
    lock_directory,
    memory_limit,
    restore_generators,
    shell_command,
    show_command,
    tell_other_versions,
)
from settings import SettingError
from startup import STOP_SIGNALS
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


def test_a_hang_up_that_comes_twice_does_not_lose_what_is_saved():
    with StopSignal() as stop:
        for number in (signal.SIGUSR1, signal.SIGHUP, signal.SIGHUP, signal.SIGTERM):
            os.kill(os.getpid(), number)
        assert stop.exit_code == 128 + signal.SIGUSR1


def test_a_hang_up_that_is_ignored_stays_ignored():
    previous = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    try:
        with StopSignal() as stop:
            os.kill(os.getpid(), signal.SIGHUP)
            assert stop.received is None
    finally:
        signal.signal(signal.SIGHUP, previous)


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


def test_a_run_may_share_its_directory_with_an_aim_repository(tmp_path):
    """Aim's tracker locks the directory itself while it makes the repository."""
    fd = os.open(tmp_path, os.O_RDONLY)
    with lock_directory(tmp_path):
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        with pytest.raises(SettingError, match="in use by another training"), lock_directory(tmp_path):
            pass
    os.close(fd)
    assert not list(tmp_path.iterdir()), "the file that is locked goes with the lock"


def test_a_forked_process_keeps_no_lock(tmp_path):
    read_end, write_end = os.pipe()
    with lock_directory(tmp_path):
        child = os.fork()
        if child == 0:
            os.close(write_end)
            os.read(read_end, 1)  # until the parent closes its end
            os._exit(0)
        os.close(read_end)
    with lock_directory(tmp_path):
        assert os.waitpid(child, os.WNOHANG) == (0, 0), "the child is still there"
    os.close(write_end)
    os.waitpid(child, 0)


def test_what_a_killed_training_leaves_holds_up_none(tmp_path):
    child = os.fork()
    if child == 0:
        with lock_directory(tmp_path):
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    assert [path.name for path in tmp_path.iterdir()] == [".training.lock"]
    with lock_directory(tmp_path):
        pass
    assert not list(tmp_path.iterdir())


def test_no_link_is_locked_in_the_files_place(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".training.lock").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(SettingError, match="run cannot be used"), lock_directory(tmp_path / "run"):
        pass
    assert not (tmp_path / "elsewhere").exists()


def test_a_file_system_without_locks_is_said_and_used(tmp_path, monkeypatch, capsys):
    def no_locks(self):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("process.FileLock.acquire", no_locks)
    with lock_directory(tmp_path / "run"):
        assert (tmp_path / "run").is_dir()
    assert "start no other training in it" in capsys.readouterr().err


def test_a_directory_that_can_no_longer_be_written_to_is_let_go(tmp_path, monkeypatch):
    def read_only(self, **kwargs):
        raise OSError(errno.EROFS, "Read-only file system")

    with monkeypatch.context() as patch, lock_directory(tmp_path):
        patch.setattr("process.Path.unlink", read_only)
    with lock_directory(tmp_path):
        pass


@pytest.mark.parametrize(
    "name", ["plain", "with a blank", 'it\'s "$(touch planted)" `x`; #', "-dash", "~", "ü", "two\nlines"]
)
def test_a_command_can_be_pasted_into_a_shell_in_any_directory(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    said = shell_command("evaluate.py", "--checkpoint", Path(name))
    show = f"{shlex.quote(sys.executable)} -c 'import sys; print(ascii(sys.argv[1:]))'"
    done = subprocess.run(["sh", "-c", f'set -- {said}; {show} "$@"'], capture_output=True, text=True, check=True)
    python, script, flag, path = ast.literal_eval(done.stdout)
    assert Path(shutil.which(python)).resolve() == Path(sys.executable).resolve()
    assert (Path(script), flag) == (ROOT / "evaluate.py", "--checkpoint")
    assert not path.startswith("-")
    assert path_from(path.replace("\n", ""), "--checkpoint") == Path(name.replace("\n", ""))
    assert not list(tmp_path.iterdir())


def test_a_command_is_short_where_it_can_be(monkeypatch, tmp_path):
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "bin" / "python3"))
    monkeypatch.setattr(shutil, "which", lambda _: str(tmp_path / "bin" / "python"))
    assert shell_command("train.py", "--resume", Path("checkpoints/a")) == "python train.py --resume checkpoints/a"
    assert show_command(Path()) == "make ui"
    assert show_command(tmp_path) == f"python aim_page.py --repo {tmp_path}"
    monkeypatch.setattr(shutil, "which", lambda _: None)
    assert show_command(Path("x")) == f"{tmp_path}/bin/python3 aim_page.py --repo x"
    monkeypatch.chdir(tmp_path)
    assert show_command(Path()) == f"bin/python3 {ROOT}/aim_page.py --repo ."


def test_other_versions_are_named_in_one_line(tmp_path, capsys):
    versions = describe_run()["versions"]
    for saved in (versions, {}, None, "x"):
        tell_other_versions(Checkpoint(tmp_path, {"versions": saved}, {}))
    assert capsys.readouterr().err == ""
    saved = {**versions, "torch": "1.0\n2", "gymnasium": None, "unknown": "3"}
    tell_other_versions(Checkpoint(tmp_path, {"versions": saved}, {}))
    (line,) = capsys.readouterr().err.splitlines()
    assert (
        f"was saved with torch 1.0 2 (here {versions['torch']}), gymnasium None (here {versions['gymnasium']});" in line
    )


def test_memory_is_what_the_machine_or_a_limit_leaves(monkeypatch, tmp_path):
    monkeypatch.setattr("process.CGROUP_LIMITS", ())
    whole = memory_limit()
    assert whole >= psutil.virtual_memory().total
    (tmp_path / "max").write_text("max\n")
    (tmp_path / "limit").write_text("12345\n")
    for names, expected in ((["max", "absent"], whole), (["max", "limit"], 12345)):
        monkeypatch.setattr("process.CGROUP_LIMITS", [tmp_path / name for name in names])
        assert memory_limit() == expected
