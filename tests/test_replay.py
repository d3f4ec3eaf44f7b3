@pytest.mark.parametrize("kind", ["lost_start_prob", "bend_start_prob"])
def test_a_start_midway_is_resumed_to_the_last_bit(kind):
    def drive_on(env, n_steps):
        steps = [env.step(GAS)[:2] for _ in range(n_steps)]
        return [obs for obs, _ in steps], [reward for _, reward in steps]

    rules = RulesConfig(**{kind: 0.5}, mirror_prob=0.5)
    env = make_env(ViewConfig(), rules)
    env.reset(seed=3)
    are_laps = set()
    for _ in range(4):
        env.reset()
        drive_on(env, 5)
        are_laps.add(env.step(GAS)[4]["is_lap"])
        other = make_env(ViewConfig(), rules)
        other.reset(seed=99)
        other.restore_episode(env.capture_episode())
        for mine, theirs in zip(drive_on(env, 5), drive_on(other, 5), strict=True):
            np.testing.assert_array_equal(mine, theirs)
    assert are_laps == {False, True}


@pytest.mark.parametrize("n_steps", [30, 130, 300])
def test_retry_start_prob_are_resumed_to_the_last_bit(n_steps):
    rules = RulesConfig(
        wheel_off_penalty=1.0, lost_start_prob=0.15, bend_start_prob=0.3, mirror_prob=0.3, retry_start_prob=0.7
    )
    env = make_env(ViewConfig(), rules)
    env.reset(seed=3)
    wander(env, np.random.default_rng(0), n_steps)
    captured = env.capture_episode()
    other = make_env(ViewConfig(), rules)
    other.reset(seed=99)
    wander(other, np.random.default_rng(1), 100)
    other.restore_episode(captured)
    *mine, ends = wander(env, np.random.default_rng(2), 300)
    *theirs, their_ends = wander(other, np.random.default_rng(2), 300)
    assert len(ends) > 3
    assert ends == their_ends
    for my_part, their_part in zip(mine, theirs, strict=True):
        np.testing.assert_array_equal(my_part, their_part)
