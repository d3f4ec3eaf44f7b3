"""PPO as it is set up: its settings reach SB3, its rate anneals, its state comes back, its policy loads."""

import dataclasses
import tempfile

import numpy as np
import pytest
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.utils import set_random_seed

import checkpoint
import ppo
from checkpoint import CheckpointError
from ppo import AnnealedRate
from ppo_config import PPOConfig
from settings import SettingError
from tests.helpers import SMALL_PPO, save_ppo

CPU = torch.device("cpu")


@pytest.mark.parametrize("first_step", [0, 1_000_000])
def test_the_rate_falls_with_each_iteration_to_nothing_after_the_last(first_step):
    rate = AnnealedRate(1.0, first_step, total_steps=400, rollout_size=100)
    # SB3 asks after an iteration's steps are counted, with 1 - count / last count.
    rates = [rate(1.0 - (first_step + count) / (first_step + 400)) for count in (100, 200, 300, 400)]
    assert rates == pytest.approx([1.0, 0.75, 0.5, 0.25])


def test_the_rate_of_a_last_iteration_that_goes_past_the_total_stays_positive():
    rate = AnnealedRate(2.0, 0, total_steps=250, rollout_size=100)
    assert [rate(1.0 - count / 250) for count in (100, 200, 300)] == pytest.approx([2.0, 1.2, 0.4])


def made(config, **kwargs):
    return ppo.make_model(config, ppo.make_training_env(config), CPU, **kwargs)


def test_every_setting_reaches_the_model():
    config = PPOConfig(
        n_envs=3, n_steps=7, batch_size=21, n_epochs=5, learning_rate=3e-3, clip_range=0.3, ent_coef=0.02, vf_coef=0.4,
        max_grad_norm=0.6, gamma=0.97, gae_lambda=0.85, seed=9, feature_dim=12, deterministic_action="mode",
    )  # fmt: skip
    model = made(config)
    try:
        for name in (
            "n_envs", "n_steps", "batch_size", "n_epochs", "ent_coef", "vf_coef", "max_grad_norm", "gamma",
            "gae_lambda", "seed",
        ):  # fmt: skip
            assert getattr(model, name) == getattr(config, name), name
        assert model.clip_range(0.5) == 0.3
        assert model.lr_schedule(1.0) == 3e-3
        assert model.policy.features_dim == 12
        assert model.policy.action_dist.deterministic_action == "mode"
        # Not settings: PPO as SB3 has it by default.
        assert (model.normalize_advantage, model.clip_range_vf, model.target_kl) == (True, None, None)
        assert model.policy.optimizer.defaults["eps"] == 1e-5
        env = model.get_vec_normalize_env()
        assert (env.num_envs, env.gamma, env.clip_reward, env.norm_obs, env.norm_reward) == (3, 0.97, 10.0, False, True)
        assert model.observation_space.dtype == np.uint8
    finally:
        model.env.close()


def test_a_stage_has_its_own_seed_and_its_place_in_the_run():
    model = made(SMALL_PPO, seed=77, first_step=4_000)
    try:
        assert (model.seed, model.num_timesteps) == (77, 4_000)
    finally:
        model.env.close()


def test_whole_iterations_are_trained():
    sizes = {"n_envs": 2, "n_steps": 50, "batch_size": 100}
    assert [PPOConfig(total_timesteps=n, **sizes).whole_timesteps for n in (1, 100, 101)] == [100, 100, 200]


def test_a_restored_training_goes_on_as_the_captured_one():
    trained, fresh = made(SMALL_PPO), made(dataclasses.replace(SMALL_PPO, seed=8))
    try:
        trained.learn(32)
        state = ppo.capture(trained)
        ppo.restore(fresh, state)
        again = ppo.capture(fresh)
        assert again.keys() == state.keys()
        for key in again.keys() - {"policy", "optimizer"}:
            assert again[key] == state[key], key
        assert (again["num_timesteps"], again["n_updates"]) == (32, trained._n_updates)
        results = []
        for model in (trained, fresh):
            set_random_seed(0)
            model.learn(32, reset_num_timesteps=False)
            results.append(ppo.capture(model))
        ours, theirs = results
        assert all(torch.equal(ours["policy"][key], value) for key, value in theirs["policy"].items())
        for key in ("reward_statistics", "envs", "episode_starts", "num_timesteps", "successes"):
            assert ours[key] == theirs[key], key
        assert not all(torch.equal(state["policy"][key], value) for key, value in ours["policy"].items()), "a copy"
    finally:
        trained.env.close()
        fresh.env.close()


def test_a_training_leaves_no_directory_of_sb3_in_the_temporary_one(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    model = made(SMALL_PPO)
    try:
        model.learn(32)
    finally:
        model.env.close()
    # By SB3's name for it: PyTorch makes a cache of its own there when another test compiled something before.
    assert not list(tmp_path.glob("SB3*"))


@pytest.mark.parametrize("use_gaussian", [False, True])
def test_a_loaded_policy_acts_as_the_networks_that_were_saved(tmp_path, use_gaussian):
    config = dataclasses.replace(SMALL_PPO, use_gaussian=use_gaussian)
    loaded = checkpoint.load(save_ppo(tmp_path, "policy", config))
    torch.manual_seed(5)
    networks = ppo.make_networks(config)
    policy, view = ppo.load_policy(loaded, CPU)
    assert view == config.view
    for obs in np.random.default_rng(0).integers(0, 256, (3, *view.obs_shape), np.uint8):
        np.testing.assert_array_equal(policy(obs), networks.predict(obs, deterministic=True)[0])


def test_the_value_starts_with_the_gain_of_sb3s_own_policy():
    networks = ppo.make_networks(SMALL_PPO)
    theirs = ppo.make_networks(dataclasses.replace(SMALL_PPO, use_gaussian=True))
    for mine in (networks, theirs):
        assert mine.value_net.weight.norm().item() == pytest.approx(1.0, rel=1e-5)
        assert mine.action_net.weight[0].norm().item() == pytest.approx(0.01, rel=1e-4)
    assert networks.optimizer.defaults["eps"] == theirs.optimizer.defaults["eps"]


def test_the_brake_of_a_beta_policy_is_what_drawn_actions_do_on_average(tmp_path):
    config = dataclasses.replace(SMALL_PPO, brake_dead_zone=0.3)
    networks = ppo.make_networks(config)
    with torch.no_grad():  # it sees nothing
        networks.action_net.weight.zero_()
        networks.action_net.bias.copy_(torch.tensor([1.0, 1.0, 0.0, 1.0, 1.0, 2.0]))
    meta = {"agent": "ppo", "config": vars(config)}
    path = checkpoint.save(tmp_path, "policy", meta, {"policy": networks.state_dict()})
    policy, view = ppo.load_policy(checkpoint.load(path), CPU)
    steer, gas, brake = (policy(np.zeros(view.obs_shape, np.uint8)) + 1.0) / 2.0
    alpha, beta = 1.0 + np.log1p(np.exp(0.0)), 1.0 + np.log1p(np.exp(2.0))
    drawn = np.random.default_rng(0).beta(alpha, beta, 400_000)
    assert brake == pytest.approx(0.3 + np.maximum(drawn - 0.3, 0.0).mean(), abs=1e-3)
    assert (steer, gas) == pytest.approx((0.5, 0.5), abs=1e-5)


def test_a_policy_that_was_trained_to_drive_with_the_mode_is_scored_by_it(tmp_path):
    config = dataclasses.replace(SMALL_PPO, deterministic_action="mode")
    loaded = checkpoint.load(save_ppo(tmp_path, "policy", config))
    obs = np.random.default_rng(0).integers(0, 256, config.view.obs_shape, np.uint8)
    own, mean, mode = (ppo.load_policy(loaded, CPU, actions)[0](obs) for actions in (None, "mean", "mode"))
    np.testing.assert_array_equal(own, mode)
    assert (own != mean).any()


@pytest.mark.parametrize(
    ("name", "other"),
    [
        ("frame_stack", 3), ("grayscale", False), ("road_contrast", False), ("brake_dead_zone", 0.3),
        ("feature_dim", 9), ("use_gaussian", True),
    ],
)  # fmt: skip
def test_no_training_starts_from_another_view_action_or_size(tmp_path, name, other):
    loaded = checkpoint.load(save_ppo(tmp_path, "policy"))
    with pytest.raises(SettingError, match=f"trained with .*{name.replace('_', '-')}"):
        ppo.initial_networks(dataclasses.replace(SMALL_PPO, **{name: other}), loaded)


def test_an_exported_gaussian_stays_within_the_actions(tmp_path):
    config = dataclasses.replace(SMALL_PPO, use_gaussian=True)
    networks = ppo.make_networks(config)
    with torch.no_grad():
        networks.action_net.weight.zero_()
        networks.action_net.bias.copy_(torch.tensor([5.0, -5.0, 0.25]))
    meta = {"agent": "ppo", "config": vars(config)}
    path = checkpoint.save(tmp_path, "policy", meta, {"policy": networks.state_dict()})
    network, view = ppo.deterministic_network(checkpoint.load(path))
    assert network(torch.zeros(2, *view.obs_shape, dtype=torch.uint8)).tolist() == [[1.0, -1.0, 0.25]] * 2


def test_a_restored_training_knows_which_episodes_have_just_begun():
    model, other = made(SMALL_PPO), made(SMALL_PPO)
    try:
        model._setup_learn(16)
        model._last_episode_starts = np.array([False, True])
        ppo.restore(other, ppo.capture(model))
        assert other._last_episode_starts.tolist() == [False, True]
    finally:
        model.env.close()
        other.env.close()


def test_numbers_that_are_not_finite_make_no_policy(tmp_path):
    loaded = checkpoint.load(save_ppo(tmp_path, "policy"))
    next(iter(loaded.state["policy"].values())).view(-1)[0] = float("inf")
    with pytest.raises(CheckpointError, match="whose numbers are not finite"):
        ppo.load_policy(loaded, CPU)


def test_an_exported_file_is_sb3s_own_and_acts_the_same(tmp_path):
    loaded = checkpoint.load(save_ppo(tmp_path, "policy"))
    ppo.export_sb3(loaded, tmp_path / "policy.zip")
    model = PPO.load(tmp_path / "policy.zip", device="cpu")
    policy, view = ppo.load_policy(loaded, CPU)
    for obs in np.random.default_rng(1).integers(0, 256, (3, *view.obs_shape), np.uint8):
        np.testing.assert_array_equal(model.predict(obs, deterministic=True)[0], policy(obs))
