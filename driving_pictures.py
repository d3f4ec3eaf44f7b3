"""Pictures of a policy's driving: the line that it takes on the track, and what it sees on the way.

They are small and quickly made, for every evaluation of a training. Whole films are `film.py`'s.
"""

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import gymnasium as gym
import numpy as np
from gymnasium.envs.box2d.car_racing import FPS
from numpy.typing import NDArray
from PIL import Image as PILImage

from car_racing import Frame, game_of
from scoring import Policy, TrackResult, drive

# The side of a map, in pixels, and what surrounds its track.
MAP_SIZE = 320
MAP_MARGIN = 12
# cv2 draws between pixels with so many bits of fraction.
SHIFT = 4
GROUND, ROAD, MISSED, START = (246, 246, 246), (200, 200, 200), (220, 50, 47), (40, 40, 40)
# The car's top speed, in world units a second: the bright end of the line's colours.
TOP_SPEED = 100.0

# An animation shows a picture every so many frames of the game, in real time, and ends after some seconds.
FRAMES_A_PICTURE = 4
MAX_PICTURES = 200
# An agent's frame is small, and few levels of grey make a small file.
ENLARGEMENT = 2
N_GREYS = 16
N_COLOURS = 32


@dataclass(frozen=True)
class Trajectory:
    """One episode on one track, as far as pictures of it need to know.

    Attributes:
        result: what it came to.
        tiles: float64 (n_tiles, 4, 2), the corners of the road's tiles in world units.
        is_missed: bool (n_tiles,), the tiles that the car did not touch.
        positions: float64 (n_steps + 1, 2), where the car was before each step and after the last, in world units.
        speeds: float64 (n_steps + 1,), how fast it was, in world units a second.
        pictures: the newest frame of each of these observations, uint8 (84, 84), or (84, 84, 3) in colour; none where
            they were not asked for.
        action_repeat: frames of the game that a step takes.
    """

    result: TrackResult
    tiles: NDArray[np.float64]
    is_missed: NDArray[np.bool_]
    positions: NDArray[np.float64]
    speeds: NDArray[np.float64]
    pictures: list[Frame]
    action_repeat: int


def record(policy: Policy, env: gym.Env, track: int, keeps_pictures: bool) -> Trajectory:
    """Drive one episode as `scoring.drive` does, and keep what pictures of it need.

    Args:
        policy, env, track: as for `scoring.drive`.
        keeps_pictures: whether to keep what the agent sees, for `animation`; some megabytes.
    """
    game = game_of(env)
    view = env.get_wrapper_attr("config")
    n_channels = view.obs_shape[0] // view.frame_stack
    positions, speeds, pictures = [], [], []

    def look(obs: Frame) -> None:
        assert game.car is not None
        hull = game.car.hull
        positions.append((hull.position.x, hull.position.y))
        speeds.append(math.hypot(*hull.linearVelocity))
        if keeps_pictures:
            newest = obs[-n_channels:]
            pictures.append(newest[0] if n_channels == 1 else newest.transpose(1, 2, 0))

    result = drive(policy, env, track, look)
    road: Sequence[Any] = game.road or ()
    # Kerbs are in the same list as tiles; their colour is a tuple, a tile's is not.
    tiles = [corners for corners, colour in game.road_poly if not isinstance(colour, tuple)]
    return Trajectory(
        result=result,
        tiles=np.array(tiles, np.float64),
        is_missed=np.array([not tile.road_visited for tile in road]),
        positions=np.array(positions),
        speeds=np.array(speeds),
        pictures=pictures,
        action_repeat=view.action_repeat,
    )


def track_map(trajectory: Trajectory) -> PILImage.Image:
    """The track from above, north up, with the car's line on it: from purple, slow, to yellow, fast.

    Tiles that were missed are red. A dot is where the car began.
    """
    low, high = trajectory.tiles.min(axis=(0, 1)), trajectory.tiles.max(axis=(0, 1))
    scale = (MAP_SIZE - 2 * MAP_MARGIN) / float((high - low).max())
    centre = (low + high) / 2

    def pixels(places: NDArray[np.float64]) -> NDArray[np.int32]:
        from_centre = (places - centre) * (scale, -scale)
        return np.round((from_centre + MAP_SIZE / 2) * 2**SHIFT).astype(np.int32)

    picture = np.full((MAP_SIZE, MAP_SIZE, 3), GROUND, np.uint8)
    for corners, is_missed in zip(pixels(trajectory.tiles), trajectory.is_missed, strict=True):
        cv2.fillConvexPoly(picture, corners, MISSED if is_missed else ROAD, cv2.LINE_AA, SHIFT)
    levels = np.round(255 * np.clip(trajectory.speeds / TOP_SPEED, 0.0, 1.0)).astype(np.uint8)
    colours = cv2.applyColorMap(levels[:, np.newaxis], cv2.COLORMAP_VIRIDIS)[:, 0, ::-1].tolist()
    line = pixels(trajectory.positions)
    for begin, end, colour in zip(line[:-1], line[1:], colours[1:], strict=True):
        cv2.line(picture, begin.tolist(), end.tolist(), colour, 2, cv2.LINE_AA, SHIFT)
    cv2.circle(picture, line[0].tolist(), 4 * 2**SHIFT, START, -1, cv2.LINE_AA, SHIFT)
    return PILImage.fromarray(picture)


def animation(trajectory: Trajectory) -> bytes:
    """What the agent saw, as a GIF file that plays in real time and again and again."""
    every = max(round(FRAMES_A_PICTURE / trajectory.action_repeat), 1)
    pictures = [_indexed(picture) for picture in trajectory.pictures[::every][:MAX_PICTURES]]
    gif = io.BytesIO()
    duration_ms = 1000 * every * trajectory.action_repeat / FPS
    pictures[0].save(gif, "gif", save_all=True, append_images=pictures[1:], duration=duration_ms, loop=0)
    return gif.getvalue()


def caption(result: TrackResult) -> str:
    """An episode's result in a few words."""
    end = f"lap in {result.frames} frames" if result.lap_finished else f"no lap, {result.tiles_missed} tiles missed"
    return f"track {result.track}: {result.episode_return:.1f}, {end}"


def _indexed(picture: Frame) -> PILImage.Image:
    """A picture of few colours, enlarged."""
    if picture.ndim == 2:
        indexed = PILImage.fromarray(picture // (256 // N_GREYS), "P")
        indexed.putpalette([255 * level // (N_GREYS - 1) for level in range(N_GREYS) for _ in range(3)])
    else:
        indexed = PILImage.fromarray(picture).quantize(N_COLOURS)
    height, width = picture.shape[:2]
    return indexed.resize((ENLARGEMENT * width, ENLARGEMENT * height), PILImage.Resampling.NEAREST)
