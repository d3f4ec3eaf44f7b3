def test_leaving_the_field_terminates_inside_an_action_repeat():
    """Full gas off the track until the field ends: -100, as in the stock game."""
    env = make_env(ViewConfig(action_repeat=8))
    reference = list(literal_steps(OFF_FIELD_TRACK, [GAS] * 125, 8))
    env.reset(seed=OFF_FIELD_TRACK)
    total, steps = 0.0, 0
    terminated = truncated = False
    while not (terminated or truncated):
        _, reward, terminated, truncated, info = env.step(GAS)
        total += reward
        steps += 1
    assert terminated
    assert not truncated
    assert reward < -99.0
    assert info["frames"] < 8, "the episode should end within a repeat for this test to say something"
    assert steps == len(reference) - 1
    assert total == pytest.approx(sum(step[1] for step in reference))
    assert info["episode"]["r"] == pytest.approx(total)
    assert info["episode"]["l"] == steps
    assert not info["episode"]["lap_finished"]


def test_the_time_limit_is_a_truncation():
    env = make_env(ViewConfig(action_repeat=50))
    env.reset(seed=0)
    outcomes = [env.step(BRAKE)[2:] for _ in range(20)]
    assert [(terminated, truncated) for terminated, truncated, _ in outcomes] == [(False, False)] * 19 + [(False, True)]
    assert outcomes[-1][2]["episode"]["frames"] == 1000


def test_reset_to_a_track_seed_is_the_stock_track():
    env = make_env()
    env.reset(seed=42)
    stock = gym.make("CarRacing-v3")
    stock.reset(seed=42)
    assert env.unwrapped.track == stock.unwrapped.track


@pytest.mark.parametrize("rules", [None, RulesConfig()])
@pytest.mark.filterwarnings("ignore:.*is different from the unwrapped version")
def test_passes_gymnasium_and_sb3_checkers(rules):
    gymnasium_check_env(make_env(rules=rules), skip_render_check=True)
    sb3_check_env(make_env(rules=rules))


def test_render_is_gymnasiums_own_picture():
    env = make_env(render_mode="rgb_array")
    stock = gym.make("CarRacing-v3", render_mode="rgb_array")
    env.reset(seed=3)
    stock.reset(seed=3)
    picture = env.render()
    assert picture.shape == (400, 600, 3)
    np.testing.assert_array_equal(picture, stock.render())


def test_finishing_the_lap_is_reported():
    env = make_env(ViewConfig(action_repeat=1))
    env.reset(seed=0)
    game = env.unwrapped
    game.tile_visited_count = len(game.track)
    _, _, terminated, truncated, info = env.step(BRAKE)
    assert (terminated, truncated) == (True, False)
    assert info["episode"]["lap_finished"]
    assert info["episode"]["tiles_fraction"] == 1.0
    assert info["is_success"]


def test_drive_reports_the_track():
    result = drive(lambda obs: BRAKE, make_env(ViewConfig(action_repeat=100)), 9)
    assert (result.track, result.frames, result.lap_finished) == (9, 1000, False)
    # A car that never moves: -0.1 a frame, and the tiles under its wheels at the start.
    n_tiles = round(result.tiles / result.tiles_fraction)
    assert result.episode_return == pytest.approx(-100.0 + 1000.0 * result.tiles / n_tiles)
