"""What the agent sees and does: the stack of frames, the action repeat, the scaling of actions."""

import gymnasium as gym
import numpy as np
import pytest

from car_racing import AgentView, FastCarRacing, ViewConfig, make_env, make_stock_env
from car_racing.view import ROAD_CONTRAST, action_of, controls_of
from tests.driving import COAST, GAS, STOCK_VIEW, literal_steps


def assert_alike(fast, stock):
    """The fast environment's own picture against the stock one."""
    difference = np.abs(fast.astype(int) - stock)
    assert difference.mean() < 2.0, "a single stack, zoom included; the mean over many is under 1"
    assert (difference > 16).mean() < 0.02


@pytest.mark.parametrize("action_repeat", [1, 3, 4])
@pytest.mark.parametrize(
    ("factory", "assert_same_picture"), [(make_stock_env, np.testing.assert_array_equal), (make_env, assert_alike)]
)
def test_same_game_as_the_stock_environment_with_every_frame_drawn(factory, assert_same_picture, action_repeat):
    actions = np.random.default_rng(action_repeat).uniform(-1, 1, (25, 3)).astype(np.float32)
    env = factory(ViewConfig(action_repeat=action_repeat, road_contrast=False))
    reference = literal_steps(7, actions, action_repeat)
    obs, _ = env.reset(seed=7)
    assert_same_picture(obs, next(reference)[0])
    for action, (stack, reward, terminated, truncated) in zip(actions, reference, strict=True):
        obs, *outcome, info = env.step(action)
        assert_same_picture(obs, stack)
        assert outcome == [reward, terminated, truncated]
        assert info["frames"] == action_repeat


def test_frames_that_nobody_sees_change_nothing_that_is_seen():
    """Drawing lazily at the end of a repeat gives exactly the picture that drawing every frame gives."""
    lazy = make_env(ViewConfig(action_repeat=5, road_contrast=False))
    eager = FastCarRacing()
    lazy.reset(seed=7)
    eager.reset(seed=7)
    for action in np.random.default_rng(0).uniform(-1, 1, (40, 3)).astype(np.float32):
        obs = lazy.step(action)[0]
        for _ in range(5):
            frame = eager.step(np.array([action[0], 0.5 * (action[1] + 1.0), 0.5 * (action[2] + 1.0)]))[0]
        np.testing.assert_array_equal(obs[-1], frame)


def test_the_brakes_dead_zone_is_the_lower_half_of_its_action():
    rng = np.random.default_rng(0)
    whole, half = make_env(ViewConfig(action_repeat=2)), make_env(ViewConfig(action_repeat=2, brake_dead_zone=0.5))
    for env in (whole, half):
        env.reset(seed=4)
    for brake in (-1.0, -0.6, 0.0, 0.3, 1.0) * 3:
        steer, gas = rng.uniform(-1, 1, 2)
        obs, *outcome, _ = half.step(np.array([steer, gas, brake], np.float32))
        expected, *same, _ = whole.step(np.array([steer, gas, 2.0 * max(brake, 0.0) - 1.0], np.float32))
        np.testing.assert_array_equal(obs, expected)
        assert outcome == same


@pytest.mark.parametrize(
    ("dead_zone", "action", "brake"),
    [
        (0.0, -1.0, 0.0),
        (0.0, 0.25, 0.625),
        (0.1, -0.8, 0.0),
        (0.1, -0.75, 0.025 / 0.9),
        (0.1, 1.0, 1.0),
        (0.04, 1.0, 1.0),
        (0.5, 0.0, 0.0),
        (0.5, 0.25, 0.25),
        (0.9, 0.8, 0.0),
        (0.9, 0.9, 0.5),
    ],
)
def test_the_brake_acts_above_its_dead_zone(dead_zone, action, brake):
    view = ViewConfig(brake_dead_zone=dead_zone)
    controls = controls_of(np.array([0.5, -0.5, action], np.float32), view)
    assert controls == pytest.approx([0.5, 0.25, brake], abs=1e-6)
    assert controls[2] <= 1.0
    assert controls_of(action_of(controls, view), view) == pytest.approx(controls, abs=1e-6)


def test_in_colour_the_stack_holds_three_channels_a_frame():
    for factory in (make_env, make_stock_env):
        env = factory(ViewConfig(frame_stack=2, grayscale=False))
        obs, _ = env.reset(seed=3)
        assert obs.shape == env.observation_space.shape == (6, 84, 84)
        np.testing.assert_array_equal(obs[:3], obs[3:])
        later = env.step(GAS)[0]
        np.testing.assert_array_equal(later[:3], obs[3:])
        green, red = later[4, 10:60].mean(), later[3, 10:60].mean()
        assert green > red + 20, "grass is green: RGB"


@pytest.mark.parametrize("factory", [make_env, make_stock_env])
def test_road_contrast_is_a_map_of_the_levels(factory):
    plain, spread = factory(STOCK_VIEW), factory(ViewConfig(road_contrast=True))
    obs = [env.reset(seed=3)[0] for env in (plain, spread)]
    for _ in range(20):
        np.testing.assert_array_equal(ROAD_CONTRAST[obs[0]], obs[1])
        obs = [env.step(np.array([0.1, 0.2, -1.0], np.float32))[0] for env in (plain, spread)]
    assert np.all(np.diff(ROAD_CONTRAST.astype(int)) >= 0)


def test_road_contrast_shows_which_tiles_were_touched():
    def change_by_touching(view):
        env = AgentView(FastCarRacing(), view)
        env.reset(seed=3)
        for _ in range(15):  # the zoom in
            before, *_ = env.step(COAST)
        game = env.unwrapped
        for tile in game.road[8:14]:
            tile.color[:] = game.road_color
        after = env.refresh_observation()
        return np.abs(before[-1].astype(int) - after[-1]).max()

    assert 0 < change_by_touching(STOCK_VIEW) <= 6
    assert change_by_touching(ViewConfig(road_contrast=True)) >= 40


def test_observation_and_action_spaces():
    env = make_env()
    obs, _ = env.reset(seed=0)
    assert (obs.shape, obs.dtype) == ((4, 84, 84), np.uint8)
    assert env.action_space == gym.spaces.Box(-1.0, 1.0, (3,), np.float32)
    assert len(np.unique(obs[-1])) > 5, "the first frame shows nothing"
    np.testing.assert_array_equal(obs[0], obs[3])


def test_observations_are_the_callers_to_keep():
    env = make_env()
    first, _ = env.reset(seed=0)
    kept = first.copy()
    second, *_ = env.step(GAS)
    np.testing.assert_array_equal(first, kept)
    assert not np.shares_memory(first, second)
