"""What a training has around it: evaluations, the best, what is due when, memory."""

import shutil
import signal
import sys
from dataclasses import replace

import pytest
import torch

import checkpoint
import train
import training_run
from car_racing import make_env
from policies import load_policy
from process import StopSignal
from run_options import BestScore
from scoring import Score, TrackResult, score
from settings import SettingError
from tests.helpers import TOTAL
from tests.trainings import SCRIPTS, prepared
from tracks import VALIDATION_TRACKS
from training_run import Evaluator, TrainingRun, evaluation_metrics, fitting_in_memory, run_script


def test_a_stop_does_not_wait_for_the_end_of_an_evaluation():
    stop = StopSignal()
    stop.received = signal.SIGINT
    evaluator = Evaluator(make_env(), 100, None, latest_step=3)
    assert evaluator.evaluate(lambda obs: 1 / 0, 5, stop) is None
    assert (evaluator.latest, evaluator.latest_step) == (None, 3)


def test_a_gpu_without_room_just_now_is_no_mistake_of_the_users():
    refused = pytest.raises(torch.OutOfMemoryError, match=r"does not fit in the GPU's free memory .*; give a smaller")
    with refused, fitting_in_memory("give a smaller one"):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
    with pytest.raises(RuntimeError, match="illegal memory access"), fitting_in_memory("give a smaller one"):
        raise RuntimeError("CUDA error: an illegal memory access was encountered")


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
    flags = ["--total-steps", 1000, "--eval-freq", 300, "--checkpoint-freq", 300, "--eval-tracks", 1, "--no-aim"]
    with TrainingRun.open(prepared("train.py", *flags, "--checkpoint-dir", "run", "--device", "cpu")) as run:
        yield run


def test_evaluations_are_due_where_a_multiple_of_their_interval_is_passed_and_at_the_end(run):
    assert [step for step in (0, 299, 300, 470, 999, 1000) if run.is_evaluation_due(step)] == [300, 470, 999, 1000]
    run.evaluator.latest_step = 470
    assert [step for step in (470, 599, 600, 1000) if run.is_evaluation_due(step)] == [600, 1000]
    run.evaluator.latest_step = 950
    assert [step for step in (950, 999, 1000) if run.is_evaluation_due(step)] == [1000]
    run.evaluator.latest_step = 1000
    assert not run.is_evaluation_due(1000)


def test_evaluations_to_come_are_counted(run):
    assert [run.job.evaluations_after(step) for step in (0, 299, 300, 899, 900, 1000)] == [4, 4, 3, 2, 1, 0]


def test_an_evaluation_is_reckoned_from_one_track_before_there_was_one(run, monkeypatch):
    driven, now = [], [0.0]

    def drive(policy, env, track):
        driven.append(track)
        now[0] += 2.5

    def policy(obs):
        if not driven:
            now[0] += 100.0  # the start of whatever computes it
        return [0.0, 0.0, 0.0]

    run.evaluator.tracks = VALIDATION_TRACKS[:20]
    monkeypatch.setattr(training_run, "drive", drive)
    monkeypatch.setattr(training_run.time, "perf_counter", lambda: now[0])
    run.measure_speed(policy)
    assert driven == [VALIDATION_TRACKS[0]]
    assert run.bar.seconds_per_evaluation == 20 * 2.5


def test_checkpoints_are_due_where_a_multiple_of_their_interval_is_passed_and_at_the_end(run):
    assert [step for step in (0, 299, 300, 999, 1000) if run.is_checkpoint_due(step)] == [300, 999, 1000]
    run.save_step(run.meta(310, 0), {})
    assert [step for step in (310, 599, 600, 1000) if run.is_checkpoint_due(step)] == [600, 1000]
    run.save_step(run.meta(1000, 0), {})
    assert not run.is_checkpoint_due(1000)
    run.evaluator.latest_step = 1000
    assert run.is_checkpoint_due(1000), "the checkpoint does not know of the last evaluation"
    run.save_step(run.meta(1000, 0), {})
    assert not run.is_checkpoint_due(1000)


def test_a_disk_that_takes_no_checkpoint_is_said_and_the_training_goes_on(run, monkeypatch, capsys):
    def full(*args):
        raise OSError("No space left on device")

    run.save_step(run.meta(300, 0), {})
    with monkeypatch.context() as patch:
        patch.setattr("checkpoint.save_step", full)
        run.save_step(run.meta(600, 0), {})
    assert "The checkpoint at step 600 could not be saved (No space left" in capsys.readouterr().err
    assert run.saved_at == 300
    assert not run.is_checkpoint_due(601), "it is tried again at its next interval, not at every step"
    run.bar.update(600, None)
    assert run.exit_code == 1, "the end is lost, which a shell must see"
    run.save_step(run.meta(600, 0), {})
    assert run.exit_code == 0


def test_a_best_that_the_disk_does_not_take_is_none(run, monkeypatch, capsys):
    def full(*args):
        raise OSError("No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("checkpoint.save", full)
        run.save_best(Score([LAP]), run.meta(100, 0), {})
    assert "The checkpoint at step 100 could not be saved" in capsys.readouterr().err
    assert run.evaluator.best is None
    run.save_best(Score([LAP, CRASH]), run.meta(200, 0), {})
    assert run.evaluator.best == BestScore(500.0, 200)


def test_a_directory_that_another_training_has_taken_since_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    job = prepared("train.py", "--no-aim", "--checkpoint-dir", "run", "--device", "cpu")
    checkpoint.save_step(tmp_path / "run", 7, {}, {})
    with pytest.raises(SettingError, match="--checkpoint-dir run holds a run by now"), TrainingRun.open(job):
        pass


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_run_that_has_gone_on_since_it_was_read_is_refused(whole_run, tmp_path, monkeypatch, script):
    shutil.copytree(whole_run(script)[0] / "checkpoints" / "small", tmp_path / "run")
    monkeypatch.chdir(tmp_path)
    flags = ("--no-aim", TOTAL[script], 10_000)
    newest, *older = checkpoint.whole_steps(tmp_path / "run")
    aside = newest.rename(tmp_path / "aside")
    whole, certain = prepared(script, "--resume", "run", *flags), prepared(script, "--resume", older[0], *flags)
    aside.rename(newest)
    with pytest.raises(SettingError, match="--resume run has gone on since it was read; give"), TrainingRun.open(whole):
        pass
    with TrainingRun.open(certain) as run:
        assert run.saved_at == whole.resumed_meta["steps"]


def test_a_resumed_run_begins_where_it_was(whole_run, tmp_path, monkeypatch):
    small = whole_run("train.py")[0] / "checkpoints" / "small"
    monkeypatch.chdir(tmp_path)
    job = prepared("train.py", "--resume", small, "--total-steps", 200, "--checkpoint-dir", "run", "--no-aim")
    with TrainingRun.open(job) as run:
        assert (run.bar.steps, run.saved_at, run.evaluator.latest_step) == (120, 120, 120)
        assert [step for step in (120, 149, 150) if run.is_checkpoint_due(step)] == [150]
        assert [step for step in (120, 179, 180) if run.is_evaluation_due(step)] == [180]


STAGES = """agent = "sac"
[[stages]]
steps = 10
action_repeat = 8
[[stages]]
steps = 10
action_repeat = 2
"""


def test_each_stage_is_evaluated_as_its_agent_sees_the_game(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "two.toml").write_text(STAGES)
    with TrainingRun.open(prepared("train.py", "--recipe", "two.toml", "--no-aim", "--device", "cpu")) as run:
        views = [run.evaluator.env.env.config for _ in run.stages_to_go()]
        assert views == [stage.config.view for stage in run.job.stages]
        assert [view.action_repeat for view in views] == [8, 2]


@pytest.mark.parametrize("script", SCRIPTS)
def test_the_score_that_is_kept_is_that_of_the_best_on_the_validation_tracks(whole_run, script):
    """Driven again with what was saved: the deterministic action, without the rules of training."""
    place, _ = whole_run(script)
    best = checkpoint.load(place / "checkpoints" / "small" / "best")
    policy, view = load_policy(best)
    again = score(policy, make_env(view), VALIDATION_TRACKS[:1])
    assert best.meta["best"] == {"mean": again.mean, "step": best.meta["steps"]}


@pytest.mark.parametrize(
    ("flags", "code", "expected", "scored"),
    [([], 0, 0, []), (["--score"], 0, 3, ["run"]), (["--score"], 143, 143, []), ([], 130, 130, [])],
)
def test_the_best_is_scored_where_that_was_asked_for_and_no_stop_came(
    tmp_path, monkeypatch, flags, code, expected, scored
):
    monkeypatch.chdir(tmp_path)
    directories = []

    def score_best(job):
        directories.append(str(job.directory))
        return 3

    monkeypatch.setattr(training_run, "_score_best", score_best)
    monkeypatch.setattr(sys, "argv", ["train.py", "--checkpoint-dir", "run", "--no-aim", "--device", "cpu", *flags])
    with pytest.raises(SystemExit) as exit_:
        run_script(train.SPEC, "", lambda _: code)
    assert (exit_.value.code, directories) == (expected, scored)


LAP = TrackResult(1, 900.0, 800, 300, 0, 1.0, True)
CRASH = TrackResult(2, 100.0, 1000, 90, 210, 0.3, False)


def test_a_score_is_plotted_under_these_names():
    assert evaluation_metrics(Score([LAP, CRASH])) == {
        "eval/1_mean_return": 500.0,
        "eval/std_return": 400.0,
        "eval/3_min_return": 100.0,
        "eval/2_lap_finish_rate": 0.5,
        "eval/tiles_fraction": 0.65,
        "eval/4_frames_to_finish": 800.0,
    }
    assert "eval/4_frames_to_finish" not in evaluation_metrics(Score([CRASH]))


def test_only_a_better_score_is_the_best():
    evaluator = Evaluator(make_env(), 1, BestScore(500.0, 50))
    assert not evaluator.is_best(Score([LAP, CRASH]))
    assert evaluator.is_best(Score([LAP, LAP, CRASH])), "by its mean"
    assert not evaluator.is_best(Score([replace(LAP, episode_return=one) for one in (600.0, 600.0, 0.0)])), "its mean"
    evaluator.best = None
    assert evaluator.is_best(Score([CRASH]))


def test_the_first_validation_tracks_are_driven():
    driven = []

    def drive_track(policy, env, track):
        driven.append(track)
        return replace(LAP, track=track)

    assert Evaluator(make_env(), 3, None).evaluate(lambda obs: obs, 5, StopSignal(), drive_track) is not None
    assert driven == list(VALIDATION_TRACKS[:3])


def test_a_checkpoint_remembers_the_mean_and_the_worst_of_an_evaluation(run, monkeypatch):
    monkeypatch.setattr(run.evaluator, "evaluate", lambda *args, **kwargs: Score([LAP, LAP, CRASH]))
    run.evaluate(lambda obs: obs, 300)
    (one,) = run.meta(300, 1)["evaluations"]
    assert (one["mean_return"], one["min_return"]) == (pytest.approx(1900 / 3), 100.0)
    assert one["lap_finish_rate"] == pytest.approx(2 / 3)


def test_the_headline_names_the_run_its_place_its_page_and_the_machine(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    job = prepared("train_ppo.py", "--run-name", "mine", "--total-timesteps", 1000, "--n-envs", 2, "--n-steps", 384)
    text = training_run._headline(job, torch.device("cpu"))
    assert text.startswith("mine: 1,536 steps, in checkpoints/mine, Aim: ")
    assert "aim_page.py --repo ." in text
    assert "no GPU in use; 2 environments" in text
    job = prepared("train.py", "--run-name", "mine", "--no-aim")
    assert "checkpoints/mine, not in Aim; " in training_run._headline(job, torch.device("cpu"))
    job = prepared("train.py", "--aim-repo", "aim://127.0.0.1:53800")
    assert ", Aim: aim://127.0.0.1:53800; " in training_run._headline(job, torch.device("cpu"))
