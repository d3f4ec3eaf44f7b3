"""The stock camera, and how its window becomes a frame of the agent's size.

Coordinates: *world* units are Box2D's, y upwards; *window* pixels are those of the stock 1000x800 window, y downwards;
*frame* pixels are those of the agent's 84x84 picture of that window.
"""

import numpy as np
import pygame
from gymnasium.envs.box2d.car_racing import SCALE, STATE_H, STATE_W, WINDOW_H, WINDOW_W, ZOOM
from numpy.typing import NDArray

from car_racing.config import FRAME_SIZE

# The places of the car, its wheels and the score in a frame were measured in pixels of this size.
if FRAME_SIZE != 84:
    raise ImportError(
        f"FRAME_SIZE is {FRAME_SIZE}, but CAR_ROWS, CAR_COLS and WHEEL_PLACES (car_racing/car_sprites.py), SCORE_COLS "
        "(car_racing/indicators.py) and MAP_SIZE (car_racing/track_map.py) were measured at 84; measure them anew first"
    )

X_SCALE = FRAME_SIZE / WINDOW_W  # frame pixels a window pixel
Y_SCALE = FRAME_SIZE / WINDOW_H
FULL_ZOOM = ZOOM * SCALE  # window pixels a world unit, once the first second's zoom is over


def zoom_at(t: float) -> float:
    """Window pixels a world unit at `t` seconds into the episode: the camera zooms in over the first second."""
    return 0.1 * SCALE * max(1.0 - t, 0.0) + FULL_ZOOM * min(t, 1.0)


def _area_average(n_from: int, n_to: int) -> NDArray[np.float64]:
    """The matrix (n_to, n_from) that shrinks a row of pixels by area."""
    edges = np.arange(n_to + 1) * (n_from / n_to)
    low, high = edges[:-1, np.newaxis], edges[1:, np.newaxis]
    pixels = np.arange(n_from)
    overlap = np.minimum(high, pixels + 1) - np.maximum(low, pixels)
    return np.clip(overlap, 0.0, None) * (n_to / n_from)


# The stock pipeline shrinks the window to 96x96 first; what is drawn here goes the same way in one product.
X_SHRINK = (_area_average(STATE_W, FRAME_SIZE) @ _area_average(WINDOW_W, STATE_W)).astype(np.float32)
Y_SHRINK = (_area_average(STATE_H, FRAME_SIZE) @ _area_average(WINDOW_H, STATE_H)).astype(np.float32)


def shrunk(pixels: NDArray[np.float32], window: pygame.Rect, rows: slice, cols: slice) -> NDArray[np.float32]:
    """A cut-out of the window, (h, w) or (h, w, 3), as the frame's rows and columns."""
    y_shrink = Y_SHRINK[rows, window.top : window.bottom]
    x_shrink = X_SHRINK[cols, window.left : window.right]
    channels = pixels[np.newaxis] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
    small: NDArray[np.float32] = np.matmul(np.matmul(y_shrink, channels), x_shrink.T, dtype=np.float32)
    return small[0] if pixels.ndim == 2 else small.transpose(1, 2, 0)
