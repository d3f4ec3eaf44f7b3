"""The fast environment against the stock one: the same game to the last bit, the same picture within a grey level."""

import gc
import pickle

import cv2
import gymnasium as gym
import numpy as np
import psutil
import pytest
from gymnasium.envs.box2d.car_racing import CarRacing
from gymnasium.utils.env_checker import check_env
from gymnasium.wrappers import TimeLimit

from benchmarks.fidelity import DRIVERS, compare
from car_racing import FAST_ID, FastCarRacing, stock_colour_frame, stock_frame

N_SEEDS = 102


class UndrawnCarRacing(CarRacing):
    """The stock game without its picture, which costs 99% of its time and changes nothing."""

    def _render(self, mode):
        return None


def physical_state(env):
    """Everything that moves, and all that was counted."""
    bodies = [env.car.hull, *env.car.wheels]
    return (
        [
            (*body.position, *body.linearVelocity, body.angle, body.angularVelocity, *body.localCenter)
            for body in bodies
        ],
        [
            (
                w.omega,
                w.phase,
                w.gas,
                w.brake,
                w.steer,
                w.joint.angle,
                w.joint.motorSpeed,
                sorted(t.idx for t in w.tiles),
            )
            for w in env.car.wheels
        ],
        [(particle.color, particle.grass, particle.poly) for particle in env.car.particles],
        [tuple(tile.color) for tile in env.road],
        [tile.road_visited for tile in env.road],
        (env.car.fuel_spent, env.reward, env.prev_reward, env.tile_visited_count, env.t),
    )


def test_bit_equal_to_the_stock_game_over_a_hundred_seeds(show):
    fast, stock = FastCarRacing(draws_every_frame=False), UndrawnCarRacing()
    fast_env, stock_env = TimeLimit(fast, 1000), TimeLimit(stock, 1000)
    frames = terminations = truncations = 0
    for seed in range(N_SEEDS):
        driver = DRIVERS[list(DRIVERS)[seed % len(DRIVERS)]](seed)
        _, fast_info = fast_env.reset(seed=seed)
        _, stock_info = stock_env.reset(seed=seed)
        assert fast_info == stock_info
        assert fast.track == stock.track
        for i in range(1000 if seed % 20 == 1 else 250):
            action = driver(i, stock)
            _, *fast_outcome = fast_env.step(action)
            _, *stock_outcome = stock_env.step(action)
            assert fast_outcome == stock_outcome, f"seed {seed}, frame {i}"
            frames += 1
            if i % 25 == 0 or stock_outcome[1]:
                assert physical_state(fast) == physical_state(stock), f"seed {seed}, frame {i}"
            terminations += stock_outcome[1]
            truncations += stock_outcome[2]
            if stock_outcome[1] or stock_outcome[2]:
                break
        assert physical_state(fast) == physical_state(stock), f"seed {seed}"
        assert fast.np_random.bit_generator.state == stock.np_random.bit_generator.state
    show(f"bit-equal over {N_SEEDS} seeds, {frames} frames, {terminations} terminations, {truncations} truncations")
    assert terminations > 0, "no episode terminated"
    assert truncations > 0, "no episode was truncated"


@pytest.mark.parametrize("grayscale", [True, False])
def test_the_picture_is_the_stock_one_within_a_level(grayscale, show):
    """Over the first second's zoom, driving, spinning, kerbs, visited tiles and the field's black edge."""
    found = compare(seeds=range(4), n_frames=160, grayscale=grayscale)
    show(f"{'grey' if grayscale else 'colour'}: {found}")
    assert found.mean_difference <= 1.0
    assert found.share_off_by_16 <= 0.01
    assert found.share_black > 0.02, "the field's edge was not in the picture"
    assert found.share_kerb > 0.05, "hardly a kerb was in the picture"
    assert found.n_visited > 50, "hardly a tile was visited"


def test_the_picture_with_randomised_colours(show):
    found = compare(seeds=range(3), n_frames=80, grayscale=True, domain_randomize=True)
    show(f"randomised colours: {found}")
    assert found.mean_difference <= 1.0
    assert found.share_off_by_16 <= 0.01


def test_a_tile_that_was_visited_loses_its_tint_in_the_picture():
    env = FastCarRacing(draws_every_frame=False)
    env.reset(seed=0)
    env.observe()
    renderer_map = env._renderer.track.levels[0]
    before = renderer_map.copy()
    for _ in range(60):
        env.step(np.array([0.0, 0.5, 0.0]))
    env.observe()
    changed = before != renderer_map
    assert changed.sum() > 100
    assert set(np.unique(renderer_map[changed])) == {100}, "the plain road's grey"


def test_every_indicator_is_read_off_the_picture():
    """Each sense, changed alone by a lot, must show in the strip as it does in the stock picture."""
    fast, stock = FastCarRacing(), CarRacing()
    fast.reset(seed=0)
    stock.reset(seed=0)

    def pictures():
        for env in (fast, stock):
            env.surf = None
        fast._shown_reward = fast.reward
        return fast.observe().astype(int)[74:], stock_frame(stock._render("state_pixels")).astype(int)[74:]

    changes = {
        "speed": lambda env: setattr(env.car.hull, "linearVelocity", (40.0, 30.0)),
        "wheel 0": lambda env: setattr(env.car.wheels[0], "omega", 90.0),
        "wheel 1": lambda env: setattr(env.car.wheels[1], "omega", 90.0),
        "wheel 2": lambda env: setattr(env.car.wheels[2], "omega", 90.0),
        "wheel 3": lambda env: setattr(env.car.wheels[3], "omega", 90.0),
        "gyro": lambda env: setattr(env.car.hull, "angularVelocity", 4.0),
        "gyro, other way": lambda env: setattr(env.car.hull, "angularVelocity", -4.0),
        "score": lambda env: setattr(env, "reward", 837.0),
    }
    for name, change in changes.items():
        fast_before, stock_before = pictures()
        for env in (fast, stock):
            change(env)
        fast_after, stock_after = pictures()
        stock_moved = np.abs(stock_after - stock_before)
        assert stock_moved.max() > 10, name
        np.testing.assert_allclose(fast_after - fast_before, stock_after - stock_before, atol=8, err_msg=name)


def test_steering_is_read_off_the_picture():
    fast, stock = FastCarRacing(), CarRacing()
    fast.reset(seed=0)
    stock.reset(seed=0)
    steering_place = (slice(76, 80), slice(34, 50))
    for steer in (1.0, -1.0):
        for _ in range(20):
            fast_obs, stock_obs = (env.step(np.array([steer, 0.0, 0.0]))[0] for env in (fast, stock))
        fast_bar, stock_bar = fast_obs[steering_place].astype(int), stock_frame(stock_obs)[steering_place].astype(int)
        assert stock_bar.max() > 100, "the bar is not where this test looks"
        np.testing.assert_allclose(fast_bar, stock_bar, atol=8)


def test_a_window_for_people_can_be_opened():
    env = gym.make(FAST_ID, render_mode="human")
    env.reset(seed=0)
    for _ in range(3):
        obs = env.step(np.array([0.0, 1.0, 0.0]))[0]
    assert obs.shape == (84, 84)
    env.close()


def test_observations_of_step_are_the_callers_own():
    env = FastCarRacing()
    first, _ = env.reset(seed=0)
    kept = first.copy()
    second = env.step(np.array([0.0, 1.0, 0.0]))[0]
    np.testing.assert_array_equal(first, kept)
    assert not np.shares_memory(first, second)


def test_render_for_people_is_gymnasiums_own_picture():
    fast, stock = gym.make(FAST_ID, render_mode="rgb_array"), gym.make("CarRacing-v3", render_mode="rgb_array")
    for env in (fast, stock):
        env.reset(seed=2)
        for _ in range(70):
            env.step(np.array([0.4, 0.8, 0.0]))  # enough of a skid to leave marks
    assert fast.unwrapped.car.particles
    np.testing.assert_array_equal(fast.render(), stock.render())


@pytest.mark.parametrize("kwargs", [{}, {"grayscale": False}, {"domain_randomize": True}, {"continuous": False}])
def test_any_library_can_make_it(kwargs):
    env = gym.make(f"car_racing:{FAST_ID}", **kwargs)
    obs, _ = env.reset(seed=1)
    assert obs.shape == ((84, 84, 3) if kwargs.get("grayscale") is False else (84, 84))
    assert env.spec.max_episode_steps == 1000
    check_env(env.unwrapped, skip_render_check=True)


def test_a_pickled_environment_keeps_its_options():
    env = pickle.loads(pickle.dumps(FastCarRacing(grayscale=False, domain_randomize=True)))
    assert env.reset(seed=0)[0].shape == (84, 84, 3)
    assert env.domain_randomize


def test_colours_follow_each_reset_of_a_randomised_environment():
    env = FastCarRacing(domain_randomize=True, grayscale=False)
    stock = CarRacing(domain_randomize=True)
    env.reset(seed=0)
    stock.reset(seed=0)
    for options in (None, {"randomize": False}, {"randomize": True}):
        fast_obs, stock_obs = env.reset(options=options)[0], stock.reset(options=options)[0]
        difference = np.abs(fast_obs.astype(int) - stock_colour_frame(stock_obs))
        assert difference.mean(axis=(0, 1)).max() < 1.0, "a channel is off"


def test_grey_is_the_grey_of_the_colours():
    grey_env, colour_env = FastCarRacing(), FastCarRacing(grayscale=False)
    grey_obs, colour_obs = grey_env.reset(seed=5)[0], colour_env.reset(seed=5)[0]
    for _ in range(60):
        difference = np.abs(grey_obs.astype(int) - cv2.cvtColor(colour_obs, cv2.COLOR_RGB2GRAY))
        assert difference.max() <= 2
        grey_obs, colour_obs = (env.step(np.array([0.1, 0.5, 0.0]))[0] for env in (grey_env, colour_env))


def test_resets_leave_nothing_behind():
    env = FastCarRacing()
    process = psutil.Process()

    def memory_after(n_resets):
        for seed in range(n_resets):
            env.reset(seed=seed)
            env.step(np.array([0.0, 1.0, 0.0]))
        gc.collect()
        return process.memory_info().rss

    before = memory_after(100)
    n_bodies = env.world.bodyCount
    after = memory_after(300)
    assert env.world.bodyCount <= n_bodies + 150, "bodies of old tracks are still in the world"
    assert after - before < 8 * 2**20
