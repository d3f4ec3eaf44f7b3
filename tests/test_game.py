"""The fast game against the stock one: the same to the last bit, whatever it is asked."""

import pickle

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.envs.box2d.car_racing import TRACK_WIDTH
from gymnasium.utils.env_checker import check_env
from gymnasium.wrappers import TimeLimit

from car_racing import FAST_ID, FastCarRacing, make_env
from references.stock_picture import POLICIES
from tests.driving import STOCK_VIEW, UndrawnCarRacing

N_SEEDS = 42


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


def test_bit_equal_to_the_stock_game_over_many_seeds(show):
    fast, stock = FastCarRacing(draws_every_frame=False), UndrawnCarRacing()
    fast_env, stock_env = TimeLimit(fast, 1000), TimeLimit(stock, 1000)
    frames = terminations = truncations = 0
    for seed in range(N_SEEDS):
        policy = POLICIES[list(POLICIES)[seed % len(POLICIES)]](seed)
        _, fast_info = fast_env.reset(seed=seed)
        _, stock_info = stock_env.reset(seed=seed)
        assert fast_info == stock_info
        assert fast.track == stock.track
        for i in range(1000 if seed % 20 == 1 else 250):
            action = policy(i, stock)
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


def test_resets_leave_nothing_behind():
    """The world holds this track and this car; nothing of earlier ones would slow it down and fill the memory."""
    env = FastCarRacing()
    for seed in range(10):
        env.reset(seed=seed, options={"mirrored": seed % 2 == 1})
        env.step(np.array([0.0, 1.0, 0.0]))
        assert env.world.bodyCount == len(env.road) + len([env.car.hull, *env.car.wheels])
        assert env.world.contactCount < 50


def test_a_mirrored_track_is_driven_like_the_track_with_the_steering_turned_round():
    """To rounding; to the last bit it cannot be, Box2D adds up in the order of the corners."""

    def drive(mirrored):
        env = make_env(STOCK_VIEW)
        env.reset(seed=7, options={"mirrored": mirrored})
        game = env.unwrapped
        side = -1.0 if mirrored else 1.0
        # Through the first bend to the left, and off the road behind it.
        actions = [(0.0, 0.6, -1.0)] * 14 + [(0.4, 0.2, -1.0)] * 6
        steps = [env.step(np.array((side * steer, gas, brake), np.float32)) for steer, gas, brake in actions]
        x, y = game.car.hull.position
        pictures = np.array([obs[-1] for obs, *_ in steps])
        visited = [tile.road_visited for tile in game.road]
        return (side * x, y, side * game.car.hull.angle), [step[1] for step in steps], pictures, visited

    place, rewards, pictures, visited = drive(mirrored=False)
    mirrored_place, mirrored_rewards, mirrored_pictures, mirrored_visited = drive(mirrored=True)
    np.testing.assert_allclose(mirrored_place, place, atol=1e-3)
    np.testing.assert_allclose(mirrored_rewards, rewards, atol=1e-9)
    assert mirrored_visited == visited
    assert sum(visited) > 10
    # What is road is to be seen on the other side. Grass has its patches where it had them before.
    is_road = pictures[:, :70, ::-1] < 120
    np.testing.assert_array_less((is_road != (mirrored_pictures[:, :70] < 120)).mean(axis=(1, 2)), 0.05)


def test_a_mirrored_track_lies_as_the_game_would_lay_it_and_only_where_asked():
    def track(options):
        env = make_env(STOCK_VIEW)
        env.reset(seed=5, options=options)
        game = env.unwrapped
        return np.array(game.track)[:, 1:], game

    (plain, _), (back, _) = track(None), track({"mirrored": False})
    np.testing.assert_array_equal(plain, back)
    mirrored, game = track({"mirrored": True})
    np.testing.assert_array_equal(mirrored, plain * (-1.0, -1.0, 1.0))
    # Clockwise: the headings turn by minus a full circle.
    turns = np.diff(np.append(mirrored[:, 0], mirrored[0, 0]))
    assert ((turns + np.pi) % (2 * np.pi) - np.pi).sum() == pytest.approx(-2 * np.pi)
    # A tile's corners, as CarRacing derives them from heading and place: left and right of the middle, here and before.
    across = TRACK_WIDTH * np.stack([np.cos(mirrored[:, 0]), np.sin(mirrored[:, 0])], axis=1)
    left, right = mirrored[:, 1:] - across, mirrored[:, 1:] + across
    corners = np.stack([left, right, np.roll(right, 1, axis=0), np.roll(left, 1, axis=0)], axis=1)
    tile_polygons = {tuple(map(tuple, np.round(c, 6))) for c, _ in game.road_poly}
    assert {tuple(map(tuple, np.round(c, 6))) for c in corners} <= tile_polygons
    for tile, its_corners in zip(game.road, corners, strict=True):
        (fixture,) = tile.fixtures
        assert fixture.sensor
        vertices = np.array(fixture.shape.vertices)
        distances = np.linalg.norm(vertices[:, None] - its_corners[None], axis=2)
        np.testing.assert_allclose(distances.min(axis=1), 0.0, atol=1e-4)
