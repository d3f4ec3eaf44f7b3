"""Which trials a sweep has, and with which flags each is trained."""

import json

import pytest

from run_settings import RunOptions
from sac_config import SACConfig
from settings import SettingError, explicit_flags, parser_of
from sweep_options import SweepOptions, parsed_command_line
from sweep_plan import PLAN_FILE, chosen_trials, load_plan, make_plan, save_plan
from tests.helpers import PRETRAINED


def plan_of(*argv):
    given = parsed_command_line("", list(argv))
    return make_plan(SweepOptions(**given.sweep), given)


GRID = ("train.py", "--name", "two", "--seeds", "1", "2", "--tau", "0.02", "--device", "cpu", "--score")
GRID += ("--grid", "learning_rate=1e-3,2e-3", "flip=true,false")


def test_every_combination_with_every_seed():
    plan = plan_of(*GRID)
    assert [trial.name for trial in plan.trials] == [
        "learning_rate-0.001_flip-True_s1", "learning_rate-0.001_flip-True_s2",
        "learning_rate-0.001_flip-False_s1", "learning_rate-0.001_flip-False_s2",
        "learning_rate-0.002_flip-True_s1", "learning_rate-0.002_flip-True_s2",
        "learning_rate-0.002_flip-False_s1", "learning_rate-0.002_flip-False_s2",
    ]  # fmt: skip
    assert plan.trials[2].label == "learning_rate=0.001, flip=False"
    assert plan.is_scored


def test_the_scripts_parser_reads_a_trials_flags_back(tmp_path):
    plan = plan_of(*GRID)
    parser = parser_of("", (SACConfig, RunOptions))
    given = parser.parse_args(plan.new_flags(plan.trials[3], tmp_path / "d"))
    assert explicit_flags(SACConfig, given) == {"tau": 0.02, "learning_rate": 1e-3, "flip": False, "seed": 2}
    run_name = f"two_{plan.trials[3].name}"
    directory = str(tmp_path / "d")
    # The score is driven afterwards.
    options = {"device": "cpu", "tags": ("two",)}
    assert explicit_flags(RunOptions, given) == {**options, "run_name": run_name, "checkpoint_dir": directory}
    given = parser.parse_args(plan.resuming_flags(plan.trials[3], tmp_path / "d"))
    assert explicit_flags(SACConfig, given) == {}
    assert explicit_flags(RunOptions, given) == {**options, "resume": directory}


def test_a_resumed_trial_keeps_the_recipe_of_its_checkpoint(tmp_path):
    plan = plan_of("train_ppo.py", "--name", "recipes", "--grid", "recipe=quick,best")
    assert [trial.name for trial in plan.trials] == ["recipe-quick_s1", "recipe-best_s1"]
    assert "--recipe=best" in plan.new_flags(plan.trials[1], tmp_path)
    assert plan.resuming_flags(plan.trials[1], tmp_path) == ["--tags=recipes", f"--resume={tmp_path}"]


def test_trials_of_the_same_name_are_told_apart(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a").mkdir()
    for path in ("a/b.toml", "a:b.toml"):
        (tmp_path / path).write_text('agent = "ppo"\nn_envs = 4\n')
    plan = plan_of("train_ppo.py", "--name", "recipes", "--grid", "recipe=a/b.toml,a:b.toml", "--seeds", "1-2")
    names = [trial.name for trial in plan.trials]
    assert names[0] == "recipe-a-b.toml_s1"
    assert len(set(names)) == 4
    assert plan.config_of(plan.trials[0]).n_envs == 4
    save_plan(plan, tmp_path / "recipes")
    monkeypatch.chdir(tmp_path / "a")
    assert load_plan(tmp_path / "recipes").config_of(plan.trials[0]).n_envs == 4


def test_a_plan_is_saved_and_read_back(tmp_path):
    plan = plan_of(*GRID)
    save_plan(plan, tmp_path / "two")
    assert load_plan(tmp_path / "two") == plan
    with pytest.raises(SettingError, match="holds a sweep"):
        save_plan(plan, tmp_path / "two")
    with pytest.raises(SettingError, match="there is no sweep"):
        load_plan(tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        {"format_version": 7},
        {"script": "evaluate.py"},
        {"trials": [{"name": "../../etc", "label": "", "varied": {}, "seed": 1}]},
        {"trials": [{"name": "..", "label": "", "varied": {}, "seed": 1}]},
        {"trials": [{"name": "s1", "label": "", "varied": {}, "seed": "one"}]},
        {"trials": [{"name": "s1", "label": "", "varied": {}, "seed": 1}] * 2},
        {"retries": float("inf")},
        {"cores": 0},
        {"search": {"n_trials": 3, "space": {"tau": {"choices": []}}, "seed": 1}},
        {"trials": 3},
        {"settings": None},
    ],
)
def test_a_plan_that_is_none_is_refused(tmp_path, change):
    save_plan(plan_of(*GRID), tmp_path)
    plain = json.loads((tmp_path / PLAN_FILE).read_text())
    (tmp_path / PLAN_FILE).write_text(json.dumps({**plain, **change}))
    with pytest.raises(SettingError, match="is no plan of a sweep"):
        load_plan(tmp_path)


def test_settings_that_cannot_work_are_refused_before_anything_starts():
    with pytest.raises(SettingError, match="--tau"):
        plan_of("train.py", "--name", "x", "--grid", "tau=0.1,7")
    with pytest.raises(SettingError, match="--recipe"):
        plan_of("train.py", "--name", "x", "--grid", "recipe=sac_cpu,nowhere")
    with pytest.raises(SettingError, match="is for a 'ppo' agent"):
        plan_of("train.py", "--name", "x", "--recipe", "quick")


def test_trials_are_chosen_by_name_and_number():
    plan = plan_of(*GRID)
    assert chosen_trials(plan, ()) == plan.trials
    assert chosen_trials(plan, ("3", plan.trials[0].name)) == (plan.trials[2], plan.trials[0])
    assert chosen_trials(plan, ("1", plan.trials[0].name)) == (plan.trials[0],)
    for name in ("0", "9", "s1"):
        with pytest.raises(SettingError, match="there is no such trial"):
            chosen_trials(plan, (name,))


def test_a_policy_to_start_from_that_is_not_there_is_named_before_the_start():
    with pytest.raises(SettingError, match="--start-from nowhere: there is no such checkpoint"):
        plan_of("train_ppo.py", "--name", "x", "--grid", f"start_from={PRETRAINED / 'ppo_beta'},nowhere")
