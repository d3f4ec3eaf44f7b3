"""The game as a package: what an import and an installation bring, what is registered, what a copy is."""

import copy
import pickle
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.error import ResetNeeded
from gymnasium.utils.env_checker import check_env as gymnasium_check_env
from stable_baselines3.common.env_checker import check_env as sb3_check_env
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv

import car_racing
from car_racing import VIEW_ID, RulesConfig, SettingError, ViewConfig, make_env, make_stock_env

ROOT = Path(__file__).resolve().parent.parent
GAS = np.array([0.0, 1.0, -1.0], dtype=np.float32)


def run_python(code, path, cwd):
    command = [sys.executable, "-P", "-c", code]
    return subprocess.run(command, cwd=cwd, env={"PYTHONPATH": str(path)}, capture_output=True, text=True, timeout=120)


def test_the_import_brings_neither_torch_nor_stable_baselines3(tmp_path):
    code = "import sys, car_racing; print(sorted({'torch', 'stable_baselines3'} & set(sys.modules)))"
    assert run_python(code, ROOT, tmp_path).stdout == "[]\n"


def test_the_package_works_without_the_rest_of_the_repository(tmp_path):
    shutil.copytree(ROOT / "car_racing", tmp_path / "car_racing")
    code = (
        "import gymnasium\n"
        "env = gymnasium.make('car_racing:FastCarRacingView-v3', frame_stack=2)\n"
        "env.reset(seed=1)\n"
        "from car_racing.vec_env import make_vec_env\n"
        "venv = make_vec_env(2, n_workers=1)\n"
        "print(env.step(env.action_space.sample())[0].shape, venv.reset().shape)\n"
        "venv.close()\n"
    )
    run = run_python(code, tmp_path, "/")
    assert run.stdout == "(2, 84, 84) (2, 4, 84, 84)\n", run.stderr


def test_another_size_of_the_frame_is_refused(tmp_path):
    shutil.copytree(ROOT / "car_racing", tmp_path / "car_racing")
    config = tmp_path / "car_racing" / "config.py"
    config.write_text(re.sub(r"^FRAME_SIZE = 84$", "FRAME_SIZE = 64", config.read_text(), flags=re.MULTILINE))
    run = run_python("import car_racing", tmp_path, tmp_path)
    assert run.returncode == 1
    assert "ImportError: FRAME_SIZE is 64" in run.stderr


def test_an_installation_brings_the_versions_that_are_tested():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    pinned = set((ROOT / "requirements.txt").read_text().splitlines())
    assert set(project["dependencies"]) <= pinned
    assert set(project["optional-dependencies"]["sb3"]) <= pinned


def test_every_exported_name_is_there():
    assert all(hasattr(car_racing, name) for name in car_racing.__all__)


def test_the_registered_view_is_what_policies_see():
    made = gym.make(f"car_racing:{VIEW_ID}", frame_stack=2, action_repeat=3)
    ours = make_env(ViewConfig(frame_stack=2, action_repeat=3))
    assert made.observation_space == gym.spaces.Box(0, 255, (2, 84, 84), np.uint8)
    assert made.action_space == gym.spaces.Box(-1.0, 1.0, (3,), np.float32)
    np.testing.assert_array_equal(made.reset(seed=5)[0], ours.reset(seed=5)[0])
    for action in np.random.default_rng(0).uniform(-1, 1, (10, 3)).astype(np.float32):
        obs, *outcome, _ = made.step(action)
        expected, *same, _ = ours.step(action)
        np.testing.assert_array_equal(obs, expected)
        assert outcome == same


def test_the_registered_views_time_limit_counts_frames():
    env = gym.wrappers.RecordEpisodeStatistics(gym.make(VIEW_ID, action_repeat=100))
    env.reset(seed=0)
    outcomes = [env.step(np.array([0.0, -1.0, 1.0], np.float32)) for _ in range(10)]
    assert [truncated for *_, truncated, _ in outcomes] == [False] * 9 + [True]
    assert outcomes[-1][-1]["episode"]["l"] == 10, "Gymnasium's own statistics can be put around it"


def test_the_registered_view_is_made_again_from_its_spec():
    env = gym.make(VIEW_ID, frame_stack=2, grayscale=False)
    assert gym.make(env.spec).observation_space.shape == (6, 84, 84)


@pytest.mark.parametrize(
    ("kwargs", "error", "words"),
    [
        ({"stack": 2}, TypeError, "unknown: stack; the keyword arguments are render_mode, action_repeat, frame_stack"),
        ({"frame_stack": 0}, SettingError, "--frame-stack must be at least 1"),
        ({"action_repeat": "4"}, SettingError, "--action-repeat must be of type int"),
    ],
)
def test_the_registered_view_refuses_what_it_does_not_know(kwargs, error, words):
    with pytest.raises(error, match=words):
        gym.make(VIEW_ID, **kwargs)


@pytest.mark.parametrize("grayscale", [True, False])
@pytest.mark.filterwarnings("ignore:.*is different from the unwrapped version")
def test_the_registered_view_passes_the_checkers(grayscale):
    gymnasium_check_env(gym.make(VIEW_ID, grayscale=grayscale), skip_render_check=True)
    gymnasium_check_env(gym.make(VIEW_ID, grayscale=grayscale).unwrapped, skip_render_check=True)
    sb3_check_env(gym.make(VIEW_ID, grayscale=grayscale))


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_the_registered_view_in_gymnasiums_vector_environments(mode):
    envs = gym.make_vec(f"car_racing:{VIEW_ID}", num_envs=2, vectorization_mode=mode, frame_stack=2)
    single = gym.make(VIEW_ID, frame_stack=2)
    try:
        obs, _ = envs.reset(seed=[3, 4])
        np.testing.assert_array_equal(obs[1], single.reset(seed=4)[0])
        obs, rewards, *_ = envs.step(np.stack([GAS, GAS]))
        expected, reward, *_ = single.step(GAS)
        np.testing.assert_array_equal(obs[1], expected)
        assert rewards[1] == reward
    finally:
        envs.close()


def make_registered():
    return gym.make("car_racing:FastCarRacingView-v3", frame_stack=2)


@pytest.mark.parametrize("vec_env_class", [DummyVecEnv, SubprocVecEnv])
def test_the_registered_view_in_sb3s_vector_environments(vec_env_class):
    envs = vec_env_class([make_registered, make_registered])
    try:
        envs.seed(3)
        assert envs.reset().shape == (2, 2, 84, 84)
        assert envs.step(np.stack([GAS, GAS]))[0].dtype == np.uint8
    finally:
        envs.close()


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda env: pickle.loads(pickle.dumps(env))])
@pytest.mark.parametrize("make", [make_env, lambda: make_env(rules=RulesConfig()), make_registered])
def test_a_copy_is_a_new_game_and_draws_itself(make, copied):
    env, as_new = make(), make()
    env.reset(seed=7)
    for _ in range(3):
        env.step(GAS)
    other = copied(env)
    with pytest.raises(ResetNeeded, match=r"call reset\(\)"):
        other.step(GAS)
    np.testing.assert_array_equal(other.reset(seed=8)[0], as_new.reset(seed=8)[0])
    for _ in range(3):
        env.step(GAS)
        np.testing.assert_array_equal(other.step(GAS)[0], as_new.step(GAS)[0])


def test_a_copy_of_the_stock_game_draws_itself():
    env = make_stock_env()
    env.reset(seed=7)
    other = copy.deepcopy(env)
    obs, _ = other.reset(seed=8)
    np.testing.assert_array_equal(obs, make_stock_env().reset(seed=8)[0])
