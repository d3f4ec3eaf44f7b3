"""Several environments in this process and in workers, behind SB3's interface."""

import errno
import time

import gymnasium as gym
import numpy as np
import pytest

from car_racing import AgentView, EpisodeStatistics, RulesConfig, ViewConfig, make_env
from car_racing.vec_env import WorkerDiedError, make_vec_env
from startup import STOP_SIGNALS
from tests.driving import BRAKE, GAS, plain_rules


@pytest.fixture
def vec_env():
    """`make_vec_env`, whose environments are closed after the test."""
    made = []

    def make(*args, **kwargs):
        made.append(make_vec_env(*args, **kwargs))
        return made[-1]

    yield make
    for env in made:
        env.close()


def run_vec_env(env):
    """Observations, rewards, ends of episodes, and those episodes' returns and starts, of a short drive at random."""
    env.seed(11)
    seen = [env.reset()]
    rng = np.random.default_rng(0)
    for _ in range(9):
        obs, rewards, dones, infos = env.step(rng.uniform(-1, 1, (5, 3)).astype(np.float32))
        returns = [info.get("episode", {}).get("r", 0.0) for info in infos]
        starts = [info["start"] for info in env.reset_infos]
        seen += [obs, rewards, dones, np.array(returns), np.array(starts)]
    return seen


def test_vec_env_is_the_same_whatever_the_workers(vec_env):
    rules = RulesConfig(max_idle_frames=30)
    here, one, two = (run_vec_env(vec_env(5, ViewConfig(action_repeat=6), rules, n_workers)) for n_workers in range(3))
    assert any(dones.any() for dones in here[3::5]), "no episode ended"
    assert len({start for starts in here[5::5] for start in starts}) > 1, "all episodes began alike"
    for a, b, c in zip(here, one, two, strict=True):
        np.testing.assert_array_equal(a, b)
        np.testing.assert_array_equal(a, c)


@pytest.mark.parametrize("n_workers", [0, 1])
def test_what_a_step_returned_stays_as_it_was(vec_env, n_workers):
    """SB3 stores an observation, and whether an episode has just begun, only after the next step."""
    env = vec_env(2, ViewConfig(action_repeat=10), plain_rules(max_idle_frames=20), n_workers)
    env.seed(3)
    kept = [env.reset()]
    copies = [kept[0].copy()]
    for _ in range(3):
        arrays = env.step(np.stack([GAS, BRAKE]))[:3]
        kept += arrays
        copies += [array.copy() for array in arrays]
    assert any(array.any() for array in copies[3::3]), "no episode ended"
    for array, copy in zip(kept, copies, strict=True):
        np.testing.assert_array_equal(array, copy)


def test_neighbouring_seeds_share_no_environment(vec_env):
    env = vec_env(8, ViewConfig(), RulesConfig(), n_workers=0)
    assert set(env.seed(1)).isdisjoint(env.seed(2))
    assert env.seed(1) == env.seed(1)
    assert len(set(env.seed(1))) == 8


def test_vec_env_hands_over_a_state_captured_in_a_worker(vec_env):
    env, other = (vec_env(2, ViewConfig(action_repeat=6), RulesConfig(), n_workers=1) for _ in range(2))
    env.seed(3)
    env.reset()
    obs = env.step(np.stack([GAS, GAS]))[0]
    for i, state in enumerate(env.env_method("capture_episode")):
        (restored,) = other.env_method("restore_episode", state, indices=i)
        np.testing.assert_array_equal(restored, obs[i])
    for mine, theirs in zip(env.step(np.stack([GAS, BRAKE]))[:3], other.step(np.stack([GAS, BRAKE]))[:3], strict=True):
        np.testing.assert_array_equal(mine, theirs)


@pytest.mark.parametrize("n_workers", [0, 1])
def test_progress_reaches_every_environment(vec_env, n_workers):
    env = vec_env(2, ViewConfig(), plain_rules(missed_tile_penalty=1.0), n_workers)
    env.env_method("set_progress", 0.5)
    penalties = env.get_attr("_penalties")
    assert [penalty.progress for penalty in penalties] == [0.5, 0.5]


@pytest.mark.parametrize(
    ("action_repeat", "max_idle_frames", "is_truncated"),
    [pytest.param(500, 0, True, id="time limit"), pytest.param(10, 20, False, id="idle")],
)
def test_vec_env_equals_single_environments_and_hands_over_the_last_observation(
    vec_env, action_repeat, max_idle_frames, is_truncated
):
    view, rules = ViewConfig(action_repeat), plain_rules(max_idle_frames=max_idle_frames)
    env = vec_env(2, view, rules, 0)
    seeds = env.seed(1)
    assert len(set(seeds)) == 2
    env.reset()
    single = make_env(view, rules)
    single.reset(seed=seeds[1])
    for _ in range(2):
        expected, *_, truncated, info = single.step(BRAKE)
        obs, _, dones, infos = env.step(np.stack([BRAKE, BRAKE]))
    assert dones.all()
    assert truncated == is_truncated
    np.testing.assert_array_equal(infos[1]["terminal_observation"], expected)
    assert infos[1]["TimeLimit.truncated"] == is_truncated
    assert infos[1]["episode"] == info["episode"]
    next_obs, next_info = single.reset()
    np.testing.assert_array_equal(obs[1], next_obs)
    assert env.reset_infos[1] == next_info


@pytest.mark.parametrize("n_workers", [0, 2])
def test_vec_env_answers_sb3s_questions_alike_here_and_in_workers(vec_env, n_workers):
    env = vec_env(3, n_workers=n_workers)
    env.reset()
    assert env.get_attr("render_mode") == [None] * 3
    assert env.get_attr("config", [2]) == [ViewConfig()]
    assert env.has_attr("config")
    assert not env.has_attr("no_such_thing")
    env.set_attr("mark", 5, [1])
    assert env.get_attr("mark", 1) == [5]
    assert len(env.env_method("refresh_observation", indices=[0, 2])) == 2
    assert env.env_is_wrapped(EpisodeStatistics) == [True] * 3
    assert env.env_is_wrapped(AgentView) == [True] * 3
    assert env.env_is_wrapped(gym.wrappers.TransformReward) == [False] * 3
    env.close()
    env.close()


def test_where_no_worker_can_be_started_this_process_steps_all(vec_env, monkeypatch, caplog):
    rules = RulesConfig(max_idle_frames=30)
    expected = run_vec_env(vec_env(5, ViewConfig(action_repeat=6), rules, 0))

    def no_process(*_, **__):
        raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")

    monkeypatch.setattr("car_racing.vec_env.subprocess.Popen", no_process)
    env = vec_env(5, ViewConfig(action_repeat=6), rules, 2)
    assert "no worker process can be started ([Errno 11] Resource temporarily unavailable)" in caplog.text
    for a, b in zip(run_vec_env(env), expected, strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_stop_signal_reaches_no_worker(vec_env):
    env = vec_env(2, n_workers=1)
    env.reset()
    for number in STOP_SIGNALS:
        env._workers[0].process.send_signal(number)
    for _ in range(3):
        env.step(np.stack([GAS, GAS]))
    assert env._workers[0].process.poll() is None


def test_a_dead_worker_is_an_error_not_a_hang(vec_env):
    env = vec_env(2, n_workers=1)
    env.seed(0)
    env.reset()
    env._workers[0].process.kill()
    env._workers[0].process.wait()
    with pytest.raises(WorkerDiedError, match=r"environments 1 to 1 .* died with exit code -9"):
        env.step(np.stack([GAS, GAS]))


def test_an_exception_in_a_worker_names_itself(vec_env):
    env = vec_env(2, n_workers=1)
    env.seed(0)
    env.reset()
    env.set_attr("config", None, [1])
    with pytest.raises(WorkerDiedError, match=r"environments 1 to 1 .* failed: AttributeError"):
        env.step(np.stack([GAS, GAS]))


@pytest.mark.parametrize(
    "actions", [np.zeros(3), np.zeros((1, 3)), np.zeros((2, 2)), np.full((2, 3), np.nan), np.full((2, 3), np.inf)]
)
def test_actions_that_are_none_are_refused_and_the_next_are_taken(vec_env, actions):
    """NumPy would spread one action over all environments."""
    env = vec_env(2, n_workers=1)
    env.seed(0)
    first = env.reset()
    with pytest.raises(ValueError, match=r"actions must be finite numbers of shape \(2, 3\)"):
        env.step(actions)
    env.step(np.stack([GAS, GAS]))
    env.seed(0)
    np.testing.assert_array_equal(env.reset(), first)


def test_a_worker_that_has_fallen_asleep_wakes_for_every_kind_of_request(vec_env):
    env = vec_env(2, n_workers=1)
    env.seed(0)
    env.reset()
    for _ in range(3):
        time.sleep(0.05)  # far longer than a worker stays awake
        env.step(np.stack([GAS, GAS]))
        time.sleep(0.05)
        assert env.get_attr("config") == [ViewConfig()] * 2
    time.sleep(0.05)
    env.reset()
