"""How close the fast environment's picture is to the stock one's; also as a side-by-side picture.

python -m benchmarks.fidelity [fidelity.png]
"""

import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from gymnasium.envs.box2d.car_racing import CarRacing
from numpy.typing import NDArray

from car_racing import FastCarRacing, Frame, stock_colour_frame, stock_frame

# Given the frame number and the game, the next action: steer, gas, brake.
StockDriver = Callable[[int, CarRacing], NDArray[np.float64]]


def random_driver(seed: int) -> StockDriver:
    """Every action at random, held for some frames."""
    rng = np.random.default_rng(seed)
    held = np.zeros(3)

    def act(frame: int, _: CarRacing) -> NDArray[np.float64]:
        nonlocal held
        if frame % (1 + seed % 7) == 0:
            held = rng.uniform((-1.0, 0.0, 0.0), (1.0, 1.0, 0.6))
        return held

    return act


def road_driver(seed: int) -> StockDriver:
    """Follows the road by looking at the map, as no agent can: tiles get visited, kerbs come by."""
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


def spinning_driver(seed: int) -> StockDriver:
    """Full lock and full gas: the car spins."""
    side = 1.0 if seed % 2 else -1.0
    return lambda frame, _: np.array([side, 1.0 if frame > 20 else 0.3, 0.0])


def straight_driver(_: int) -> StockDriver:
    """Full gas straight on: off the road and towards the field's black edge."""
    return lambda _frame, _game: np.array([0.0, 1.0, 0.0])


DRIVERS: dict[str, Callable[[int], StockDriver]] = {
    "random": random_driver,
    "road": road_driver,
    "spinning": spinning_driver,
    "straight": straight_driver,
}


@dataclass(frozen=True)
class Comparison:
    """What was found over some frames.

    Attributes:
        n_frames: how many.
        mean_difference: mean absolute difference, in levels of 255.
        share_off_by_16: share of the pixels that differ by more than 16 levels.
        worst_frame: the largest mean absolute difference of one frame.
        share_black: share of the frames that show the black beyond the field.
        share_kerb: share of the frames that show a kerb.
        n_visited: tiles visited on the way.
    """

    n_frames: int
    mean_difference: float
    share_off_by_16: float
    worst_frame: float
    share_black: float
    share_kerb: float
    n_visited: int

    def __str__(self) -> str:
        return (
            f"{self.n_frames} frames: mean absolute difference {self.mean_difference:.3f}, "
            f"{self.share_off_by_16:.3%} of the pixels off by more than 16, worst frame {self.worst_frame:.2f}; "
            f"{self.share_black:.1%} of the frames show the field's edge, {self.share_kerb:.1%} a kerb, "
            f"{self.n_visited} tiles visited"
        )


def frame_pairs(
    seed: int, driver: StockDriver, n_frames: int, grayscale: bool = True, domain_randomize: bool = False
) -> Iterable[tuple[Frame, Frame, int]]:
    """One episode in both environments: yields (fast, stock, tiles visited) frame by frame, uint8 (84, 84[, 3])."""
    fast = FastCarRacing(grayscale=grayscale, domain_randomize=domain_randomize)
    stock = CarRacing(domain_randomize=domain_randomize)
    shrink = stock_frame if grayscale else stock_colour_frame
    fast_obs, stock_obs = fast.reset(seed=seed)[0], stock.reset(seed=seed)[0]
    for i in range(n_frames):
        yield fast_obs, shrink(stock_obs), stock.tile_visited_count
        action = driver(i, stock)
        fast_obs = fast.step(action)[0]
        stock_obs, _, terminated, _, _ = stock.step(action)
        if terminated:
            return


def compare(seeds: Iterable[int], n_frames: int, grayscale: bool = True, domain_randomize: bool = False) -> Comparison:
    """Compare both environments' frames over episodes of every driver, one a seed and driver."""
    means, shares, black, kerb = [], [], [], []
    n_visited = 0
    for seed in seeds:
        for make_driver in DRIVERS.values():
            visited = [0]
            pairs = frame_pairs(seed, make_driver(seed), n_frames, grayscale, domain_randomize)
            for fast, stock, n_tiles in pairs:
                visited.append(n_tiles)
                difference = np.abs(fast.astype(np.int16) - stock)
                means.append(difference.mean())
                shares.append((difference > 16).mean())
                black.append((stock[:72] <= 3).mean() > 0.05)
                # Nothing above the indicators but a kerb's white is so bright, unless colours are randomised.
                darkest_channel = stock[:72] if grayscale else stock[:72].min(axis=-1)
                kerb.append((darkest_channel > 200).any())
            n_visited += visited[-1]
    return Comparison(
        len(means),
        float(np.mean(means)),
        float(np.mean(shares)),
        float(np.max(means)),
        float(np.mean(black)),
        float(np.mean(kerb)),
        n_visited,
    )


def side_by_side(magnify: int = 8, scale: int = 3) -> Frame:
    """Moments of some episodes: fast, stock and `magnify` times their difference, a row each, enlarged."""
    moments = [
        (0, "road", 0),
        (0, "road", 25),
        (1, "road", 140),
        (2, "road", 200),
        (3, "spinning", 120),
        (11, "straight", 170),
    ]
    rows = []
    for seed, name, moment in moments:
        *_, (fast, stock, _) = frame_pairs(seed, DRIVERS[name](seed), moment + 1)
        difference = np.clip(np.abs(fast.astype(np.int16) - stock) * magnify, 0, 255).astype(np.uint8)
        gap = np.full((fast.shape[0], 4), 255, np.uint8)
        rows.append(np.hstack([fast, gap, stock, gap, difference]))
    pages = [np.vstack(rows[:3]), np.full((3 * rows[0].shape[0], 12), 255, np.uint8), np.vstack(rows[3:])]
    return np.hstack(pages).repeat(scale, axis=0).repeat(scale, axis=1)


def main() -> None:
    path = Path(sys.argv[1] if len(sys.argv) > 1 else "fidelity.png")
    cv2.imwrite(str(path), side_by_side())
    print(compare(range(6), 160))
    print(f"{path}: fast, stock, and eight times their difference")


if __name__ == "__main__":
    main()
