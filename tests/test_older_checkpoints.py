"""Checkpoints of other versions: a setting that is added or renamed, and everything that the restructuring renamed."""

import dataclasses
import shutil
from dataclasses import dataclass

import numpy as np
import pytest
import torch

import checkpoint
import policies
import ppo
import sac_drq
from car_racing.settings import setting
from policies import load_policy
from ppo_config import PPOConfig
from sac_config import SACConfig
from tests.helpers import PRETRAINED, ROOT, TOTAL, rewrite_manifest
from tests.trainings import MODULES, SCRIPTS, exit_code_of, prepared, resume, spec_of, train_small

AGENT_MODULES = {"train.py": sac_drq, "train_ppo.py": ppo}
STARTS = ("retry_start_prob", "lost_start_prob", "bend_start_prob")
STEPS = {"train.py": 120, "train_ppo.py": 96}


@dataclass(frozen=True)
class LaterSACConfig(SACConfig):
    """SAC's settings in a later version: one was added, and `gamma` was "discount" before."""

    gamma: float = setting(0.99, "discount factor of a step", formerly="discount")
    bonus: float = setting(0.5, "a bonus for something", before=0.0)


@dataclass(frozen=True)
class LaterPPOConfig(PPOConfig):
    """PPO's settings in a later version: one was added, and `gamma` was "discount" before."""

    gamma: float = setting(0.99, "discount factor of a step", formerly="discount")
    bonus: float = setting(0.5, "a bonus for something", before=0.0)


LATER = {"train.py": LaterSACConfig, "train_ppo.py": LaterPPOConfig}


@pytest.fixture(params=SCRIPTS)
def script(request):
    return request.param


@pytest.fixture
def run(whole_run, script, tmp_path, monkeypatch):
    """A copy of the shared run, in a place of its own."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(whole_run(script)[0] / "checkpoints" / "small", tmp_path / "run")
    return tmp_path / "run"


@pytest.fixture
def later_version(script, monkeypatch):
    """The scripts with the later version's settings."""
    later, module = LATER[script], AGENT_MODULES[script]
    monkeypatch.setattr(module, SPEC_CLASS[script], later)
    monkeypatch.setattr(module, "CONFIG_CLASS", later)
    monkeypatch.setattr(MODULES[script], "SPEC", dataclasses.replace(spec_of(script), config_class=later))
    return later


SPEC_CLASS = {"train.py": "SACConfig", "train_ppo.py": "PPOConfig"}


def rename_settings(path, names):
    """Give settings in a checkpoint's manifest the names that an older version had for them."""

    def change(manifest):
        meta = manifest["meta"]
        for saved in (meta["config"], *meta.get("stages", [])):
            for name, former in names.items():
                saved[former] = saved.pop(name)

    rewrite_manifest(path, change)


def actions_of(loaded, n=4):
    policy, view = load_policy(loaded)
    pixels = np.random.default_rng(0).integers(0, 256, (n, *view.obs_shape), np.uint8)
    return np.stack([policy(obs) for obs in pixels])


def test_a_setting_that_is_added_or_renamed_voids_no_checkpoint(run, script, whole_run, later_version):
    before = actions_of(checkpoint.load(whole_run(script)[0] / "checkpoints" / "small"))
    for path in (checkpoint.load(run).path, run / "best"):
        rename_settings(path, {"gamma": "discount"})
    np.testing.assert_array_equal(actions_of(checkpoint.load(run)), before)
    settings = policies.recipe_of(checkpoint.load(run)).settings
    assert (settings["bonus"], settings["gamma"]) == (0.0, {"train.py": 0.98, "train_ppo.py": 0.99}[script])
    job = prepared(script, "--resume", run, TOTAL[script], 999)
    assert [stage.config.bonus for stage in job.stages] == [0.0], "as before it was added, not its default"
    steps = STEPS[script] + 32
    assert resume(script, run, TOTAL[script], steps, "--no-aim") == 0
    assert checkpoint.load(run).meta["config"]["bonus"] == 0.0
    assert checkpoint.load(run).meta["steps"] == steps
    assert train_small(script, 32, "--start-from", run / "best", "--run-name", "new", "--no-aim") == 0
    assert checkpoint.load(run.parent / "checkpoints" / "new").meta["config"]["bonus"] == 0.5


# PPO's of an older version, under its names of settings; pretrained/sac_light is as old.
OLDER_PPO = ROOT / "tests" / "older_ppo"


@pytest.mark.parametrize("path", [OLDER_PPO, PRETRAINED / "sac_light"], ids=["PPO", "SAC"])
def test_the_policies_of_an_earlier_version_load_act_and_can_be_started_from(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    loaded = checkpoint.load(path)
    actions = actions_of(loaded)
    assert np.isfinite(actions).all()
    assert np.abs(actions).max() <= 1.0
    script = "train_ppo.py" if path == OLDER_PPO else "train.py"
    module, config_class = AGENT_MODULES[script], spec_of(script).config_class
    saved = ppo.from_saved(config_class, loaded.meta["config"], module.NETWORK_SETTINGS)
    config = dataclasses.replace(config_class(), **{key: getattr(saved, key) for key in module.NETWORK_SETTINGS})
    if script == "train_ppo.py":
        networks = ppo.initial_networks(config, loaded)
        assert all(torch.equal(networks[key], value) for key, value in loaded.state["policy"].items())
    else:
        state = sac_drq.initial_agent(config, loaded).actor.state_dict()
        assert all(torch.equal(state[key], value) for key, value in loaded.state["agent"]["actor"].items())


def test_a_dead_zone_that_was_on_or_off_is_a_fraction_in_every_stage(run, script):
    def switch(manifest):
        for saved in (manifest["meta"]["config"], *manifest["meta"]["stages"]):
            saved["brake_dead_zone"] = script == "train.py"

    rewrite_manifest(checkpoint.load(run).path, switch)
    was = 0.5 if script == "train.py" else 0.0
    job = prepared(script, "--resume", run, TOTAL[script], 999)
    assert [stage.config.brake_dead_zone for stage in job.stages] == [was]
    assert load_policy(checkpoint.load(run))[1].brake_dead_zone == was


def test_ppo_under_another_dead_zone_does_not_start_from_an_older_one(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert exit_code_of("train_ppo.py", monkeypatch, "--start-from", OLDER_PPO) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "was trained with --brake-dead-zone 0.0; give the" in line
    assert not list(tmp_path.iterdir())


# What the version before the restructuring called what is renamed now.
FORMER_SETTINGS = {
    "max_backward_tiles": "max_tiles_back",
    "missed_tile_penalty": "missed_tile_charge",
    "wheel_off_penalty": "wheel_off_charge",
    "bootstrap_lap_end": "endless_road",
    "mirror_prob": "mirrored_tracks",
}
FORMER_OF_AGENT = {
    "train.py": {"anneal_lr": "falling_rates", "ema_tau": "averaging_tau"},
    "train_ppo.py": {"feature_dim": "features_dim"},
}


def older_env(state):
    """The state of an environment as the version before the restructuring captured it."""
    tracks = {"state": {**state["rng"]}, "episodes": 0}
    return {
        "present": {"tracks": tracks, "actions": state["episode"]["actions"]},
        "next_tracks": state["rng"],
        "choices": state["rng"],
        "mistakes": [],
        "tiles_when_good": None,
        "has_erred": False,
    }


def make_older(run, script):
    """Rewrite the newest checkpoint of a run as the version before the restructuring had saved it."""
    newest = checkpoint.load(run)
    meta, state = newest.meta, dict(newest.state)
    config = meta["config"]
    # Then the dead zone was half of the action or nothing.
    config["brake_dead_zone"] = config["brake_dead_zone"] == 0.5
    for name, former in (FORMER_SETTINGS | FORMER_OF_AGENT[script]).items():
        config[former] = config.pop(name)
    del config["hairpin_start_prob"]  # there was none
    # Then the starts were drawn one inside the other.
    retry, lost, bend = (config.pop(name) for name in STARTS)
    lost_starts = lost / (1.0 - retry)
    bend_starts = bend / ((1.0 - retry) * (1.0 - lost_starts))
    config.update(second_tries=retry, lost_starts=lost_starts, bend_starts=bend_starts)
    for key in ("recipe", "stage", "stages", "intervals", "evaluations", "minutes"):
        del meta[key]
    if script == "train.py":
        state["agent"]["average"] = state["agent"].pop("ema_policy")
        state["replay"]["numbers"] = state["replay"].pop("frame_ids")
        state["env"] = older_env(state["env"])
    else:
        state["envs"] = [older_env(env) for env in state["envs"]]
    checkpoint.save_step(run, meta["steps"], meta, state, newest.arrays)
    return meta


def test_a_training_of_the_earlier_version_is_resumed(run, script):
    before = checkpoint.load(run)
    actions = actions_of(before)
    older = make_older(run, script)
    # The brake of PPO's deterministic action depends on the dead zone, which its older version does not have.
    n_alike = 2 if script == "train_ppo.py" else 3
    np.testing.assert_array_equal(np.array(actions_of(checkpoint.load(run)))[..., :n_alike], actions[..., :n_alike])
    steps = before.meta["steps"] + 64
    assert resume(script, run, TOTAL[script], steps, "--no-aim") == 0
    after = checkpoint.load(run)
    assert after.meta["steps"] == steps
    total = spec_of(script).total
    config = {**before.meta["config"], total: steps, "brake_dead_zone": 0.5 * older["config"]["brake_dead_zone"]}
    config["hairpin_start_prob"] = 0.0
    for name in STARTS:  # were divided and multiplied on the way
        assert after.meta["config"].pop(name) == pytest.approx(config.pop(name), rel=1e-12)
    assert after.meta["config"] == config
    assert after.meta["episodes"] >= older["episodes"]
    assert after.meta["aim_run"] == older["aim_run"]
    assert after.meta["minutes"] is None, "nobody counted those before"
    assert [(one["step"] > before.meta["steps"], one["minutes"]) for one in after.meta["evaluations"]] == [(True, None)]
    n_updates = {
        "train.py": lambda state: state["agent"]["n_updates"],
        "train_ppo.py": lambda state: state["n_updates"],
    }
    gained = n_updates[script](after.state) - n_updates[script](before.state)
    assert gained == {"train.py": 64, "train_ppo.py": 2 * 64 // 32}[script]
