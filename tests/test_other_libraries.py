"""The two registered environments under Gymnasium's and Stable-Baselines3's wrappers, vectors and trainers."""

import copy
import pickle

import cv2
import gymnasium as gym
import numpy as np
import pytest
from gymnasium import wrappers
from gymnasium.utils.env_checker import check_env as gymnasium_check_env
from gymnasium.vector import AsyncVectorEnv, SyncVectorEnv
from gymnasium.wrappers.vector import RecordEpisodeStatistics as RecordVectorStatistics
from stable_baselines3 import PPO
from stable_baselines3.common.env_checker import check_env as sb3_check_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import (
    DummyVecEnv,
    SubprocVecEnv,
    VecFrameStack,
    VecMonitor,
    VecTransposeImage,
    VecVideoRecorder,
)

from car_racing import FAST_ID, VIEW_ID, ViewConfig
from car_racing.vec_env import make_vec_env
from tests.driving import BRAKE, GAS

FAST_NAME, VIEW_NAME = f"car_racing:{FAST_ID}", f"car_racing:{VIEW_ID}"
# Full gas, in the numbers of either environment.
ACTIONS = {FAST_NAME: np.array([0.0, 1.0, 0.0], np.float32), VIEW_NAME: GAS}
N_STEPS = 3

both = pytest.mark.parametrize("name", [FAST_NAME, VIEW_NAME])


def drive(env, name, n_steps=N_STEPS):
    """Observations, rewards and infos of a few steps on track 3; the first observation is that of the reset."""
    obs, info = env.reset(seed=3)
    steps = [env.step(ACTIONS[name]) for _ in range(n_steps)]
    return [obs, *(step[0] for step in steps)], [step[1] for step in steps], [info, *(step[4] for step in steps)]


@both
def test_gymnasiums_wrappers_of_rewards_actions_and_episodes(name):
    obs, rewards, _ = drive(gym.make(name), name)
    env = wrappers.TransformReward(gym.make(name), lambda reward: reward / 10.0)
    np.testing.assert_allclose(drive(env, name)[1], np.array(rewards) / 10.0)
    env = wrappers.ClipReward(gym.make(name), -0.05, 0.05)
    np.testing.assert_allclose(drive(env, name)[1], np.clip(rewards, -0.05, 0.05))
    env = wrappers.RescaleAction(gym.make(name), np.float32(-1.0), np.float32(1.0))
    low = env.env.action_space.low
    env.reset(seed=3)
    same = env.step(2.0 * (ACTIONS[name] - low) / (1.0 - low) - 1.0)
    np.testing.assert_array_equal(same[0], obs[1])
    env = wrappers.RecordEpisodeStatistics(wrappers.TimeLimit(gym.make(name), N_STEPS))
    *_, infos = drive(env, name)
    assert infos[-1]["episode"]["r"] == pytest.approx(sum(rewards))
    assert infos[-1]["episode"]["l"] == N_STEPS


@both
def test_gymnasiums_wrappers_of_any_observation(name):
    obs, *_ = drive(gym.make(name), name)
    stacked, *_ = drive(wrappers.FrameStackObservation(gym.make(name), 2), name)
    np.testing.assert_array_equal(stacked[-1], np.stack(obs[-2:]))
    floats, *_ = drive(wrappers.DtypeObservation(gym.make(name), np.float32), name)
    assert floats[-1].dtype == np.float32
    np.testing.assert_array_equal(floats[-1], obs[-1])
    flat, *_ = drive(wrappers.FlattenObservation(gym.make(name)), name)
    np.testing.assert_array_equal(flat[-1], obs[-1].ravel())
    brightest, *_ = drive(wrappers.MaxAndSkipObservation(gym.make(name), skip=2), name, n_steps=1)
    np.testing.assert_array_equal(brightest[-1], np.maximum(obs[1], obs[2]))


def test_gymnasiums_wrappers_of_pictures():
    colour, *_ = drive(gym.make(FAST_NAME, grayscale=False), FAST_NAME)
    env = wrappers.GrayscaleObservation(gym.make(FAST_NAME, grayscale=False), keep_dim=True)
    grey, *_ = drive(env, FAST_NAME)
    assert grey[-1].shape == (84, 84, 1)
    np.testing.assert_allclose(grey[-1][:, :, 0], colour[-1] @ (0.2125, 0.7154, 0.0721), atol=1)  # Gymnasium's weights
    pictures, *_ = drive(gym.make(FAST_NAME), FAST_NAME)
    small, *_ = drive(wrappers.ResizeObservation(gym.make(FAST_NAME), (42, 42)), FAST_NAME)
    np.testing.assert_array_equal(small[-1], cv2.resize(pictures[-1], (42, 42), interpolation=cv2.INTER_AREA))


@both
def test_gymnasiums_films_play_at_the_games_speed(name, tmp_path, films):
    env = wrappers.RecordVideo(gym.make(name, render_mode="rgb_array"), str(tmp_path / "films"))
    drive(env, name)
    env.close()
    assert films == [(1 + N_STEPS, 3, 50 if name == FAST_NAME else 12.5)]


@both
def test_gymnasium_collects_what_is_rendered(name):
    env = gym.make(name, render_mode="rgb_array_list")
    drive(env, name)
    pictures = env.render()
    assert [picture.shape for picture in pictures] == [(400, 600, 3)] * (1 + N_STEPS)
    assert not np.array_equal(pictures[0], pictures[-1])


@both
@pytest.mark.parametrize(
    "make",
    [SyncVectorEnv, AsyncVectorEnv, lambda envs: AsyncVectorEnv(envs, shared_memory=False)],
    ids=["sync", "async", "async without shared memory"],
)
def test_gymnasiums_vector_environments_give_what_single_ones_give(name, make):
    obs, rewards, _ = drive(gym.make(name), name)
    envs = RecordVectorStatistics(make([lambda: wrappers.TimeLimit(gym.make(name), N_STEPS)] * 2))
    try:
        envs.reset(seed=[3, 4])
        steps = [envs.step(np.stack([ACTIONS[name]] * 2)) for _ in range(N_STEPS)]
    finally:
        envs.close()
    for step, expected, reward in zip(steps, obs[1:], rewards, strict=True):
        np.testing.assert_array_equal(step[0][0], expected)
        assert step[1][0] == reward
        assert not np.array_equal(step[0][1], expected)
    assert steps[-1][4]["episode"]["r"][0] == pytest.approx(sum(rewards))


@both
@pytest.mark.parametrize("copied_by", [copy.deepcopy, lambda env: pickle.loads(pickle.dumps(env))])
def test_a_copy_under_wrappers_draws_its_own_game(name, copied_by):
    env = wrappers.FrameStackObservation(wrappers.RecordEpisodeStatistics(gym.make(name)), 2)
    expected, *_ = drive(env, name)
    copied = copied_by(env)
    env.reset(seed=4)
    found, *_ = drive(copied, name)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(("name", "kwargs"), [(FAST_NAME, {"keep_dim": True}), (VIEW_NAME, {"frame_stack": 2})])
def test_its_spec_makes_the_same_again(name, kwargs):
    env = gym.make(name, **kwargs)
    again = gym.make(gym.envs.registration.EnvSpec.from_json(env.spec.to_json()))
    assert again.observation_space == env.observation_space
    np.testing.assert_array_equal(again.reset(seed=3)[0], env.reset(seed=3)[0])


def test_a_grey_picture_with_a_channel_axis_is_the_same_picture():
    plain, *_ = drive(gym.make(FAST_NAME), FAST_NAME)
    env = gym.make(FAST_NAME, keep_dim=True)
    assert env.observation_space == gym.spaces.Box(0, 255, (84, 84, 1), np.uint8)
    with_axis, *_ = drive(env, FAST_NAME)
    np.testing.assert_array_equal(np.concatenate(with_axis, axis=2), np.stack(plain, axis=2))
    assert pickle.loads(pickle.dumps(env)).observation_space == env.observation_space
    colour = gym.make(FAST_NAME, keep_dim=True, grayscale=False)
    assert colour.reset(seed=3)[0].shape == colour.observation_space.shape == (84, 84, 3)


@pytest.mark.filterwarnings("ignore:.*is different from the unwrapped version")
@pytest.mark.filterwarnings("ignore:.*symmetric and normalized Box action space")  # steer, gas and brake are the game's
def test_both_checkers_pass_it_with_a_channel_axis():
    gymnasium_check_env(gym.make(FAST_NAME, keep_dim=True).unwrapped, skip_render_check=True)
    sb3_check_env(gym.make(FAST_NAME, keep_dim=True))


def test_sb3_stacks_grey_pictures_along_the_channel_axis():
    plain, *_ = drive(gym.make(FAST_NAME), FAST_NAME)
    env = VecFrameStack(DummyVecEnv([lambda: gym.make(FAST_NAME, keep_dim=True)] * 2), 4)
    env.seed(3)
    obs = env.reset()
    for _ in range(N_STEPS):
        obs, *_ = env.step(np.stack([ACTIONS[FAST_NAME]] * 2))
    assert obs.shape == (2, 84, 84, 4)
    np.testing.assert_array_equal(obs[0], np.stack(plain, axis=2))


@pytest.mark.parametrize(
    ("name", "kwargs", "shape"),
    [
        (FAST_NAME, {"keep_dim": True}, (2, 84, 84)),
        (FAST_NAME, {"grayscale": False}, (6, 84, 84)),
        (VIEW_NAME, {}, (8, 84, 84)),
    ],
    ids=["grey", "colour", "view"],
)
def test_sb3s_cnn_policy_trains_on_stacked_pictures(name, kwargs, shape):
    env = VecFrameStack(DummyVecEnv([lambda: gym.make(name, **kwargs)]), 2)
    policy_kwargs = {"net_arch": [], "features_extractor_kwargs": {"features_dim": 8}}
    model = PPO("CnnPolicy", env, n_steps=4, batch_size=4, n_epochs=1, policy_kwargs=policy_kwargs, device="cpu")
    assert model.policy.observation_space.shape == shape
    model.learn(4)
    assert model.predict(env.reset(), deterministic=True)[0].shape == (1, 3)


@both
@pytest.mark.parametrize("make", [DummyVecEnv, lambda envs: SubprocVecEnv(envs, start_method="fork")])
def test_sb3s_vector_environments_give_what_single_ones_give(name, make):
    obs, rewards, _ = drive(gym.make(name), name)
    env = VecMonitor(make([lambda: wrappers.TimeLimit(gym.make(name), N_STEPS)] * 2))
    try:
        env.seed(3)
        first = env.reset()
        steps = [env.step(np.stack([ACTIONS[name]] * 2)) for _ in range(N_STEPS)]
    finally:
        env.close()
    np.testing.assert_array_equal(first[0], obs[0])
    assert not np.array_equal(first[1], obs[0])
    np.testing.assert_allclose([step[1][0] for step in steps], rewards, rtol=1e-6)
    info = steps[-1][3][0]
    np.testing.assert_array_equal(info["terminal_observation"], obs[-1])
    assert info["TimeLimit.truncated"]
    assert info["episode"]["r"] == pytest.approx(sum(rewards), abs=1e-5)


def test_sb3_transposes_pictures():
    plain, *_ = drive(gym.make(FAST_NAME), FAST_NAME)
    env = VecTransposeImage(DummyVecEnv([lambda: gym.make(FAST_NAME, keep_dim=True)]))
    env.seed(3)
    np.testing.assert_array_equal(env.reset()[0, 0], plain[0])


@pytest.mark.parametrize("wrapper", [lambda env: VecFrameStack(env, 2), VecMonitor], ids=["stack", "monitor"])
def test_our_vector_environment_takes_sb3s_wrappers(wrapper):
    """Nothing gets lost on the way: the newest frames are those of the environment without a wrapper."""
    view = ViewConfig(frame_stack=1)
    plain, wrapped = make_vec_env(2, view, n_workers=0), wrapper(make_vec_env(2, view, n_workers=0))
    plain.seed(1)
    wrapped.seed(1)
    pairs = [(plain.reset(), wrapped.reset())]
    pairs += [(plain.step(actions)[0], wrapped.step(actions)[0]) for actions in [np.stack([GAS, BRAKE])] * 3]
    for expected, found in pairs:
        np.testing.assert_array_equal(found[:, -1:], expected)


def test_sb3_films_and_evaluates_the_registered_view(tmp_path, films):
    def make():
        return Monitor(gym.make(VIEW_NAME, action_repeat=250, render_mode="rgb_array"))

    env = VecVideoRecorder(DummyVecEnv([make]), str(tmp_path), lambda step: step == 0, video_length=2)
    policy_kwargs = {"net_arch": [], "features_extractor_kwargs": {"features_dim": 8}}
    model = PPO("CnnPolicy", env, n_steps=4, batch_size=4, policy_kwargs=policy_kwargs, device="cpu")
    returns, lengths = evaluate_policy(model, env, 1, return_episode_rewards=True)
    assert (len(returns), lengths) == (1, [4])
    assert [film[1:] for film in films] == [(3, 0.2)]
