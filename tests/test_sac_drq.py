"""SAC + DrQ against references: torch's distributions, the literal update of `references.literal_sac`.

At the end, a toy task in pixels that an agent must learn.
"""

import copy
import shutil
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.distributions import Normal, TanhTransform, TransformedDistribution

import checkpoint
from augmentation import normalize_pixels
from checkpoint import Checkpoint
from references.literal_sac import LiteralSAC
from replay_buffer import Batch
from sac_config import ACTION_DIM, SACConfig
from sac_drq import (
    ENCODERS,
    Actor,
    SACAgent,
    initial_agent,
    load_agent,
    load_policy,
    make_replay,
    policy_of,
    policy_state,
)
from settings import SettingError, saved_settings
from tests.replay_streams import feed, random_stream, saved_and_loaded

CPU = torch.device("cpu")
HAS_COMPILER = any(shutil.which(name) for name in ("g++", "c++", "clang++"))
# A gamma that float32, in which rewards and ends are stored, holds exactly: so float64 has nothing to blame it for.
SMALL = SACConfig(
    feature_dim=8,
    hidden_dim=16,
    batch_size=8,
    frame_stack=4,
    pad=4,
    gamma=0.984375,
    learning_rate=1e-3,
    replay_size=40,
    ema_tau=1.0,
)
METRICS = {"critic_loss", "q1_mean", "q2_mean", "actor_loss", "alpha_loss", "entropy", "alpha"}


@pytest.fixture(autouse=True)
def one_thread():
    """Networks this small gain nothing by more, and wait long for each other where other processes want the cores."""
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(n_threads)


@pytest.mark.parametrize("frame_stack", [2, 4])
def test_the_replay_buffer_stores_each_frame_once(frame_stack):
    n_bytes = make_replay(SACConfig(frame_stack=frame_stack), CPU).nbytes
    once = 30_000 * 84 * 84
    assert once < n_bytes < 1.1 * once


def make_actor(**settings):
    torch.manual_seed(0)
    actor = Actor(replace(SMALL, **settings)).double()
    features = torch.rand((256, SMALL.feature_dim), dtype=torch.float64) * 2 - 1
    return actor, features, torch.randn((256, ACTION_DIM), dtype=torch.float64)


def test_the_actor_samples_torchs_squashed_gaussian():
    actor, features, noise = make_actor(log_std_min=-3.0, log_std_max=0.5)
    actions, log_prob = actor.sample(features, noise)
    mean, log_std = actor(features)
    torch.testing.assert_close(actions, torch.tanh(mean + log_std.exp() * noise))
    assert log_prob.shape == (256, 1)
    reference = TransformedDistribution(Normal(mean, log_std.exp()), [TanhTransform()])
    torch.testing.assert_close(log_prob, reference.log_prob(actions).sum(1, keepdim=True), rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize(("low", "high"), [(-10.0, 2.0), (-1.0, -0.5)])
def test_log_std_stays_within_its_bounds(low, high):
    actor, features, _ = make_actor(log_std_min=low, log_std_max=high)
    with torch.no_grad():
        moderate = actor(features)[1]
        actor.trunk[-1].weight *= 1e6
        extreme = actor(features)[1]
    assert ((moderate > low) & (moderate < high)).all()
    assert ((extreme >= low) & (extreme <= high)).all()
    assert extreme.min() == pytest.approx(low)
    assert extreme.max() == pytest.approx(high)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("raw_mean", [-1e4, -50.0, 50.0, 1e4])
def test_sampling_stays_finite_for_huge_means(raw_mean, dtype):
    actor, features, noise = make_actor()
    actor.to(dtype)
    with torch.no_grad():
        actor.trunk[-1].bias[:ACTION_DIM] = raw_mean
    actions, log_prob = actor.sample(features.to(dtype), noise.to(dtype))
    (actions.sum() + log_prob.sum()).backward()
    assert (actions.abs() <= 1.0).all()
    for tensor in (actions, log_prob, *(parameter.grad for parameter in actor.parameters())):
        assert torch.isfinite(tensor).all()


def random_replay(config, n=40, device=CPU):
    """A replay buffer of random transitions, some of which end the game."""
    replay = make_replay(config, device)
    channels = 1 if config.grayscale else 3
    feed(random_stream(np.random.default_rng(0), config.frame_stack, channels, (84, 84), mean_length=4), n, replay)
    is_end = replay.gather(torch.arange(replay.size)).discounts == 0
    assert is_end.any()
    assert not is_end.all()
    return replay


def parameters_of(agent):
    """All that an update trains, by name."""
    networks = {name: getattr(agent, name).named_parameters() for name in ("critic", "critic_target", "actor")}
    parameters = {f"{name}.{key}": value for name, items in networks.items() for key, value in items}
    return {key: value.detach().cpu().clone() for key, value in (parameters | {"log_alpha": agent.log_alpha}).items()}


def assert_close_parameters(a, b, rtol, atol):
    assert a.keys() == b.keys()
    for key in a:
        torch.testing.assert_close(a[key], b[key], rtol=rtol, atol=atol, msg=lambda text, key=key: f"{key}: {text}")


def updated(learner, replay, n_updates):
    for _ in range(n_updates):
        learner.update(replay)
    return parameters_of(learner)


def agent_and_literal(config, dtype, n_updates, **kwargs):
    agent, replay = SACAgent(config, CPU, dtype), random_replay(config)
    literal = LiteralSAC(agent, **kwargs)
    assert_close_parameters(parameters_of(agent), parameters_of(literal), 0.0, 0.0)
    return updated(agent, replay, n_updates), updated(literal, replay, n_updates)


def apart(a, b, start):
    """The largest distance between two of the same parameters, as a fraction of how far they have come."""
    return max(((a[key] - b[key]).norm() / (a[key] - start[key]).norm()).item() for key in start)


VARIANTS = {
    "light": {},
    "drq": {"encoder": "drq", "encode_once": False},
    "drq, encoded once": {"encoder": "drq"},
    "an encoding for each network": {"encode_once": False},
    "no mirror images": {"flip": False},
    "colour, two frames": {"grayscale": False, "frame_stack": 2},
    "other rhythms": {"actor_update_freq": 3, "target_update_freq": 1, "tau": 0.3, "pad": 0},
    "other numbers": {"learning_rate": 3e-3, "alpha_learning_rate": 1e-2, "target_entropy": 5.0, "pad": 9},
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_twenty_updates_equal_the_literal_ones(variant):
    real, literal = agent_and_literal(replace(SMALL, **VARIANTS[variant]), torch.float64, 20)
    assert_close_parameters(real, literal, rtol=1e-9, atol=1e-10)


def test_with_other_rates_the_updates_equal_the_literal_ones_at_those_rates():
    agent, replay = SACAgent(SMALL, CPU, torch.float64), random_replay(SMALL)
    literal = LiteralSAC(agent)
    for scale in (1.0, 0.5, 0.01):
        agent.set_lr_scale(scale)
        literal.critic_optimizer.param_groups[0]["lr"] = scale * SMALL.learning_rate
        literal.actor_optimizer.param_groups[0]["lr"] = scale * SMALL.learning_rate
        literal.alpha_optimizer.param_groups[0]["lr"] = scale * SMALL.alpha_learning_rate
        assert_close_parameters(updated(agent, replay, 4), updated(literal, replay, 4), rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("encoder", ENCODERS)
def test_in_single_precision_the_updates_stay_close_to_the_literal_ones(encoder):
    """Relative to the way: from a gradient next to nothing, Adam makes a whole step, whatever sign rounding gave it."""
    config = replace(SMALL, encoder=encoder, encode_once=encoder == "light")
    real, literal = agent_and_literal(config, torch.float32, 20)
    assert apart(real, literal, start=parameters_of(SACAgent(config, CPU))) < 0.01


@pytest.mark.parametrize(("dtype", "closest"), [(torch.float64, 1e-9), (torch.float32, 0.01)], ids=["double", "single"])
def test_features_from_before_the_critics_step_would_be_noticed(dtype, closest):
    config = replace(SMALL, encode_once=False)
    start = parameters_of(SACAgent(config, CPU, dtype))
    real, literal = agent_and_literal(config, dtype, 20)
    _, stale = agent_and_literal(config, dtype, 20, stale_features=True)
    assert apart(real, literal, start) < closest
    assert apart(real, stale, start) > 0.1


def random_batch(config, n=8):
    """A batch as a replay buffer would give it, and noise for its actions."""
    torch.manual_seed(3)
    obs, next_obs = (torch.randint(0, 256, (n, *config.view.obs_shape), dtype=torch.uint8) for _ in range(2))
    discounts = (torch.arange(n) % 2).float()[:, None]
    noise = torch.randn(n, ACTION_DIM)
    return Batch(obs, torch.rand(n, ACTION_DIM) * 2 - 1, torch.randn(n, 1), next_obs, discounts), noise


def normalized(batch, dtype):
    return batch._replace(obs=normalize_pixels(batch.obs, dtype), next_obs=normalize_pixels(batch.next_obs, dtype))


def changed(before, after):
    """The networks and parts of which every tensor changed, and those of which any did."""
    groups = ("critic.encoder", "critic.q1", "critic.q2", "critic_target", "actor", "log_alpha")
    moved = {
        group: [not torch.equal(before[key], after[key]) for key in before if f"{key}.".startswith(f"{group}.")]
        for group in groups
    }
    return {group for group in groups if all(moved[group])}, {group for group in groups if any(moved[group])}


@pytest.mark.parametrize("encode_once", [False, True])
def test_each_part_of_an_update_changes_its_own_networks_alone(encode_once):
    agent = SACAgent(replace(SMALL, encode_once=encode_once), CPU)
    pixels, noise = random_batch(SMALL)
    batch = normalized(pixels, agent.dtype)
    states = [parameters_of(agent)]
    features = agent.update_critic(batch, noise)
    states.append(parameters_of(agent))
    for parameter in agent.critic.parameters():
        parameter.grad = None
    agent.update_actor_and_alpha(batch.obs, features, noise)
    assert all(parameter.grad is None for parameter in agent.critic.parameters())
    states.append(parameters_of(agent))
    agent.update_critic_target()
    states.append(parameters_of(agent))
    assert all(parameter.grad is None for parameter in agent.critic_target.parameters())

    expected = ({"critic.encoder", "critic.q1", "critic.q2"}, {"actor", "log_alpha"}, {"critic_target"})
    for before, after, groups in zip(states[:-1], states[1:], expected, strict=True):
        assert changed(before, after) == (groups, groups)


def targets_and_sources(agent):
    """Each parameter of the target critic with that of the critic: all of them, or those of the Qs alone."""
    sources = {
        name: parameter
        for name, parameter in agent.critic.named_parameters()
        if not (agent.config.encode_once and name.startswith("encoder."))
    }
    targets = dict(agent.critic_target.named_parameters())
    assert targets.keys() == sources.keys()
    return [(target, sources[name]) for name, target in targets.items()]


@pytest.mark.parametrize("encode_once", [False, True])
@pytest.mark.parametrize("tau", [0.01, 0.5, 1.0])
def test_the_target_moves_by_tau(tau, encode_once):
    agent = SACAgent(replace(SMALL, tau=tau, encode_once=encode_once), CPU, torch.float64)
    with torch.no_grad():
        for parameter in agent.critic.parameters():
            parameter.add_(torch.randn_like(parameter))
    old = [target.clone() for target, _ in targets_and_sources(agent)]
    agent.update_critic_target()
    for before, (after, source) in zip(old, targets_and_sources(agent), strict=True):
        torch.testing.assert_close(after, (1 - tau) * before + tau * source.detach(), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("encode_once", [False, True])
def test_the_target_starts_as_the_critic_and_is_never_trained(encode_once):
    agent = SACAgent(replace(SMALL, encode_once=encode_once), CPU)
    for target, source in targets_and_sources(agent):
        assert torch.equal(target, source)
        assert target.data_ptr() != source.data_ptr()
        assert not target.requires_grad


def test_actor_and_target_are_updated_at_their_own_rhythms():
    agent, replay = SACAgent(replace(SMALL, actor_update_freq=2, target_update_freq=3), CPU), random_replay(SMALL)
    changes = []
    for _ in range(6):
        before = parameters_of(agent)
        agent.update(replay)
        any_changed = changed(before, parameters_of(agent))[1]
        changes.append(("critic.q1" in any_changed, "actor" in any_changed, "critic_target" in any_changed))
    assert changes == [
        (True, actor, target) for actor, target in zip([False, True] * 3, [False, False, True] * 2, strict=True)
    ]
    assert agent.n_updates == 6


@pytest.mark.parametrize("terminated", [True, False])
def test_the_end_of_the_game_has_no_future_where_the_time_limit_has(terminated):
    """One transition, with which the episode ends either way: its target is told by the critic's loss."""
    config = replace(SMALL, pad=0, batch_size=1)
    agent, replay = SACAgent(config, CPU, torch.float64), make_replay(config, CPU)
    rng = np.random.default_rng(0)
    first, last, other = rng.integers(0, 256, (3, 4, 84, 84), np.uint8)
    last[:3] = first[1:]
    action = np.array([0.3, -0.5, 0.9], np.float32)
    replay.start_episode(first)
    replay.add(action, 1.5, last, terminated)
    replay.start_episode(other)

    # Another target network than the critic's, as it is in the middle of a training.
    with torch.no_grad():
        for parameter in agent.critic_target.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        features = agent.critic.encoder(normalize_pixels(torch.from_numpy(first[None]), agent.dtype))
        q1, q2 = agent.critic(features, torch.from_numpy(action[None]))
    literal = LiteralSAC(agent)
    agent.generator.manual_seed(8)
    draws = torch.Generator().manual_seed(8)
    for shape, n in (((1,), 1), ((1, 2), 1), ((1, 2), 1)):  # the index and two shifts by nothing
        torch.randint(n, shape, generator=draws)
    torch.randn((1, ACTION_DIM), generator=draws)  # the actor's noise
    next_noise = torch.randn((1, ACTION_DIM), generator=draws).double()
    future = literal.target_q(0.0, torch.from_numpy(last[None]), config.gamma, next_noise)
    assert future.abs() > 0.1, "the future should matter for this test to say something"

    agent.update(replay)
    target = 1.5 if terminated else 1.5 + future
    expected = ((q1 - target) ** 2 + (q2 - target) ** 2).item()
    assert agent.pop_metrics()["critic_loss"] == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(("target_entropy", "sign"), [(-100.0, -1), (100.0, 1)])
def test_the_temperature_falls_where_entropy_is_above_its_target_and_rises_below(target_entropy, sign):
    agent, replay = SACAgent(replace(SMALL, target_entropy=target_entropy), CPU), random_replay(SMALL)
    assert agent.alpha.item() == pytest.approx(SMALL.init_temperature)
    alphas = [agent.alpha.item()]
    for _ in range(3):
        updated(agent, replay, 2)
        alphas.append(agent.alpha.item())
    assert np.sign(agent.pop_metrics()["entropy"] - target_entropy) == -sign
    assert (np.sign(np.diff(alphas)) == sign).all()


def test_two_agents_of_one_seed_learn_the_same_and_of_two_do_not():
    replay = random_replay(SMALL)
    first, second, other = (updated(SACAgent(replace(SMALL, seed=seed), CPU), replay, 4) for seed in (1, 1, 2))
    assert_close_parameters(first, second, 0.0, 0.0)
    assert not torch.equal(first["actor.trunk.0.weight"], other["actor.trunk.0.weight"])


def test_the_seed_decides_the_first_weights():
    first, same, other = (SACAgent(replace(SMALL, seed=seed), CPU) for seed in (1, 1, 2))
    assert torch.equal(first.actor.trunk[0].weight, same.actor.trunk[0].weight)
    for network in ("critic", "actor"):
        weights = [next(iter(getattr(agent, network).parameters())) for agent in (first, other)]
        assert not torch.equal(*weights), network


def test_the_first_weights_are_orthogonal_with_drqs_gains_and_no_bias():
    """W W^T is the squared gain times the identity where a layer has no more outputs than inputs."""
    agent = SACAgent(SMALL, CPU, torch.float64)
    layers = [*agent.critic.modules(), *agent.actor.modules()]
    layers = [layer for layer in layers if isinstance(layer, torch.nn.Linear | torch.nn.Conv2d)]
    assert len(layers) == 2 + 1 + 2 * 3 + 3
    for layer in layers:
        weight = layer.weight.detach().flatten(1)
        if len(weight) > weight.shape[1]:
            weight = weight.T
        squared_gain = 2.0 if isinstance(layer, torch.nn.Conv2d) else 1.0
        identity = torch.eye(len(weight), dtype=torch.float64)
        torch.testing.assert_close(weight @ weight.T, squared_gain * identity, rtol=0, atol=1e-5)
        assert not layer.bias.any()


def test_drqs_encoder_is_the_papers():
    """Four convolutions of 3x3 with 32 channels, the first with stride 2: 84, 41, 39, 37, 35 pixels."""
    encoder = SACAgent(replace(SMALL, encoder="drq"), CPU).critic.encoder
    convolutions = [layer for layer in encoder.convolutions if isinstance(layer, torch.nn.Conv2d)]
    assert [(layer.out_channels, layer.kernel_size, layer.stride) for layer in convolutions] == [
        (32, (3, 3), (2, 2)),
        *[(32, (3, 3), (1, 1))] * 3,
    ]
    assert encoder.linear.in_features == 32 * 35 * 35


def test_the_replay_buffer_sums_rewards_over_n_steps():
    """Rewards of 1, 2 and 4 with a discount of a half: 1 + 2 / 2 + 4 / 4, and an eighth of what comes then."""
    replay = make_replay(replace(SMALL, n_step=3, gamma=0.5), CPU)
    obs = np.zeros(SMALL.view.obs_shape, np.uint8)
    replay.start_episode(obs)
    for reward in (1.0, 2.0, 4.0):
        replay.add(np.zeros(ACTION_DIM, np.float32), reward, obs, terminated=False)
    batch = replay.sample(4, torch.Generator().manual_seed(0))
    assert batch.rewards.flatten().tolist() == [3.0] * 4
    assert batch.discounts.flatten().tolist() == [0.125] * 4


def test_random_actions_are_even_over_the_whole_range_and_the_agents_own():
    agent = SACAgent(SMALL, CPU)
    before = torch.get_rng_state()
    actions = np.array([agent.random_action() for _ in range(2_000)])
    assert torch.equal(torch.get_rng_state(), before), "a resumed training would draw others"
    assert actions.min(0).max() < -0.99
    assert actions.max(0).min() > 0.99
    assert np.abs(actions.mean(0)).max() < 0.06
    np.testing.assert_allclose(actions.std(0), 1.0 / np.sqrt(3.0), rtol=0.05)


def test_learning_draws_nothing_from_the_global_generators():
    agent, replay = SACAgent(SMALL, CPU), random_replay(SMALL)
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    agent.update(replay)
    agent.act(np.zeros((4, 84, 84), np.uint8))
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert np.array_equal(np.random.get_state()[1], numpy_state)  # noqa: NPY002


@pytest.mark.skipif(not HAS_COMPILER, reason="needs a C++ compiler")
def test_compiled_updates_are_close_to_plain_ones(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    replay, plain = random_replay(SMALL), SACAgent(SMALL, CPU)
    start = parameters_of(plain)
    torch._dynamo.reset()
    compiled = updated(SACAgent(replace(SMALL, compile=True), CPU), replay, 6)
    torch._dynamo.reset()
    assert list(tmp_path.rglob("*.so")), "nothing was compiled"
    assert apart(updated(plain, replay, 6), compiled, start) < 0.01


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("compile", [False, True])
@pytest.mark.parametrize("encode_once", [False, True])
# Of tensor cores that float64 has no use for, and of optimisers that could be in a CUDA graph outside of one.
@pytest.mark.filterwarnings("ignore:.*TensorFloat32", "ignore:.*capturable=True")
def test_updates_on_a_gpu_equal_those_on_the_cpu(encode_once, compile, tmp_path, monkeypatch):
    """Enough updates for the CUDA graphs to be recorded and played again; losses and draws in float64."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    cuda = torch.device("cuda")
    config = replace(SMALL, encode_once=encode_once)
    here, there = SACAgent(config, CPU, torch.float64), SACAgent(replace(config, compile=compile), cuda, torch.float64)
    replays = random_replay(SMALL), random_replay(SMALL, device=cuda)
    for scale in (1.0, 0.25):
        here.set_lr_scale(scale)
        there.set_lr_scale(scale)
        expected = updated(here, replays[0], 10)
        assert_close_parameters(updated(there, replays[1], 10), expected, rtol=1e-6, atol=1e-8)
    metrics = there.pop_metrics()
    for name, value in here.pop_metrics().items():
        assert metrics[name] == pytest.approx(value, rel=1e-5), name
    obs = np.random.default_rng(0).integers(0, 256, (4, 84, 84), np.uint8)
    np.testing.assert_allclose(there.act(obs), here.act(obs), atol=1e-5)


@pytest.mark.parametrize("ema_tau", [1.0, 0.1])
def test_a_saved_and_loaded_agent_goes_on_bit_by_bit(ema_tau):
    config = replace(SMALL, ema_tau=ema_tau)
    replay = random_replay(SMALL)
    obs = np.random.default_rng(1).integers(0, 256, (4, 84, 84), np.uint8)
    agent = SACAgent(config, CPU)
    updated(agent, replay, 13)  # so that the next is an update of the actor, and means have begun
    fresh = SACAgent(replace(config, seed=99), CPU)
    fresh.load_state_dict(saved_and_loaded(agent.state_dict()))
    for _ in range(5):
        np.testing.assert_array_equal(fresh.act(obs), agent.act(obs))
        np.testing.assert_array_equal(fresh.act(obs, deterministic=True), agent.act(obs, deterministic=True))
        agent.update(replay)
        fresh.update(replay)
        assert_close_parameters(parameters_of(fresh), parameters_of(agent), 0.0, 0.0)
    assert fresh.n_updates == agent.n_updates == 18
    assert fresh.pop_metrics() == agent.pop_metrics()


def test_the_running_mean_is_scored_and_what_is_trained_takes_no_notice_of_it():
    plain, agent = SACAgent(SMALL, CPU, torch.float64), SACAgent(replace(SMALL, ema_tau=0.8), CPU, torch.float64)
    replays = random_replay(SMALL), random_replay(SMALL)
    obs = np.random.default_rng(1).integers(0, 256, (4, 84, 84), np.uint8)
    names = [name for name in parameters_of(agent) if name.startswith(("critic.encoder", "actor"))]
    mean = {name: parameters_of(agent)[name] for name in names}
    for tau in (*[1.0] * 10, 10 / 11, 10 / 12, 0.8, 0.8):  # at first of a tenth of the updates
        latest, same = updated(agent, replays[0], 1), updated(plain, replays[1], 1)
        assert_close_parameters(latest, same, 0.0, 0.0)
        np.testing.assert_array_equal(agent.act(obs), plain.act(obs))
        mean = {name: (1 - tau) * mean[name] + tau * latest[name] for name in names}
    found = {f"critic.{name}".replace("critic.actor", "actor"): x for name, x in agent.ema_policy.named_parameters()}
    assert_close_parameters(found, mean, rtol=1e-12, atol=1e-14)

    reference = SACAgent(SMALL, CPU, torch.float64)
    for name, network in (("critic.", reference.critic), ("actor.", reference.actor)):
        network.load_state_dict({key.removeprefix(name): x for key, x in mean.items() if key.startswith(name)}, False)
    best = agent.act(obs, deterministic=True)
    np.testing.assert_allclose(best, reference.act(obs, deterministic=True), rtol=1e-6)
    assert not np.allclose(best, plain.act(obs, deterministic=True), rtol=1e-3)


def test_the_state_of_other_networks_is_refused():
    state = SACAgent(replace(SMALL, hidden_dim=17), CPU).state_dict()
    with pytest.raises(RuntimeError, match="size mismatch"):
        SACAgent(SMALL, CPU).load_state_dict(state)


def test_actions():
    agent, twin = SACAgent(SMALL, CPU), SACAgent(SMALL, CPU)
    rng = np.random.default_rng(0)
    for obs in rng.integers(0, 256, (5, 4, 84, 84), np.uint8):
        action, again, best = agent.act(obs), agent.act(obs), agent.act(obs, deterministic=True)
        for each in (action, again, best):
            assert (each.shape, each.dtype) == ((ACTION_DIM,), np.float32)
            assert (np.abs(each) <= 1.0).all()
        assert not np.array_equal(action, again)
        with torch.no_grad():
            mean, _ = agent.actor(agent.critic.encoder(normalize_pixels(torch.from_numpy(obs[None]), agent.dtype)))
        np.testing.assert_array_equal(best, torch.tanh(mean)[0])
        np.testing.assert_array_equal(policy_of(agent)(obs), best)
        for each in (action, again):
            np.testing.assert_array_equal(twin.act(obs), each)


def test_sampled_actions_spread_as_the_actor_says():
    agent = SACAgent(replace(SMALL, log_std_min=-2.0, log_std_max=0.0), CPU)
    obs = np.random.default_rng(0).integers(0, 256, (4, 84, 84), np.uint8)
    with torch.no_grad():
        mean, log_std = agent.actor(agent.critic.encoder(normalize_pixels(torch.from_numpy(obs[None]), agent.dtype)))
    unsquashed = np.arctanh([agent.act(obs) for _ in range(2_000)])
    np.testing.assert_allclose(unsquashed.mean(0), mean[0], atol=0.04)
    np.testing.assert_allclose(unsquashed.std(0), log_std.exp()[0], rtol=0.06)


def test_metrics_are_means_since_the_last_call():
    agent, replay = SACAgent(replace(SMALL, alpha_learning_rate=0.1), CPU, torch.float64), random_replay(SMALL)
    twin = SACAgent(agent.config, CPU, torch.float64)
    assert agent.pop_metrics() == {}
    for _ in range(2):
        singles, alphas = [], []
        for _ in range(4):
            agent.update(replay)
            twin.update(replay)
            singles.append(twin.pop_metrics())
            if agent.n_updates % 2 == 0:
                alphas.append(agent.alpha.item())
        means = agent.pop_metrics()
        assert means.keys() == METRICS
        for name in METRICS:
            values = [single[name] for single in singles if name in single]
            assert len(values) == (4 if name in ("critic_loss", "q1_mean", "q2_mean") else 2)
            assert means[name] == pytest.approx(np.mean(values))
        assert means["alpha"] == pytest.approx(np.mean(alphas))
        assert agent.pop_metrics() == {}
    agent.update(replay)
    assert agent.pop_metrics().keys() == {"critic_loss", "q1_mean", "q2_mean"}


@pytest.mark.parametrize("encode_once", [False, True])
def test_metrics_are_what_their_names_say(encode_once):
    agent = SACAgent(replace(SMALL, encode_once=encode_once), CPU, torch.float64)
    batch, noise = random_batch(SMALL)
    noise = noise.double()
    literal = LiteralSAC(agent)
    target_q = literal.target_q(batch.rewards, batch.next_obs, batch.discounts, noise)
    q1, q2 = literal.q_values(literal.critic, literal.encode(literal.critic, batch.obs), batch.actions)
    obs = normalize_pixels(batch.obs, agent.dtype)
    features = agent.update_critic(normalized(batch, agent.dtype), noise)
    metrics = agent.pop_metrics()
    assert metrics["q1_mean"] == pytest.approx(q1.mean().item())
    assert metrics["q2_mean"] == pytest.approx(q2.mean().item())
    assert metrics["critic_loss"] == pytest.approx(((q1 - target_q) ** 2 + (q2 - target_q) ** 2).mean().item())

    alpha, actor = agent.alpha.item(), copy.deepcopy(agent.actor)
    with torch.no_grad():
        new_features = features if encode_once else agent.critic.encoder(obs)
        sampled, log_prob = actor.sample(new_features, noise)
        q = torch.minimum(*agent.critic(new_features, sampled))
    agent.update_actor_and_alpha(obs, features, noise)
    metrics = agent.pop_metrics()
    assert metrics["entropy"] == pytest.approx(-log_prob.mean().item())
    assert metrics["actor_loss"] == pytest.approx((alpha * log_prob - q).mean().item())
    assert metrics["alpha_loss"] == pytest.approx(alpha * (-log_prob.mean().item() - SMALL.target_entropy))
    assert metrics["alpha"] == pytest.approx(agent.alpha.item()) != alpha


def checkpoint_of(agent, config=None):
    meta = {"agent": "sac", "config": asdict(agent.config) if config is None else config}
    return Checkpoint(Path("some/run"), meta, {"agent": saved_and_loaded(agent.state_dict())}, {})


@pytest.mark.parametrize("ema_tau", [1.0, 0.1])
def test_a_policy_loads_from_settings_that_lack_one_and_hold_an_unknown_one(ema_tau):
    """As those of a version before this one, and those of one after it; even the setting of the average may be gone."""
    agent = SACAgent(replace(SMALL, ema_tau=ema_tau), CPU)
    updated(agent, random_replay(SMALL), 12)
    settings = asdict(agent.config) | {"from_the_future": 7}
    for name in ("ema_tau", "train_freq", "mirror_prob"):
        del settings[name]
    policy, view = load_policy(checkpoint_of(agent, settings), CPU)
    assert view == SMALL.view
    obs = np.random.default_rng(0).integers(0, 256, (4, 84, 84), np.uint8)
    np.testing.assert_array_equal(policy(obs), agent.act(obs, deterministic=True))


def test_a_policy_does_not_load_without_a_setting_that_makes_its_networks():
    settings = asdict(SMALL)
    del settings["hidden_dim"]
    with pytest.raises(checkpoint.CheckpointError, match="lack --hidden-dim"):
        load_policy(checkpoint_of(SACAgent(SMALL, CPU), settings), CPU)


def test_what_is_left_of_a_checkpoint_for_its_policy_loads_alike():
    whole = checkpoint_of(SACAgent(replace(SMALL, ema_tau=0.1), CPU))
    part = replace(whole, state=policy_state(whole))
    assert part.state["agent"].keys() == {"critic", "actor", "ema_policy"}
    obs = np.random.default_rng(0).integers(0, 256, (4, 84, 84), np.uint8)
    np.testing.assert_array_equal(load_policy(part, CPU)[0](obs), load_policy(whole, CPU)[0](obs))


def test_the_pretrained_policy_of_an_older_version_acts():
    """Its average, which that version called so, is what is scored, not the latest networks."""
    pretrained = checkpoint.load(Path(__file__).parents[1] / "pretrained" / "sac_light")
    policy, view = load_policy(pretrained, CPU)
    assert (view.frame_stack, view.brake_dead_zone) == (2, 0.5)
    obs = np.random.default_rng(0).integers(0, 256, (2, 84, 84), np.uint8)
    action = policy(obs)
    assert (action.shape, action.dtype) == ((ACTION_DIM,), np.float32)
    agent = load_agent(pretrained, CPU)
    assert agent.ema_policy is not None
    agent.ema_policy = None
    assert not np.array_equal(action, agent.act(obs, deterministic=True))


def test_the_training_of_an_older_version_goes_on():
    config = replace(SMALL, ema_tau=0.1)
    agent, fresh, replay = SACAgent(config, CPU), SACAgent(replace(config, seed=99), CPU), random_replay(SMALL)
    updated(agent, replay, 13)
    state = saved_and_loaded(agent.state_dict())
    state["average"] = state.pop("ema_policy")
    fresh.load_state_dict(state)
    assert_close_parameters(updated(agent, replay, 3), updated(fresh, replay, 3), 0.0, 0.0)
    obs = np.random.default_rng(0).integers(0, 256, (4, 84, 84), np.uint8)
    np.testing.assert_array_equal(fresh.act(obs, deterministic=True), agent.act(obs, deterministic=True))


def test_a_training_starts_only_from_networks_like_its_own():
    saved = checkpoint_of(SACAgent(replace(SMALL, seed=99), CPU))
    other_rules = replace(SMALL, missed_tile_penalty=3.0, n_step=1, ema_tau=0.5)
    agent = SACAgent(other_rules, CPU)
    agent.start_from(initial_agent(other_rules, saved))
    assert torch.equal(agent.actor.trunk[0].weight, saved.state["agent"]["actor"]["trunk.0.weight"])
    for target, source in targets_and_sources(agent):
        assert torch.equal(target, source), "the first targets are not those of an untrained critic"
    obs = np.random.default_rng(0).integers(0, 256, (4, 84, 84), np.uint8)
    mean, _ = agent.actor(agent.critic.encoder(agent._one_batch(obs)))
    np.testing.assert_allclose(agent.act(obs, deterministic=True), torch.tanh(mean)[0].detach().numpy(), rtol=1e-6)
    with pytest.raises(SettingError, match="--start-from some/run was trained with --hidden-dim 16"):
        initial_agent(replace(SMALL, hidden_dim=17), saved)


@pytest.mark.parametrize(
    ("name", "other"),
    [
        ("frame_stack", 3), ("grayscale", False), ("road_contrast", False), ("brake_dead_zone", 0.25),
        ("encoder", "drq"), ("feature_dim", 9), ("log_std_min", -3.0), ("log_std_max", -1.0),
    ],
)  # fmt: skip
def test_no_training_starts_from_another_view_action_or_size(name, other):
    with pytest.raises(SettingError, match=f"trained with .*{name.replace('_', '-')}"):
        initial_agent(replace(SMALL, **{name: other}), checkpoint_of(SACAgent(SMALL, CPU)))


def test_drawn_actions_of_a_checkpoint_have_its_own_bounds_of_spread():
    config = replace(SMALL, log_std_min=-9.0, log_std_max=-8.0)
    policy, _ = load_policy(checkpoint_of(SACAgent(config, CPU)), CPU, "sampled")
    obs = np.random.default_rng(0).integers(0, 256, (4, 84, 84), np.uint8)
    spread = np.std([policy(obs) for _ in range(50)], axis=0)
    assert 0.0 < spread.max() < 2.0 * np.exp(-8.0)


def test_a_checkpoint_from_before_a_setting_was_trained_without_it():
    older = {name: value for name, value in asdict(SMALL).items() if name not in ("flip", "encode_once")}
    saved = saved_settings(SACConfig, older)
    assert (saved["flip"], saved["encode_once"]) == (False, False)


class Chase:
    """A marker below, to be brought under the square above; where they are, the picture alone tells.

    Both start anywhere. The action's first number moves the marker, what is between them is lost at each of the ten
    steps, after which time is up.
    """

    def __init__(self, seed):
        self.rng = np.random.default_rng(seed)

    def reset(self):
        self.target, self.marker = self.rng.uniform(-1.0, 1.0, 2)
        self.n_steps = 0
        self.frames = [self.picture()] * 4
        return np.stack(self.frames)

    def step(self, action):
        self.marker = float(np.clip(self.marker + 0.4 * action[0], -1.0, 1.0))
        self.frames = [*self.frames[1:], self.picture()]
        self.n_steps += 1
        return np.stack(self.frames), -abs(self.marker - self.target), self.n_steps == 10

    def picture(self):
        picture = np.zeros((84, 84), np.uint8)
        for row, where in ((16, self.target), (52, self.marker)):
            column = round(36 + 30 * where)
            picture[row : row + 12, column : column + 12] = 255
        return picture


def episode_return(env, policy):
    obs, total, is_over = env.reset(), 0.0, False
    while not is_over:
        obs, reward, is_over = env.step(policy(obs))
        total += reward
    return total


def score(policy):
    """Mean return of twenty episodes, always the same ones."""
    env = Chase(seed=10_000)
    return np.mean([episode_return(env, policy) for _ in range(20)])


def trained(config):
    """The agent after `total_steps`, and the return of every episode on the way."""
    agent, replay, env = SACAgent(config, CPU), make_replay(config, CPU), Chase(config.seed)
    rng = np.random.default_rng(config.seed)

    def explore(obs):
        return rng.uniform(-1, 1, ACTION_DIM).astype(np.float32) if replay.size < config.learning_starts else act(obs)

    act, returns = agent.act, []
    obs, total = env.reset(), 0.0
    replay.start_episode(obs)
    for _ in range(config.total_steps):
        action = explore(obs)
        obs, reward, is_over = env.step(action)
        replay.add(action, reward, obs, terminated=False)
        total += reward
        if is_over:
            returns.append(total)
            obs, total = env.reset(), 0.0
            replay.start_episode(obs)
        if replay.size >= config.learning_starts:
            agent.update(replay)
    return agent, returns


@pytest.fixture(scope="module")
def best_constant_score():
    return max(score(lambda obs, value=value: np.array([value, 0.0, 0.0])) for value in np.linspace(-1, 1, 21))


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_it_learns_from_pixels(seed, best_constant_score):
    config = replace(
        SMALL,
        total_steps=500,
        seed=seed,
        replay_size=500,
        batch_size=32,
        learning_starts=100,
        learning_rate=3e-3,
        gamma=0.8,
        tau=0.05,
        target_update_freq=1,
        actor_update_freq=1,
        feature_dim=16,
        hidden_dim=64,
        ema_tau=5e-4,
    )
    untrained_score = score(policy_of(SACAgent(config, CPU)))
    assert best_constant_score < -5.0, "without a look at the picture there should be little to gain"
    agent, returns = trained(config)
    assert score(policy_of(agent)) > 0.5 * max(best_constant_score, untrained_score)
    assert np.mean(returns[-10:]) > 0.6 * np.mean(returns[:10])
