"""`sweep.py` with real trainings: what is killed on the way changes nothing of what comes out."""

import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

import checkpoint
from ppo_config import PPOConfig
from sweep import place_flags
from sweep_options import SweepOptions
from sweep_trial import read_result
from tests.helpers import ROOT, SMALL, finish, save_ppo, start
from tests.soak.runs import Finished
from tests.stand_ins import stand_in
from tests.trainings import GAME, train_small

N_STEPS = 320
FLAGS = [
    *SMALL["train_ppo.py"],
    *GAME,
    "--total-timesteps",
    str(N_STEPS),
    "--eval-freq",
    "64",
    "--checkpoint-freq",
    "64",
]
FLAGS += ["--eval-tracks", "1"]
# The seed is the sweep's.
TRIAL_FLAGS = [word for place, word in enumerate(FLAGS) if "--seed" not in (word, FLAGS[place - 1])]


def wait_until(is_so, process):
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline and process.poll() is None:
        if is_so():
            return
        time.sleep(0.02)
    pytest.fail(f"it did not come to that: {process.poll()}")


def training_in(sweep, directory):
    """The process of the training script that keeps its checkpoints there."""
    for child in sweep.children(recursive=True):
        try:
            if (
                any(f"={directory}" in word for word in child.cmdline())
                and "end_with_parent.py" not in child.cmdline()[2]
            ):
                return child
        except psutil.Error:
            continue
    return None


def assert_as_alone(place, seed, monkeypatch):
    """Check that a trial of the sweep `two` in a place came to what the same training does that nothing disturbs."""
    alone = place / f"alone{seed}"
    alone.mkdir()
    monkeypatch.chdir(alone)
    intervals = ("--eval-freq", 64, "--checkpoint-freq", 64)
    train_small("train_ppo.py", N_STEPS, *intervals, "--seed", seed, "--checkpoint-dir", "run")
    assert not Finished.read(alone).differences(Finished.read(place, f"sweeps/two/s{seed}"))


def test_killed_trials_and_a_killed_sweep_end_as_if_nothing_had_been(tmp_path, monkeypatch):
    sweep = start(
        "sweep.py", "train_ppo.py", *TRIAL_FLAGS, "--name", "two", "--seeds", "1-2", "--at-once", "1", "--cores", "1",
        cwd=tmp_path,
    )  # fmt: skip
    first, second = (tmp_path / "sweeps" / "two" / f"s{seed}" for seed in (1, 2))
    wait_until(lambda: checkpoint.whole_steps(first) and training_in(sweep, first), sweep)
    training_in(sweep, first).kill()
    wait_until(lambda: checkpoint.whole_steps(second), sweep)
    assert read_result(first).state == "finished"
    assert read_result(first).attempts == 2
    trainings = sweep.children(recursive=True)
    sweep.kill()
    sweep.communicate()
    psutil.wait_procs(trainings, timeout=60)
    assert read_result(second) is None
    code, stdout, stderr = finish(start("sweep.py", "--resume", "two", cwd=tmp_path))
    assert code == 0, stderr
    assert "two: 1 trial of train_ppo.py to run in sweeps/two; 1 at a time, each with 1 core and" in stdout
    assert "s2: finished, validation" in stdout
    assert "Best of two: sweeps/two/s" in stdout
    assert (tmp_path / "sweeps" / "two" / "table.md").is_file()
    assert (tmp_path / "sweeps" / "two" / "curves.png").is_file()
    for seed in (1, 2):
        assert_as_alone(tmp_path, seed, monkeypatch)


def test_a_stopped_sweep_says_how_to_go_on_and_a_failed_trial_is_named(tmp_path):
    config = PPOConfig(n_envs=2, n_steps=16, batch_size=16, feature_dim=16, action_repeat=10)
    save_ppo(tmp_path, "good", config)
    (tmp_path / "nowhere").mkdir()
    sweep = start(
        "sweep.py", "train_ppo.py", *TRIAL_FLAGS, "--name", "odd", "--grid", "start_from=good,nowhere", "--no-aim",
        "--total-timesteps", "1e6", "--cores", "1", cwd=tmp_path
    )  # fmt: skip
    good, bad = (tmp_path / "sweeps" / "odd" / f"start_from-{name}_s1" for name in ("good", "nowhere"))
    wait_until(lambda: read_result(bad) is not None and checkpoint.whole_steps(good), sweep)
    os.kill(sweep.pid, signal.SIGTERM)
    code, stdout, _ = finish(sweep)
    assert code == 128 + signal.SIGTERM
    assert "start_from-nowhere_s1: given up after 1 attempt: train_ppo.py: " in stdout
    assert "Failed: start_from-nowhere_s1: " in stdout
    assert "(log: sweeps/odd/start_from-nowhere_s1/log.txt)" in stdout
    assert "2 of 2 trials are not finished. Go on: " in stdout
    assert "sweep.py --resume odd\n" in stdout
    assert checkpoint.load(good).meta["steps"] > 0


def test_how_to_go_on_names_the_place_and_the_cluster():
    assert place_flags(SweepOptions(name="x")) == []
    options = SweepOptions(name="x", directory="/far/away", address="10.0.0.1:6379")
    assert place_flags(options) == ["--directory", "/far/away", "--address", "10.0.0.1:6379"]


def test_what_failed_throughout_is_to_be_mended_first(tmp_path):
    (tmp_path / "nowhere").mkdir()
    flags = ["--name", "odd", "--start-from", "nowhere", "--no-aim", "--cores", "1"]
    code, stdout, _ = finish(start("sweep.py", "train_ppo.py", *TRIAL_FLAGS, *flags, cwd=tmp_path))
    assert code == 1
    assert "1 of 1 trial is not finished. When that is mended, go on: " in stdout


def test_a_second_ctrl_c_leaves_at_once(tmp_path):
    saves_slowly = """
    import signal
    signal.signal(signal.SIGUSR1, lambda *_: (directory / "asked").touch())
    (directory / "pid").write_text(str(os.getpid()))
    while True:
        time.sleep(1)
    """
    here = stand_in(tmp_path, saves_slowly)
    code = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r}); from pathlib import Path; import sweep_trial; "
        f"sweep_trial.HERE = Path({str(here)!r}); sys.argv = ['sweep.py', 'train_ppo.py', '--name', 'x']; "
        "import sweep; sweep.main()"
    )
    process = psutil.Popen([sys.executable, "-c", code], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    trial = tmp_path / "sweeps" / "x" / "s1"
    wait_until((trial / "pid").exists, process)
    process.send_signal(signal.SIGINT)
    wait_until((trial / "asked").exists, process)
    process.send_signal(signal.SIGINT)
    code, *_ = finish(process, timeout=30)
    assert code == 128 + signal.SIGINT
    psutil.wait_procs([one for one in psutil.process_iter() if str(one.pid) == (trial / "pid").read_text()], 30)
    assert not psutil.pid_exists(int((trial / "pid").read_text()))


def test_mistakes_are_one_line(tmp_path):
    for flags, words in (
        (["--resume", "nowhere"], "there is no sweep in sweeps/nowhere"),
        (["train.py", "--name", "x", "--cores", "9999"], "--cores 9999: this machine has"),
        (["train.py", "--name", "x", "--tau", "7"], "--tau"),
    ):
        code, stdout, stderr = finish(start("sweep.py", *flags, cwd=tmp_path))
        assert (code, stdout) == (2, "")
        assert stderr.startswith("sweep.py: ")
        assert words in stderr
        assert len(stderr.splitlines()) == 1
    assert not list(tmp_path.iterdir())
