"""A window that plays a policy at the game's speed, beside what it sees and does; the keyboard may take over."""

import os
import time
import warnings
from collections.abc import Sequence
from enum import Enum, auto

import numpy as np
import pygame
from numpy.typing import NDArray

from car_racing import Frame, ViewConfig, action_of, game_of
from film import FILM_H, FILM_W
from panel import FPS, Attentive, GameState, beside, draw_panel
from scoring import ActionDensity, Policy, drive, stock_env
from settings import SettingError

KEYS = (
    "Space: pause.  Left, right: the track before, the next one.  R: again.  Q: end.\n"
    "Tab: take over the wheel (A, D: steer; W: gas; S: brake), or give it back."
)
HUMAN_NOTE = "YOU drive: W A S D, Tab"
PAUSE_NOTE = "paused: Space"
# A whole brake locks the wheels.
HUMAN_BRAKE = 0.8
# How long an episode's outcome is shown.
OUTCOME_S = 2.0


class Wish(Enum):
    """What the user wants to see instead of the rest of this episode."""

    NEXT = auto()
    PREVIOUS = auto()
    AGAIN = auto()
    END = auto()


class _LeftEarlyError(Exception):
    """Ends an episode in the middle."""


class Watcher:
    """Plays one episode after the other until the user has seen enough.

    Args:
        policy: chooses the actions, until somebody takes over.
        density: of its distribution.
        view: what it was trained with.
        tracks: seeds of the tracks, played in turn.

    Raises:
        SettingError: if there is no display.
    """

    def __init__(self, policy: Policy, density: ActionDensity, view: ViewConfig, tracks: Sequence[int]) -> None:
        self._policy = policy
        self._density = density
        self._view = view
        self._tracks = tracks
        self._wish: Wish | None = None
        self._is_paused = False
        self._is_human = False
        self._next_frame = 0.0
        self._screen = _open_window()

    def run(self) -> None:
        """Play until the user ends it."""
        place = 0
        try:
            while self._wish is not Wish.END:
                self._wish = None
                self._play(self._tracks[place])
                step = {Wish.AGAIN: 0, Wish.PREVIOUS: -1}.get(self._wish or Wish.NEXT, 1)
                place = (place + step) % len(self._tracks)
        finally:
            pygame.quit()

    def _play(self, track: int) -> None:
        """One episode, with its outcome at the end, or up to where the user wants something else."""
        seen = Attentive(self._act, self._density)
        latest: list[Frame] = []

        def show(window: Frame) -> None:
            latest[:] = [window]
            state = GameState.of(game_of(env), track)
            self._show(window, state, seen, HUMAN_NOTE if self._is_human else "")
            while self._is_paused and self._wish is None:
                self._show(window, state, seen, PAUSE_NOTE)
            if self._wish is not None:
                raise _LeftEarlyError

        with stock_env(self._view, track, show) as env:
            try:
                self._next_frame = time.perf_counter()
                drive(seen, env, track)
            except _LeftEarlyError:
                return
            state = GameState.of(game_of(env), track)
            until = time.perf_counter() + OUTCOME_S
            while time.perf_counter() < until and self._wish is None:
                self._show(latest[0], state, seen, state.outcome)

    def _act(self, obs: Frame) -> NDArray[np.float32]:
        action = self._policy(obs)
        return human_action(self._view) if self._is_human else action

    def _show(self, window: Frame, state: GameState, seen: Attentive, note: str) -> None:
        """Draw one frame, hear the keyboard, and wait until the next one is due."""
        picture = beside(window, draw_panel(state, seen, self._view, note))
        pygame.surfarray.blit_array(self._screen, picture.transpose(1, 0, 2))
        pygame.display.flip()
        for event in pygame.event.get():
            self._hear(event)
        self._next_frame = max(self._next_frame + 1.0 / FPS, time.perf_counter() - 1.0 / FPS)
        time.sleep(max(self._next_frame - time.perf_counter(), 0.0))

    def _hear(self, event: pygame.event.Event) -> None:
        if event.type == pygame.QUIT:
            self._wish = Wish.END
        if event.type != pygame.KEYDOWN:
            return
        wishes = {
            pygame.K_RIGHT: Wish.NEXT,
            pygame.K_LEFT: Wish.PREVIOUS,
            pygame.K_r: Wish.AGAIN,
            pygame.K_q: Wish.END,
            pygame.K_ESCAPE: Wish.END,
        }
        self._wish = wishes.get(event.key, self._wish)
        if event.key == pygame.K_SPACE:
            self._is_paused = not self._is_paused
        elif event.key == pygame.K_TAB:
            self._is_human = not self._is_human


def human_action(view: ViewConfig) -> NDArray[np.float32]:
    """The action, float32 (3,) in [-1, 1], of the keys that are held down."""
    held = pygame.key.get_pressed()
    steer = float(held[pygame.K_d]) - float(held[pygame.K_a])
    return action_of(np.array((steer, float(held[pygame.K_w]), HUMAN_BRAKE * float(held[pygame.K_s]))), view)


def _open_window() -> pygame.Surface:
    if not any(map(os.environ.get, ("DISPLAY", "WAYLAND_DISPLAY", "SDL_VIDEODRIVER"))):
        raise SettingError("--watch: there is no display here; film it instead: --video drive.mp4")
    try:
        pygame.display.init()
        pygame.display.set_caption("CarRacing-v3")
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "no fast renderer")  # it scales all the same
            return pygame.display.set_mode((FILM_W, FILM_H), pygame.SCALED | pygame.RESIZABLE)
    except pygame.error as error:
        raise SettingError(f"--watch: no window can be opened ({error}); film it: --video drive.mp4") from None
