"""From a command line to a checked job: stages, devices, directories, names."""

from pathlib import Path

import pytest
import torch

from ppo_config import PPOConfig
from run_options import Stage, best_of, choose_checkpoint_dir, resolve_device
from run_settings import RunOptions
from settings import SettingError
from tests.trainings import prepared


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def stage(index=0, first_step=0, steps=100, **settings):
    return Stage(index, PPOConfig(**settings), first_step, steps, first_step + steps)


def test_progress_is_that_of_the_stage():
    second = stage(1, first_step=300, steps=100)
    assert [second.progress(step) for step in (0, 300, 350, 400, 450)] == [0.0, 0.0, 0.5, 1.0, 1.0]


def test_only_untrained_networks_are_spared_the_full_penalty():
    assert stage().rules_progress(25) == 0.25
    assert stage(start_from="x").rules_progress(25) == 1.0
    assert stage(1, first_step=100).rules_progress(125) == 1.0


def test_each_stage_has_a_seed_of_its_own_that_depends_on_the_runs():
    seeds = [stage(index, seed=seed).seed for seed in (3, 4) for index in range(3)]
    assert (seeds[0], seeds[3]) == (3, 4)
    assert len(set(seeds)) == 6
    assert stage(1, seed=3).seed == seeds[1]


STAGED = """agent = "ppo"
n_envs = 4
n_steps = 8
batch_size = 32
[[stages]]
steps = 100
action_repeat = 8
[[stages]]
steps = 50
action_repeat = 2
"""


def test_frames_are_those_of_each_stages_own_action_repeat(here):
    (here / "two.toml").write_text(STAGED)
    job = prepared("train_ppo.py", "--recipe", "two.toml")
    assert [(part.first_step, part.end) for part in job.stages] == [(0, 128), (128, 192)], "whole iterations"
    assert job.total_steps == 192
    assert [job.frames_at(step) for step in (0, 10, 128, 130, 192)] == [0, 80, 1024, 1028, 1152]
    assert job.first_stage is job.stages[0]


def test_flags_win_in_every_stage(here):
    (here / "two.toml").write_text(STAGED)
    job = prepared("train_ppo.py", "--recipe", "two.toml", "--action-repeat", 5, "--n-envs", 8)
    assert [(part.config.action_repeat, part.config.n_envs) for part in job.stages] == [(5, 8), (5, 8)]


def test_devices_are_resolved_or_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert resolve_device("auto") == resolve_device("cpu") == torch.device("cpu")
    with pytest.raises(SettingError, match=r"--device cuda: this machine has 0 CUDA devices .* --device cpu or auto"):
        resolve_device("cuda")
    with pytest.raises(SettingError, match="--device meta is not supported"):
        resolve_device("meta")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    for name, index in (("auto", 0), ("cuda", 0), ("cuda:1", 1)):
        device = resolve_device(name)
        assert device == torch.device("cuda", index)
        # A training makes its device the current one, and torch takes none without a number for that.
        assert torch.cuda._utils._get_device_index(device) == index
    with pytest.raises(SettingError, match="this machine has 2"):
        resolve_device("cuda:2")


def test_checkpoints_go_where_the_run_is_named_or_was(whole_run):
    assert choose_checkpoint_dir(RunOptions(), "a") == Path("checkpoints/a")
    assert choose_checkpoint_dir(RunOptions(checkpoint_dir="b"), "a") == Path("b")
    small = whole_run("train.py")[0] / "checkpoints" / "small"
    for resumed in (small, small / "step_000000100"):
        assert choose_checkpoint_dir(RunOptions(resume=str(resumed)), "a") == small
    assert choose_checkpoint_dir(RunOptions(resume=str(small), checkpoint_dir="b"), "a") == Path("b")


@pytest.mark.parametrize(("flags", "label"), [([], "ppo_beta"), (["--use-gaussian"], "ppo_gaussian")])
def test_a_run_is_named_after_its_agent_seed_and_time(flags, label):
    name = prepared("train_ppo.py", "--seed", 5, *flags).run_name
    assert name.startswith(f"{label}_s5_2")
    assert prepared("train_ppo.py", "--run-name", "mine").run_name == "mine"


def test_a_resumed_run_keeps_its_name_unless_it_is_given_another(whole_run):
    argv = ["--resume", whole_run("train.py")[0] / "checkpoints" / "small", "--total-steps", 999]
    assert prepared("train.py", *argv).run_name == "small"
    assert prepared("train.py", *argv, "--run-name", "mine").run_name == "mine"


@pytest.mark.parametrize("plain", [None, [], {}, {"mean": 1, "step": 2}, {"mean": 1.0, "step": 2.0}])
def test_what_is_no_best_score_is_not_taken_for_one(plain):
    assert best_of(plain) is None


def test_a_path_from_the_users_home_is_found_there(here, monkeypatch):
    monkeypatch.setenv("HOME", str(here / "home"))
    (here / "home").mkdir()
    (here / "home" / "mine.toml").write_text(STAGED)
    argv = ["--checkpoint-dir=~/runs/a", "--aim-repo=~/aim", "--recipe=~/mine.toml"]
    job = prepared("train_ppo.py", *argv)
    assert (job.directory, job.options.aim_repo) == (here / "home" / "runs" / "a", str(here / "home" / "aim"))
    assert [path.name for path in (here / "home").iterdir()] == ["mine.toml"]


@pytest.mark.parametrize(
    ("script", "argv"),
    [
        ("train_ppo.py", ["--n-envs", 1000, "--n-steps", 1024]),
        ("train_ppo.py", ["--frame-stack", 1000]),
        ("train_ppo.py", ["--feature-dim", 100_000]),
        ("train.py", ["--replay-size", 10**6]),
        ("train.py", ["--hidden-dim", 10_000]),
        ("train.py", ["--batch-size", 10**5]),
    ],
)
def test_settings_that_cannot_fit_in_memory_are_refused_before_anything_is_made(here, monkeypatch, script, argv):
    monkeypatch.setattr("run_options.memory_limit", lambda: 2 * 10**9)
    prepared(script)
    with pytest.raises(SettingError, match=r"need at least [\d.,]+ GB of memory, where 2\.0 GB are; give a smaller --"):
        prepared(script, *argv)
    assert not list(here.iterdir())
