"""Episodes of training, captured and restored: exact, and with the documented errors for what is no state."""

import copy

import numpy as np
import pytest

from car_racing import RulesConfig, ViewConfig, make_env, tiles_visited

GAS = np.array([0.0, 1.0, -1.0], dtype=np.float32)
MIXED = RulesConfig(
    wheel_off_penalty=1.0, lost_start_prob=0.2, bend_start_prob=0.2, retry_start_prob=0.4, mirror_prob=0.5
)


def drive(env, seed, n_steps):
    """Drive at random; all that was seen, rewarded, and said about each step."""
    rng = np.random.default_rng(seed)
    seen, said = [], []
    for _ in range(n_steps):
        obs, reward, terminated, truncated, info = env.step(rng.uniform([-1, 0, -1], [1, 1, -0.8]).astype(np.float32))
        said.append((reward, terminated, truncated, info["start"], "episode" in info))
        if terminated or truncated:
            obs, _ = env.reset()
        seen.append(obs)
    return np.array(seen), said


def test_all_kinds_of_episodes_are_restored_to_the_last_bit():
    env, other = make_env(rules=MIXED), make_env(rules=MIXED)
    env.reset(seed=3)
    other.reset(seed=99)
    kinds = set()
    while kinds != {"lap", "lost", "bend", "retry"}:
        drive(env, 0, 25)
        latest = env.step(GAS)
        if latest[2] or latest[3]:
            env.reset()
            continue
        kinds.add(latest[4]["start"])
        state = env.capture_episode()
        np.testing.assert_array_equal(other.restore_episode(state), latest[0])
        assert other.capture_episode() == state
        (mine, my_words), (theirs, their_words) = drive(env, 1, 120), drive(other, 1, 120)
        np.testing.assert_array_equal(mine, theirs)
        assert my_words == their_words


def test_of_an_older_versions_state_only_the_random_numbers_are_taken_over():
    env, other = make_env(rules=MIXED), make_env(rules=MIXED)
    env.reset(seed=3)
    older = {
        "present": {"tracks": {}, "actions": []},
        "next_tracks": np.random.default_rng(17).bit_generator.state,
        "choices": np.random.default_rng(18).bit_generator.state,
        "mistakes": [],
        "tiles_when_good": None,
        "has_erred": False,
    }
    np.testing.assert_array_equal(env.restore_episode(older), other.reset(seed=17)[0])
    assert env.capture_episode() == other.capture_episode()


PLACES = [
    ("episode",),
    ("episode", "start"),
    ("episode", "start", "kind"),
    ("episode", "start", "track_seed"),
    ("episode", "start", "is_mirrored"),
    ("episode", "start", "place_seed"),
    ("episode", "actions"),
    ("tiles_at_end",),
    ("mistakes",),
    ("rng",),
    ("rng", "state"),
    ("rng", "state", "state"),
    ("rng", "uinteger"),
]
HOSTILE = [-1, 10**400, float("nan"), float("inf"), "x", [[10**400, 0, 0]], [[float("nan")] * 3], [[0, 0, 0]] * 2000]


@pytest.mark.parametrize("place", PLACES, ids=".".join)
def test_a_state_that_is_none_raises_what_is_documented(place):
    env = make_env(ViewConfig(action_repeat=50), MIXED)
    env.reset(seed=3)
    env.step(GAS)
    state = env.capture_episode()
    n_refused = 0
    for value in HOSTILE:
        changed = part = copy.deepcopy(state)
        for name in place[:-1]:
            part = part[name]
        part[place[-1]] = value
        try:
            env.restore_episode(changed)
        except (KeyError, TypeError, ValueError):
            n_refused += 1
    assert n_refused >= 4, "nearly all of these are no state"
    env.restore_episode(state)
    assert env.capture_episode() == state


@pytest.mark.parametrize("state", [None, [], 3, "x", {}, {"present": 1}, {"present": 1, "next_tracks": {}}])
def test_what_is_no_state_at_all(state):
    env = make_env(rules=RulesConfig())
    env.reset(seed=3)
    with pytest.raises((KeyError, TypeError, ValueError)):
        env.restore_episode(state)


def reward_of_lifted_car(progress):
    """The reward of a step in which the car was lifted over some tiles."""
    env = make_env(ViewConfig(), RulesConfig(missed_tile_penalty=7.0, lost_start_prob=0.0, mirror_prob=0.0))
    if progress is not None:
        env.set_progress(progress)
    env.reset(seed=5)
    game = env.unwrapped
    shift = np.subtract(game.track[20][2:4], game.track[2][2:4])
    for body in (game.car.hull, *game.car.wheels):
        body.position = tuple(np.add(body.position, shift))
    reward = env.step(GAS)[1]
    assert tiles_visited(env) > 1
    return reward


def test_the_progress_scales_the_penalty_for_missed_tiles():
    free = reward_of_lifted_car(0.0)
    full = free - reward_of_lifted_car(1.0)
    assert full == pytest.approx(5 * 7.0), "five tiles at most in one step"
    assert free - reward_of_lifted_car(0.25) == pytest.approx(0.25 * full)
    assert free - reward_of_lifted_car(None) == pytest.approx(full), "in full until it is said"


@pytest.mark.parametrize("progress", [-0.1, 1.1, float("nan")])
def test_a_progress_that_is_no_fraction_is_refused(progress):
    with pytest.raises(ValueError, match=r"in \[0, 1\]"):
        make_env(rules=RulesConfig()).set_progress(progress)
