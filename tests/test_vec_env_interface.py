"""The rest of Stable-Baselines3's `VecEnv`, carried out here and in workers alike."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from stable_baselines3.common.vec_env import VecVideoRecorder

from car_racing import RulesConfig, ViewConfig, make_env
from car_racing.vec_env import make_vec_env
from tests.driving import BRAKE, plain_rules

ROOT = Path(__file__).resolve().parent.parent
N_ENVS = 3


@pytest.fixture(params=[0, 2], ids=["here", "in workers"])
def n_workers(request):
    return request.param


@pytest.fixture
def make(n_workers):
    made = []

    def make(*args, **kwargs):
        made.append(make_vec_env(N_ENVS, *args, n_workers=n_workers, **kwargs))
        return made[-1]

    yield make
    for env in made:
        env.close()


def test_options_go_to_each_environments_next_reset_and_to_no_later_one(make):
    env, single = make(), make_env()
    options = [{}, {"mirrored": True}, {"mirrored": True}]
    seeds = env.seed(1)
    env.set_options(options)
    obs = env.reset()
    for i in range(N_ENVS):
        np.testing.assert_array_equal(obs[i], single.reset(seed=seeds[i], options=options[i])[0])
    env.seed(1)
    plain = env.reset()
    np.testing.assert_array_equal(plain[0], obs[0])
    assert (plain[1] != obs[1]).any()
    env.set_options({"mirrored": True})
    env.seed(1)
    np.testing.assert_array_equal(env.reset()[1:], obs[1:])


def test_reset_infos_are_those_of_each_environments_latest_reset(make):
    view, rules = ViewConfig(action_repeat=10), plain_rules(max_idle_frames=20)
    env, single = make(view, rules), make_env(view, rules)
    seeds = env.seed(1)
    env.reset()
    assert env.reset_infos[2] == single.reset(seed=seeds[2])[1]
    assert len({info["track_seed"] for info in env.reset_infos}) == N_ENVS
    for _ in range(2):
        *_, dones, infos = env.step(np.stack([BRAKE] * N_ENVS))
    assert dones.all()
    assert all("terminal_observation" in info for info in infos)
    assert env.reset_infos[2] == single.reset()[1]


def test_images_are_what_each_environment_renders(make):
    env, single = make(render_mode="rgb_array"), make_env(render_mode="rgb_array")
    assert env.render_mode == "rgb_array"
    seeds = env.seed(1)
    env.reset()
    single.reset(seed=seeds[2])
    images = env.get_images()
    assert len(images) == N_ENVS
    np.testing.assert_array_equal(images[2], single.render())
    assert env.render().ndim == 3, "all of them in one picture"


def test_without_a_render_mode_there_are_no_images(make):
    env = make()
    assert env.render_mode is None
    with pytest.warns(UserWarning, match="rgb_array"):
        assert env.get_images() == [None] * N_ENVS


def test_sb3s_video_recorder_takes_its_pictures(make, tmp_path, films):
    env = VecVideoRecorder(make(render_mode="rgb_array"), str(tmp_path), lambda step: step == 0, video_length=3)
    env.reset()
    for _ in range(4):
        env.step(np.stack([BRAKE] * N_ENVS))
    assert films == [(4, 3, 12.5)], "50 frames a second, every fourth of them"


def test_an_attribute_that_is_not_there_is_said_so_everywhere(make):
    env = make()
    assert env.has_attr("config")
    assert not env.has_attr("no_such_attribute")
    with pytest.raises(AttributeError, match="no_such_attribute"):
        env.get_attr("no_such_attribute", indices=[2])


def test_an_error_of_an_environments_method_is_raised_and_the_others_go_on(make):
    env = make(rules=RulesConfig())
    env.seed(0)
    env.reset()
    with pytest.raises(ValueError, match="progress"):
        env.env_method("set_progress", 2.0)
    with pytest.raises((KeyError, TypeError, ValueError)):
        env.env_method("restore_episode", {"present": 1, "next_tracks": 2}, indices=[2])
    assert env.step(np.stack([BRAKE] * N_ENVS))[0].shape == (N_ENVS, 4, 84, 84)
    states = env.env_method("capture_episode")
    assert len({state["episode"]["start"]["track_seed"] for state in states}) == N_ENVS


def test_answers_come_in_the_order_of_the_indices(make):
    env = make()
    for i in range(N_ENVS):
        env.set_attr("mark", i, indices=i)
    assert env.get_attr("mark", [2, 0, -1, 1]) == [2, 0, 2, 1]


def test_nothing_in_the_current_directory_stands_in_for_what_a_worker_imports(tmp_path):
    for name in ("car_racing", "gymnasium", "numpy", "mmap", "signal", "settings"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('the wrong module')\n")
    code = (
        "from car_racing.vec_env import make_vec_env\n"
        "env = make_vec_env(2, n_workers=1)\n"
        "print(env.reset().shape)\n"
        "env.close()\n"
    )
    # An empty entry and a dot stand for the current directory. They are added once this process itself has started.
    code = (
        f"import os\nos.environ['PYTHONPATH'] = {os.pathsep + '.' + os.pathsep!r} + os.environ['PYTHONPATH']\n" + code
    )
    command = [sys.executable, "-P", "-c", code]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    run = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=120)
    assert run.stdout == "(2, 4, 84, 84)\n", run.stderr
