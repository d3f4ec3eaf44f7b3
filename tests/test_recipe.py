"""Recipes: read, checked, turned into settings, written out and fed back."""

import dataclasses
import os
import re

import pytest

import recipe as recipes
import train
import train_ppo
from ppo_config import PPOConfig
from recipe import RECIPES, Recipe
from run_options import prepare, stage_configs
from sac_config import SACConfig
from settings import SettingError

SPECS = {spec.name: spec for spec in (train.SPEC, train_ppo.SPEC)}


def written(tmp_path, text, name="mine.toml"):
    path = tmp_path / name
    path.write_text(text)
    return str(path)


def prepared(*argv, spec=train_ppo.SPEC):
    return prepare(spec, "", list(map(str, argv)))


@pytest.fixture(autouse=True)
def in_an_empty_place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_a_recipe_sets_the_agents_settings_and_the_intervals(tmp_path):
    path = written(tmp_path, 'agent = "ppo"\nlearning_rate = 1e-3\nn_envs = 4\nuse_gaussian = true\neval_freq = 777\n')
    job = prepared("--recipe", path)
    assert [stage.config for stage in job.stages] == [PPOConfig(learning_rate=1e-3, n_envs=4, use_gaussian=True)]
    assert (job.options.eval_freq, job.recipe.name) == (777, "mine")


def test_flags_win_over_the_recipe(tmp_path):
    path = written(tmp_path, 'agent = "ppo"\nlearning_rate = 1e-3\nuse_gaussian = true\neval_freq = 777\n')
    job = prepared("--recipe", path, "--learning-rate", "0.5", "--no-use-gaussian", "--eval-freq", 5)
    assert job.stages[0].config == PPOConfig(learning_rate=0.5)
    assert job.options.eval_freq == 5


STAGED = """agent = "ppo"
n_envs = 4
n_steps = 8
batch_size = 32

[[stages]]
steps = 100
learning_rate = 1e-3

[[stages]]
steps = 50
action_repeat = 2
"""


def test_stages_follow_each_other_in_whole_iterations(tmp_path):
    job = prepared("--recipe", written(tmp_path, STAGED), "--gamma", "0.5")
    common = {"n_envs": 4, "n_steps": 8, "batch_size": 32, "gamma": 0.5}
    assert [stage.config for stage in job.stages] == [
        PPOConfig(total_timesteps=100, learning_rate=1e-3, **common),
        PPOConfig(total_timesteps=50, action_repeat=2, **common),
    ]
    # An iteration is 32 steps: 100 become 128, and 50 become 64.
    assert [(stage.first_step, stage.end) for stage in job.stages] == [(0, 128), (128, 192)]
    assert job.total_steps == 192
    assert [job.frames_at(step) for step in (0, 128, 192)] == [0, 128 * 4, 128 * 4 + 64 * 2]


def test_a_total_on_the_command_line_keeps_the_stages_proportions(tmp_path):
    job = prepared("--recipe", written(tmp_path, STAGED), "--total-timesteps", 1500)
    assert [stage.steps for stage in job.stages] == [1000, 500]


def test_later_stages_have_seeds_of_their_own_and_meet_the_full_penalty(tmp_path):
    first, second = prepared("--recipe", written(tmp_path, STAGED), "--seed", 7).stages
    assert first.seed == 7
    assert second.seed not in (7, first.seed)
    assert [first.progress(step) for step in (0, 50, 100, 128)] == [0.0, 0.5, 1.0, 1.0]
    assert [first.rules_progress(step) for step in (0, 50)] == [0.0, 0.5]
    assert [second.progress(step) for step in (128, 153)] == [0.0, 0.5]
    assert second.rules_progress(128) == 1.0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("agent = ppo", "is no TOML"),
        ("n_envs = 4", "does not say which agent it is for"),
        ('agent = "sac"', "is for a 'sac' agent, not for train_ppo.py"),
        ('agent = "ppo"\nlerning_rate = 1', "no setting 'lerning_rate'; did you mean learning_rate?"),
        ('agent = "ppo"\nzzz = 1', "no setting 'zzz'; --help lists the settings"),
        ('agent = "ppo"\nresume = "x"', "no setting 'resume'"),
        ('agent = "ppo"\nn_envs = "four"', "--n-envs must be of type int, not 'four'"),
        ('agent = "ppo"\nn_envs = true', "--n-envs must be of type int, not True"),
        ('agent = "ppo"\ngamma = nan', "--gamma must be a finite number, not nan"),
        ('agent = "ppo"\ngamma = {a = 1}', "--gamma must be of type float"),
        ('agent = "ppo"\neval_freq = 0', "--eval-freq must be at least 1, not 0"),
        ('agent = "ppo"\nbatch_size = 100', "--batch-size 100 does not divide"),
        ('agent = "ppo"\nstages = 3', "write each stage as a table [[stages]]"),
        ('agent = "ppo"\n[[stages]]\ngamma = 0.5', "stage 1 needs steps"),
        ('agent = "ppo"\n[[stages]]\nsteps = 5\nzzz = 1', "no setting 'zzz'"),
        ('agent = "ppo"\ntotal_timesteps = 9\n[[stages]]\nsteps = 5', "leave total_timesteps out"),
        ('agent = "ppo"\n[[stages]]\nsteps = 5\nseed = 1', "seed is the whole run's; move it above the stages"),
        (
            'agent = "ppo"\n[[stages]]\nsteps = 5\n[[stages]]\nsteps = 5\nframe_stack = 3',
            "frame_stack is 2 and 3 in its stages, which share their networks; move it above the stages",
        ),
        ("[" * 2000, "is no TOML"),
    ],
)
def test_a_mistake_in_a_recipe_is_one_line_that_names_it_and_nothing_is_created(tmp_path, text, message):
    path = written(tmp_path, text)
    with pytest.raises(SettingError, match=re.escape(message)) as error:
        prepared("--recipe", path)
    assert "--recipe" in str(error.value)
    assert "mine" in str(error.value)
    assert len(str(error.value).splitlines()) == 1
    assert [other.name for other in tmp_path.iterdir()] == ["mine.toml"]


@pytest.mark.parametrize("name", ["nowhere", "nowhere.toml", "./nowhere/x.toml"])
def test_a_recipe_that_is_not_there_is_named(name):
    with pytest.raises(SettingError, match=f"--recipe {re.escape(name.removeprefix('./'))}"):
        prepared("--recipe", name)


def test_bytes_that_are_no_text_are_refused(tmp_path):
    (tmp_path / "mine.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(SettingError, match=r"mine\.toml cannot be read"):
        prepared("--recipe", "mine.toml")


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.toml")), ids=lambda path: path.stem)
def test_every_recipe_of_the_project_is_valid_and_says_why_it_changes_what_it_changes(path):
    recipe = recipes.read(path.stem)
    job = prepared("--recipe", path.stem, spec=SPECS[recipe.agent])
    assert job.recipe == recipe
    lines = path.read_text().splitlines()
    assert lines[0].startswith("# ")
    defaults = dataclasses.asdict(SPECS[recipe.agent].config_class())
    assert any(stage.config != SPECS[recipe.agent].config_class() for stage in job.stages)
    assert set(recipe.settings) <= {*defaults, "eval_freq", "eval_tracks", "checkpoint_freq"}


@pytest.mark.parametrize("name", ["quick", "best", "sac_cpu", "drq"])
def test_a_recipe_that_is_written_out_and_fed_back_gives_the_same_settings(tmp_path, name):
    recipe = recipes.read(name)
    spec = SPECS[recipe.agent]
    path = tmp_path / "again.toml"
    recipes.write(recipe, path, {"learning_rate": "a comment"})
    again = recipes.read(str(path))
    assert (again.agent, again.settings, again.stages) == (recipe.agent, recipe.settings, recipe.stages)
    assert stage_configs(spec, again, {}) == stage_configs(spec, recipe, {})
    assert "# a comment\nlearning_rate" in path.read_text()


def test_every_kind_of_value_survives_being_written(tmp_path):
    settings = {"start_from": 'a "b" \\ ü', "seed": 3, "gamma": 1e-7, "grayscale": False, "learning_rate": 1.0}
    recipe = Recipe("x", "sac", {**settings, "run_name": None}, ({"steps": 5, "tau": 0.5},))
    path = tmp_path / "again.toml"
    recipes.write(recipe, path)
    again = recipes.read(str(path))
    assert again.settings == settings
    assert again.stages == recipe.stages


def test_a_recipe_survives_a_checkpoint():
    recipe = recipes.read("best")
    assert Recipe.from_plain(recipe.as_plain()) == recipe


def test_the_plain_defaults_are_those_that_users_were_promised():
    config = PPOConfig()
    promised = (config.n_envs, config.batch_size, config.learning_rate, config.clip_range, config.ent_coef)
    assert promised == (8, 256, 2.5e-4, 0.1, 0.01)
    sac = SACConfig()
    assert (sac.replay_size, sac.feature_dim, sac.updates_per_step) == (30_000, 50, 1)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (f'agent = "ppo"\nseed = {"9" * 5000}', "is no TOML"),
        (f'agent = "ppo"\nseed = 0x{"f" * 5000}', "--seed must be at most"),
        (f'agent = "ppo"\n[[stages]]\nsteps = {"9" * 400}', "stage 1 needs steps, a whole number from 1 to"),
        ('agent = "ppo"\nstart_from = "s3://bucket/x"', "--start-from s3://bucket/x is an address"),
        ('agent = "ppo"\nstart_from = "a\\u0000b"', "control character"),
    ],
)
def test_what_no_machine_can_do_is_named(tmp_path, text, message):
    with pytest.raises(SettingError, match=f"--recipe .*{message}") as error:
        prepared("--recipe", written(tmp_path, text))
    assert len(str(error.value).splitlines()) == 1


def test_a_total_beyond_any_machine_is_refused_for_stages_too(tmp_path):
    with pytest.raises(SettingError, match="--total-timesteps must be at most"):
        prepared("--recipe", written(tmp_path, STAGED), "--total-timesteps", 10**400)


def test_what_never_ends_is_no_recipe(tmp_path):
    os.mkfifo(tmp_path / "mine.toml")
    for path in (tmp_path / "mine.toml", "/dev/zero", tmp_path):
        with pytest.raises(SettingError, match="is no regular file"):
            prepared("--recipe", path)


def test_a_name_from_a_strangers_checkpoint_stays_in_its_comment(tmp_path):
    recipe = Recipe('x\nseed = 5\n"\x00', "ppo", {"gamma": 0.5})
    recipes.write(recipe, tmp_path / "again.toml")
    assert recipes.read(str(tmp_path / "again.toml")).settings == {"gamma": 0.5}


def test_a_recipe_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "mine.toml"
    path.write_text("older")

    def full(_):
        raise OSError("the disk is full")

    monkeypatch.setattr("output_file.flush", full)
    with pytest.raises(OSError, match="full"):
        recipes.write(Recipe("x", "ppo", {}), path)
    assert path.read_text() == "older"
    assert [other.name for other in tmp_path.iterdir()] == ["mine.toml"]
