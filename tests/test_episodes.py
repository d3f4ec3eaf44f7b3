"""The episodes of a training: how each begins, and what becomes of mistakes."""

import numpy as np
import pytest

from car_racing import (
    TRAINING_TRACK_SEEDS,
    RulesConfig,
    SettingError,
    TrainingEpisodes,
    ViewConfig,
    make_env,
    tiles_visited,
)
from car_racing.episodes import FRAMES_BEFORE_MISTAKE
from car_racing.starts import TILES_TO_RECOVER
from tests.driving import (
    BRAKE,
    GAS,
    along_the_road,
    drive_off_the_road,
    drive_to_end,
    plain_rules,
    resets,
    state_of,
)
from tracks import SCORING_TRACKS, VALIDATION_TRACKS

# Full gas straight on leaves the road and, after a while without a new tile, ends the episode.
RETRIES = plain_rules(max_idle_frames=100, retry_start_prob=1.0)


def test_training_tracks_are_seeded_fresh_and_never_scored():
    env = make_env(rules=RulesConfig())

    def seeds():
        return [info["track_seed"] for _, info in resets(env, 4, seed=5)]

    first = seeds()
    assert first == seeds(), "the same seed gives the same sequence of tracks"
    assert len(set(first)) == 4
    assert all(seed in TRAINING_TRACK_SEEDS for seed in first)
    assert not any(track in TRAINING_TRACK_SEEDS for track in (*SCORING_TRACKS, *VALIDATION_TRACKS))


def test_training_tracks_come_from_the_whole_range():
    env = make_env(rules=RulesConfig())
    env.reset(seed=5)
    drawn = [env._draw_track("lap") for _ in range(200)]
    assert min(drawn) >= 1_000_000
    assert max(drawn) > 1_900_000_000
    assert len(set(drawn)) == 200


def test_some_training_tracks_are_mirrored_whatever_the_start():
    def fraction_clockwise(rules):
        # The start of a clockwise track lies to the left of the field's middle.
        env = make_env(rules=rules)
        return np.mean([env.unwrapped.track[0][2] < 0.0 for _ in resets(env, 24, seed=5)])

    assert fraction_clockwise(plain_rules()) == 0.0
    assert fraction_clockwise(plain_rules(mirror_prob=1.0)) == 1.0
    assert 0.2 < fraction_clockwise(plain_rules(mirror_prob=0.5)) < 0.8
    assert 0.2 < fraction_clockwise(plain_rules(mirror_prob=0.5, lost_start_prob=1.0)) < 0.8


def test_the_kinds_of_starts_come_with_their_probabilities():
    """One distribution: five kinds of 0.2 each, laps among them. The bounds are four standard deviations wide."""
    rules = plain_rules(
        max_idle_frames=100, lost_start_prob=0.2, bend_start_prob=0.2, hairpin_start_prob=0.2, retry_start_prob=0.2
    )
    env = make_env(ViewConfig(action_repeat=50), rules)
    env.reset(seed=5)
    while not (mistakes := env.capture_episode()["mistakes"]):
        drive_off_the_road(env)
        env.reset()
    kinds = []
    for _ in range(100):
        kinds.append(env.reset()[1]["start"])
        if kinds[-1] == "retry":  # a retry that went wrong would be remembered again
            env.restore_episode({**env.capture_episode(), "mistakes": mistakes})
    for kind in ("lap", "lost", "bend", "hairpin", "retry"):
        assert 4 <= kinds.count(kind) <= 36, kind


def test_without_a_mistake_a_retry_is_a_lap():
    env = make_env(rules=plain_rules(retry_start_prob=1.0))
    assert [info["start"] for _, info in resets(env, 4, seed=5)] == ["lap"] * 4
    some_lost = make_env(rules=plain_rules(retry_start_prob=0.5, lost_start_prob=0.5))
    kinds = [info["start"] for _, info in resets(some_lost, 40, seed=5)]
    assert set(kinds) == {"lap", "lost"}
    assert 8 <= kinds.count("lost") <= 32, "the probability of a retry goes to laps, not to the other kinds"


@pytest.mark.parametrize(
    ("bend", "hairpin", "retry"), [(0.4, 0.0, 0.0), (0.0, 0.4, 0.0), (0.0, 0.0, 0.4), (0.1, 0.1, 0.2)]
)
def test_probabilities_of_starts_that_add_up_to_more_than_one_are_refused(bend, hairpin, retry):
    with pytest.raises(SettingError, match=r"add up to 1\.1;"):
        RulesConfig(lost_start_prob=0.7, bend_start_prob=bend, hairpin_start_prob=hairpin, retry_start_prob=retry)
    RulesConfig(lost_start_prob=0.6, bend_start_prob=bend, hairpin_start_prob=hairpin, retry_start_prob=retry)


def test_a_retry_begins_shortly_before_the_road_was_lost_as_it_was_driven():
    env = make_env(ViewConfig(road_contrast=False), RETRIES)
    for seed in range(3, 9):
        env.reset(seed=seed)
        game = env.unwrapped
        states, _ = drive_off_the_road(env)
        tiles = [state[-2] for state in states]
        when_lost = tiles.index(tiles[-1])
        track = list(game.track)
        obs, info = env.reset()
        assert info["start"] == "retry"
        assert game.track == track
        first, last = FRAMES_BEFORE_MISTAKE
        steps_back = when_lost - states.index(state_of(game))
        assert first // 4 <= steps_back <= last // 4 or state_of(game) == states[0]
        np.testing.assert_array_equal(obs[-1], game.observe())


def test_a_mistake_is_tried_again_until_it_is_made_good_and_none_of_that_is_a_lap():
    env = make_env(ViewConfig(), RETRIES)
    env.reset(seed=3)
    game = env.unwrapped
    _, info = drive_off_the_road(env)
    assert "episode" in info
    first_track, n_tiles = list(game.track), game.tile_visited_count
    for _ in range(2):
        assert env.reset()[1]["start"] == "retry"
        assert game.track == first_track
        _, info = drive_off_the_road(env)
        assert info["start"] == "retry"
        assert info.keys().isdisjoint({"episode", "is_success"})
    env.reset()
    assert game.track == first_track
    terminated, truncated, info = drive_to_end(env, along_the_road)
    assert (terminated, truncated) == (False, True)
    assert TILES_TO_RECOVER <= game.tile_visited_count - n_tiles < 2 * TILES_TO_RECOVER
    assert info.keys().isdisjoint({"episode", "is_success"})
    assert env.reset()[1]["start"] == "lap", "the mistake is made good"
    assert game.track != first_track


def test_only_the_newest_mistakes_are_remembered():
    env = make_env(ViewConfig(action_repeat=50), plain_rules(max_idle_frames=100, retry_start_prob=1e-9))
    seeds = []
    for _, info in resets(env, 11, seed=3):
        seeds.append(info["track_seed"])
        drive_off_the_road(env)
    remembered = [mistake["before"]["start"]["track_seed"] for mistake in env.capture_episode()["mistakes"]]
    assert remembered == seeds[-8:]


def test_any_of_the_remembered_mistakes_is_tried_again():
    chosen = set()
    env = make_env(ViewConfig(action_repeat=50), plain_rules(max_idle_frames=100, retry_start_prob=1e-9))
    seeds = []
    for _, info in resets(env, 3, seed=3):
        seeds.append(info["track_seed"])
        drive_off_the_road(env)
    env.reset()
    state = env.capture_episode()
    for number in range(12):
        env.restore_episode(state)
        env._rng = np.random.default_rng(number)
        _, info = env._begin_retry()
        chosen.add(info["track_seed"])
    assert chosen == set(seeds)


def test_a_lost_start_that_goes_wrong_is_not_tried_again():
    env = make_env(
        ViewConfig(action_repeat=10), plain_rules(max_idle_frames=100, lost_start_prob=0.5, retry_start_prob=0.5)
    )
    env.reset(seed=3)
    kinds = []
    while kinds.count("lost") < 3:
        *_, info = drive_to_end(env, lambda _: BRAKE)
        kinds.append(info["start"])
        remembered = env.capture_episode()["mistakes"]
        env.reset()
        if kinds[-1] == "lost":
            assert all(mistake["before"]["start"]["kind"] == "lap" for mistake in remembered)


def test_a_finished_lap_is_no_mistake():
    env = make_env(ViewConfig(action_repeat=1), plain_rules(retry_start_prob=1.0))
    env.reset(seed=0)
    game = env.unwrapped
    game.tile_visited_count = len(game.track)
    *_, terminated, _, info = env.step(BRAKE)
    assert terminated
    assert info["is_success"]
    assert env.reset()[1]["start"] == "lap"


def test_a_seeded_reset_forgets_mistakes():
    env = make_env(ViewConfig(action_repeat=50), RETRIES)
    env.reset(seed=3)
    drive_off_the_road(env)
    assert env.reset(seed=3)[1]["start"] == "lap"


def test_options_of_reset_have_no_effect_on_training():
    env, other = (make_env(rules=plain_rules()) for _ in range(2))
    np.testing.assert_array_equal(env.reset(seed=4)[0], other.reset(seed=4, options={"mirrored": True})[0])
    assert env.unwrapped.track == other.unwrapped.track


def test_infos_of_a_training_say_how_the_episode_began():
    env = make_env(rules=plain_rules(lost_start_prob=0.5))
    assert isinstance(env, TrainingEpisodes)
    for _, info in resets(env, 6, seed=5):
        start = info["start"]
        assert env.step(GAS)[4]["start"] == start
        assert start in ("lap", "lost")
        assert tiles_visited(env) >= 1
