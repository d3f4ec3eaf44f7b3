"""The Beta policy against torch's own TransformedDistribution, by sampling, and as SB3 tests its policies."""

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from sb3_contrib import TRPO
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.torch_layers import CombinedExtractor, FlattenExtractor
from stable_baselines3.common.vec_env import DummyVecEnv
from torch.distributions import AffineTransform, Beta, Independent, TransformedDistribution, kl_divergence
from torch.nn import functional as F

from beta_policy import BetaActorCriticPolicy, BetaDistributionWrapper, DrivingCNN

ACTIONS = spaces.Box(-1.0, 1.0, (3,), np.float32)
VECTORS = spaces.Box(-1.0, 1.0, (5,), np.float32)
PIXELS = spaces.Box(0, 255, (4, 84, 84), np.uint8)


def reference(raw_params):
    """The same distribution, put together from torch's parts."""
    alpha, beta = (1 + F.softplus(raw_params)).chunk(2, dim=-1)
    scaled = TransformedDistribution(Beta(alpha, beta), [AffineTransform(-1.0, 2.0)])
    return Independent(Beta(alpha, beta), 1), Independent(scaled, 1)


def wrapper(raw_params, **kwargs):
    return BetaDistributionWrapper(raw_params.shape[-1] // 2, **kwargs).proba_distribution(raw_params)


@pytest.fixture
def raw_params():
    torch.manual_seed(0)
    return 4 * torch.randn(64, 6, dtype=torch.float64)


def test_log_prob_is_that_of_torchs_transformed_distribution(raw_params):
    torch.manual_seed(1)
    actions = torch.rand(64, 3, dtype=torch.float64) * 1.998 - 0.999
    torch.testing.assert_close(wrapper(raw_params).log_prob(actions), reference(raw_params)[1].log_prob(actions))


def test_density_integrates_to_one_over_the_action_range(raw_params):
    grid = torch.linspace(-1, 1, 20_001, dtype=torch.float64).unsqueeze(1)
    for alpha, beta in ((0.0, 0.0), (-3.0, 2.0), (5.0, 5.0)):
        distribution = wrapper(torch.tensor([[alpha, beta]], dtype=torch.float64).expand(len(grid), 2))
        density = distribution.log_prob(grid).exp()
        assert torch.trapezoid(density, grid[:, 0]).item() == pytest.approx(1.0, abs=1e-3)


def test_entropy_is_the_mean_negative_log_prob_of_samples():
    torch.manual_seed(2)
    raw = torch.tensor([[0.3, -2.0, 3.0, 1.0, 0.5, -1.0]], dtype=torch.float64)
    distribution = wrapper(raw.expand(500_000, 6))
    estimate = -distribution.log_prob(distribution.sample()).mean()
    assert estimate.item() == pytest.approx(wrapper(raw).entropy().item(), abs=0.01)


def test_entropy_counts_the_scaling(raw_params):
    unscaled, _ = reference(raw_params)
    torch.testing.assert_close(wrapper(raw_params).entropy(), unscaled.entropy() + 3 * np.log(2.0))


def test_samples_have_the_moments_of_the_distribution(raw_params):
    torch.manual_seed(3)
    n = 200_000
    row = raw_params[:1]
    alpha, beta = (1 + F.softplus(row)).chunk(2, dim=-1)
    samples = wrapper(row.expand(n, 6)).sample()
    variance = 4 * alpha * beta / ((alpha + beta) ** 2 * (alpha + beta + 1))
    torch.testing.assert_close(samples.mean(0), wrapper(row).mean()[0], atol=0.01, rtol=0)
    torch.testing.assert_close(samples.var(0), variance[0], atol=0.01, rtol=0)
    assert samples.abs().max() < 1.0


def test_mode_is_the_maximum_of_the_density():
    torch.manual_seed(4)
    raw = 3 * torch.randn(20, 2, dtype=torch.float64)
    grid = torch.linspace(-1, 1, 100_001, dtype=torch.float64)
    for row in raw:
        density = wrapper(row.expand(len(grid), 2)).log_prob(grid.unsqueeze(1))
        mode = wrapper(row.unsqueeze(0)).mode()
        assert mode.item() == pytest.approx(grid[density.argmax()].item(), abs=1e-4)


def test_mode_stays_in_range_where_both_parameters_are_hardly_above_one():
    nearly_flat = torch.linspace(-20, -10, 1000).unsqueeze(1)
    raw = torch.cat([nearly_flat, torch.full_like(nearly_flat, -200.0)], dim=1)
    assert (wrapper(raw).mode().abs() <= 1.0).all()
    assert (wrapper(raw.flip(1)).mode().abs() <= 1.0).all()


def test_mode_of_a_flat_density_is_the_middle():
    flat = torch.full((2, 6), -200.0)  # softplus underflows: alpha = beta = 1
    assert torch.equal(wrapper(flat).mode(), torch.zeros(2, 3))


@pytest.mark.parametrize("raw_value", [-200.0, -5.0, 0.0, 5.0, 1e4])
@pytest.mark.parametrize("action", [-1.0, -1 + 1e-7, 0.0, 1.0])
def test_everything_is_finite_at_the_very_bounds(raw_value, action):
    raw = torch.full((4, 6), raw_value, requires_grad=True)
    distribution = wrapper(raw)
    log_prob, entropy = distribution.log_prob(torch.full((4, 3), action)), distribution.entropy()
    (log_prob.sum() + entropy.sum()).backward()
    for tensor in (log_prob, entropy, distribution.sample(), distribution.mean(), distribution.mode(), raw.grad):
        assert torch.isfinite(tensor).all()


def test_samples_never_reach_the_bounds_however_lopsided():
    raw = torch.tensor([[1e4, -200.0]]).expand(50_000, 2)
    samples = wrapper(raw).sample()
    assert samples.max() < 1.0
    assert torch.isfinite(wrapper(raw).log_prob(samples)).all()


def test_helpers_that_take_raw_parameters(raw_params):
    distribution = BetaDistributionWrapper(3)
    actions, log_prob = distribution.log_prob_from_params(raw_params)
    torch.testing.assert_close(log_prob, reference(raw_params)[1].log_prob(actions))
    torch.testing.assert_close(
        distribution.actions_from_params(raw_params, deterministic=True), wrapper(raw_params).mean()
    )


def make_policy(obs_space=VECTORS, **kwargs):
    return BetaActorCriticPolicy(obs_space, ACTIONS, lambda _: 3e-4, **kwargs)


@pytest.mark.parametrize("dead_zone", [0.05, 0.1, 0.5])
def test_with_a_dead_zone_the_mean_action_does_what_draws_do_on_average(dead_zone):
    raw_params = torch.tensor([[0.0, -4.0, 3.0, 0.0, 2.0, 3.0], [1.0, 5.0, -4.0, 1.0, 40.0, 300.0]])
    mean, plain = wrapper(raw_params, dead_zones=(0.0, dead_zone, dead_zone)).mean(), wrapper(raw_params).mean()
    alpha, beta = (1 + F.softplus(raw_params.double())).chunk(2, dim=-1)
    torch.manual_seed(0)
    draws = Beta(alpha, beta).sample((1_000_000,))

    def effect(u):
        return (u - dead_zone).clamp(min=0.0) / (1.0 - dead_zone)

    torch.testing.assert_close(mean[:, 0], plain[:, 0], rtol=0, atol=0)
    does = effect(0.5 * (mean[:, 1:].double() + 1.0))
    torch.testing.assert_close(does, effect(draws).mean(dim=0)[:, 1:], rtol=0, atol=1e-3)
    # What does nothing on average is just at the dead zone's end.
    assert (mean[:, 1:] >= 2.0 * dead_zone - 1.0 - 1e-6).all()


@pytest.mark.parametrize("dead_zones", [(0.1,), (0.0, 0.0, 1.0), (0.0, -0.1, 0.0)])
def test_dead_zones_that_do_not_fit_are_refused(dead_zones):
    with pytest.raises(ValueError, match="dead_zones must be one fraction"):
        make_policy(dead_zones=dead_zones)


def test_the_deterministic_action_is_a_setting_and_the_mean_by_default():
    torch.manual_seed(5)
    obs = torch.randn(10, 5)
    for setting, expected in ((None, "mean"), ("mean", "mean"), ("mode", "mode")):
        policy = make_policy() if setting is None else make_policy(deterministic_action=setting)
        with torch.no_grad():
            policy.action_net.bias += torch.randn(6)
            distribution = policy.get_distribution(obs)
            means, modes = distribution.mean(), distribution.mode()
        actions, _ = policy.predict(obs.numpy(), deterministic=True)
        np.testing.assert_allclose(actions, (means if expected == "mean" else modes).numpy(), atol=1e-6)
        assert not torch.allclose(means, modes)


def test_evaluate_actions_agrees_with_forward_and_get_distribution():
    torch.manual_seed(6)
    policy = make_policy(PIXELS, features_extractor_class=DrivingCNN, net_arch=[])
    obs = torch.randint(0, 256, (7, 4, 84, 84), dtype=torch.uint8)
    actions, values, log_prob = policy(obs)
    assert actions.shape == (7, 3)
    values_again, log_prob_again, entropy = policy.evaluate_actions(obs, actions)
    torch.testing.assert_close(values, values_again)
    torch.testing.assert_close(log_prob, log_prob_again)
    distribution = policy.get_distribution(obs)
    torch.testing.assert_close(log_prob, distribution.log_prob(actions))
    torch.testing.assert_close(entropy, distribution.entropy())
    torch.testing.assert_close(policy.predict_values(obs), values)


def test_features_are_the_ones_that_sb3_would_take():
    torch.manual_seed(7)
    policy = make_policy(PIXELS, features_extractor_class=DrivingCNN, net_arch=[])
    obs = torch.randint(0, 256, (5, 4, 84, 84), dtype=torch.uint8)
    features = policy.extract_features(obs)
    scaled = obs.double() / 255.0
    literal = policy.features_extractor.double()
    torch.testing.assert_close(features.double(), literal.linear(literal.convolutions(scaled)), atol=1e-5, rtol=1e-4)


def test_initialised_orthogonally_as_sb3_does():
    policy = make_policy(PIXELS, features_extractor_class=DrivingCNN, net_arch=[])
    weight = policy.action_net.weight
    torch.testing.assert_close(weight @ weight.T, 1e-4 * torch.eye(6), atol=1e-7, rtol=0)
    linear = policy.features_extractor.linear[0].weight
    torch.testing.assert_close(linear @ linear.T, 2.0 * torch.eye(256), atol=1e-4, rtol=0)
    assert not policy.action_net.bias.any()
    # So the first policy is nearly the same everywhere, and symmetric.
    actions, _ = policy.predict(np.random.default_rng(0).integers(0, 256, (9, 4, 84, 84), np.uint8), deterministic=True)
    assert np.abs(actions).max() < 0.1


@pytest.mark.parametrize("share", [True, False])
def test_saved_and_loaded_policy_acts_the_same(tmp_path, share):
    dead_zones = (0.0, 0.0, 0.25)
    policy = make_policy(
        deterministic_action="mode", dead_zones=dead_zones, share_features_extractor=share, net_arch=[32]
    )
    policy.save(tmp_path / "policy")
    loaded = BetaActorCriticPolicy.load(tmp_path / "policy")
    assert (loaded.deterministic_action, loaded.dead_zones) == ("mode", dead_zones)
    obs = np.random.default_rng(0).normal(size=(20, 5)).astype(np.float32)
    np.testing.assert_array_equal(
        policy.predict(obs, deterministic=True)[0], loaded.predict(obs, deterministic=True)[0]
    )


@pytest.mark.parametrize(
    ("action_space", "kwargs", "message"),
    [
        (spaces.Box(-2.0, 2.0, (3,), np.float32), {}, r"\[-1, 1\]"),
        (spaces.Box(0.0, 1.0, (3,), np.float32), {}, r"\[-1, 1\]"),
        (spaces.Discrete(5), {}, "Box"),
        (ACTIONS, {"use_sde": True}, "gSDE"),
        (ACTIONS, {"deterministic_action": "median"}, "mean.*mode"),
    ],
)
def test_what_does_not_fit_is_refused(action_space, kwargs, message):
    with pytest.raises(ValueError, match=message):
        BetaActorCriticPolicy(VECTORS, action_space, lambda _: 1e-3, **kwargs)


class Target(gym.Env):
    """One step: the reward is higher the closer the action is to the observation's first three numbers."""

    observation_space = VECTORS
    action_space = ACTIONS

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.obs = self.np_random.uniform(-0.9, 0.9, 5).astype(np.float32)
        return self.obs, {}

    def step(self, action):
        return self.obs, -float(np.abs(action - self.obs[:3]).sum()), True, False, {}


@pytest.mark.parametrize(
    ("algorithm", "total", "kwargs"),
    [
        (PPO, 12_000, {"n_steps": 32, "batch_size": 64}),
        (A2C, 12_000, {"n_steps": 8}),
        (TRPO, 2_000, {"n_steps": 32, "batch_size": 256, "target_kl": 0.05, "n_critic_updates": 1}),
    ],
    ids=["PPO", "A2C", "TRPO"],
)
def test_sb3_algorithms_learn_with_it(algorithm, total, kwargs):
    env = make_vec_env(Target, n_envs=8, seed=0, vec_env_cls=DummyVecEnv)
    model = algorithm(BetaActorCriticPolicy, env, seed=0, learning_rate=3e-3, device="cpu", **kwargs)
    rng = np.random.default_rng(1)
    obs = rng.uniform(-0.9, 0.9, (500, 5)).astype(np.float32)

    def error():
        actions, _ = model.predict(obs, deterministic=True)
        return np.abs(actions - obs[:, :3]).sum(axis=1).mean()

    before = error()
    model.learn(total)
    assert error() < 0.6 * before


def test_ppo_saves_and_loads_with_it(tmp_path):
    env = make_vec_env(Target, n_envs=2, seed=0)
    model = PPO(BetaActorCriticPolicy, env, n_steps=16, batch_size=16, policy_kwargs={"deterministic_action": "mode"})
    model.learn(64)
    model.save(tmp_path / "model")
    loaded = PPO.load(tmp_path / "model")
    obs = np.zeros((3, 5), np.float32)
    np.testing.assert_array_equal(model.predict(obs, deterministic=True)[0], loaded.predict(obs, deterministic=True)[0])


class Parts(gym.Env):
    """Observations and actions of the kinds that other people's environments have; an episode is three steps."""

    def __init__(self, observation_space, action_dtype=np.float32):
        self.observation_space = observation_space
        self.action_space = spaces.Box(-1.0, 1.0, (2,), action_dtype)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        return self.observation_space.sample(), {}

    def step(self, action):
        assert self.action_space.contains(action), action
        self.steps += 1
        return self.observation_space.sample(), float(action[0]), self.steps == 3, False, {}


PICTURES_AND_VECTORS = spaces.Dict(
    {"picture": spaces.Box(0, 255, (1, 36, 36), np.uint8), "vector": VECTORS, "gear": spaces.Discrete(4)}
)


@pytest.mark.parametrize("algorithm", [PPO, A2C, TRPO])
@pytest.mark.parametrize(
    ("observation_space", "action_dtype"),
    [
        (PICTURES_AND_VECTORS, np.float32),
        (spaces.Box(-1.0, 1.0, (5,), np.float64), np.float64),
        (spaces.Box(-1.0, 1.0, (2, 3, 4), np.float32), np.float32),
        (spaces.Discrete(6), np.float32),
        (spaces.MultiBinary(4), np.float32),
    ],
    ids=["Dict", "float64", "blocks", "Discrete", "MultiBinary"],
)
def test_it_takes_the_spaces_that_sb3s_own_policy_takes(tmp_path, algorithm, observation_space, action_dtype):
    env = DummyVecEnv([lambda: Parts(observation_space, action_dtype)] * 2)
    kwargs = {"n_steps": 8} if algorithm is A2C else {"n_steps": 8, "batch_size": 8}
    extractor = CombinedExtractor if isinstance(observation_space, spaces.Dict) else FlattenExtractor
    policy_kwargs = {"features_extractor_class": extractor, "net_arch": [8]}
    model = algorithm(BetaActorCriticPolicy, env, policy_kwargs=policy_kwargs, device="cpu", **kwargs)
    before = [parameter.clone() for parameter in model.policy.parameters()]
    model.learn(32)
    after = list(model.policy.parameters())
    assert all(parameter.isfinite().all() for parameter in after)
    assert not all(torch.equal(*pair) for pair in zip(before, after, strict=True))
    model.save(tmp_path / "model")
    loaded = algorithm.load(tmp_path / "model")
    obs = env.reset()
    actions, _ = model.predict(obs, deterministic=True)
    np.testing.assert_array_equal(loaded.predict(obs, deterministic=True)[0], actions)
    assert actions.shape == (2, 2)
    assert (np.abs(actions) < 1.0).all()


def test_features_of_a_dict_are_the_ones_that_sb3_would_take():
    kwargs = {"features_extractor_class": CombinedExtractor, "net_arch": [8]}
    torch.manual_seed(8)
    policy = make_policy(PICTURES_AND_VECTORS, **kwargs)
    torch.manual_seed(8)
    sb3 = ActorCriticPolicy(PICTURES_AND_VECTORS, ACTIONS, lambda _: 3e-4, **kwargs)
    sb3.features_extractor.load_state_dict(policy.features_extractor.state_dict())
    rows = [PICTURES_AND_VECTORS.sample() for _ in range(3)]
    obs, _ = policy.obs_to_tensor({name: np.stack([row[name] for row in rows]) for name in PICTURES_AND_VECTORS})
    torch.testing.assert_close(policy.extract_features(obs), sb3.extract_features(obs))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_actions_of_another_precision_than_the_network_have_a_log_prob(raw_params, dtype):
    actions = torch.tensor([[-1.0, 0.25, 1.0]], dtype=dtype).expand(64, 3)
    for raw in (raw_params, raw_params.float()):
        log_prob = wrapper(raw).log_prob(actions)
        assert torch.isfinite(log_prob).all()
    inside = torch.full((64, 3), 0.25, dtype=dtype)
    expected = reference(raw_params)[1].log_prob(inside.double())
    torch.testing.assert_close(wrapper(raw_params.float()).log_prob(inside).double(), expected, atol=1e-3, rtol=1e-3)


def test_two_seeded_runs_are_equal():
    def parameters():
        env = make_vec_env(Target, n_envs=2, seed=3)
        model = PPO(BetaActorCriticPolicy, env, n_steps=16, batch_size=16, seed=3, device="cpu")
        model.learn(128)
        return [parameter.detach().clone() for parameter in model.policy.parameters()]

    for a, b in zip(parameters(), parameters(), strict=True):
        assert torch.equal(a, b)


def test_kl_between_two_updates_can_be_taken(raw_params):
    """The wrapped torch distribution is there for whoever wants more of it than SB3 does."""
    p, q = wrapper(raw_params).distribution, wrapper(raw_params + 0.1).distribution
    assert (kl_divergence(p, q) >= 0).all()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_the_same_on_a_gpu():
    raw = torch.randn(16, 6)
    actions = torch.rand(16, 3) * 1.9 - 0.95
    here, there = wrapper(raw), wrapper(raw.cuda())
    torch.testing.assert_close(here.log_prob(actions), there.log_prob(actions.cuda()).cpu(), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(here.entropy(), there.entropy().cpu(), atol=1e-4, rtol=1e-4)
    samples = wrapper(raw.cuda()[:1].expand(100_000, 6)).sample()
    torch.testing.assert_close(samples.mean(0).cpu(), wrapper(raw[:1]).mean()[0], atol=0.02, rtol=0)
