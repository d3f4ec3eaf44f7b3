"""Policies of every agent's checkpoints: older ones too, their actions, and what is no policy."""

from dataclasses import replace

import numpy as np
import pytest
import torch

import checkpoint
import ppo
import sac_drq
from car_racing import make_env
from checkpoint import CheckpointError
from policies import AGENTS, load_density, load_policy, policy_only
from scoring import drive
from settings import SettingError
from tests.helpers import PRETRAINED, SMALL_PPO, SMALL_SAC, rewrite_manifest, save_ppo, save_sac
from tracks import VALIDATION_TRACKS

SAVERS = {"ppo": (save_ppo, SMALL_PPO), "sac": (save_sac, SMALL_SAC)}


@pytest.fixture(params=AGENTS)
def saved(request, tmp_path):
    """A small checkpoint of each agent, and its settings."""
    save, config = SAVERS[request.param]
    return save(tmp_path, "policy"), config


def observations(config, n=5):
    return np.random.default_rng(0).integers(0, 256, (n, *config.view.obs_shape), np.uint8)


def actions_of(path, config, actions=None):
    policy, _ = load_policy(checkpoint.load(path), actions)
    torch.manual_seed(7)
    return np.stack([policy(obs) for obs in observations(config)])


def test_a_policy_maps_an_observation_to_an_action(saved):
    path, config = saved
    policy, view = load_policy(checkpoint.load(path))
    assert view == config.view
    action = policy(observations(config)[0])
    assert (action.shape, action.dtype) == ((3,), np.float32)
    assert np.abs(action).max() <= 1.0


def test_only_sampled_actions_differ_from_call_to_call(saved):
    path, config = saved
    obs = observations(config)[0]
    policy, _ = load_policy(checkpoint.load(path), "mean")
    np.testing.assert_array_equal(policy(obs), policy(obs))
    policy, _ = load_policy(checkpoint.load(path), "sampled")
    assert (policy(obs) != policy(obs)).any()
    np.testing.assert_array_equal(actions_of(path, config, "sampled"), actions_of(path, config, "sampled"))


def test_what_training_alone_needs_does_not_matter(saved):
    """A setting that this version lacks, and one that it has and the checkpoint lacks, keep nobody from driving."""
    path, config = saved
    before = actions_of(path, config)

    def change(manifest):
        settings = manifest["meta"]["config"]
        del settings["learning_rate"]
        settings["of_another_version"] = 3

    rewrite_manifest(path, change)
    np.testing.assert_array_equal(actions_of(path, config), before)


def test_the_networks_alone_drive_the_same(saved, tmp_path):
    path, config = saved
    only = policy_only(checkpoint.load(path))
    small = checkpoint.save(tmp_path, "small", only.meta, only.state)
    np.testing.assert_array_equal(actions_of(small, config), actions_of(path, config))


def test_actions_are_the_beta_distributions_own(tmp_path):
    networks = ppo.make_networks(SMALL_PPO)
    with torch.no_grad():  # It sees nothing: alpha and beta are softplus of the bias, plus one.
        networks.action_net.weight.zero_()
        networks.action_net.bias.copy_(torch.tensor([3.0, 20.0, -5.0, 3.0, -5.0, 20.0]))
    meta = {"agent": "ppo", "config": vars(SMALL_PPO)}
    path = checkpoint.save(tmp_path, "policy", meta, {"policy": networks.state_dict()})
    gas = {actions: actions_of(path, SMALL_PPO, actions)[0][1] for actions in ("mean", "mode", None)}
    alpha, beta = 1.0 + np.log1p(np.exp(20.0)), 1.0 + np.log1p(np.exp(-5.0))
    assert gas["mean"] == pytest.approx(2.0 * alpha / (alpha + beta) - 1.0, abs=1e-5)
    assert gas["mode"] == pytest.approx(2.0 * (alpha - 1.0) / (alpha + beta - 2.0) - 1.0, abs=1e-5)
    assert gas[None] == gas["mean"]


def test_sac_has_no_mode(tmp_path):
    with pytest.raises(SettingError, match="--actions mode is a Beta policy's"):
        load_policy(checkpoint.load(save_sac(tmp_path, "sac")), "mode")


@pytest.mark.parametrize("agent", [None, "dqn", 3])
def test_an_unknown_agent_is_named(tmp_path, agent):
    loaded = checkpoint.load(checkpoint.save(tmp_path, "other", {"agent": agent}, {}))
    for use in (load_policy, policy_only):
        with pytest.raises(CheckpointError, match=f"holds an unknown agent \\({agent!r}\\); known are ppo, sac"):
            use(loaded)


@pytest.mark.parametrize(("other", "load"), [("ppo", sac_drq.initial_agent), ("sac", ppo.initial_networks)])
def test_the_networks_of_another_agent_are_named(tmp_path, other, load):
    save, config = SAVERS[other]
    with pytest.raises(CheckpointError, match=f"holds a policy of the agent '{other}'; name one of '"):
        load(config, checkpoint.load(save(tmp_path, "policy")))


@pytest.mark.parametrize("agent", AGENTS)
def test_networks_of_another_size_are_named(tmp_path, agent):
    save, _ = SAVERS[agent]
    path = save(tmp_path, "policy")
    rewrite_manifest(path, lambda manifest: manifest["meta"]["config"].update(feature_dim=9))
    for use in (load_policy, policy_only):
        with pytest.raises(CheckpointError, match=f"does not hold a {agent.upper()} ") as error:
            use(checkpoint.load(path))
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["ppo_beta", "sac_light"])
def test_the_pretrained_policies_drive(name):
    policy, view = load_policy(checkpoint.load(PRETRAINED / name))
    assert drive(policy, make_env(view), VALIDATION_TRACKS[0]).episode_return > 850.0


@pytest.mark.parametrize(
    ("agent", "config"),
    [
        ("ppo", SMALL_PPO),
        ("ppo", replace(SMALL_PPO, use_gaussian=True)),
        ("sac", replace(SMALL_SAC, ema_tau=1.0)),
        ("sac", SMALL_SAC),
    ],
    ids=["Beta", "Gaussian", "SAC", "SAC, running mean"],
)
def test_the_density_is_that_of_the_drawn_actions(tmp_path, agent, config):
    path = SAVERS[agent][0](tmp_path, "policy", config)
    loaded, obs = checkpoint.load(path), observations(config)[0]
    policy, _ = load_policy(loaded, "sampled")
    torch.manual_seed(3)
    drawn = np.stack([policy(obs) for _ in range(4000)])
    # A Gaussian's draws are clipped to [-1, 1], so the outermost bins hold more than its density says.
    edges = np.linspace(-1.0, 1.0, 21)[1:-1]
    for axis in range(3):
        counts, _ = np.histogram(drawn[:, axis], edges)
        fine = np.linspace(edges[0], edges[-1], 18 * 50 + 1, dtype=np.float32)
        density = load_density(loaded)(obs, fine)[:, axis]
        expected = [np.trapezoid(density[i : i + 51], fine[i : i + 51]) for i in range(0, 18 * 50, 50)]
        np.testing.assert_allclose(counts / len(drawn), expected, atol=0.03)
        assert counts.sum() > 1000
