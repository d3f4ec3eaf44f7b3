"""Exports: the same policy in another form, the same settings as a recipe, and the mistakes a user can make."""

import ast
import dataclasses
import re
import sys

import gymnasium as gym
import numpy as np
import onnxruntime
import pytest
import torch
from stable_baselines3 import PPO

import checkpoint
import recipe
from car_racing import make_env
from checkpoint import CheckpointError
from export import export
from export_options import ExportOptions
from policies import load_policy
from settings import SettingError
from tests.helpers import SMALL_PPO, SMALL_SAC, finish, save_ppo, save_sac, start

OTHER_VIEW = dataclasses.replace(SMALL_PPO, frame_stack=3, grayscale=False, brake_dead_zone=0.5)


def run_export(path, target):
    return export(ExportOptions(checkpoint=str(path), to=str(target)))


@pytest.mark.parametrize("use_gaussian", [False, True])
def test_sb3_loads_the_policy_and_acts_the_same(tmp_path, use_gaussian):
    path = save_ppo(tmp_path, "best", dataclasses.replace(SMALL_PPO, use_gaussian=use_gaussian))
    target = tmp_path / "new" / "policy.zip"
    run_export(path, target)
    assert [file.name for file in target.parent.iterdir()] == ["policy.zip"]
    model = PPO.load(target)
    policy, view = load_policy(checkpoint.load(path))
    for obs in np.random.default_rng(0).integers(0, 256, (5, *view.obs_shape), np.uint8):
        np.testing.assert_array_equal(model.predict(obs, deterministic=True)[0], policy(obs))


@pytest.mark.parametrize("config", [SMALL_PPO, OTHER_VIEW], ids=["default", "other"])
def test_the_message_names_the_environment_that_the_policy_was_trained_with(tmp_path, config):
    said = run_export(save_ppo(tmp_path, "best", config), tmp_path / "policy.zip")
    model = PPO.load(re.search(r"PPO\.load\('(.*)'\)", said)[1])
    identity, *arguments = re.search(r"gymnasium\.make\((.*)\)", said)[1].split(", ")
    view = {name: ast.literal_eval(value) for name, value in (argument.split("=") for argument in arguments)}
    differing = {f.name for f in dataclasses.fields(config.view) if getattr(config, f.name) != f.default}
    assert set(view) == differing
    env, ours = gym.make(ast.literal_eval(identity), **view), make_env(config.view)
    assert env.observation_space == ours.observation_space == model.observation_space
    obs, _ = env.reset(seed=3)
    np.testing.assert_array_equal(obs, ours.reset(seed=3)[0])
    action = model.predict(obs, deterministic=True)[0]
    for found, expected in zip(env.step(action)[:4], ours.step(action)[:4], strict=True):
        np.testing.assert_array_equal(found, expected)


def run_onnx(path, obs):
    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]).run(["action"], {"obs": obs})[0]


def run_torchscript(path, obs):
    return torch.jit.load(path)(torch.from_numpy(obs)).numpy()


RUNTIMES = {".onnx": run_onnx, ".pt": run_torchscript}


def saved_policies(directory):
    """Checkpoints of every kind of policy, whose weights are so far from 0 that its actions differ."""
    for name, save, config in (
        ("beta", save_ppo, SMALL_PPO),
        ("mode", save_ppo, dataclasses.replace(OTHER_VIEW, deterministic_action="mode")),
        ("gaussian", save_ppo, dataclasses.replace(SMALL_PPO, use_gaussian=True)),
        ("sac", save_sac, SMALL_SAC),
        ("sac_latest", save_sac, dataclasses.replace(SMALL_SAC, ema_tau=1.0, encoder="drq")),
    ):
        loaded = checkpoint.load(save(directory, name, config))
        if save is save_ppo:
            loaded.state["policy"]["action_net.weight"].mul_(20.0)
        yield checkpoint.load(checkpoint.save(directory, f"{name}_far", loaded.meta, loaded.state))


@pytest.mark.filterwarnings("error::torch.jit.TracerWarning")
@pytest.mark.parametrize("ending", list(RUNTIMES))
def test_a_policy_as_onnx_or_torchscript_acts_the_same_in_batches_of_any_size(tmp_path, ending):
    for loaded in saved_policies(tmp_path):
        target = tmp_path / "new" / f"{loaded.path.name}{ending}"
        run_export(loaded.path, target)
        assert [file.name for file in target.parent.iterdir()] == [target.name]
        policy, view = load_policy(loaded)
        obs = np.random.default_rng(0).integers(0, 256, (7, *view.obs_shape), np.uint8)
        expected = np.stack([policy(single) for single in obs])
        assert np.ptp(expected, axis=0).max() > 0.05, "the actions are all alike"
        for n in (7, 1):
            actions = RUNTIMES[ending](target, obs[:n])
            assert (actions.dtype, actions.shape) == (np.float32, (n, 3))
            # PyTorch's own action for a batch is off as much from the one for a single observation.
            np.testing.assert_allclose(actions, expected[:n], atol=2e-6, rtol=0)
        target.unlink()


@pytest.mark.parametrize("ending", [".onnx", ".pt"])
def test_what_is_said_of_onnx_and_torchscript_runs_as_it_is(tmp_path, ending):
    path = save_ppo(tmp_path, "best", OTHER_VIEW)
    said = run_export(path, tmp_path / f"policy{ending}")
    *setup, last = [line.strip() for line in said.splitlines()[1:]]
    names = {"gymnasium": gym, "onnxruntime": onnxruntime, "torch": torch}
    exec("\n".join(setup), names)
    names["obs"], _ = names["env"].reset(seed=3)
    exec(last, names)
    expected = load_policy(checkpoint.load(path))[0](names["obs"])
    np.testing.assert_allclose(names["action"], expected, atol=2e-6, rtol=0)
    assert names["env"].action_space.contains(names["action"])


def test_without_onnx_it_is_said_what_to_install(tmp_path, monkeypatch):
    path = save_ppo(tmp_path, "best")
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(SettingError, match=r"policy.onnx needs the package onnx; install it: .* -m pip install onnx$"):
        run_export(path, tmp_path / "policy.onnx")
    assert [file.name for file in tmp_path.iterdir()] == ["best"]
    run_export(path, tmp_path / "policy.pt")


@pytest.mark.parametrize(("save", "config"), [(save_ppo, SMALL_PPO), (save_sac, SMALL_SAC)], ids=["ppo", "sac"])
def test_a_directory_holds_the_policy_and_nothing_else(tmp_path, save, config):
    small = checkpoint.load(save(tmp_path, "small", config))
    state = {**small.state, "of_training": [1, 2, 3]}
    loaded = checkpoint.load(checkpoint.save(tmp_path, "trained", small.meta, state))
    said = run_export(loaded.path, tmp_path / "policy v1.5")
    assert f"evaluate.py --checkpoint '{tmp_path}/policy v1.5'" in said
    exported = checkpoint.load(tmp_path / "policy v1.5")
    assert exported.meta == {**loaded.meta, "aim_run": None}
    obs = np.random.default_rng(0).integers(0, 256, config.view.obs_shape, np.uint8)
    np.testing.assert_array_equal(load_policy(exported)[0](obs), load_policy(loaded)[0](obs))
    assert exported.state.keys() < loaded.state.keys()


@pytest.mark.parametrize(("save", "config"), [(save_ppo, OTHER_VIEW), (save_sac, SMALL_SAC)], ids=["ppo", "sac"])
def test_a_recipe_holds_the_settings(tmp_path, save, config):
    said = run_export(save(tmp_path, "trained", config), tmp_path / "mine.toml")
    assert f"--recipe {tmp_path}/mine.toml" in said
    written = recipe.read(str(tmp_path / "mine.toml"))
    assert written.agent == ("ppo" if save is save_ppo else "sac")
    assert type(config)(**written.settings) == config
    assert sorted(file.name for file in tmp_path.iterdir()) == ["mine.toml", "trained"]


def test_endings_in_capitals_are_the_same(tmp_path):
    path = save_ppo(tmp_path, "best")
    run_export(path, tmp_path / "policy.ZIP")
    assert PPO.load(tmp_path / "policy.ZIP").policy.action_space.shape == (3,)
    run_export(path, tmp_path / "mine.TOML")
    assert recipe.read(str(tmp_path / "mine.TOML")).agent == "ppo"
    run_export(path, tmp_path / "policy.PT")
    assert run_torchscript(tmp_path / "policy.PT", np.zeros((2, *SMALL_PPO.view.obs_shape), np.uint8)).shape == (2, 3)


def test_an_older_file_stays_where_the_new_one_fails(tmp_path, monkeypatch):
    path = save_ppo(tmp_path, "best")
    target = tmp_path / "policy.zip"
    target.write_text("older")

    def fail_halfway(_, new_path):
        new_path.write_text("half")
        raise OSError("no space left")

    monkeypatch.setattr("export.ppo.export_sb3", fail_halfway)
    with pytest.raises(SettingError, match=r"--to .*policy.zip cannot be written .*no space left"):
        run_export(path, target)
    assert target.read_text() == "older"
    assert sorted(file.name for file in tmp_path.iterdir()) == ["best", "policy.zip"]


def test_no_link_is_written_through(tmp_path):
    precious = tmp_path / "precious"
    precious.write_text("mine")
    for name in ("policy.zip", "mine.toml", "policy.onnx", "policy.pt"):
        (tmp_path / name).symlink_to(precious)
        run_export(save_ppo(tmp_path, "best"), tmp_path / name)
        assert precious.read_text() == "mine"
        assert not (tmp_path / name).is_symlink()


@pytest.mark.parametrize("name", ["policy.pth", "policy.safetensors", "policy.tar.gz"])
def test_endings_without_an_export_are_refused(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    ending = "." + name.rpartition(".")[2]
    with pytest.raises(SettingError, match=rf"--to {name}: there is no export to {ending}; name a file"):
        ExportOptions(checkpoint="anything", to=name)
    assert list(tmp_path.iterdir()) == []


def test_mistakes_are_named(tmp_path):
    for options, message in (
        ({}, "no checkpoint is named"),
        ({"checkpoint": "x"}, "--to is missing"),
    ):
        with pytest.raises(SettingError, match=message):
            ExportOptions(**options)
    with pytest.raises(CheckpointError, match="there is no checkpoint"):
        run_export(tmp_path / "nowhere", tmp_path / "policy.zip")
    sac = checkpoint.save(tmp_path, "sac", {"agent": "sac"}, {})
    with pytest.raises(SettingError, match="holds a sac agent"):
        run_export(sac, tmp_path / "policy.zip")
    with pytest.raises(CheckpointError, match="does not hold a SAC "):
        run_export(sac, tmp_path / "policy")
    path = save_ppo(tmp_path, "best")
    for target in ("/proc/policy.zip", "/proc/policy", "/proc/policy.toml", "/proc/policy.onnx", "/proc/policy.pt"):
        with pytest.raises(SettingError, match="--to /proc"):
            run_export(path, target)
    with pytest.raises(SettingError, match="is there already"):
        run_export(path, tmp_path)


def test_a_mistake_is_one_line_and_exit_code_2(tmp_path):
    code, stdout, stderr = finish(start("export.py", "--to", "x.zip", cwd=tmp_path))
    assert (code, stdout) == (2, "")
    assert stderr == "export.py: no checkpoint is named; name one or a run's directory\n"
