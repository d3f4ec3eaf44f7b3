"""The environments put together: what they report, what libraries ask of them, and copies of them."""

import copy
import itertools
import pickle

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env as gymnasium_check_env
from stable_baselines3.common.env_checker import check_env as sb3_check_env
from stable_baselines3.common.vec_env import DummyVecEnv

from car_racing import VIEW_ID, RulesConfig, SettingError, Spectator, ViewConfig, make_env, make_stock_env
from tests.driving import BRAKE, GAS, OFF_FIELD_TRACK, drive_to_end, literal_steps, plain_rules

VIEW_NAME = f"car_racing:{VIEW_ID}"


def test_leaving_the_field_terminates_inside_an_action_repeat():
    """Full gas off the track until the field ends: -100, as in the stock game."""
    env = make_env(ViewConfig(action_repeat=8))
    reference = list(literal_steps(OFF_FIELD_TRACK, [GAS] * 125, 8))
    env.reset(seed=OFF_FIELD_TRACK)
    total, steps = 0.0, 0
    terminated = truncated = False
    while not (terminated or truncated):
        _, reward, terminated, truncated, info = env.step(GAS)
        total += reward
        steps += 1
    assert terminated
    assert not truncated
    assert reward < -99.0
    assert info["frames"] < 8, "the episode should end within a repeat for this test to say something"
    assert steps == len(reference) - 1
    assert total == pytest.approx(sum(step[1] for step in reference))
    assert info["episode"]["r"] == pytest.approx(total)
    assert info["episode"]["l"] == steps
    assert not info["episode"]["lap_finished"]


def test_the_time_limit_is_a_truncation():
    env = make_env(ViewConfig(action_repeat=50))
    env.reset(seed=0)
    outcomes = [env.step(BRAKE)[2:] for _ in range(20)]
    assert [(terminated, truncated) for terminated, truncated, _ in outcomes] == [(False, False)] * 19 + [(False, True)]
    assert outcomes[-1][2]["episode"]["frames"] == 1000


def test_reset_to_a_track_seed_is_the_stock_track():
    env = make_env()
    env.reset(seed=42)
    stock = gym.make("CarRacing-v3")
    stock.reset(seed=42)
    assert env.unwrapped.track == stock.unwrapped.track


@pytest.mark.parametrize(
    "make", [make_env, lambda: make_env(rules=RulesConfig()), lambda: gym.make(VIEW_NAME, frame_stack=2)]
)
@pytest.mark.filterwarnings("ignore:.*is different from the unwrapped version")
def test_passes_gymnasium_and_sb3_checkers(make):
    gymnasium_check_env(make(), skip_render_check=True)
    sb3_check_env(make())


def test_render_is_gymnasiums_own_picture():
    env = make_env(render_mode="rgb_array")
    stock = gym.make("CarRacing-v3", render_mode="rgb_array")
    env.reset(seed=3)
    stock.reset(seed=3)
    picture = env.render()
    assert picture.shape == (400, 600, 3)
    np.testing.assert_array_equal(picture, stock.render())


def test_finishing_the_lap_is_reported():
    env = make_env(ViewConfig(action_repeat=1))
    env.reset(seed=0)
    game = env.unwrapped
    game.tile_visited_count = len(game.track)
    _, _, terminated, truncated, info = env.step(BRAKE)
    assert (terminated, truncated) == (True, False)
    assert info["episode"]["lap_finished"]
    assert info["episode"]["tiles_fraction"] == 1.0
    assert info["is_success"]


def test_a_plain_episode_is_summed_up_at_its_end_alone():
    env = make_env(ViewConfig(action_repeat=100))
    for track in (9, 10):
        _, info = env.reset(seed=track)
        assert "episode" not in info
        infos = [env.step(BRAKE)[4] for _ in range(10)]
        assert not any("episode" in info for info in infos[:-1])
        episode = infos[-1]["episode"]
        tiles, n_tiles = episode["tiles"], len(env.unwrapped.track)
        # A car that never moves: -0.1 a frame, and the tiles under its wheels at the start.
        assert episode == {
            "r": pytest.approx(-100.0 + 1000.0 * tiles / n_tiles),
            "l": 10,
            "frames": 1000,
            "tiles": tiles,
            "tiles_missed": n_tiles - tiles,
            "tiles_fraction": tiles / n_tiles,
            "lap_finished": False,
        }
        assert infos[-1]["is_success"] is False


def test_training_and_scoring_sum_up_the_same_lap_alike():
    plain, training = make_env(), make_env(rules=plain_rules())
    _, info = training.reset(seed=5)
    plain.reset(seed=info["track_seed"])
    (*_, expected), (*_, found) = (drive_to_end(env, lambda _: GAS) for env in (plain, training))
    assert found["episode"] == expected["episode"]


def test_the_registered_view_is_make_env():
    registered, expected = gym.make(VIEW_NAME, frame_stack=2, action_repeat=3), make_env(ViewConfig(3, 2))
    np.testing.assert_array_equal(registered.reset(seed=7)[0], expected.reset(seed=7)[0])
    for _ in range(5):
        for mine, theirs in zip(registered.step(GAS), expected.step(GAS), strict=True):
            np.testing.assert_array_equal(mine, theirs)
    assert registered.spec.id == VIEW_ID
    assert registered.spec.kwargs == {"frame_stack": 2, "action_repeat": 3}


def test_the_registered_view_renders_and_ends_after_a_thousand_frames():
    env = gym.make(VIEW_NAME, action_repeat=100, render_mode="rgb_array")
    env.reset(seed=0)
    assert env.render().shape == (400, 600, 3)
    assert [env.step(BRAKE)[3] for _ in range(10)] == [False] * 9 + [True]


def test_the_registered_view_names_a_keyword_or_a_value_that_cannot_work():
    with pytest.raises(TypeError, match="frame_stock"):
        gym.make(VIEW_NAME, frame_stock=2)
    with pytest.raises(SettingError, match=r"^--frame-stack must be at least 1, not 0$"):
        gym.make(VIEW_NAME, frame_stack=0)
    with pytest.raises(SettingError, match="--grayscale must be of type bool"):
        gym.make(VIEW_NAME, grayscale=1)


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_gymnasium_makes_several_of_them(mode):
    envs = gym.make_vec(VIEW_NAME, num_envs=2, vectorization_mode=mode, frame_stack=2)
    try:
        obs, _ = envs.reset(seed=[3, 4])
        assert (obs.shape, obs.dtype) == ((2, 2, 84, 84), np.uint8)
        later, rewards, *_ = envs.step(np.stack([GAS, BRAKE]))
    finally:
        envs.close()
    for i, action in enumerate((GAS, BRAKE)):
        single = make_env(ViewConfig(frame_stack=2))
        np.testing.assert_array_equal(obs[i], single.reset(seed=3 + i)[0])
        expected, reward, *_ = single.step(action)
        np.testing.assert_array_equal(later[i], expected)
        assert rewards[i] == reward


def test_sb3s_own_vec_env_takes_it():
    envs = DummyVecEnv([lambda: gym.make(VIEW_NAME, action_repeat=500)] * 2)
    assert envs.reset().shape == (2, 4, 84, 84)
    envs.step(np.stack([BRAKE, BRAKE]))
    _, _, dones, infos = envs.step(np.stack([BRAKE, BRAKE]))
    assert dones.all()
    assert infos[0]["TimeLimit.truncated"]


COPIES = [copy.deepcopy, lambda env: pickle.loads(pickle.dumps(env))]


def assert_draws_its_own_game(copied, original, rules):
    """After its own reset, the copy shows what a new environment shows, while the original goes its own way."""
    expected = make_env(rules=rules)
    np.testing.assert_array_equal(copied.reset(seed=8)[0], expected.reset(seed=8)[0])
    for _ in range(20):
        original.step(BRAKE)
        for mine, theirs in zip(copied.step(GAS), expected.step(GAS), strict=True):
            np.testing.assert_array_equal(mine, theirs)


@pytest.mark.parametrize("copied_by", COPIES, ids=["deepcopy", "pickle"])
@pytest.mark.parametrize("rules", [None, RulesConfig()], ids=["plain", "training"])
def test_a_copy_made_before_a_reset_draws_its_own_game(rules, copied_by):
    env = make_env(rules=rules)
    copied = copied_by(env)
    env.reset(seed=3)
    assert_draws_its_own_game(copied, env, rules)


@pytest.mark.parametrize("copied_by", COPIES, ids=["deepcopy", "pickle"])
def test_a_copy_made_after_a_reset_must_be_reset_itself(copied_by):
    env = make_env()
    env.reset(seed=3)
    env.step(GAS)
    copied = copied_by(env)
    with pytest.raises(gym.error.ResetNeeded):
        copied.step(GAS)
    assert_draws_its_own_game(copied, env, None)


@pytest.mark.parametrize("copied_by", COPIES, ids=["deepcopy", "pickle"])
def test_an_episode_of_training_in_flight_is_brought_into_a_copy_by_its_captured_state(copied_by):
    env = make_env(rules=RulesConfig())
    env.reset(seed=3)
    obs = env.step(GAS)[0]
    copied = copied_by(env)
    with pytest.raises(gym.error.ResetNeeded):
        copied.step(GAS)
    np.testing.assert_array_equal(copied.restore_episode(env.capture_episode()), obs)


def test_a_spectator_sees_every_frame_in_the_windows_size():
    seen = []
    env = make_stock_env(ViewConfig(action_repeat=3), watch=seen.append)
    env.reset(seed=3)
    env.step(GAS)
    env.step(GAS)
    assert len(seen) == 1 + 2 * 3
    assert all((picture.shape, picture.dtype) == ((800, 1000, 3), np.uint8) for picture in seen)
    assert not any(np.array_equal(before, after) for before, after in itertools.pairwise(seen))
    assert isinstance(env.env.env, Spectator)
