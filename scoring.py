"""Score a policy on fixed tracks that training never meets."""

import statistics
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray

from car_racing import ViewConfig, make_stock_env

# One observation, uint8 (channels, 84, 84), to one action, float32 (3,) in [-1, 1]: steer, gas, brake.
Policy = Callable[[NDArray[np.uint8]], NDArray[np.float32]]

# The density of a policy's distribution: one observation and actions, float32 (n,), to float32 (n, 3), for each of
# steer, gas and brake.
ActionDensity = Callable[[NDArray[np.uint8], NDArray[np.float32]], NDArray[np.float32]]

# Which action a stochastic policy takes: the mean of its distribution, the maximum of its density, or a draw.
Actions = Literal["mean", "mode", "sampled"]


class NotFiniteError(RuntimeError):
    """A policy or a training has run into numbers that are not finite."""


@dataclass(frozen=True)
class TrackResult:
    """The result of one episode on one track.

    Attributes:
        track: the track's seed.
        episode_return: the sum of CarRacing's own rewards.
        frames: length of the episode, in frames of the game (50 a second).
        tiles: tiles visited.
        tiles_missed: tiles not visited.
        tiles_fraction: fraction of the track's tiles that was visited, in [0, 1].
        lap_finished: whether every tile was visited.
    """

    track: int
    episode_return: float
    frames: int
    tiles: int
    tiles_missed: int
    tiles_fraction: float
    lap_finished: bool


@dataclass(frozen=True)
class Score:
    """The results of one policy on some tracks, and their statistics.

    Attributes:
        results: one for each track.

    Raises:
        ValueError: if there are no results.
    """

    results: Sequence[TrackResult]

    def __post_init__(self) -> None:
        if not self.results:
            raise ValueError("a score needs at least one track")

    @property
    def mean(self) -> float:
        """Mean return."""
        return statistics.fmean(result.episode_return for result in self.results)

    @property
    def std(self) -> float:
        """Standard deviation of the return over the tracks (population, as papers report it)."""
        return statistics.pstdev(result.episode_return for result in self.results)

    @property
    def median(self) -> float:
        """Median return."""
        return statistics.median(result.episode_return for result in self.results)

    @property
    def minimum(self) -> float:
        """The worst track's return."""
        return min(result.episode_return for result in self.results)

    @property
    def maximum(self) -> float:
        """The best track's return."""
        return max(result.episode_return for result in self.results)

    @property
    def lap_finish_rate(self) -> float:
        """Fraction of the tracks on which every tile was visited, in [0, 1]."""
        return statistics.fmean(result.lap_finished for result in self.results)

    @property
    def frames_to_finish(self) -> float | None:
        """Mean frames of the finished laps; None if no lap was finished."""
        laps = [result.frames for result in self.results if result.lap_finished]
        return statistics.fmean(laps) if laps else None

    @property
    def tiles_missed(self) -> float:
        """Mean number of tiles not visited."""
        return statistics.fmean(result.tiles_missed for result in self.results)

    @property
    def tiles_fraction(self) -> float:
        """Mean fraction of the tiles visited, in [0, 1]."""
        return statistics.fmean(result.tiles_fraction for result in self.results)

    def __str__(self) -> str:
        finished = sum(result.lap_finished for result in self.results)
        text = (
            f"{self.mean:.1f} ± {self.std:.1f} over {len(self.results)} tracks (worst {self.minimum:.1f}), "
            f"{finished} of {len(self.results)} laps finished"
        )
        return text if self.frames_to_finish is None else f"{text} in {self.frames_to_finish:.0f} frames"


def drive(
    policy: Policy, env: gym.Env, track: int, look: Callable[[NDArray[np.uint8]], None] = lambda _: None
) -> TrackResult:
    """Drive one episode on the track of seed `track`.

    Args:
        policy: chooses the actions.
        env: from `make_env(view)` or `make_stock_env(view)`, without training rules.
        track: the track's seed.
        look: called with every observation, the first and the last ones too.

    Raises:
        NotFiniteError: if an action is not finite. Parameters that are all finite can still be so large that it is not.
    """
    obs, _ = env.reset(seed=track)
    look(obs)
    while True:
        action = policy(obs)
        if not np.isfinite(action).all():
            raise NotFiniteError(f"the policy's action on track {track} is {action.tolist()}, which is not finite")
        obs, _, terminated, truncated, info = env.step(action)
        look(obs)
        if terminated or truncated:
            episode = info["episode"]
            return TrackResult(
                track=track,
                episode_return=episode["r"],
                frames=episode["frames"],
                tiles=episode["tiles"],
                tiles_missed=episode["tiles_missed"],
                tiles_fraction=episode["tiles_fraction"],
                lap_finished=episode["lap_finished"],
            )


@contextmanager
def stock_env(
    view: ViewConfig, track: int, watch: Callable[[NDArray[np.uint8]], None] | None = None
) -> Iterator[gym.Env]:
    """The unmodified CarRacing-v3 for one episode on a track.

    Seeds torch's global generator with the track, so that a policy that draws its actions gets the same result on the
    same track each time.

    Args:
        view: what the policy was trained with.
        track: the track's seed.
        watch: called with every frame of the window, uint8 (height, width, 3).
    """
    torch.manual_seed(track)
    env = make_stock_env(view, watch)
    try:
        yield env
    finally:
        env.close()


def drive_stock(
    policy: Policy, view: ViewConfig, track: int, watch: Callable[[NDArray[np.uint8]], None] | None = None
) -> TrackResult:
    """Drive one episode of the unmodified CarRacing-v3; the arguments are those of `drive` and `stock_env`."""
    with stock_env(view, track, watch) as env:
        return drive(policy, env, track)


def score(
    policy: Policy,
    env: gym.Env,
    tracks: Iterable[int],
    is_stopped: Callable[[], bool] = lambda: False,
    drive_track: Callable[[Policy, gym.Env, int], TrackResult] = drive,
) -> Score | None:
    """Drive each track once, one after the other.

    Args:
        policy: chooses the actions.
        env: as for `drive`.
        tracks: the tracks' seeds, at least one.
        is_stopped: asked before each track. Once it is true, the scoring ends and there is no score.
        drive_track: what drives each of them.

    Returns:
        The score, or None if it was stopped.

    Raises:
        ValueError: if there are no tracks.
    """
    results = []
    for track in tracks:
        if is_stopped():
            return None
        results.append(drive_track(policy, env, track))
    return Score(results)
