"""The track from above, rasterised once at reset."""

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from gymnasium.envs.box2d.car_racing import GRASS_DIM, PLAYFIELD
from numpy.typing import NDArray

from car_racing.camera import FULL_ZOOM
from car_racing.palette import Channels, Palette, Picture

# A map pixel's box and the warp's bilinear tent together blur about as much as the stock's two area averages do at full
# zoom; divisible by 2 ** (N_LEVELS - 1).
MAP_SIZE = 1344
MAP_SCALE = MAP_SIZE / (2 * PLAYFIELD)  # map pixels a world unit
N_LEVELS = 6
# Subpixel bits of cv2's polygon coordinates.
SHIFT = 6
# cv2's antialiased fill reaches 0.7 pixels beyond a polygon, the stock's about half a window pixel: what a polygon must
# be drawn narrower on each side, in world units.
OVERDRAW = 0.7 / MAP_SCALE - 0.5 / FULL_ZOOM
# Neighbouring tiles overlap by this many units, so that no grass shines through their seam.
OVERLAP = 0.3


class TrackMap:
    """The field from above, in a pyramid of levels, each half as fine as the one before.

    Args:
        palette: grey or colour.
    """

    def __init__(self, palette: Palette) -> None:
        self._palette = palette
        sizes = [MAP_SIZE // 2**i for i in range(N_LEVELS)]
        self.levels = [np.zeros((size, size, *palette.channels), np.uint8) for size in sizes]
        self._field: Picture | None = None
        self._field_colours: tuple[Any, Any] | None = None
        self._tiles: NDArray[np.int32] = np.zeros((0, 4, 2), np.int32)

    def draw(
        self,
        background: Channels,
        grass: Channels,
        road: Sequence[tuple[Sequence[Any], Any]],
    ) -> None:
        """Rasterise a track, given as CarRacing's `road_poly`: corners and colour of each tile and kerb.

        A kerb's colour is a tuple, a tile's is not.
        """
        np.copyto(self.levels[0], self._grass_field(background, grass))
        is_tile = np.array([not isinstance(colour, tuple) for _, colour in road])
        corners = np.array([poly for poly, _ in road], dtype=np.float64)
        drawn = _adjusted(corners, along=np.where(is_tile, OVERLAP, -OVERDRAW), across=-OVERDRAW)
        base = self.levels[0]
        for points, (_, colour) in zip(_fixed_point(drawn), road, strict=True):
            cv2.fillConvexPoly(base, points, self._palette(colour), cv2.LINE_AA, SHIFT)
        # A touched tile is filled again, this time without its soft edge: blending that twice would harden it.
        self._tiles = _fixed_point(_adjusted(corners[is_tile], along=np.zeros(int(is_tile.sum())), across=-0.5))
        for finer, coarser in zip(self.levels, self.levels[1:], strict=False):
            cv2.resize(finer, coarser.shape[:2], dst=coarser, interpolation=cv2.INTER_AREA)

    def recolour_tile(self, index: int, colour: Channels) -> None:
        """Give one tile another colour, on the finest level; the coarser ones are only seen for the first second."""
        cv2.fillConvexPoly(self.levels[0], self._tiles[index], self._palette(colour), cv2.LINE_8, SHIFT)

    def _grass_field(self, background: Channels, grass: Channels) -> Picture:
        colours = (self._palette(background), self._palette(grass))
        if self._field is None or self._field_colours != colours:
            field = np.empty_like(self.levels[0])
            field[:] = colours[0]
            for x in range(-20, 20, 2):
                for y in range(-20, 20, 2):
                    left, top, right, bottom = (
                        round((PLAYFIELD + edge * GRASS_DIM) * MAP_SCALE) for edge in (x, y, x + 1, y + 1)
                    )
                    field[top:bottom, left:right] = colours[1]
            self._field, self._field_colours = field, colours
        return self._field


def _adjusted(corners: NDArray[np.float64], along: NDArray[np.float64], across: float) -> NDArray[np.float64]:
    """Pieces of road (n, 4, 2), in CarRacing's corner order (left, right, right, left), adjusted on each side.

    They get longer by `along` (n,) units and wider by `across` units.
    """
    along = along[:, np.newaxis]
    left1, right1, right2, left2 = corners.transpose(1, 0, 2)
    forward1, forward2 = _unit(right1 - right2), _unit(left1 - left2)
    side1, side2 = _unit(right1 - left1), _unit(right2 - left2)
    return np.stack(
        [
            left1 + along * forward2 - across * side1,
            right1 + along * forward1 + across * side1,
            right2 - along * forward1 + across * side2,
            left2 - along * forward2 - across * side2,
        ],
        axis=1,
    )


def _unit(vectors: NDArray[np.float64]) -> NDArray[np.float64]:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.maximum(lengths, 1e-9)


def _fixed_point(corners: NDArray[np.float64]) -> NDArray[np.int32]:
    pixels = (corners + PLAYFIELD) * MAP_SCALE - 0.5
    return np.round(pixels * 2**SHIFT).astype(np.int32)
