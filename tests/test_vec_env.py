def run_vec_env(n_workers):
    env = make_vec_env(5, ViewConfig(action_repeat=6), RulesConfig(max_idle_frames=30), n_workers)
    try:
        env.seed(11)
        seen = [env.reset()]
        rng = np.random.default_rng(0)
        for _ in range(9):
            obs, rewards, dones, infos = env.step(rng.uniform(-1, 1, (5, 3)).astype(np.float32))
            seen += [obs, rewards, dones, np.array([info.get("episode", {}).get("r", 0.0) for info in infos])]
        return seen
    finally:
        env.close()


def test_vec_env_is_the_same_whatever_the_workers():
    here, one, two = run_vec_env(0), run_vec_env(1), run_vec_env(2)
    assert any(dones.any() for dones in here[3::4]), "no episode ended"
    for a, b, c in zip(here, one, two, strict=True):
        np.testing.assert_array_equal(a, b)
        np.testing.assert_array_equal(a, c)


@pytest.mark.parametrize(
    ("action_repeat", "max_idle_frames", "is_truncated"),
    [pytest.param(500, 0, True, id="time limit"), pytest.param(10, 20, False, id="idle")],
)
def test_vec_env_equals_single_environments_and_hands_over_the_last_observation(
    action_repeat, max_idle_frames, is_truncated
):
    view, rules = ViewConfig(action_repeat), RulesConfig(max_idle_frames)
    env = make_vec_env(2, view, rules, 0)
    seeds = env.seed(1)
    assert len(set(seeds)) == 2
    env.reset()
    single = make_env(view, rules)
    single.reset(seed=seeds[1])
    for _ in range(2):
        expected, *_, truncated, info = single.step(BRAKE)
        obs, _, dones, infos = env.step(np.stack([BRAKE, BRAKE]))
    assert dones.all()
    assert truncated == is_truncated
    np.testing.assert_array_equal(infos[1]["terminal_observation"], expected)
    assert infos[1]["TimeLimit.truncated"] == is_truncated
    assert infos[1]["episode"] == info["episode"]
    np.testing.assert_array_equal(obs[1], single.reset()[0])


def test_vec_env_answers_sb3s_questions_alike_here_and_in_workers():
    for n_workers in (0, 2):
        env = make_vec_env(3, n_workers=n_workers)
        env.reset()
        assert env.get_attr("render_mode") == [None] * 3
        assert env.get_attr("config", [2]) == [ViewConfig()]
        env.set_attr("mark", 5, [1])
        assert env.get_attr("mark", 1) == [5]
        assert len(env.env_method("observe", indices=[0, 2])) == 2
        assert env.env_is_wrapped(EpisodeStatistics) == [True] * 3
        assert env.env_is_wrapped(gym.wrappers.TransformReward) == [False] * 3
        env.close()
        env.close()


def test_a_dead_worker_is_an_error_not_a_hang():
    env = make_vec_env(2, n_workers=2)
    try:
        env.seed(0)
        env.reset()
        env._workers[0].process.kill()
        env._workers[0].process.wait()
        with pytest.raises(WorkerDiedError, match=r"environments 1 to 1 .* died with exit code -9"):
            env.step(np.stack([GAS, GAS]))
    finally:
        env.close()


def test_an_exception_in_a_worker_names_itself():
    env = make_vec_env(2, n_workers=1)
    try:
        env.seed(0)
        env.reset()
        env.set_attr("config", None, [1])
        with pytest.raises(WorkerDiedError, match=r"environments 1 to 1 .* failed: AttributeError"):
            env.step(np.stack([GAS, GAS]))
    finally:
        env.close()


def test_a_worker_that_has_fallen_asleep_wakes_for_every_kind_of_request():
    env = make_vec_env(2, n_workers=1)
    try:
        env.seed(0)
        env.reset()
        for _ in range(3):
            time.sleep(0.05)  # far longer than a worker stays awake
            env.step(np.stack([GAS, GAS]))
            time.sleep(0.05)
            assert env.get_attr("config") == [ViewConfig()] * 2
        time.sleep(0.05)
        env.reset()
    finally:
        env.close()
