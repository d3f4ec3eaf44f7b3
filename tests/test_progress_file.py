"""What programs can read of a running training."""

import json

import pytest

from progress_file import PROGRESS_FILE, Progress, read_progress, write_progress
from run_history import Evaluation
from tests.trainings import SCRIPTS, train_small

PROGRESS = Progress(512, 2048, 12.5, (Evaluation(256, 1024, None, 12.0, -3.0, 0.25),))


def test_what_was_written_is_read(tmp_path):
    write_progress(tmp_path, PROGRESS)
    assert read_progress(tmp_path) == PROGRESS
    assert [path.name for path in tmp_path.iterdir()] == [PROGRESS_FILE]


def test_a_directory_that_takes_nothing_costs_nothing(tmp_path):
    write_progress(tmp_path / "nowhere" / "deep", PROGRESS)
    (tmp_path / PROGRESS_FILE).mkdir()
    write_progress(tmp_path, PROGRESS)
    assert read_progress(tmp_path) is None
    assert read_progress(tmp_path / "nowhere") is None


@pytest.mark.parametrize("name", ["steps", "total_steps", "seconds_left", "evaluations"])
@pytest.mark.parametrize("odd", [-1, "7", 1e300, float("nan"), [1], {}])
def test_what_is_not_ours_is_nothing(tmp_path, name, odd):
    write_progress(tmp_path, PROGRESS)
    plain = json.loads((tmp_path / PROGRESS_FILE).read_text())
    (tmp_path / PROGRESS_FILE).write_text(json.dumps({**plain, name: odd}))
    assert read_progress(tmp_path) is None


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_training_tells_how_far_it_is(script, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    train_small(script, 128, "--run-name", "small", "--eval-freq", 64, "--no-aim")
    progress = read_progress(tmp_path / "checkpoints" / "small")
    assert (progress.steps, progress.total_steps) == (128, 128)
    assert [one.step for one in progress.evaluations] == [64, 128]
