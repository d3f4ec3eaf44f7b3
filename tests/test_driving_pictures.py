"""Pictures of the driving: what they are drawn from, and the colours, sizes and times that they show."""

import io

import numpy as np
import pytest
from PIL import Image, ImageSequence

import driving_pictures
from car_racing import ViewConfig, make_env
from driving_pictures import GROUND, MAP_SIZE, MISSED, ROAD, Trajectory, animation, caption, record, track_map
from scoring import TrackResult, drive

LAP = TrackResult(7, 921.36, 736, 300, 0, 1.0, lap_finished=True)


def straight_ahead(obs):
    return np.array([0.0, 0.2, -1.0], np.float32)


@pytest.mark.parametrize("grayscale", [True, False])
def test_what_is_recorded_is_what_was_driven(grayscale):
    env = make_env(ViewConfig(grayscale=grayscale))
    trajectory = record(straight_ahead, env, 7, keeps_pictures=True)
    observations = []
    result = drive(straight_ahead, env, 7, observations.append)
    assert trajectory.result == result
    assert len(trajectory.tiles) == result.tiles + result.tiles_missed
    assert trajectory.is_missed.sum() == result.tiles_missed
    n_steps = -(-result.frames // 4)
    assert len(observations) == n_steps + 1
    assert trajectory.positions.shape == (n_steps + 1, 2)
    # The car starts on the road, at rest; as far as it came, so fast it was in between.
    assert np.abs(trajectory.tiles.mean(axis=1) - trajectory.positions[0]).max(axis=1).min() < 4.0
    assert trajectory.speeds[0] == pytest.approx(0.0, abs=1.0)
    distances = np.linalg.norm(np.diff(trajectory.positions, axis=0), axis=1)
    speeds = (trajectory.speeds[1:] + trajectory.speeds[:-1]) / 2
    np.testing.assert_allclose(distances[5:-1] * 50 / 4, speeds[5:-1], rtol=0.1, atol=1.0)
    for obs, picture in zip(observations, trajectory.pictures, strict=True):
        np.testing.assert_array_equal(picture, obs[-1] if grayscale else obs[-3:].transpose(1, 2, 0))


def test_pictures_are_kept_only_where_they_are_asked_for():
    assert record(straight_ahead, make_env(), 7, keeps_pictures=False).pictures == []


def trajectory_along(positions, speeds, is_missed=(False, False), pictures=(), action_repeat=4):
    """Two square tiles of 10 units side by side, the first with its corner at (0, 0)."""
    corners = np.array([(0, 0), (10, 0), (10, 10), (0, 10)], np.float64)
    tiles = np.stack([corners, corners + np.array([10.0, 0.0])])
    line = (np.array(positions, np.float64), np.array(speeds, np.float64))
    return Trajectory(LAP, tiles, np.array(is_missed), *line, list(pictures), action_repeat)


def test_a_map_shows_missed_tiles_and_the_speed_along_the_line():
    line = [(2, 5), (10, 5), (18, 5)]
    picture = np.asarray(track_map(trajectory_along(line, [0.0, 0.0, 100.0], is_missed=(False, True))))
    assert picture.shape == (MAP_SIZE, MAP_SIZE, 3)
    centre, unit = MAP_SIZE // 2, (MAP_SIZE - 24) / 20
    north, south = int(centre - 4 * unit), int(centre + 4 * unit)
    west, east = int(centre - 5 * unit), int(centre + 5 * unit)
    for row in (north, south):
        assert tuple(picture[row, west]) == ROAD
        assert tuple(picture[row, east]) == MISSED
    assert tuple(picture[5, 5]) == GROUND
    slow, fast = picture[centre, west], picture[centre, east]
    assert slow[2] > slow[1]  # purple
    assert fast[0] > 200
    assert fast[1] > 200  # yellow
    assert fast[2] < 100


def test_north_is_up_on_a_map():
    picture = np.asarray(track_map(trajectory_along([(5, 9), (5, 9)], [0.0, 0.0])))
    dark_rows = np.argwhere(picture.max(axis=2) < 90)[:, 0]
    assert len(dark_rows) > 0
    assert dark_rows.mean() < MAP_SIZE / 2


def test_a_line_may_leave_the_map():
    track_map(trajectory_along([(5, 5), (5000, -5000)], [10.0, 500.0]))


@pytest.mark.parametrize(("action_repeat", "every", "duration_ms"), [(1, 4, 80), (2, 2, 80), (4, 1, 80), (8, 1, 160)])
def test_an_animation_plays_in_real_time(action_repeat, every, duration_ms):
    shades = np.arange(0, 240, 16, dtype=np.uint8)
    pictures = [np.full((84, 84), shade, np.uint8) for shade in shades]
    trajectory = trajectory_along([(5, 5), (6, 5)], [1.0, 1.0], pictures=pictures, action_repeat=action_repeat)
    gif = Image.open(io.BytesIO(animation(trajectory)))
    assert gif.format == "GIF"
    assert gif.info["loop"] == 0
    frames = [(frame.info["duration"], np.asarray(frame.convert("L"))) for frame in ImageSequence.Iterator(gif)]
    assert len(frames) == len(shades[::every])
    for (shown_ms, picture), shade in zip(frames, shades[::every], strict=True):
        assert shown_ms == duration_ms
        assert picture.shape == (168, 168)
        assert np.abs(picture.astype(int) - shade).max() <= 16


def test_an_animation_in_colour_and_of_a_long_episode_ends():
    rng = np.random.default_rng(0)
    colours = rng.integers(0, 256, (driving_pictures.MAX_PICTURES + 9, 3))
    pictures = [np.full((84, 84, 3), colour, np.uint8) for colour in colours]
    gif = Image.open(io.BytesIO(animation(trajectory_along([(5, 5), (6, 5)], [1.0, 1.0], pictures=pictures))))
    assert gif.n_frames == driving_pictures.MAX_PICTURES
    gif.seek(3)
    assert np.abs(np.asarray(gif.convert("RGB")).astype(int) - colours[3]).max() <= 8


def test_captions_say_how_an_episode_ended():
    assert caption(LAP) == "track 7: 921.4, lap in 736 frames"
    lost = TrackResult(7, 370.0, 1000, 135, 152, 0.47, lap_finished=False)
    assert caption(lost) == "track 7: 370.0, no lap, 152 tiles missed"
