"""The panel beside a driven game: where it stands, what the agent sees, what it does and how sure it is of it."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import cv2
import gymnasium as gym
import numpy as np
from gymnasium.envs.box2d.car_racing import FPS, CarRacing
from numpy.typing import NDArray

from car_racing import Frame, ViewConfig, controls_of, game_of
from film import FILM_H, PANEL_W, AddFrame
from scoring import ActionDensity, Policy, stock_env

T = TypeVar("T")

MARGIN = 14
BACKGROUND, TEXT, FAINT, ACCENT, DENSITY = (24, 26, 30), (235, 235, 235), (70, 74, 82), (240, 180, 40), (70, 140, 200)
FONT = cv2.FONT_HERSHEY_SIMPLEX
# Sides of the newest frame and of the older ones.
NEWEST, OLDER = PANEL_W - 2 * MARGIN, 78
# Where a density is computed.
GRID = np.linspace(-1.0, 1.0, 81, dtype=np.float32)


class Attentive:
    """A policy that remembers what it saw and did last.

    Args:
        policy: what chooses the actions.
        density: of its distribution, where that is to be shown.

    Attributes:
        obs: the latest observation; None before the first.
        action: the latest action, float32 (3,) in [-1, 1].
        densities: float32 (len(GRID), 3), the density of each action there; None without `density`.
    """

    def __init__(self, policy: Policy, density: ActionDensity | None = None) -> None:
        self._policy = policy
        self._density = density
        self.obs: Frame | None = None
        self.action: NDArray[np.float32] = np.zeros(3, np.float32)
        self.densities: NDArray[np.float32] | None = None

    def __call__(self, obs: Frame) -> NDArray[np.float32]:
        self.obs, self.action = obs, self._policy(obs)
        if self._density is not None:
            self.densities = self._density(obs, GRID)
        return self.action


@dataclass(frozen=True)
class GameState:
    """Where an episode stands.

    Attributes:
        track: the track's seed.
        seconds: since its start.
        speed: in world units a second; the car tops out at 100.
        episode_return: the sum of the rewards so far.
        tiles_left: tiles that were not touched yet.
    """

    track: int
    seconds: float
    speed: float
    episode_return: float
    tiles_left: int

    @classmethod
    def of(cls, game: CarRacing, track: int) -> "GameState":
        """The state of a game in progress."""
        assert game.car is not None
        return cls(
            track=track,
            seconds=game.t,
            speed=math.hypot(*game.car.hull.linearVelocity),
            episode_return=game.reward,
            tiles_left=len(game.track) - game.tile_visited_count,
        )

    @property
    def outcome(self) -> str:
        """What the episode came to, once it has ended."""
        return f"{self.tiles_left} tiles missed" if self.tiles_left else "lap finished"


def draw_panel(state: GameState, seen: Attentive, view: ViewConfig, note: str = "") -> Frame:
    """The panel, uint8 (FILM_H, PANEL_W, 3) in RGB.

    Args:
        state: where the episode stands.
        seen: the policy that drives.
        view: what it sees and does.
        note: a line at the bottom.
    """
    panel = np.full((FILM_H, PANEL_W, 3), BACKGROUND, np.uint8)
    _write(panel, f"track {state.track}", 34, 0.9)
    _row(panel, "time", f"{state.seconds:.1f} s", 66)
    _row(panel, "speed", f"{state.speed:.0f}", 90)
    _row(panel, "return", f"{state.episode_return:.1f}", 114)
    _row(panel, "tiles left", f"{state.tiles_left}", 138)
    if seen.obs is not None:
        _draw_frames(panel, seen.obs, view, 156)
    controls = controls_of(seen.action, view)
    for row, (name, low) in enumerate((("steer", -1.0), ("gas", 0.0), ("brake", 0.0))):
        curve = None if seen.densities is None else seen.densities[:, row]
        _draw_control(panel, name, float(controls[row]), low, curve, float(seen.action[row]), 520 + 84 * row)
    if note:
        _write(panel, note, FILM_H - 12, 0.5, ACCENT)
    return panel


def beside(window: Frame, panel: Frame) -> Frame:
    """The game's window with the panel to its right, uint8 (FILM_H, window width + PANEL_W, 3)."""
    return np.hstack((window, panel))


def drive_filmed(
    policy: Policy,
    density: ActionDensity,
    view: ViewConfig,
    track: int,
    add_frame: AddFrame,
    drive_track: Callable[[Policy, gym.Env, int], T],
) -> T:
    """Drive one episode of the unmodified game, every frame of it filmed beside the panel.

    Args:
        policy: chooses the actions.
        density: of its distribution.
        view: what it was trained with.
        track: the track's seed.
        add_frame: is given each picture. The last one stays for a second.
        drive_track: drives the episode, as `scoring.drive`; what it returns is returned.
    """
    seen = Attentive(policy, density)
    latest: list[Frame] = []

    def show(window: Frame) -> None:
        latest[:] = [window]
        add_frame(beside(window, draw_panel(GameState.of(game_of(env), track), seen, view)))

    with stock_env(view, track, show) as env:
        result = drive_track(seen, env, track)
        state = GameState.of(game_of(env), track)
        ending = beside(latest[0], draw_panel(state, seen, view, state.outcome))
        for _ in range(FPS):
            add_frame(ending)
    return result


def _write(panel: Frame, text: str, y: int, size: float = 0.5, colour: tuple[int, int, int] = TEXT) -> None:
    cv2.putText(panel, text, (MARGIN, y), FONT, size, colour, 1, cv2.LINE_AA)


def _row(panel: Frame, name: str, value: str, y: int) -> None:
    _write(panel, name, y, 0.5, (160, 164, 172))
    cv2.putText(panel, value, (PANEL_W // 2, y), FONT, 0.55, TEXT, 1, cv2.LINE_AA)


def _draw_frames(panel: Frame, obs: Frame, view: ViewConfig, top: int) -> None:
    """The newest frame large, the older ones small below it, the oldest to the left."""
    n_channels = len(obs) // view.frame_stack
    frames = [_as_rgb(obs[first : first + n_channels]) for first in range(0, len(obs), n_channels)]
    newest = cv2.resize(frames[-1], (NEWEST, NEWEST), interpolation=cv2.INTER_NEAREST)
    panel[top : top + NEWEST, MARGIN : MARGIN + NEWEST] = newest
    top += NEWEST + 8
    n_shown = NEWEST // (OLDER + 9)
    for place, frame in enumerate(frames[:-1][-n_shown:]):
        left = MARGIN + place * (OLDER + 9)
        small = cv2.resize(frame, (OLDER, OLDER), interpolation=cv2.INTER_AREA)
        panel[top : top + OLDER, left : left + OLDER] = small


def _as_rgb(channels: Frame) -> Frame:
    """One frame of a stack, uint8 (1 or 3, height, width), as (height, width, 3)."""
    return np.repeat(channels[0][:, :, None], 3, axis=2) if len(channels) == 1 else channels.transpose(1, 2, 0)


def _draw_control(
    panel: Frame, name: str, value: float, low: float, density: NDArray[np.float32] | None, action: float, top: int
) -> None:
    """A control's name and bar, from `low` to 1, and above the bar the density of the action behind it."""
    left, right, bar_top = MARGIN, PANEL_W - MARGIN, top + 46
    _write(panel, name, top + 12)
    number = f"{value:+.2f}" if low < 0 else f"{value:.2f}"
    cv2.putText(panel, number, (right - 44, top + 12), FONT, 0.5, TEXT, 1, cv2.LINE_AA)
    if density is not None:
        xs = left + (GRID + 1.0) / 2.0 * (right - left)
        # A density has no bound; what is higher than 4 is as good as certain.
        ys = bar_top - 2 - np.clip(density, 0.0, 4.0) / 4.0 * 28
        outline = np.stack((xs, ys), axis=1).round().astype(np.int32)
        cv2.polylines(panel, [outline], False, DENSITY, 1, cv2.LINE_AA)
        x = round(left + (action + 1.0) / 2.0 * (right - left))
        cv2.line(panel, (x, bar_top - 32), (x, bar_top - 2), ACCENT, 1)
    cv2.rectangle(panel, (left, bar_top), (right, bar_top + 14), FAINT, -1)
    zero = round(left + (0.0 - low) / (1.0 - low) * (right - left))
    end = round(left + (value - low) / (1.0 - low) * (right - left))
    cv2.rectangle(panel, (min(zero, end), bar_top), (max(zero, end), bar_top + 14), ACCENT, -1)
