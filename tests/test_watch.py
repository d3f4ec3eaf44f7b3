"""Watching in a window: SDL's dummy driver stands for the display, and events for somebody at the keyboard."""

import numpy as np
import pygame
import pytest

import watch
from car_racing import ViewConfig, controls_of
from film import FILM_H, FILM_W
from settings import SettingError
from watch import HUMAN_NOTE, PAUSE_NOTE, Watcher, human_action

# An episode of few decisions, each of which is many frames.
VIEW = ViewConfig(frame_stack=2, action_repeat=20)


def straight(obs):
    return np.array([0.0, -1.0, -1.0], np.float32)


def no_density(obs, actions):
    return np.zeros((len(actions), 3), np.float32)


@pytest.fixture
def window(monkeypatch):
    """A window that nobody sees, of a game that does not wait; what is shown, and keys at chosen frames."""
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    monkeypatch.setattr(watch.time, "sleep", lambda _: None)
    monkeypatch.setattr(watch, "OUTCOME_S", 0.0)
    shown, keys = [], {}
    real = watch.draw_panel

    def draw_panel(state, seen, view, note=""):
        shown.append((state.track, round(state.seconds * 50) - 1, note, seen.action.copy()))
        for key in keys.get(len(shown), ()):
            pygame.event.post(pygame.event.Event(pygame.KEYDOWN, key=key))
        if len(shown) > 120:
            pygame.event.post(pygame.event.Event(pygame.QUIT))
        return real(state, seen, view, note)

    monkeypatch.setattr(watch, "draw_panel", draw_panel)

    def play(tracks, keys_at):
        keys.update(keys_at)
        Watcher(straight, no_density, VIEW, tracks).run()
        return shown

    return play


def test_the_game_is_shown_frame_by_frame_until_the_user_ends_it(window):
    shown = window([31], {30: [pygame.K_q]})
    assert [frame for _, frame, _, _ in shown] == list(range(30))
    assert {track for track, _, _, _ in shown} == {31}
    assert not pygame.display.get_init(), "the window is closed"


def test_arrows_change_the_track_and_r_begins_again(window):
    keys = {5: [pygame.K_RIGHT], 8: [pygame.K_LEFT], 12: [pygame.K_LEFT], 15: [pygame.K_r], 18: [pygame.K_ESCAPE]}
    tracks = [(track, frame) for track, frame, _, _ in window([31, 36, 40], keys)]
    expected = [(31, 5), (36, 3), (31, 4), (40, 3), (40, 3)]
    assert tracks == [(track, frame) for track, n in expected for frame in range(n)]


def test_space_pauses_and_goes_on(window):
    shown = window([31], {10: [pygame.K_SPACE], 20: [pygame.K_SPACE], 25: [pygame.K_q]})
    frames = [frame for _, frame, _, _ in shown]
    assert frames == [*range(10), *[9] * 10, *range(10, 15)]
    assert [note for _, _, note, _ in shown].count(PAUSE_NOTE) == 10


def test_tab_gives_the_wheel_to_the_keyboard_and_back(window, monkeypatch):
    monkeypatch.setattr(watch, "human_action", lambda view: np.array([1.0, 1.0, -1.0], np.float32))
    shown = window([31], {5: [pygame.K_TAB], 50: [pygame.K_TAB], 90: [pygame.K_q]})
    assert [note for _, _, note, _ in shown].count(HUMAN_NOTE) == 45
    # The action is held for 20 frames; frame 0 is the reset's.
    assert [tuple(action) for _, _, _, action in shown][1:20] == [(0.0, -1.0, -1.0)] * 19
    assert [tuple(action) for _, _, _, action in shown][22:60] == [(1.0, 1.0, -1.0)] * 38
    assert tuple(shown[65][3]) == (0.0, -1.0, -1.0)


def test_closing_the_window_ends_it(window):
    assert len(window([31], {})) == 121


@pytest.mark.parametrize("brake_dead_zone", [0.5, 0.1, 0.0])
def test_keys_are_the_controls_that_they_stand_for(monkeypatch, brake_dead_zone):
    view = ViewConfig(brake_dead_zone=brake_dead_zone)
    held = dict.fromkeys((pygame.K_a, pygame.K_d, pygame.K_w, pygame.K_s), False)
    monkeypatch.setattr(pygame.key, "get_pressed", lambda: held)
    assert controls_of(human_action(view), view) == pytest.approx([0.0, 0.0, 0.0])
    held.update({pygame.K_a: True, pygame.K_w: True})
    assert controls_of(human_action(view), view) == pytest.approx([-1.0, 1.0, 0.0])
    held.update({pygame.K_a: False, pygame.K_d: True, pygame.K_w: False, pygame.K_s: True})
    assert controls_of(human_action(view), view) == pytest.approx([1.0, 0.0, 0.8])


def test_without_a_display_one_line_says_what_to_do(monkeypatch):
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "SDL_VIDEODRIVER"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(SettingError, match="there is no display here; film it instead"):
        Watcher(straight, no_density, VIEW, [31])
    monkeypatch.setenv("SDL_VIDEODRIVER", "nonsense")
    with pytest.raises(SettingError, match="no window can be opened"):
        Watcher(straight, no_density, VIEW, [31])


def test_the_window_has_the_films_size(window, monkeypatch):
    sizes = []
    real = pygame.display.flip

    def flip():
        sizes.append(pygame.display.get_surface().get_size())
        real()

    monkeypatch.setattr(pygame.display, "flip", flip)
    window([31], {2: [pygame.K_q]})
    assert set(sizes) == {(FILM_W, FILM_H)}
