"""The picture that the fast game draws, against the stock one shrunk to its size."""

import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from gymnasium.envs.box2d.car_racing import CarRacing

from car_racing import FastCarRacing, stock_colour_frame, stock_frame
from references.stock_picture import compare


@pytest.mark.parametrize(("grayscale", "n_seeds"), [(True, 3), (False, 2)])
def test_the_picture_is_the_stock_one_within_a_level(grayscale, n_seeds, show):
    """Over the first second's zoom, driving, spinning, kerbs, visited tiles and the field's black edge."""
    found = compare(seeds=range(n_seeds), n_frames=150, grayscale=grayscale)
    show(f"{'grey' if grayscale else 'colour'}: {found}")
    assert found.mean_difference <= 1.0
    assert found.fraction_off_by_16 <= 0.01
    assert found.fraction_black > 0.02, "the field's edge was not in the picture"
    assert found.fraction_kerb > 0.05, "hardly a kerb was in the picture"
    assert found.n_visited > 50, "hardly a tile was visited"


def test_the_picture_with_randomised_colours(show):
    found = compare(seeds=range(2), n_frames=60, grayscale=True, domain_randomize=True)
    show(f"randomised colours: {found}")
    assert found.mean_difference <= 1.0
    assert found.fraction_off_by_16 <= 0.01


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


@pytest.mark.parametrize("size", [83, 96])
def test_another_frame_size_is_refused_at_import(size):
    """Places in the picture were measured at 84; another size would draw the car beside them without an error."""
    program = (
        "import importlib.util, sys\n"
        "spec = importlib.util.find_spec('car_racing')\n"
        "sys.modules['car_racing'] = importlib.util.module_from_spec(spec)\n"  # not run: it would import the renderer
        "import car_racing.config\n"
        f"car_racing.config.FRAME_SIZE = {size}\n"
        "import car_racing.renderer\n"
    )
    root = Path(__file__).resolve().parent.parent
    run = subprocess.run([sys.executable, "-c", program], cwd=root, capture_output=True, text=True)
    assert run.returncode == 1
    assert f"ImportError: FRAME_SIZE is {size}" in run.stderr
    assert "CAR_ROWS" in run.stderr, "the message should name what must be measured anew"
