"""Optuna as the source of a sweep's trials, without training any."""

import json

import pytest

import sweep_trial
from progress_file import Progress, write_progress
from run_history import Evaluation
from settings import SettingError
from sweep_options import SweepOptions, parsed_command_line
from sweep_plan import load_plan, make_plan, save_plan
from sweep_search import OptunaSearch
from sweep_trial import Result

SPACE = "learning_rate = { low = 1e-4, high = 1e-2, log = true }\nn_epochs = { low = 1, high = 8 }\n"


@pytest.fixture
def begun(tmp_path, monkeypatch):
    """A function from a number of trials to the directory of a search for so many."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "space.toml").write_text(SPACE)

    def begin(n_trials):
        argv = [
            "train_ppo.py",
            "--name",
            "x",
            "--search",
            str(n_trials),
            "--space",
            "space.toml",
            "--seeds",
            "7",
        ]
        given = parsed_command_line("", argv)
        options = SweepOptions(**given.sweep)
        save_plan(make_plan(options, given), options.path)
        return options.path

    return begin


def progress_of(*returns, total_steps=4):
    evaluations = tuple(Evaluation(step, 4 * step, None, value, value, 0.0) for step, value in enumerate(returns, 1))
    return Progress(len(returns), total_steps, None, evaluations)


def end(source, directory, trial, state, *returns):
    (directory / trial.name).mkdir(exist_ok=True)
    write_progress(directory / trial.name, progress_of(*returns))
    if state != "stopped":
        (directory / trial.name / sweep_trial.RESULT_FILE).write_text(
            json.dumps({"state": state, "attempts": 1, "reason": ""})
        )
    source.ended(trial, Result(state, 1), progress_of(*returns))


def test_so_many_different_trials_are_made_and_kept_in_the_plan(begun):
    directory = begun(5)
    source, made = OptunaSearch(load_plan(directory), directory), []
    while (trial := source.next()) is not None:
        made.append(trial)
        end(source, directory, trial, "finished", 100.0 * trial.varied["learning_rate"])
    assert [trial.name for trial in made] == ["t001", "t002", "t003", "t004", "t005"]
    assert len({trial.varied["learning_rate"] for trial in made}) == 5
    assert all(1e-4 <= trial.varied["learning_rate"] <= 1e-2 for trial in made)
    assert all(type(trial.varied["n_epochs"]) is int and trial.seed == 7 for trial in made)
    assert load_plan(directory).trials == tuple(made)
    assert OptunaSearch(load_plan(directory), directory).next() is None


def test_the_better_end_of_a_range_is_found(begun):
    """Of a return that grows with the learning rate, the later trials come closer to the best than the first ones."""
    directory = begun(24)
    source, rates = OptunaSearch(load_plan(directory), directory), []
    while (trial := source.next()) is not None:
        rates.append(trial.varied["learning_rate"])
        end(source, directory, trial, "finished", trial.varied["learning_rate"])
    assert sum(rates[-12:]) > 1.3 * sum(rates[:12])


def test_a_trial_that_lags_behind_is_hopeless(begun):
    directory = begun(9)
    source = OptunaSearch(load_plan(directory), directory)
    for level in (100.0, 200.0, 300.0, 400.0):
        end(source, directory, source.next(), "finished", level, 2 * level)
    good, bad = source.next(), source.next()
    assert not source.is_hopeless(good, progress_of(900.0))
    assert source.is_hopeless(bad, progress_of(1.0))
    end(source, directory, bad, "pruned", 1.0)
    assert not source.is_hopeless(good, progress_of(900.0, 900.0))


def test_no_trial_is_hopeless_in_the_first_quarter_of_its_training(begun):
    directory = begun(9)
    source = OptunaSearch(load_plan(directory), directory)
    for level in (100.0, 200.0, 300.0, 400.0):
        end(source, directory, source.next(), "finished", level, level, level)
    trial = source.next()
    assert not source.is_hopeless(trial, progress_of(total_steps=10))
    assert not source.is_hopeless(trial, progress_of(1.0, 1.0, total_steps=10))
    assert source.is_hopeless(trial, progress_of(1.0, 1.0, 1.0, total_steps=10))


def test_a_resumed_search_goes_on_with_what_was_left_and_knows_the_rest(begun):
    directory = begun(5)
    source = OptunaSearch(load_plan(directory), directory)
    first, second, third = (source.next() for _ in range(3))
    end(source, directory, first, "finished", 5.0)
    end(source, directory, second, "stopped", 1.0)
    # The third was running when the sweep was killed.
    again = OptunaSearch(load_plan(directory), directory)
    assert [again.next(), again.next()] == [second, third]
    assert again.next() not in (first, second, third), "it does not begin with its first draws again"
    for trial in (second, third):
        end(again, directory, trial, "finished", 6.0)
    assert again.next().name == "t005"
    assert again.next() is None
    assert sorted(one.value for one in again._study.get_trials() if one.value is not None) == [5.0, 6.0, 6.0]


@pytest.mark.parametrize(
    ("space", "more", "words"),
    [
        ("gamma = { low = 0.9, high = 1.5 }", [], "^--space space.toml: --gamma must be at most 1"),
        ('gamma = { choices = ["a", 0.9] }', [], "^--space space.toml: --gamma must be of type float, not 'a'"),
        (
            "use_gaussian = { choices = [true, 1] }",
            [],
            "^--space space.toml: --use-gaussian must be of type bool, not 1",
        ),
        (SPACE, ["--n-epochs", "4"], "n_epochs is on the command line too"),
    ],
)
def test_a_space_that_cannot_work_is_refused_before_anything_starts(tmp_path, monkeypatch, space, more, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "space.toml").write_text(space)
    argv = ["train_ppo.py", "--name", "y", "--search", "3", "--space", "space.toml", *more]
    given = parsed_command_line("", argv)
    with pytest.raises(SettingError, match=words):
        make_plan(SweepOptions(**given.sweep), given)
