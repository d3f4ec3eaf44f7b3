"""The stock game's frames as the reference for the fast game's: both driven by the same actions and compared."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
from gymnasium.envs.box2d.car_racing import CarRacing
from numpy.typing import NDArray

from car_racing import FastCarRacing, stock_colour_frame, stock_frame

Frame = NDArray[np.uint8]
# A policy that looks at the game itself: frame number and game -> steer in [-1, 1], gas in [0, 1], brake in [0, 1].
StockPolicy = Callable[[int, CarRacing], NDArray[np.float64]]


def random_policy(seed: int) -> StockPolicy:
    """Every action is random and held for some frames."""
    rng = np.random.default_rng(seed)
    held = np.zeros(3)

    def act(frame: int, _: CarRacing) -> NDArray[np.float64]:
        nonlocal held
        if frame % (1 + seed % 7) == 0:
            held = rng.uniform((-1.0, 0.0, 0.0), (1.0, 1.0, 0.6))
        return held

    return act


def road_policy(seed: int) -> StockPolicy:
    """Follow the road by the map, which no agent sees, so that tiles get visited and kerbs come into view."""
    speed_wanted = 30.0 + 5.0 * (seed % 5)

    def act(_: int, game: CarRacing) -> NDArray[np.float64]:
        assert game.car is not None
        hull = game.car.hull
        track = np.array([tile[2:4] for tile in game.track])
        nearest = int(np.argmin(((track - hull.position) ** 2).sum(axis=1)))
        ahead = track[(nearest + 5) % len(track)] - hull.position
        heading = np.arctan2(ahead[1], ahead[0]) - (hull.angle + np.pi / 2)
        error = (heading + np.pi) % (2 * np.pi) - np.pi
        speed = hull.linearVelocity.length
        return np.array(
            [np.clip(-2.0 * error, -1.0, 1.0), 0.6 * (speed < speed_wanted), 0.2 * (speed > speed_wanted + 10)]
        )

    return act


def spinning_policy(seed: int) -> StockPolicy:
    """Full lock and full gas, so that the car spins."""
    side = 1.0 if seed % 2 else -1.0
    return lambda frame, _: np.array([side, 1.0 if frame > 20 else 0.3, 0.0])


def straight_policy(_: int) -> StockPolicy:
    """Full gas straight on, so that the car leaves the road and reaches the black edge of the playfield."""
    return lambda _frame, _game: np.array([0.0, 1.0, 0.0])


POLICIES: dict[str, Callable[[int], StockPolicy]] = {
    "random": random_policy,
    "road": road_policy,
    "spinning": spinning_policy,
    "straight": straight_policy,
}


@dataclass(frozen=True)
class Comparison:
    """How much the frames of two games differ.

    Attributes:
        n_frames: frames compared.
        mean_difference: mean absolute difference, in levels of 255.
        fraction_off_by_16: fraction of the pixels that differ by more than 16 levels.
        worst_frame: the largest mean absolute difference of one frame.
        fraction_black: fraction of the frames that show the black beyond the playfield.
        fraction_kerb: fraction of the frames that show a kerb.
        n_visited: tiles visited.
    """

    n_frames: int
    mean_difference: float
    fraction_off_by_16: float
    worst_frame: float
    fraction_black: float
    fraction_kerb: float
    n_visited: int

    def __str__(self) -> str:
        return (
            f"{self.n_frames} frames: mean absolute difference {self.mean_difference:.3f}, "
            f"{self.fraction_off_by_16:.3%} of the pixels off by more than 16, worst frame {self.worst_frame:.2f}; "
            f"{self.fraction_black:.1%} of the frames show the playfield's edge, {self.fraction_kerb:.1%} a kerb, "
            f"{self.n_visited} tiles visited"
        )


def frame_pairs(
    seed: int, policy: StockPolicy, n_frames: int, grayscale: bool = True, domain_randomize: bool = False
) -> Iterable[tuple[Frame, Frame, int]]:
    """Drive one episode in both games and yield (fast frame, stock frame, tiles visited) before each action.

    Frames are uint8, (84, 84) in grey or (84, 84, 3) in colour. `policy` sees the stock game.
    """
    fast = FastCarRacing(grayscale=grayscale, domain_randomize=domain_randomize)
    stock = CarRacing(domain_randomize=domain_randomize)
    shrink = stock_frame if grayscale else stock_colour_frame
    fast_obs, stock_obs = fast.reset(seed=seed)[0], stock.reset(seed=seed)[0]
    for i in range(n_frames):
        yield fast_obs, shrink(stock_obs), stock.tile_visited_count
        action = policy(i, stock)
        fast_obs = fast.step(action)[0]
        stock_obs, _, terminated, _, _ = stock.step(action)
        if terminated:
            return


def compare(seeds: Iterable[int], n_frames: int, grayscale: bool = True, domain_randomize: bool = False) -> Comparison:
    """Compare both games' frames over one episode for each seed and each of `POLICIES`."""
    means, fractions, black, kerb = [], [], [], []
    n_visited = 0
    for seed in seeds:
        for make_policy in POLICIES.values():
            visited = [0]
            pairs = frame_pairs(seed, make_policy(seed), n_frames, grayscale, domain_randomize)
            for fast, stock, n_tiles in pairs:
                visited.append(n_tiles)
                difference = np.abs(fast.astype(np.int16) - stock)
                means.append(difference.mean())
                fractions.append((difference > 16).mean())
                black.append((stock[:72] <= 3).mean() > 0.05)
                # Above the indicators only the white of a kerb is so bright, unless colours are randomised.
                darkest_channel = stock[:72] if grayscale else stock[:72].min(axis=-1)
                kerb.append((darkest_channel > 200).any())
            n_visited += visited[-1]
    return Comparison(
        len(means),
        float(np.mean(means)),
        float(np.mean(fractions)),
        float(np.max(means)),
        float(np.mean(black)),
        float(np.mean(kerb)),
        n_visited,
    )
