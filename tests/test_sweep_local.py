"""The trials of a sweep on one machine, beside each other. The trainings here are stand-ins."""

import os
from pathlib import Path

import pytest

import sweep_local
import sweep_trial
from process import StopSignal
from progress_file import Progress
from run_history import Evaluation
from sweep_local import line_of, run_here
from sweep_options import SweepOptions, parsed_command_line
from sweep_plan import load_plan, make_plan, save_plan
from sweep_search import OptunaSearch
from sweep_source import GivenTrials, Work
from sweep_trial import Share, is_over, read_result
from tests.stand_ins import stand_in

# Its validations grow with the learning rate. Between two of them it lives long enough to be looked at.
LEARNING = """
import signal
signal.signal(signal.SIGUSR1, lambda *_: sys.exit(138))
rate = float(flags["learning-rate"])
for n in (1, 2, 3):
    tell(25 * n, [1000 * rate * m for m in range(1, n + 1)])
    time.sleep(0.6)
save(100)
tell(100, [1000 * rate * m for m in range(1, 5)])
"""


@pytest.fixture
def sweep(tmp_path, monkeypatch):
    """A function from a stand-in's code and a command line to the plan and the directory of a new sweep."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sweep_local, "POLL_INTERVAL_S", 0.05)
    monkeypatch.setattr(sweep_local, "LOOK_INTERVAL_S", 0.1)

    def begin(code, *argv):
        monkeypatch.setattr(sweep_trial, "HERE", stand_in(tmp_path, code))
        given = parsed_command_line("", ["train_ppo.py", "--name", "x", *argv])
        options = SweepOptions(**given.sweep)
        save_plan(make_plan(options, given), options.path)
        return load_plan(options.path), options.path

    return begin


def run(plan, directory, source, n_slots=2):
    said = []
    share = Share(tuple(sorted(os.sched_getaffinity(0)))[:1])
    with StopSignal() as stop:
        return run_here([share] * n_slots, Work(plan, directory, source, stop, said.append)), said


def test_every_trial_is_run_so_many_at_a_time(sweep, capsys):
    code = """
    (directory / "from").write_text(str(time.time()))
    tell(50, [12.0], 500.0)
    time.sleep(0.5)
    save(100)
    tell(100, [12.0, 11.0], 0.0)
    (directory / "to").write_text(str(time.time()))
    """
    plan, directory = sweep(code, "--seeds", "1-4")
    results, said = run(plan, directory, GivenTrials(plan.trials))
    assert [results[f"s{seed}"].state for seed in (1, 2, 3, 4)] == ["finished"] * 4
    ends, times = ([line for line in said if (": finished" in line) == is_end] for is_end in (True, False))
    assert sorted(ends) == [f"s{seed}: finished, validation 11.0, best 12.0" for seed in (1, 2, 3, 4)]
    assert any(line.endswith("left: 4 trials to end, 2 at a time") for line in times)
    assert all(line.endswith(", 2 at a time") or line.endswith("1 trial to end, 1 at a time") for line in times)
    spans = [[float((directory / f"s{seed}" / name).read_text()) for name in ("from", "to")] for seed in (1, 2, 3, 4)]
    assert max(sum(begin <= at < end for begin, end in spans) for at, _ in spans) == 2
    assert "s1: 50%, 08:20 left, validation 12.0, best 12.0" in capsys.readouterr().err.splitlines()


def test_a_search_ends_the_trials_that_lag_behind(sweep):
    Path("space.toml").write_text("learning_rate = { low = 1e-5, high = 1e-1, log = true }\n")
    plan, directory = sweep(LEARNING, "--search", "8", "--space", "space.toml")
    results, said = run(plan, directory, OptunaSearch(plan, directory))
    trials = load_plan(directory).trials
    rates = {trial.name: trial.varied["learning_rate"] for trial in trials}
    assert len(results) == len(trials) == 8
    pruned = [name for name, result in results.items() if result.state == "pruned"]
    finished = [name for name, result in results.items() if result.state == "finished"]
    assert pruned
    assert set(pruned) | set(finished) == set(rates)
    assert max(rates, key=rates.get) in finished
    assert all(read_result(directory / name).state == "pruned" for name in pruned)
    assert sum(": pruned, validation" in line for line in said) == len(pruned)
    # All of them are over: nothing is left to go on with.
    assert OptunaSearch(load_plan(directory), directory).next() is None


def test_what_was_given_up_is_tried_again_when_the_sweep_goes_on(sweep, tmp_path):
    code = """
    if not Path("mended").exists():
        sys.exit("there is a hole in it")
    save(100)
    """
    plan, directory = sweep(code, "--retries", "1")
    results, said = run(plan, directory, GivenTrials(plan.trials), n_slots=1)
    assert results["s1"].state == "failed"
    assert said == [
        "s1: failed (1 of at most 2 times) and goes on: there is a hole in it",
        "s1: given up after 2 attempts: there is a hole in it",
    ]
    assert not is_over(directory / "s1")
    (tmp_path / "mended").touch()
    results, _ = run(plan, directory, GivenTrials(plan.trials), n_slots=1)
    assert results["s1"].state == "finished"


def test_a_line_fits_a_terminal():
    evaluations = (Evaluation(1, 4, None, 912.3, 0.0, 0.0), Evaluation(2, 8, None, 901.5, 0.0, 0.0))
    line = line_of("learning_rate-0.00025_s1", Progress(430_000, 1_000_000, 754.0, evaluations))
    assert line == "learning_rate-0.00025_s1: 43%, 12:34 left, validation 901.5, best 912.3"
    assert line_of("s1", None) == "s1: starting"
