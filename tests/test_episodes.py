def test_training_tracks_are_seeded_fresh_and_never_scored():
    def seeds(env, n):
        return [env.reset(seed=5 if i == 0 else None)[1]["track_seed"] for i in range(n)]

    env = make_env(rules=RulesConfig())
    first = seeds(env, 4)
    assert first == seeds(env, 4), "the same seed gives the same sequence of tracks"
    assert len(set(first)) == 4
    assert all(seed in TRAINING_TRACK_SEEDS for seed in first)
    assert not any(track in TRAINING_TRACK_SEEDS for track in (*SCORING_TRACKS, *VALIDATION_TRACKS))
    assert set(SCORING_TRACKS).isdisjoint(VALIDATION_TRACKS)


def test_some_training_tracks_are_mirrored():
    def share_of_clockwise_tracks(options):
        env = make_env(ViewConfig(), options)
        clockwise = []
        for i in range(24):
            env.reset(seed=5 if i == 0 else None)
            clockwise.append(env.unwrapped.track[0][2] < 0.0)  # the start lies to the right of the field's middle
        return np.mean(clockwise)

    assert share_of_clockwise_tracks(RulesConfig()) == 0.0
    assert share_of_clockwise_tracks(RulesConfig(mirror_prob=1.0)) == 1.0
    assert 0.2 < share_of_clockwise_tracks(RulesConfig(mirror_prob=0.5)) < 0.8


def test_the_shares_of_bend_start_prob_lost_start_prob_and_laps():
    env = make_env(ViewConfig(action_repeat=4), RulesConfig(lost_start_prob=0.5, bend_start_prob=0.5))
    on_road = []
    for i in range(40):
        env.reset(seed=5 if i == 0 else None)
        *_, info = env.step(np.zeros(3, np.float32))
        on_road.append("lap" if info["start"] else all(wheel.tiles for wheel in env.unwrapped.car.wheels))
    assert 3 <= on_road.count("lap") <= 17, "half of the half that is not lost"
    assert 3 <= on_road.count(True) <= 22, "some of the lost cars are on the road, too"


def test_a_second_try_begins_shortly_before_the_road_was_lost_as_it_was_driven():
    env = make_env(ViewConfig(), RulesConfig(retry_start_prob=1.0))
    for seed in range(3, 9):
        env.reset(seed=seed)
        game = env.unwrapped
        states, info = drive_off_the_road(env)
        assert info["is_mistake"]
        tiles = [state[-2] for state in states]
        when_lost = tiles.index(tiles[-1])
        track = list(game.track)
        obs, _ = env.reset()
        assert game.track == track
        first, last = FRAMES_BEFORE_MISTAKE
        steps_back = when_lost - states.index(state_of(game))
        assert first // 4 <= steps_back <= last // 4 or state_of(game) == states[0]
        np.testing.assert_array_equal(obs[-1], game.observe())


def test_a_mistake_is_tried_again_until_it_is_made_good_and_none_of_that_is_a_lap():
    env = make_env(ViewConfig(), RulesConfig(retry_start_prob=1.0))
    env.reset(seed=3)
    game = env.unwrapped
    _, info = drive_off_the_road(env)
    assert "episode" in info
    first_track, n_tiles = list(game.track), game.tile_visited_count
    for _ in range(2):
        env.reset()
        assert game.track == first_track
        _, info = drive_off_the_road(env)
        assert info["is_mistake"]
        assert "episode" not in info
    env.reset()
    assert game.track == first_track
    ended = False
    while not ended:
        *_, terminated, truncated, info = env.step(along_the_road(game))
        ended = terminated or truncated
    assert (terminated, truncated, info["is_mistake"]) == (False, True, False)
    assert TILES_TO_RECOVER <= game.tile_visited_count - n_tiles < 2 * TILES_TO_RECOVER
    assert "episode" not in info
    env.reset()
    assert game.track != first_track


def test_retry_start_prob_leave_the_order_of_the_new_tracks_as_it_was():
    def tracks(fraction, n_episodes):
        env = make_env(ViewConfig(action_repeat=50), RulesConfig(retry_start_prob=fraction))
        env.reset(seed=3)
        met = [tuple(env.unwrapped.track)]
        while len(met) < n_episodes:
            *_, terminated, truncated, _ = env.step(GAS)
            if terminated or truncated:
                env.reset()
                met.append(tuple(env.unwrapped.track))
        return met

    new = tracks(0.0, 6)
    assert len(set(new)) == 6
    mixed = tracks(0.5, 12)
    in_order = list(dict.fromkeys(mixed))
    assert 1 < len(in_order) < 12
    assert in_order[:6] == new[: len(in_order)]


def test_a_lost_start_that_goes_wrong_is_not_tried_again():
    env = make_env(ViewConfig(action_repeat=10), RulesConfig(lost_start_prob=1.0, retry_start_prob=1.0))
    env.reset(seed=3)
    for _ in range(3):
        track = list(env.unwrapped.track)
        terminated = False
        while not terminated:
            *_, terminated, _, info = env.step(BRAKE)
        assert info["is_mistake"]
        env.reset()
        assert env.unwrapped.track != track


def test_a_finished_lap_is_no_mistake():
    env = make_env(ViewConfig(action_repeat=1), RulesConfig())
    env.reset(seed=0)
    game = env.unwrapped
    game.tile_visited_count = len(game.track)
    *_, terminated, _, info = env.step(BRAKE)
    assert terminated
    assert not info["is_mistake"]
