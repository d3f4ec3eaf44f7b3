"""Colours as they arrive in the stock picture, grey or RGB."""

from collections.abc import Iterable
from functools import lru_cache
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

Picture = NDArray[np.uint8]
Colour = tuple[int, int, int]
Channels = Iterable[float]


def level(colour: Channels) -> Colour:
    """A flat colour as it arrives in the stock picture: pygame's smoothscale loses two levels a channel."""
    red, green, blue = (max(int(channel) - 2, 0) for channel in colour)
    return red, green, blue


def grey(picture: Picture) -> Picture:
    """RGB (..., 3) to grey (...), with the stock pipeline's weights."""
    return cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)  # type: ignore[return-value]


class Palette:
    """Colours as values of the frame: one number where it is grey, three where it is in colour.

    Args:
        grayscale: which.
    """

    def __init__(self, grayscale: bool) -> None:
        self.grayscale = grayscale
        self.channels: tuple[int, ...] = () if grayscale else (3,)

    def __call__(self, colour: Channels) -> Any:
        """The value of a flat colour: int, or three ints."""
        return _value(tuple(colour), self.grayscale)


@lru_cache(maxsize=256)
def _value(colour: tuple[float, ...], grayscale: bool) -> Any:
    shown = level(colour)
    return int(grey(np.array([[shown]], np.uint8))[0, 0]) if grayscale else shown
