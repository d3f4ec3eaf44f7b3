"""Episodes captured as plain values and brought back, to the last bit."""

import json

import numpy as np
import pytest

from car_racing import FastCarRacing, RulesConfig, ViewConfig, make_env
from tests.driving import GAS, along_the_road, drive_off_the_road, plain_rules, wander

ALL_KINDS = RulesConfig(
    wheel_off_penalty=1.0,
    lost_start_prob=0.15,
    bend_start_prob=0.1,
    hairpin_start_prob=0.1,
    retry_start_prob=0.5,
    mirror_prob=0.3,
)


def through_json(state):
    """What a checkpoint's manifest makes of a state."""
    return json.loads(json.dumps(state, allow_nan=False))


def assert_same_from_here_on(env, other, n_steps):
    """Both are driven on by the same actions; returns how many episodes ended on the way."""
    *mine, ends = wander(env, np.random.default_rng(2), n_steps)
    *theirs, their_ends = wander(other, np.random.default_rng(2), n_steps)
    assert ends == their_ends
    for my_part, their_part in zip(mine, theirs, strict=True):
        np.testing.assert_array_equal(my_part, their_part)
    return len(ends)


@pytest.mark.parametrize("kind", ["lost", "bend", "hairpin"])
def test_a_start_midway_is_resumed_to_the_last_bit(kind):
    rules = plain_rules(**{f"{kind}_start_prob": 0.5}, mirror_prob=0.5)
    env, other = make_env(rules=rules), make_env(rules=rules)
    env.reset(seed=3)
    kinds = set()
    for _ in range(5):
        _, info = env.reset()
        kinds.add(info["start"])
        seen = [env.step(GAS)[0] for _ in range(5)]
        other.reset(seed=99)
        np.testing.assert_array_equal(other.restore_episode(through_json(env.capture_episode())), seen[-1])
        for _ in range(5):
            for mine, theirs in zip(env.step(GAS), other.step(GAS), strict=True):
                np.testing.assert_array_equal(mine, theirs)
    assert kinds == {"lap", kind}


@pytest.mark.parametrize("n_steps", [30, 130, 300])
def test_all_kinds_of_starts_are_resumed_to_the_last_bit_with_the_mistakes_remembered(n_steps):
    env = make_env(rules=ALL_KINDS)
    env.reset(seed=3)
    wander(env, np.random.default_rng(0), n_steps)
    captured = through_json(env.capture_episode())
    other = make_env(rules=ALL_KINDS)
    other.reset(seed=99)
    wander(other, np.random.default_rng(1), 100)
    other.restore_episode(captured)
    assert through_json(other.capture_episode()) == captured
    assert assert_same_from_here_on(env, other, 300) > 3


def test_a_retry_is_resumed_to_the_last_bit_and_ends_where_it_would_have():
    rules = plain_rules(max_idle_frames=100, retry_start_prob=1.0)
    env, other = make_env(rules=rules), make_env(rules=rules)
    env.reset(seed=3)
    drive_off_the_road(env)
    assert env.reset()[1]["start"] == "retry"
    env.step(GAS)
    other.restore_episode(through_json(env.capture_episode()))
    assert other.step(GAS)[4]["start"] == "retry"
    env.step(GAS)
    assert assert_same_from_here_on(env, other, 150) >= 1


def test_a_restored_episode_is_summed_up_as_a_whole():
    """Return, length and frames count from the lap's start, not from where it was brought back."""
    rules = plain_rules(max_idle_frames=100, missed_tile_penalty=40.0)
    env, other = make_env(rules=rules), make_env(rules=rules)
    env.reset(seed=3)
    for _ in range(10):
        env.step(GAS)
    other.restore_episode(env.capture_episode())
    (_, info), (_, same_info) = drive_off_the_road(env), drive_off_the_road(other)
    assert info["episode"]["l"] > 10
    assert info == same_info


def fast_lap(env):
    """An action on a lap that takes 242 steps from reset(seed=4)."""
    return along_the_road(env.unwrapped, ahead=8, speed=60.0)


def lap_past_halfway():
    """An environment whose car has come past halfway and on."""
    env = make_env(ViewConfig(frame_stack=3), plain_rules(bootstrap_lap_end=True))
    env.reset(seed=4)
    for _ in range(170):
        env.step(fast_lap(env))
    assert env.unwrapped.tile_visited_count > 0.6 * len(env.unwrapped.track)
    return env


def come_round(env):
    """The last observation of an episode whose car is on its way round."""
    terminated = truncated = False
    while not (terminated or truncated):
        obs, _, terminated, truncated, info = env.step(fast_lap(env))
    assert truncated
    assert info["episode"]["l"] < 250, "the time ran out"
    return obs


def test_what_is_seen_of_a_restored_episode_is_drawn_and_no_more(monkeypatch):
    """The newest stack, and the one from halfway round, which the lap's end is bootstrapped from."""
    env = lap_past_halfway()
    state = through_json(env.capture_episode())
    other = make_env(ViewConfig(frame_stack=3), env.rules)
    n_drawn, observe = [], FastCarRacing.observe
    monkeypatch.setattr(FastCarRacing, "observe", lambda game: n_drawn.append(1) or observe(game))
    other.restore_episode(state)
    assert len(n_drawn) == 1 + 3 + 3, "the reset, halfway, now"
    np.testing.assert_array_equal(come_round(other), come_round(env))


def test_a_state_that_hides_what_is_seen_of_it_is_refused():
    state = through_json(lap_past_halfway().capture_episode())
    state["episode"]["observed"] = []
    with pytest.raises(ValueError, match="halfway"):
        lap_past_halfway().restore_episode(state)


def test_an_older_state_which_does_not_say_what_is_seen_of_it_is_restored_the_same():
    env = lap_past_halfway()
    state = through_json(env.capture_episode())
    (halfway,) = state["episode"].pop("observed")
    assert 0 < halfway < 170
    other = make_env(ViewConfig(frame_stack=3), env.rules)
    other.restore_episode(state)
    np.testing.assert_array_equal(come_round(other), come_round(env))


def test_a_state_of_the_older_version_begins_a_new_episode_from_its_generator():
    older = {
        "present": {"tracks": np.random.default_rng(1).bit_generator.state, "actions": [[0.0, 1.0, -1.0]]},
        "next_tracks": np.random.default_rng(7).bit_generator.state,
        "choices": np.random.default_rng(8).bit_generator.state,
        "mistakes": [],
        "tiles_when_good": None,
        "has_erred": False,
    }
    env, expected = make_env(rules=ALL_KINDS), make_env(rules=ALL_KINDS)
    obs, _ = expected.reset(seed=7)
    np.testing.assert_array_equal(env.restore_episode(through_json(older)), obs)
    assert_same_from_here_on(env, expected, 50)


def captured_state():
    env = make_env(ViewConfig(action_repeat=10), plain_rules(max_idle_frames=30, retry_start_prob=0.5))
    env.reset(seed=3)
    drive_off_the_road(env)
    env.reset()
    env.step(GAS)
    return through_json(env.capture_episode())


def changed(state, path, value):
    """A copy of a nested state with another value at the end of a path; without a value, the key is left out."""
    key, *rest = path
    copy = dict(state) if isinstance(state, dict) else list(state)
    if rest:
        copy[key] = changed(copy[key], rest, value)
    elif value is MISSING:
        del copy[key]
    else:
        copy[key] = value
    return copy


MISSING = object()
HOSTILE = [
    (["episode"], MISSING),
    (["episode"], None),
    (["episode", "start"], []),
    (["episode", "start", "kind"], "retry"),
    (["episode", "start", "kind"], ["lap"]),
    (["episode", "start", "track_seed"], -1),
    (["episode", "start", "track_seed"], 1.5),
    (["episode", "start", "place_seed"], True),
    (["episode", "start", "is_mirrored"], "no"),
    (["episode", "start", "more"], 1),
    (["episode", "observed"], 5),
    (["episode", "observed"], ["first"]),
    (["episode", "observed"], [1.5]),
    (["episode", "observed"], [-1]),
    (["episode", "observed"], [1000]),
    (["episode", "actions"], 5),
    (["episode", "actions"], None),
    (["episode", "actions"], [[0.0, 1.0]]),
    (["episode", "actions"], [["a", "b", "c"]]),
    (["episode", "actions"], [[float("nan")] * 3]),
    (["episode", "actions"], [[0.0, float("inf"), 0.0]]),
    (["episode", "actions"], [[0.0, 1e300, 0.0]]),
    (["episode", "actions"], [[0.0, 10**400, 0.0]]),
    (["episode", "actions"], [[0.0, -1.0, 1.0]] * 200),
    (["mistakes"], None),
    (["mistakes"], [{}]),
    (["mistakes", 0, "tiles"], "many"),
    (["mistakes", 0, "tiles"], float("inf")),
    (["mistakes", 0, "tiles"], None),
    (["mistakes", 0, "before", "actions"], "none"),
    (["mistakes", 0, "before", "start", "kind"], "bend"),
    (["tiles_at_end"], float("inf")),
    (["tiles_at_end"], []),
    (["rng"], None),
    (["rng"], {}),
    (["rng", "bit_generator"], "MT19937"),
    (["rng", "state"], {"state": -1, "inc": 1}),
    (["rng", "state"], {"state": 2**200, "inc": 1}),
    (["rng", "uinteger"], 2**70),
    (["rng", "has_uint32"], "yes"),
]  # fmt: skip


@pytest.fixture(scope="module")
def state():
    captured = captured_state()
    assert captured["mistakes"] or captured["is_retry"]
    if not captured["mistakes"]:
        mistake = {"before": captured["episode"], "tiles": 20}
        captured = {**captured, "mistakes": [mistake]}
    return captured


@pytest.mark.parametrize(("path", "value"), HOSTILE)
def test_a_hostile_state_raises_what_the_docs_say(state, path, value):
    env = make_env(ViewConfig(action_repeat=10), plain_rules(max_idle_frames=30, retry_start_prob=0.5))
    env.restore_episode(state)
    with pytest.raises((KeyError, TypeError, ValueError)):
        env.restore_episode(changed(state, path, value))


@pytest.mark.parametrize(
    "state", [None, 5, "present", [], {}, {"present": {}}, {"present": {}, "next_tracks": {"state": -1}}]
)
def test_what_is_no_state_at_all_raises_what_the_docs_say(state):
    with pytest.raises((KeyError, TypeError, ValueError)):
        make_env(rules=RulesConfig()).restore_episode(state)


def test_a_restored_episode_remembers_no_second_mistake():
    """The first mistake of an episode is remembered, the later ones may follow from it."""
    rules = plain_rules(max_idle_frames=100, retry_start_prob=0.5)
    env, other = make_env(rules=rules), make_env(rules=rules)
    env.reset(seed=3)
    while not env.capture_episode()["mistakes"]:
        outcome = env.step(along_the_road(env.unwrapped, ahead=14))[2:4]
        assert outcome == (False, False), "it should miss a tile by cutting a bend, and drive on"
    other.restore_episode(through_json(env.capture_episode()))
    for either in (env, other):
        drive_off_the_road(either)
        assert len(either.capture_episode()["mistakes"]) == 1
