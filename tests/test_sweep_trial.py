"""A trial of a sweep: begun, resumed, tried again and given up. The training scripts here are stand-ins."""

import os
import time

import pytest

import checkpoint
import sweep_trial
from process import lock_directory
from sweep_options import SweepOptions, parsed_command_line
from sweep_plan import make_plan
from sweep_trial import Result, Share, TrialRun, is_trained, read_result
from tests.stand_ins import stand_in


@pytest.fixture
def trial_run(tmp_path, monkeypatch):
    """A function from a stand-in's code, and flags of the sweep, to a trial of it."""

    def make(code, *flags):
        monkeypatch.setattr(sweep_trial, "HERE", stand_in(tmp_path, code))
        given = parsed_command_line("", ["train_ppo.py", "--name", "x", "--seeds", "4", *flags])
        plan = make_plan(SweepOptions(**given.sweep), given)
        share = Share(tuple(sorted(os.sched_getaffinity(0)))[:1])
        return TrialRun(plan, plan.trials[0], tmp_path / "trial", share)

    return make


def end_of(run, timeout_s=60.0):
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        result = run.poll()
        if result is not None:
            return result
        time.sleep(0.02)
    raise AssertionError("it has not ended")


def test_a_trial_is_trained_once(trial_run):
    run = trial_run("save(100); print(os.sched_getaffinity(0), os.environ['OMP_NUM_THREADS'])")
    assert end_of(run) == Result("finished", 1) == read_result(run.directory)
    flags = checkpoint.load(run.directory).state["flags"]
    assert flags == ["--seed=4", "--tags=x", "--run-name=x_s4", f"--checkpoint-dir={run.directory}"]
    assert (run.directory / "log.txt").read_text() == f"{set(run.share.cores)} 1\n"
    assert end_of(trial_run("1 / 0")) == Result("finished", 0)


def test_what_ends_early_goes_on_from_its_checkpoint(trial_run):
    run = trial_run(
        "save(100 if 'resume' in flags else 50); os.kill(os.getpid(), 9) if 'resume' not in flags else None"
    )
    assert end_of(run) == Result("finished", 2)
    assert checkpoint.load(run.directory).state["flags"] == ["--tags=x", f"--resume={run.directory}"]


def test_what_left_a_best_only_begins_again(trial_run):
    """`train.py` refuses to begin in a directory that holds a best, and could not go on from it."""
    run = trial_run("assert not (directory / 'best').exists(); save(100)")
    checkpoint.save(run.directory, checkpoint.BEST, {}, {})
    assert end_of(run) == Result("finished", 1)


def test_failures_are_bounded_and_named(trial_run):
    run = trial_run("print('\\nSome words', file=sys.stderr); print('the reason\\n', file=sys.stderr); sys.exit(1)")
    assert end_of(run) == Result("failed", 3, "the reason") == read_result(run.directory)
    assert (run.directory / "log.txt").read_text().count("the reason") == 3


def test_a_mistake_in_the_input_is_not_tried_again(trial_run):
    run = trial_run("print('train_ppo.py: --x is wrong'); sys.exit(2)")
    assert end_of(run) == Result("failed", 1, "train_ppo.py: --x is wrong")


def test_a_stop_is_clean_and_is_no_failure(trial_run):
    code = """
    import signal
    signal.signal(signal.SIGUSR1, lambda *_: (save(50), sys.exit(138)))
    (directory / "ready").touch()
    time.sleep(60)
    """
    run = trial_run(code)
    while run.poll() is None and not (run.directory / "ready").exists():
        time.sleep(0.02)
    run.stop()
    assert end_of(run) == Result("stopped", 1)
    assert checkpoint.load(run.directory).meta["steps"] == 50
    assert read_result(run.directory) is None
    assert end_of(run) == Result("stopped", 1)  # nothing begins any more


def test_a_directory_that_another_holds_is_waited_for(trial_run, monkeypatch):
    run = trial_run("save(100)")
    with lock_directory(run.directory):
        for _ in range(3):
            assert run.poll() is None
        assert run.attempts == 0
    assert end_of(run).state == "finished"
    monkeypatch.setattr(sweep_trial, "LOCK_WAIT_S", 0.1)
    run = trial_run("save(100)")
    with lock_directory(run.directory):
        assert end_of(run) == Result("busy", 0)
    assert read_result(run.directory) == Result("finished", 1), "how it ended is the other process's to say"


def test_one_of_two_that_begin_a_trial_leaves_it_alone(trial_run, monkeypatch):
    """Also before the training is up, which then holds the directory itself."""
    monkeypatch.setattr(sweep_trial, "LOCK_WAIT_S", 0.1)
    code = "time.sleep(1.5); save(100)"
    first, second = trial_run(code), trial_run(code)
    assert first.poll() is None
    assert end_of(second) == Result("busy", 0)
    assert end_of(first) == Result("finished", 1) == read_result(first.directory)
    assert end_of(trial_run(code)) == Result("finished", 0), "its end has let go of it"


def test_a_directory_that_cannot_be_used_is_named(trial_run, tmp_path):
    run = trial_run("save(100)")
    (tmp_path / "trial").touch()
    result = end_of(run)
    assert (result.state, result.attempts) == ("failed", 0)
    assert "trial cannot be used" in result.reason


def test_how_an_earlier_sitting_ended_is_gone_once_it_goes_on(trial_run):
    assert end_of(trial_run("sys.exit(2)")).state == "failed"
    run = trial_run("(directory / 'begun').touch(); time.sleep(60)")
    while run.poll() is None and not (run.directory / "begun").exists():
        time.sleep(0.02)
    assert read_result(run.directory) is None
    run.stop()
    end_of(run)


def test_the_score_of_the_best_is_driven_after_the_training(trial_run):
    code = """
    save(100)
    checkpoint.save(directory, "best", {"agent": "ppo", "steps": 50}, {})
    """
    run = trial_run(code, "--score", "--no-aim")
    scoring = """
import json, sys
flags = dict(word.removeprefix("--").split("=", 1) for word in sys.argv[1:] if "=" in word)
assert flags["checkpoint"].endswith("/best") and "--no-aim" in sys.argv
names = ("track", "episode_return", "frames", "tiles", "tiles_missed", "tiles_fraction", "lap_finished")
entry = {"steps": 50, "tracks": [dict.fromkeys(names, 1)]}
open(flags["json"], "w").write(json.dumps({"checkpoints": [entry]}))
"""
    (sweep_trial.HERE / "evaluate.py").write_text(scoring)
    run.directory.mkdir()
    (run.directory / "score.json").write_text('{"checkpoints": [{"steps": 7, "tracks": []}]}')
    assert end_of(run) == Result("finished", 2)
    assert '"steps": 50' in (run.directory / "score.json").read_text()
    assert end_of(trial_run(code, "--score", "--no-aim")) == Result("finished", 0)


def test_a_training_without_its_last_evaluation_is_not_at_its_end(trial_run):
    run = trial_run("save(100)")
    assert not is_trained(run.directory)
    end_of(run)
    assert is_trained(run.directory)
    checkpoint.save_step(run.directory, 100, {"steps": 100, "evaluated_at": 50, "total_steps": 100}, {})
    assert not is_trained(run.directory)
