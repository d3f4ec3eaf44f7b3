"""Tracks as numbers against those that Gymnasium makes."""

import pytest
from gymnasium.utils import seeding

from car_racing import FastCarRacing
from car_racing.game import RED, WHITE
from car_racing.track import draw_track, track_of_seed
from tests.driving import UndrawnCarRacing

N_SEEDS = 120


class CountingCarRacing(UndrawnCarRacing):
    """It counts how many of its tracks did not come round."""

    n_failed = 0

    def _create_track(self):
        success = super()._create_track()
        self.n_failed += not success
        return success


def laid_out(game):
    """Corners and colour of each piece of the road, and what each tile is in Box2D."""
    pieces = [([tuple(corner) for corner in corners], tuple(colour)) for corners, colour in game.road_poly]
    tiles = [
        (tile.idx, tile.road_friction, tile.userData is tile, [(f.sensor, f.shape.vertices) for f in tile.fixtures])
        for tile in game.road
    ]
    return pieces, tiles


def test_tracks_are_gymnasiums_to_the_last_bit(show):
    stock, fast = CountingCarRacing(), FastCarRacing(draws_every_frame=False)
    n_kerbs = 0
    for seed in range(N_SEEDS):
        stock.reset(seed=seed)
        fast.reset(seed=seed)
        rng, _ = seeding.np_random(seed)
        assert draw_track(rng) == fast.track == stock.track, f"seed {seed}"
        assert rng.bit_generator.state == stock.np_random.bit_generator.state
        assert laid_out(fast) == laid_out(stock), f"seed {seed}"
        n_kerbs += len(stock.road_poly) - len(stock.road)
    show(f"{N_SEEDS} tracks equal, {n_kerbs} kerbs, {stock.n_failed} tries that did not come round")
    assert stock.n_failed > 0
    assert n_kerbs > N_SEEDS


def test_tracks_with_random_colours_are_gymnasiums_too():
    stock, fast = (kind(domain_randomize=True) for kind in (UndrawnCarRacing, FastCarRacing))
    for seed in range(5):
        stock.reset(seed=seed)
        fast.reset(seed=seed)
        assert fast.track == stock.track
        assert laid_out(fast) == laid_out(stock), f"seed {seed}"


def test_a_mirrored_track_is_laid_out_as_the_plain_one_in_a_mirror():
    plain, mirrored = FastCarRacing(draws_every_frame=False), FastCarRacing(draws_every_frame=False)
    plain.reset(seed=31)
    mirrored.reset(seed=31, options={"mirrored": True})
    pieces, _ = laid_out(plain)
    for (corners, colour), (its_corners, its_colour) in zip(pieces, laid_out(mirrored)[0], strict=True):
        in_mirror = [(-x, y) for x, y in corners]
        # A tile's left is its right in the mirror. A kerb's corners go from the road outwards in both.
        is_kerb = colour in (WHITE, RED)
        expected = in_mirror if is_kerb else [in_mirror[i] for i in (1, 0, 3, 2)]
        assert (its_corners, its_colour) == (expected, colour)


@pytest.mark.parametrize("mirrored", [False, True])
def test_the_track_of_a_seed_is_known_before_the_game_lays_it_out(mirrored):
    game = FastCarRacing(draws_every_frame=False)
    game.reset(seed=31, options={"mirrored": mirrored})
    assert track_of_seed(31, mirrored) == game.track
