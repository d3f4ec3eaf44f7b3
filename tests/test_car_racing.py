"""The environment against the stock CarRacing-v3, driven literally: every frame drawn, wrapped by hand."""

import time
from types import SimpleNamespace

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.envs.box2d.car_dynamics import Car
from gymnasium.envs.box2d.car_racing import TRACK_WIDTH
from gymnasium.utils.env_checker import check_env as gymnasium_check_env
from stable_baselines3.common.env_checker import check_env as sb3_check_env
from vec_env import WorkerDiedError, make_vec_env

from car_racing import (
    FRAMES_BEFORE_MISTAKE,
    ROAD_CONTRAST,
    TILES_CHARGED_AT_ONCE,
    TILES_TO_BE_BACK,
    TRAINING_TRACK_SEEDS,
    WHEELS_CHARGED_AT_ONCE,
    EpisodeStatistics,
    FastCarRacing,
    MissedTiles,
    TrainingOptions,
    ViewConfig,
    bends_against,
    make_env,
    make_stock_env,
    stock_frame,
    tiles_visited,
    turns,
)
from scoring import SCORING_TRACKS, VALIDATION_TRACKS, drive

GAS = np.array([0.0, 1.0, -1.0], dtype=np.float32)
FULL_GAS_LEFT = np.array([-1.0, 1.0, -1.0], dtype=np.float32)
OFF_FIELD_TRACK = 11  # going straight on leaves the field after 187 frames
BRAKE = np.array([0.0, -1.0, 1.0], dtype=np.float32)


def literal_steps(track, actions, action_repeat):
    """Gymnasium's own environment and nothing of ours: yields (stack, reward, terminated, truncated) a step."""
    env = gym.make("CarRacing-v3")
    obs, _ = env.reset(seed=track)
    frames = [stock_frame(obs)] * 4
    yield np.stack(frames), 0.0, False, False
    for action in actions:
        reward_sum = 0.0
        for _ in range(action_repeat):
            stock_action = np.array([action[0], (action[1] + 1) / 2, (action[2] + 1) / 2], dtype=np.float64)
            obs, reward, terminated, truncated, _ = env.step(stock_action)
            reward_sum += reward
            if terminated or truncated:
                break
        frames = [*frames[1:], stock_frame(obs)]
        yield np.stack(frames), reward_sum, terminated, truncated
        if terminated or truncated:
            return


def assert_alike(fast, stock):
    """The fast environment's own picture against the stock one."""
    difference = np.abs(fast.astype(int) - stock)
    assert difference.mean() < 2.0, "a single stack, zoom included; the mean over many is under 1"
    assert (difference > 16).mean() < 0.02


@pytest.mark.parametrize("action_repeat", [1, 3, 4])
@pytest.mark.parametrize(
    ("factory", "assert_same_picture"), [(make_stock_env, np.testing.assert_array_equal), (make_env, assert_alike)]
)
def test_same_game_as_the_stock_environment_with_every_frame_drawn(factory, assert_same_picture, action_repeat):
    actions = np.random.default_rng(action_repeat).uniform(-1, 1, (25, 3)).astype(np.float32)
    env = factory(ViewConfig(action_repeat=action_repeat))
    reference = literal_steps(7, actions, action_repeat)
    obs, _ = env.reset(seed=7)
    assert_same_picture(obs, next(reference)[0])
    for action, (stack, reward, terminated, truncated) in zip(actions, reference, strict=True):
        obs, *outcome, info = env.step(action)
        assert_same_picture(obs, stack)
        assert outcome == [reward, terminated, truncated]
        assert info["frames"] == action_repeat


def test_frames_that_nobody_sees_change_nothing_that_is_seen():
    """Drawing lazily at the end of a repeat gives exactly the picture that drawing every frame gives."""
    lazy = make_env(ViewConfig(action_repeat=5))
    eager = FastCarRacing()
    lazy.reset(seed=7)
    eager.reset(seed=7)
    for action in np.random.default_rng(0).uniform(-1, 1, (40, 3)).astype(np.float32):
        obs = lazy.step(action)[0]
        for _ in range(5):
            frame = eager.step(np.array([action[0], 0.5 * (action[1] + 1.0), 0.5 * (action[2] + 1.0)]))[0]
        np.testing.assert_array_equal(obs[-1], frame)


def test_the_brakes_dead_zone_is_the_lower_half_of_its_action():
    rng = np.random.default_rng(0)
    whole, half = make_env(ViewConfig(action_repeat=2)), make_env(ViewConfig(action_repeat=2, brake_dead_zone=True))
    for env in (whole, half):
        env.reset(seed=4)
    for brake in (-1.0, -0.6, 0.0, 0.3, 1.0) * 3:
        steer, gas = rng.uniform(-1, 1, 2)
        obs, *outcome, _ = half.step(np.array([steer, gas, brake], np.float32))
        expected, *same, _ = whole.step(np.array([steer, gas, 2.0 * max(brake, 0.0) - 1.0], np.float32))
        np.testing.assert_array_equal(obs, expected)
        assert outcome == same


def test_in_colour_the_stack_holds_three_channels_a_frame():
    for factory in (make_env, make_stock_env):
        env = factory(ViewConfig(frame_stack=2, grayscale=False))
        obs, _ = env.reset(seed=3)
        assert obs.shape == env.observation_space.shape == (6, 84, 84)
        np.testing.assert_array_equal(obs[:3], obs[3:])
        later = env.step(GAS)[0]
        np.testing.assert_array_equal(later[:3], obs[3:])
        green, red = later[4, 10:60].mean(), later[3, 10:60].mean()
        assert green > red + 20, "grass is green: RGB"


@pytest.mark.parametrize("factory", [make_env, make_stock_env])
def test_road_contrast_is_a_map_of_the_levels(factory):
    plain, spread = factory(ViewConfig()), factory(ViewConfig(road_contrast=True))
    obs = [env.reset(seed=3)[0] for env in (plain, spread)]
    for _ in range(20):
        np.testing.assert_array_equal(ROAD_CONTRAST[obs[0]], obs[1])
        obs = [env.step(np.array([0.1, 0.2, -1.0], np.float32))[0] for env in (plain, spread)]
    assert np.all(np.diff(ROAD_CONTRAST.astype(int)) >= 0)


def test_road_contrast_shows_which_tiles_were_touched():
    def change_by_touching(view):
        env = make_env(view)
        env.reset(seed=3)
        for _ in range(15):  # the zoom in
            before, *_ = env.step(np.array([0.0, -1.0, -1.0], np.float32))
        game = env.unwrapped
        for tile in game.road[8:14]:
            tile.color[:] = game.road_color
        after = env.get_wrapper_attr("look_anew")()
        return np.abs(before[-1].astype(int) - after[-1]).max()

    assert 0 < change_by_touching(ViewConfig()) <= 6
    assert change_by_touching(ViewConfig(road_contrast=True)) >= 40


def test_observation_and_action_spaces():
    env = make_env()
    obs, _ = env.reset(seed=0)
    assert (obs.shape, obs.dtype) == ((4, 84, 84), np.uint8)
    assert env.action_space == gym.spaces.Box(-1.0, 1.0, (3,), np.float32)
    assert len(np.unique(obs[-1])) > 5, "the first frame shows nothing"
    np.testing.assert_array_equal(obs[0], obs[3])


def test_observations_are_the_callers_to_keep():
    env = make_env()
    first, _ = env.reset(seed=0)
    kept = first.copy()
    second, *_ = env.step(GAS)
    np.testing.assert_array_equal(first, kept)
    assert not np.shares_memory(first, second)


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


def test_idle_cut_is_a_termination_for_training_only():
    training = make_env(ViewConfig(action_repeat=10), TrainingOptions(max_idle_frames=30))
    training.reset(seed=0)
    outcomes = [training.step(BRAKE)[2:4] for _ in range(3)]
    assert outcomes == [(False, False), (False, False), (True, False)]
    scoring = make_env(ViewConfig(action_repeat=10))
    scoring.reset(seed=0)
    assert all(scoring.step(BRAKE)[2:4] == (False, False) for _ in range(10))


def test_a_new_tile_starts_the_idle_count_again():
    env = make_env(ViewConfig(action_repeat=10), TrainingOptions(max_idle_frames=40))
    env.reset(seed=0)
    ended_after = next(step for step in range(100) if env.step(GAS)[2])
    assert ended_after > 4, "the car drives over tiles for a while before it is lost"


def test_training_tracks_are_seeded_fresh_and_never_scored():
    def seeds(env, n):
        return [env.reset(seed=5 if i == 0 else None)[1]["track_seed"] for i in range(n)]

    env = make_env(training=TrainingOptions())
    first = seeds(env, 4)
    assert first == seeds(env, 4), "the same seed gives the same sequence of tracks"
    assert len(set(first)) == 4
    assert all(seed in TRAINING_TRACK_SEEDS for seed in first)
    assert not any(track in TRAINING_TRACK_SEEDS for track in (*SCORING_TRACKS, *VALIDATION_TRACKS))
    assert set(SCORING_TRACKS).isdisjoint(VALIDATION_TRACKS)


def test_reset_to_a_track_seed_is_the_stock_track():
    env = make_env()
    env.reset(seed=42)
    stock = gym.make("CarRacing-v3")
    stock.reset(seed=42)
    assert env.unwrapped.track == stock.unwrapped.track


@pytest.mark.parametrize("training", [None, TrainingOptions()])
@pytest.mark.filterwarnings("ignore:.*is different from the unwrapped version")
def test_passes_gymnasium_and_sb3_checkers(training):
    gymnasium_check_env(make_env(training=training), skip_render_check=True)
    sb3_check_env(make_env(training=training))


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
    assert info["episode"]["tiles_share"] == 1.0
    assert info["is_success"]


def lap_of(n_tiles):
    """A game of which only the tiles are there, and a way to put the car's wheels on some of them."""
    road = [SimpleNamespace(idx=i, road_visited=False) for i in range(n_tiles)]
    wheels = [SimpleNamespace(tiles=set()) for _ in range(4)]
    for wheel in wheels:
        wheel.tiles = []

    def put(*indices):
        for index in indices:
            road[index % n_tiles].road_visited = True
        wheels[0].tiles = [road[index % n_tiles] for index in indices]

    return SimpleNamespace(road=road, car=SimpleNamespace(wheels=wheels)), put


def test_missed_tiles_are_counted_once_and_only_behind_the_car():
    game, put = lap_of(100)
    missed = MissedTiles(game)

    def at(*indices):
        put(*indices)
        return missed.count_new()

    assert at(0, -1) == 0  # the start, with a wheel on the lap's last tile
    assert [at(i) for i in range(1, 10)] == [0] * 9
    assert [at(i) for i in (11, 12, 13, 14)] == [0, 0, 0, 0]  # 10 is left out, but not far enough behind
    assert at(15) == 1
    assert at(16) == 0
    assert at() == 0  # off the road
    assert at(30) == 25 - 16 + 0  # tiles 17 to 25 lie more than four behind; 26 to 29 may still be touched
    assert at(10) == 0  # back to the missed one, which is no longer charged nor given back
    assert [at(i) for i in range(26, 100)] == [0] * 74
    assert sum(not tile.road_visited for tile in game.road) == 25 - 16
    assert [at(i) for i in range(100, 130)] == [0] * 30  # the second lap


def lifted_round(options, misses_a_tile, seen=None, backwards=False):
    """How an episode ends, a car's that is put on one tile after the other. What it sees is appended to `seen`."""
    seen = [] if seen is None else seen
    env = make_env(ViewConfig(action_repeat=1), options)
    env.reset(seed=5)
    game = env.unwrapped
    tiles = [*range(2, len(game.track), 2), *range(20)]
    for i in reversed(tiles) if backwards else tiles:
        if misses_a_tile and 100 <= i < 108:
            continue
        shift = np.subtract(game.track[i][2:4], game.car.hull.position)
        for body in (game.car.hull, *game.car.wheels):
            body.position = tuple(np.add(body.position, shift))
        obs, _, terminated, truncated, info = env.step(GAS)
        seen.append(obs)
        if terminated or truncated:
            return terminated, truncated, info["episode"]
    return None


def test_an_endless_road_ends_with_the_view_from_halfway_round():
    """Where it looks like any road: the one ahead untouched."""
    plain, endless = [], []
    lifted_round(TrainingOptions(), misses_a_tile=False, seen=plain)
    lifted_round(TrainingOptions(endless_road=True), misses_a_tile=False, seen=endless)
    assert len(plain) == len(endless)
    for here, there in zip(plain[:-1], endless[:-1], strict=True):
        np.testing.assert_array_equal(here, there)
    same = [i for i, obs in enumerate(plain) if np.array_equal(obs, endless[-1])]
    assert len(same) == 1
    assert 0.45 < same[0] / len(plain) < 0.55


def test_a_lap_finished_the_wrong_way_round_ends_too():
    seen = []
    terminated, truncated, episode = lifted_round(TrainingOptions(endless_road=True), False, seen, backwards=True)
    assert (terminated, truncated, episode["lap_finished"]) == (False, True, True)
    assert not any(np.array_equal(obs, seen[-1]) for obs in seen[:-1]), "its last observation is where it is"


def test_on_an_endless_road_a_lap_ends_as_a_truncation_finished_or_not():
    endless = TrainingOptions(endless_road=True)
    terminated, truncated, episode = lifted_round(endless, misses_a_tile=False)
    assert (terminated, truncated, episode["lap_finished"]) == (False, True, True)
    terminated, truncated, episode = lifted_round(endless, misses_a_tile=True)
    assert (terminated, truncated, episode["lap_finished"]) == (False, True, False)
    assert 0 < episode["tiles_missed"] <= 8
    terminated, truncated, episode = lifted_round(TrainingOptions(), misses_a_tile=False)
    assert (terminated, truncated, episode["lap_finished"]) == (True, False, True)
    assert lifted_round(TrainingOptions(), misses_a_tile=True) is None


def test_leaving_the_field_ends_an_endless_road_too():
    env = make_env(ViewConfig(), TrainingOptions(max_idle_frames=0, endless_road=True))
    env.reset(seed=5)
    game = env.unwrapped
    for body in (game.car.hull, *game.car.wheels):
        body.position = (400.0, 0.0)
    _, reward, terminated, truncated, _ = env.step(GAS)
    assert (terminated, truncated) == (True, False)
    assert reward < -99.0


def test_a_mirrored_track_is_driven_like_the_track_with_the_steering_turned_round():
    """To rounding; to the last bit it cannot be, Box2D adds up in the order of the corners."""

    def drive(mirrored):
        env = make_env(ViewConfig())
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
        env = make_env(ViewConfig())
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


def test_some_training_tracks_are_mirrored():
    def share_of_clockwise_tracks(options):
        env = make_env(ViewConfig(), options)
        clockwise = []
        for i in range(24):
            env.reset(seed=5 if i == 0 else None)
            clockwise.append(env.unwrapped.track[0][2] < 0.0)  # the start lies to the right of the field's middle
        return np.mean(clockwise)

    assert share_of_clockwise_tracks(TrainingOptions()) == 0.0
    assert share_of_clockwise_tracks(TrainingOptions(mirrored_tracks=1.0)) == 1.0
    assert 0.2 < share_of_clockwise_tracks(TrainingOptions(mirrored_tracks=0.5)) < 0.8


def test_a_lost_start_is_beside_the_road_in_the_middle_of_a_lap():
    env = make_env(ViewConfig(), TrainingOptions(lost_starts=1.0, missed_tile_charge=100.0))
    shares, distances, speeds, turns = [], [], [], []
    for i in range(30):
        obs, _ = env.reset(seed=5 if i == 0 else None)
        game = env.unwrapped
        n_visited = sum(tile.road_visited for tile in game.road)
        assert n_visited == game.tile_visited_count
        # As in the game, where what has been touched takes the road's own colour, which every third tile has anyway.
        looks_visited = [tuple(tile.color) == tuple(game.road_color) for tile in game.road]
        assert looks_visited == [tile.road_visited or tile.idx % 3 == 0 for tile in game.road]
        centre = np.array([place[2:4] for place in game.track])
        hull = np.array(game.car.hull.position)
        shares.append(n_visited / len(centre))
        distances.append(np.linalg.norm(centre - hull, axis=1).min())
        speeds.append(np.hypot(*game.car.hull.linearVelocity))
        heading = game.track[np.linalg.norm(centre - hull, axis=1).argmin()][1]
        turns.append(np.cos(game.car.hull.angle - heading))
        # The picture is of here and now, and the whole stack of it.
        np.testing.assert_array_equal(obs[-1], game.observe())
        np.testing.assert_array_equal(obs[0], obs[-1])
        # What lies before that place is neither a reward (the few tiles of the game's own start are) nor missed.
        _, reward, *_ = env.step(np.zeros(3, np.float32))
        assert -1.0 < reward < 10 * 1000.0 / len(centre)
    assert max(shares) > 0.6
    assert min(shares) < 0.15
    assert max(distances) > 15.0
    assert max(distances) <= 25.0
    assert max(speeds) > 50.0
    assert 0 < sum(speed == 0.0 for speed in speeds) < 15, "some have come to rest"
    assert 0 < sum(turn < 0.0 for turn in turns) < 15, "some look away from where the road goes"


def test_a_lost_start_ends_as_a_truncation_once_the_car_is_back_and_counts_as_no_lap():
    def touch(env, n_tiles):
        env.unwrapped.tile_visited_count += n_tiles
        return env.step(BRAKE)[2:]

    few = TILES_TO_BE_BACK // 2  # the wheels may stand on some more
    lost = make_env(ViewConfig(), TrainingOptions(lost_starts=1.0))
    for i in range(2):
        lost.reset(seed=5 if i == 0 else None)
        assert touch(lost, few)[:2] == (False, False), "each episode counts from its own start"
        terminated, truncated, info = touch(lost, TILES_TO_BE_BACK - few)
        assert (terminated, truncated, info["is_lap"]) == (False, True, False)
        assert info.keys().isdisjoint({"episode", "is_success"})
    lap = make_env(ViewConfig(), TrainingOptions())
    lap.reset(seed=5)
    terminated, truncated, info = touch(lap, TILES_TO_BE_BACK)
    assert (terminated, truncated, info["is_lap"]) == (False, False, True)


def test_a_lost_start_that_does_not_come_back_is_cut_like_any_idle_car():
    env = make_env(ViewConfig(action_repeat=10), TrainingOptions(max_idle_frames=30, lost_starts=1.0))
    for i in range(5):
        env.reset(seed=5 if i == 0 else None)
        terminated = truncated = False
        while not (terminated or truncated):
            *_, terminated, truncated, info = env.step(BRAKE)
        assert (terminated, truncated, "episode" in info) == (True, False, False)


def test_missed_tiles_of_a_lap_from_its_middle():
    game, put = lap_of(100)
    missed = MissedTiles(game, start=40)
    put(44)
    assert missed.count_new() == 0
    put(50)
    assert missed.count_new() == 46 - 40 - 1  # all but 44 of the tiles more than four behind 50
    assert not missed.is_round
    for index in range(51, 105):
        put(index)
        missed.count_new()
    assert missed.is_round


def turned_by(game, tiles):
    """What the road's middle turns by along some tiles, in radians, to the left positive, from its places alone."""
    x, y = np.array([game.track[i % len(game.track)][2:4] for i in tiles]).T
    directions = np.unwrap(np.arctan2(np.diff(y), np.diff(x)))
    return directions[-1] - directions[0]


def test_a_bend_start_is_on_the_road_before_a_sharp_bend_the_other_way():
    env = make_env(ViewConfig(action_repeat=1), TrainingOptions(bend_starts=1.0, mirrored_tracks=0.5))
    speeds, leads, directions = [], [], set()
    for i in range(24):
        obs, _ = env.reset(seed=5 if i == 0 else None)
        game = env.unwrapped
        n_tiles = len(game.track)
        direction = np.sign(turned_by(game, range(n_tiles + 1)))
        directions.add(direction)
        centre = np.array([place[2:4] for place in game.track])
        start = int(np.linalg.norm(centre - game.car.hull.position, axis=1).argmin())
        assert all(tile.road_visited for tile in game.road[:start])
        assert not any(tile.road_visited for tile in game.road[max(start, 8) : n_tiles - 8]), "but at the lap's start"
        assert game.tile_visited_count == sum(tile.road_visited for tile in game.road)
        ahead = [-direction * turned_by(game, range(at - 6, at + 7)) for at in range(start, start + 61)]
        assert max(ahead) > 1.5
        leads.append(next(at for at, turn in enumerate(ahead) if turn > 1.5))
        speeds.append(np.hypot(*game.car.hull.linearVelocity))
        heading = game.track[start][1]
        assert game.car.hull.angle == pytest.approx(heading)
        course = np.array(game.car.hull.linearVelocity) / speeds[-1]
        np.testing.assert_allclose(course, [-np.sin(heading), np.cos(heading)], atol=1e-6)
        np.testing.assert_array_equal(obs[-1], game.observe())
        env.step(np.zeros(3, np.float32))
        assert all(wheel.tiles for wheel in game.car.wheels)
    assert directions == {-1.0, 1.0}, "against the track's direction is to the right, in the mirror to the left"
    assert min(leads) < 30
    assert max(leads) > 40
    assert min(speeds) < 35.0
    assert max(speeds) > 55.0


def test_a_bend_start_ends_as_a_truncation_after_the_bend_and_counts_as_no_lap():
    env = make_env(ViewConfig(), TrainingOptions(bend_starts=1.0, endless_road=True))
    lengths = []
    for i in range(8):
        env.reset(seed=5 if i == 0 else None)
        game = env.unwrapped
        n_visited = game.tile_visited_count
        centre = np.array([place[2:4] for place in game.track])
        start = int(np.linalg.norm(centre - game.car.hull.position, axis=1).argmin())
        terminated = truncated = False
        while not (terminated or truncated):
            game.tile_visited_count += 1
            *_, terminated, truncated, info = env.step(BRAKE)
        assert (terminated, truncated, info["is_lap"]) == (False, True, False)
        assert info.keys().isdisjoint({"episode", "is_success"})
        # The wheels roll over some more tiles with each step that touches one.
        expected = [bend - start + TILES_TO_BE_BACK for bend in bends_against(game)]
        to_lap_end = len(game.track) - n_visited
        driven = game.tile_visited_count - n_visited
        assert any(0 <= driven - min(tiles, to_lap_end) <= 2 for tiles in expected)
        lengths.append(driven)
    assert max(lengths) - min(lengths) > 10


def test_bends_against_the_tracks_direction_are_few_and_those_of_its_mirror_image():
    game = FastCarRacing()
    n_against = n_with = 0
    for track in range(30):
        bends, turn = [], []
        for mirrored in (False, True):
            game.reset(seed=track, options={"mirrored": mirrored})
            bends.append(bends_against(game))
            turn.append(turns(game))
        assert bends[0] == bends[1]
        np.testing.assert_allclose(turn[0], -turn[1], atol=1e-9)
        np.testing.assert_allclose(turn[1][50], turned_by(game, range(44, 58)), atol=0.3)
        expected, run = [], []
        for tile, against in enumerate([*-turn[0], 0.0]):
            if against > 1.6:
                run.append((against, -tile))
            elif run:
                expected.append(-max(run)[1])
                run = []
        assert bends[0] == expected
        n_against += len(expected)
        n_with += (np.diff((turn[0] > 1.6).astype(int)) == 1).sum()
    assert 5 < n_against < n_with / 3


def test_the_shares_of_bend_starts_lost_starts_and_laps():
    env = make_env(ViewConfig(action_repeat=4), TrainingOptions(lost_starts=0.5, bend_starts=0.5))
    on_road = []
    for i in range(40):
        env.reset(seed=5 if i == 0 else None)
        *_, info = env.step(np.zeros(3, np.float32))
        on_road.append("lap" if info["is_lap"] else all(wheel.tiles for wheel in env.unwrapped.car.wheels))
    assert 3 <= on_road.count("lap") <= 17, "half of the half that is not lost"
    assert 3 <= on_road.count(True) <= 22, "some of the lost cars are on the road, too"


@pytest.mark.parametrize("kind", ["lost_starts", "bend_starts"])
def test_a_start_midway_is_resumed_to_the_last_bit(kind):
    def drive_on(env, n_steps):
        steps = [env.step(GAS)[:2] for _ in range(n_steps)]
        return [obs for obs, _ in steps], [reward for _, reward in steps]

    training = TrainingOptions(**{kind: 0.5}, mirrored_tracks=0.5)
    env = make_env(ViewConfig(), training)
    env.reset(seed=3)
    are_laps = set()
    for _ in range(4):
        env.reset()
        drive_on(env, 5)
        are_laps.add(env.step(GAS)[4]["is_lap"])
        other = make_env(ViewConfig(), training)
        other.reset(seed=99)
        other.restore_episode(env.capture_episode())
        for mine, theirs in zip(drive_on(env, 5), drive_on(other, 5), strict=True):
            np.testing.assert_array_equal(mine, theirs)
    assert are_laps == {False, True}


def wander(env, rng, n_steps):
    """Drive at random; observations, rewards, and the numbers of the steps after which a new episode began."""
    seen, rewards, ends = [], [], []
    for i in range(n_steps):
        obs, reward, terminated, truncated, _ = env.step(rng.uniform([-1, 0, -1], [1, 1, -0.8]).astype(np.float32))
        if terminated or truncated:
            obs, _ = env.reset()
            ends.append(i)
        seen.append(obs)
        rewards.append(reward)
    return np.array(seen), np.array(rewards), ends


def along_the_road(game, ahead=4):
    """The action of a slow driver that looks so many tiles ahead, by the map instead of the picture."""
    centres = np.array([place[2:4] for place in game.track])
    position = np.array(game.car.hull.position)
    nearest = np.linalg.norm(centres - position, axis=1).argmin()
    way = centres[(nearest + ahead) % len(centres)] - position
    off = (np.arctan2(-way[0], way[1]) - game.car.hull.angle + np.pi) % (2 * np.pi) - np.pi
    speed = np.linalg.norm(game.car.hull.linearVelocity)
    return np.array(
        [np.clip(-2.0 * off, -1, 1), -0.6 if speed < 25.0 else -1.0, -0.2 if speed > 35.0 else -1.0], np.float32
    )


@pytest.mark.parametrize("max_tiles_back", [0, 12])
def test_the_wrong_way_is_a_termination_if_asked_for(max_tiles_back):
    env = make_env(ViewConfig(), TrainingOptions(max_idle_frames=0, max_tiles_back=max_tiles_back))
    env.reset(seed=3)
    game = env.unwrapped
    for _ in range(60):
        assert env.step(along_the_road(game))[2:4] == (False, False)
    centres = np.array([place[2:4] for place in game.track])

    def place_on_track():
        return np.linalg.norm(centres - np.array(game.car.hull.position), axis=1).argmin()

    turned_at = place_on_track()
    position, angle = tuple(game.car.hull.position), game.car.hull.angle
    game.car.destroy()
    game.car = Car(game.world, angle + np.pi, *position)
    for _ in range(60):
        terminated, truncated = env.step(along_the_road(game, ahead=-4))[2:4]
        assert not truncated
        if terminated:
            break
    n_back = (turned_at - place_on_track()) % len(centres)
    if max_tiles_back:
        assert terminated
        assert n_back == pytest.approx(max_tiles_back, abs=3), "the car is four tiles long"
    else:
        assert not terminated
        assert n_back > 20


def state_of(game):
    hull = game.car.hull
    return [*hull.position, hull.angle, *hull.linearVelocity, game.tile_visited_count, game.t]


def drive_off_the_road(env):
    """Full gas, straight on; the states on the way to where the episode ends, and its last info."""
    states = []
    while True:
        states.append(state_of(env.unwrapped))
        *_, terminated, truncated, info = env.step(GAS)
        if terminated or truncated:
            return states, info


def test_a_second_try_begins_shortly_before_the_road_was_lost_as_it_was_driven():
    env = make_env(ViewConfig(), TrainingOptions(second_tries=1.0))
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
    env = make_env(ViewConfig(), TrainingOptions(second_tries=1.0))
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
    assert TILES_TO_BE_BACK <= game.tile_visited_count - n_tiles < 2 * TILES_TO_BE_BACK
    assert "episode" not in info
    env.reset()
    assert game.track != first_track


def test_second_tries_leave_the_order_of_the_new_tracks_as_it_was():
    def tracks(share, n_episodes):
        env = make_env(ViewConfig(action_repeat=50), TrainingOptions(second_tries=share))
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
    env = make_env(ViewConfig(action_repeat=10), TrainingOptions(lost_starts=1.0, second_tries=1.0))
    env.reset(seed=3)
    for _ in range(3):
        track = list(env.unwrapped.track)
        terminated = False
        while not terminated:
            *_, terminated, _, info = env.step(BRAKE)
        assert info["is_mistake"]
        env.reset()
        assert env.unwrapped.track != track


@pytest.mark.parametrize("n_steps", [30, 130, 300])
def test_second_tries_are_resumed_to_the_last_bit(n_steps):
    training = TrainingOptions(
        wheel_off_charge=1.0, lost_starts=0.15, bend_starts=0.3, mirrored_tracks=0.3, second_tries=0.7
    )
    env = make_env(ViewConfig(), training)
    env.reset(seed=3)
    wander(env, np.random.default_rng(0), n_steps)
    captured = env.capture_episode()
    other = make_env(ViewConfig(), training)
    other.reset(seed=99)
    wander(other, np.random.default_rng(1), 100)
    other.restore_episode(captured)
    *mine, ends = wander(env, np.random.default_rng(2), 300)
    *theirs, their_ends = wander(other, np.random.default_rng(2), 300)
    assert len(ends) > 3
    assert ends == their_ends
    for my_part, their_part in zip(mine, theirs, strict=True):
        np.testing.assert_array_equal(my_part, their_part)


def test_a_finished_lap_is_no_mistake():
    env = make_env(ViewConfig(action_repeat=1), TrainingOptions())
    env.reset(seed=0)
    game = env.unwrapped
    game.tile_visited_count = len(game.track)
    *_, terminated, _, info = env.step(BRAKE)
    assert terminated
    assert not info["is_mistake"]


def test_wheels_that_touch_no_tile_left_behind_are_charged():
    def weave(charge):
        env = make_env(ViewConfig(action_repeat=1), TrainingOptions(wheel_off_charge=charge))
        env.reset(seed=8)
        game = env.unwrapped
        rewards, touched = [], [set() for _ in range(4)]
        for frame in range(400):
            action = along_the_road(game)
            action[0] += 0.7 * np.sin(frame / 25.0)
            rewards.append(env.step(action)[1])
            for wheel, tiles in zip(game.car.wheels, touched, strict=True):
                tiles.update(tile.idx for tile in wheel.tiles)
        furthest = max(index for tiles in touched for index in tiles if index < len(game.track) // 2)
        # The first tiles, on which the car stands at the start, are not counted.
        off = [sum(index not in tiles for tiles in touched) for index in range(4, furthest - 4)]
        return np.array(rewards), off

    rewards, off = weave(0.0)
    assert {0, 2} <= set(off), "on some tiles all four wheels, on others two"
    charges = rewards - weave(0.5)[0]
    assert charges.min() > -1e-9
    assert charges.sum() == pytest.approx(0.5 * sum(off))


def test_a_wheel_touches_tiles_between_two_steps_too():
    training = TrainingOptions(wheel_off_charge=1.0)
    charged, free = (make_env(ViewConfig(action_repeat=20), options) for options in (training, TrainingOptions()))
    for env in (charged, free):
        env.reset(seed=7)
    for _ in range(20):
        # Some three tiles a step, no wheel ever off the road.
        action = along_the_road(charged.unwrapped, ahead=6) * np.array([0.3, 1.0, 1.0], np.float32)
        assert charged.step(action)[1] == free.step(action)[1]
    assert tiles_visited(charged) > 30


def test_missed_tiles_are_not_charged_for_driving_backwards():
    game, put = lap_of(100)
    missed = MissedTiles(game)
    for index in (0, -1, -2, -10, -30, -45):
        put(index)
        assert missed.count_new() == 0


def test_the_charge_is_in_the_reward_and_not_in_the_episodes_return():
    def drive_past_some_tiles(charge, wheel_off_charge=0.0):
        training = TrainingOptions(missed_tile_charge=charge, wheel_off_charge=wheel_off_charge)
        env = make_env(ViewConfig(), training)
        env.reset(seed=5)
        game = env.unwrapped
        rewards, charges, n_charged = [], [], []
        while True:
            if len(rewards) == 8:  # lifted from tile 2 or so to tile 20
                shift = np.subtract(game.track[20][2:4], game.track[2][2:4])
                for body in (game.car.hull, *game.car.wheels):
                    body.position = tuple(np.add(body.position, shift))
            _, reward, terminated, truncated, info = env.step(GAS)
            rewards.append(reward)
            charges.append(info["game_reward"] - reward)
            n_charged.append(charges[-1] / 7.0)
            if terminated or truncated:
                return np.array(rewards), np.array(charges), np.array(n_charged), info["episode"]

    plain, nothing, _, episode = drive_past_some_tiles(0.0)
    charged, charges, n_charged, same_episode = drive_past_some_tiles(7.0)
    assert not nothing.any()
    np.testing.assert_allclose(n_charged, np.round(n_charged), atol=1e-9)
    assert round(n_charged.max()) == TILES_CHARGED_AT_ONCE, "lifted over more of them than are charged at once"
    assert episode["tiles_missed"] > 2 * TILES_CHARGED_AT_ONCE
    _, wheel_charges, *_ = drive_past_some_tiles(0.0, 0.5)
    assert wheel_charges.max() == pytest.approx(0.5 * WHEELS_CHARGED_AT_ONCE)
    np.testing.assert_allclose(charged, plain - charges, atol=1e-6)
    assert same_episode["r"] == episode["r"]
    assert episode["r"] == pytest.approx(plain.sum())
    assert episode["tiles_missed"] == round(episode["tiles"] / episode["tiles_share"]) - episode["tiles"]


def test_drive_reports_the_track():
    result = drive(lambda obs: BRAKE, make_env(ViewConfig(action_repeat=100)), 9)
    assert (result.track, result.frames, result.lap_finished) == (9, 1000, False)
    # A car that never moves: -0.1 a frame, and the tiles under its wheels at the start.
    n_tiles = round(result.tiles / result.tiles_share)
    assert result.episode_return == pytest.approx(-100.0 + 1000.0 * result.tiles / n_tiles)


def run_vec_env(n_workers):
    env = make_vec_env(5, ViewConfig(action_repeat=6), TrainingOptions(max_idle_frames=30), n_workers)
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
    view, training = ViewConfig(action_repeat), TrainingOptions(max_idle_frames)
    env = make_vec_env(2, view, training, 0)
    seeds = env.seed(1)
    assert len(set(seeds)) == 2
    env.reset()
    single = make_env(view, training)
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
