"""The panel beside the driven game: what it shows, and where."""

import numpy as np
import pytest

from car_racing import ViewConfig
from film import FILM_H, FILM_W, PANEL_W
from panel import ACCENT, BACKGROUND, GRID, Attentive, GameState, beside, draw_panel, drive_filmed

STATE = GameState(44, 12.3, 87.6, 634.2, 120)
VIEW = ViewConfig(frame_stack=2)


def full_gas(obs):
    return np.array([0.5, 1.0, -1.0], np.float32)


def uniform(obs, actions):
    return np.full((len(actions), 3), 0.5, np.float32)


def seen_by(policy, view=VIEW, level=200, density=None):
    seen = Attentive(policy, density)
    seen(np.full(view.obs_shape, level, np.uint8))
    return seen


def accent_in_row(panel, row):
    """Pixels of the bar's colour, of a row, by place."""
    return np.flatnonzero((panel[row] == ACCENT).all(axis=1))


@pytest.mark.parametrize("view", [VIEW, ViewConfig(frame_stack=4), ViewConfig(frame_stack=3, grayscale=False)])
def test_a_panel_fits_beside_the_window(view):
    panel = draw_panel(STATE, seen_by(full_gas, view), view)
    assert (panel.shape, panel.dtype) == ((FILM_H, PANEL_W, 3), np.uint8)
    picture = beside(np.zeros((FILM_H, FILM_W - PANEL_W, 3), np.uint8), panel)
    assert picture.shape == (FILM_H, FILM_W, 3)
    assert (panel[200:400, 50:200] == 200).all(), "the newest frame"


def test_bars_are_as_long_as_the_controls():
    panel = draw_panel(STATE, seen_by(full_gas), VIEW)
    steer, gas, brake = (accent_in_row(panel, row) for row in (572, 656, 740))
    middle, right = PANEL_W // 2, PANEL_W - 14
    assert (steer[0], steer[-1]) == (middle, middle + 63), "half to the right"
    assert (gas[0], gas[-1]) == (14, right)
    assert len(brake) <= 1


def test_every_figure_changes_the_panel():
    seen = seen_by(full_gas)
    panel = draw_panel(STATE, seen, VIEW)
    for other in (
        GameState(45, 12.3, 87.6, 634.2, 120),
        GameState(44, 13.3, 87.6, 634.2, 120),
        GameState(44, 12.3, 97.6, 634.2, 120),
        GameState(44, 12.3, 87.6, 635.2, 120),
        GameState(44, 12.3, 87.6, 634.2, 121),
    ):
        rows = np.flatnonzero((draw_panel(other, seen, VIEW) != panel).any(axis=(1, 2)))
        assert 0 < len(rows) < 40
    noted = draw_panel(STATE, seen, VIEW, "paused")
    assert (noted[-40:] != panel[-40:]).any()
    assert (panel[-20:] == BACKGROUND).all()


def test_a_density_is_drawn_above_its_bar():
    plain, shown = (draw_panel(STATE, seen_by(full_gas, density=one), VIEW) for one in (None, uniform))
    rows = np.flatnonzero((plain != shown).any(axis=(1, 2)))
    bars = {bar + row for bar in (566, 650, 734) for row in range(15)}
    above = {bar - row for bar in (566, 650, 734) for row in range(1, 34)}
    assert not bars & set(rows)
    assert set(rows) <= above
    assert seen_by(full_gas, density=uniform).densities.shape == (len(GRID), 3)


def test_what_was_driven_is_filmed_and_its_outcome_stays_for_a_second():
    frames = []

    def drive_a_little(policy, env, track):
        obs, _ = env.reset(seed=track)
        for _ in range(2):
            obs = env.step(policy(obs))[0]
        return "result"

    view = ViewConfig(frame_stack=2, action_repeat=5)
    assert drive_filmed(full_gas, uniform, view, 31, frames.append, drive_a_little) == "result"
    assert len(frames) == 1 + 2 * 5 + 50
    assert all(frame.shape == (FILM_H, FILM_W, 3) for frame in frames)
    assert all((frame == frames[-1]).all() for frame in frames[-50:])
    assert (frames[-1][-40:, -PANEL_W:] != frames[-51][-40:, -PANEL_W:]).any(), "how many tiles were missed"
    assert (frames[-1][:, :-PANEL_W] == frames[-51][:, :-PANEL_W]).all()
