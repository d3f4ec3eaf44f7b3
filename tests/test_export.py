"""The export to Stable-Baselines3's own file: the same policy, and the mistakes a user can make."""

import numpy as np
import pytest
import torch
from stable_baselines3 import PPO

import checkpoint
import ppo
import sac_drq
from benchmarks import soak
from checkpoint import CheckpointError
from export import ExportOptions, export
from sac_drq import SACAgent, SACConfig
from settings import SettingError


def saved_policy(tmp_path, config):
    torch.manual_seed(5)
    state = {"policy": ppo.make_policy(config).state_dict()}
    return checkpoint.save(tmp_path, "best", {"agent": "ppo", "config": vars(config)}, state)


@pytest.mark.parametrize("use_gaussian", [False, True])
def test_sb3_loads_the_policy_and_drives_the_same(tmp_path, use_gaussian):
    config = ppo.PPOConfig(n_envs=2, n_steps=8, batch_size=8, features_dim=8, use_gaussian=use_gaussian)
    path = saved_policy(tmp_path, config)
    said = export(ExportOptions(checkpoint=str(path), to=str(tmp_path / "new" / "policy.zip")))
    assert "PPO.load" in said
    model = PPO.load(tmp_path / "new" / "policy.zip")
    assert (model.n_envs, model.batch_size, model.gamma) == (2, 8, 0.99)
    driver, view = ppo.load_driver(checkpoint.load(path), torch.device("cpu"))
    for obs in np.random.default_rng(0).integers(0, 256, (5, *view.obs_shape), np.uint8):
        np.testing.assert_array_equal(model.predict(obs, deterministic=True)[0], driver(obs))


def test_a_driver_is_what_drives_and_nothing_else(tmp_path):
    ppo_config = ppo.PPOConfig(features_dim=8)
    trained_ppo = checkpoint.load(saved_policy(tmp_path, ppo_config))
    sac_config = SACConfig(encoder="light", hidden_dim=8, feature_dim=8, replay_size=300)
    agent = SACAgent(sac_config, torch.device("cpu"))
    meta = {"agent": "sac", "config": vars(sac_config), "aim_run": "abc", "steps": 7}
    trained_sac = checkpoint.load(checkpoint.save(tmp_path, "sac", meta, {"agent": agent.state_dict()}))
    for loaded, module, view in ((trained_ppo, ppo, ppo_config.view), (trained_sac, sac_drq, sac_config.view)):
        target = tmp_path / f"{loaded.path.name}_driver"
        assert f"evaluate.py --checkpoint {target}" in export(
            ExportOptions(checkpoint=str(loaded.path), to=str(target))
        )
        driver = checkpoint.load(target)
        obs = np.random.default_rng(0).integers(0, 256, view.obs_shape, np.uint8)
        drives, before = (module.load_driver(one, torch.device("cpu"))[0](obs) for one in (driver, loaded))
        np.testing.assert_array_equal(drives, before)
    assert driver.meta == {**meta, "aim_run": None}
    assert set(driver.state["agent"]) == {"critic", "actor", "average"}


def test_mistakes_are_named(tmp_path):
    for options, message in (
        ({}, "--checkpoint is missing"),
        ({"checkpoint": "x"}, "--to is missing"),
    ):
        with pytest.raises(SettingError, match=message):
            ExportOptions(**options)
    with pytest.raises(CheckpointError, match="there is no checkpoint"):
        export(ExportOptions(checkpoint=str(tmp_path / "nowhere"), to="policy.zip"))
    sac = checkpoint.save(tmp_path, "sac", {"agent": "sac"}, {})
    with pytest.raises(SettingError, match="holds a sac agent"):
        export(ExportOptions(checkpoint=str(sac), to=str(tmp_path / "policy.zip")))
    with pytest.raises(CheckpointError, match="does not hold a SAC agent"):
        export(ExportOptions(checkpoint=str(sac), to=str(tmp_path / "driver")))
    path = saved_policy(tmp_path, ppo.PPOConfig(features_dim=8))
    for target in ("/proc/policy.zip", "/proc/driver"):
        with pytest.raises(SettingError, match="--to /proc"):
            export(ExportOptions(checkpoint=str(path), to=target))
    with pytest.raises(SettingError, match="is there already"):
        export(ExportOptions(checkpoint=str(path), to=str(tmp_path)))
    code, _, stderr = soak.finish(soak.start("export.py", "--to", "x.zip", cwd=tmp_path))
    assert (code, stderr) == (2, "export.py: --checkpoint is missing; name a checkpoint or a run's directory\n")
