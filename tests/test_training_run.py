"""What a training has around it: evaluations, the best, what is due when, memory."""

import signal

import pytest

from car_racing import make_env
from process import StopSignal
from run_options import BestScore
from scoring import Score, TrackResult
from settings import SettingError
from tests.trainings import prepared
from training_run import Evaluator, TrainingRun, evaluation_metrics, fitting_in_memory


def test_a_stop_does_not_wait_for_the_end_of_an_evaluation():
    stop = StopSignal()
    stop.received = signal.SIGINT
    evaluator = Evaluator(make_env(), 100, None, latest_step=3)
    assert evaluator.evaluate(lambda obs: 1 / 0, 5, stop) is None
    assert (evaluator.latest, evaluator.latest_step) == (None, 3)


@pytest.mark.parametrize("error", [MemoryError("no room"), RuntimeError("can't allocate memory: 99 bytes")])
def test_an_agent_that_does_not_fit_is_said_with_the_mend(error):
    refused = pytest.raises(SettingError, match=r"does not fit in memory .*; give a smaller one")
    with refused, fitting_in_memory("give a smaller one"):
        raise error


def test_other_errors_are_not_taken_for_a_lack_of_memory():
    with pytest.raises(RuntimeError, match="shapes"), fitting_in_memory("give a smaller one"):
        raise RuntimeError("shapes differ")


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A run of 1,000 steps that has done nothing yet."""
    monkeypatch.chdir(tmp_path)
    flags = ["--total-steps", 1000, "--eval-freq", 100, "--checkpoint-freq", 300, "--eval-tracks", 1, "--no-aim"]
    with TrainingRun.open(prepared("train.py", *flags, "--checkpoint-dir", "run", "--device", "cpu")) as run:
        yield run


def test_evaluations_are_due_where_a_multiple_of_their_interval_is_passed_and_at_the_end(run):
    assert [step for step in (0, 99, 100, 170, 250, 999, 1000) if run.is_evaluation_due(step)] == [
        100, 170, 250, 999, 1000,
    ]  # fmt: skip
    run.evaluator.latest_step = 170
    assert [step for step in (170, 199, 200, 1000) if run.is_evaluation_due(step)] == [200, 1000]
    run.evaluator.latest_step = 1000
    assert not run.is_evaluation_due(1000)


def test_checkpoints_are_due_where_a_multiple_of_their_interval_is_passed_and_at_the_end(run):
    assert [step for step in (0, 299, 300, 999, 1000) if run.is_checkpoint_due(step)] == [300, 999, 1000]
    run.save_step(run.meta(310, 0), {})
    assert [step for step in (310, 599, 600, 1000) if run.is_checkpoint_due(step)] == [600, 1000]
    run.save_step(run.meta(1000, 0), {})
    assert not run.is_checkpoint_due(1000)
    run.evaluator.latest_step = 1000
    assert run.is_checkpoint_due(1000), "the checkpoint does not know of the last evaluation"


def test_a_disk_that_takes_no_checkpoint_is_said_and_the_training_goes_on(run, monkeypatch, capsys):
    def full(*args):
        raise OSError("No space left on device")

    run.save_step(run.meta(300, 0), {})
    monkeypatch.setattr("checkpoint.save_step", full)
    run.save_step(run.meta(600, 0), {})
    assert "The checkpoint at step 600 could not be saved (No space left" in capsys.readouterr().err
    assert run.saved_at == 300
    assert not run.is_checkpoint_due(601), "it is tried again at its next interval, not at every step"


LAP = TrackResult(1, 900.0, 800, 300, 0, 1.0, True)
CRASH = TrackResult(2, 100.0, 1000, 90, 210, 0.3, False)


def test_a_score_is_plotted_under_these_names():
    assert evaluation_metrics(Score([LAP, CRASH])) == {
        "eval/mean_return": 500.0,
        "eval/std_return": 400.0,
        "eval/min_return": 100.0,
        "eval/lap_finish_rate": 0.5,
        "eval/tiles_fraction": 0.65,
        "eval/frames_to_finish": 800.0,
    }
    assert "eval/frames_to_finish" not in evaluation_metrics(Score([CRASH]))


def test_only_a_better_score_is_the_best():
    evaluator = Evaluator(make_env(), 1, BestScore(500.0, 50))
    assert not evaluator.is_best(Score([LAP, CRASH]))
    assert evaluator.is_best(Score([LAP]))
    evaluator.best = None
    assert evaluator.is_best(Score([CRASH]))
