"""Scoring a driver on fixed tracks that training never meets."""

import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from car_racing import TRAINING_TRACK_SEEDS, Frame

# A driver: one observation, uint8 (frame_stack, 84, 84), to one action, float32 (3,) in [-1, 1].
Driver = Callable[[Frame], NDArray[np.float32]]

# What a stochastic policy does when it is scored: its mean, its density's maximum, or a draw.
Actions = Literal["mean", "mode", "sampled"]

# Track seeds by purpose. All lie below the training seeds, and apart from each other.
SCORING_TRACKS = range(100)
VALIDATION_TRACKS = range(1_000, 1_100)
# For comparing drivers and turning knobs, without a look at the others.
DEVELOPMENT_TRACKS = range(5_000, 6_000)
assert max(*SCORING_TRACKS, *VALIDATION_TRACKS, *DEVELOPMENT_TRACKS) < TRAINING_TRACK_SEEDS.start


@dataclass(frozen=True)
class TrackResult:
    """One episode on one track.

    Attributes:
        track: the track's seed.
        episode_return: the sum of CarRacing's own rewards.
        frames: frames driven.
        tiles: tiles visited.
        tiles_missed: tiles not visited.
        tiles_share: share of the track's tiles that was visited, in [0, 1].
        lap_finished: whether every tile was visited.
    """

    track: int
    episode_return: float
    frames: int
    tiles: int
    tiles_missed: int
    tiles_share: float
    lap_finished: bool


@dataclass(frozen=True)
class Score:
    """What a driver did on some tracks.

    Raises:
        ValueError: for no result at all.
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
        """Standard deviation of the return over the tracks (of the population, as papers report it)."""
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
        """Share of the tracks on which every tile was visited, in [0, 1]."""
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
    def tiles_share(self) -> float:
        """Mean share of the tiles visited, in [0, 1]."""
        return statistics.fmean(result.tiles_share for result in self.results)

    def __str__(self) -> str:
        finished = sum(result.lap_finished for result in self.results)
        text = (
            f"{self.mean:.1f} ± {self.std:.1f} over {len(self.results)} tracks (worst {self.minimum:.1f}), "
            f"{finished} of {len(self.results)} laps finished"
        )
        return text if self.frames_to_finish is None else f"{text} in {self.frames_to_finish:.0f} frames"


def drive(driver: Driver, env: gym.Env, track: int) -> TrackResult:
    """One episode on track `track`, in an environment from `car_racing` without training rules."""
    obs, _ = env.reset(seed=track)
    while True:
        obs, _, terminated, truncated, info = env.step(driver(obs))
        if terminated or truncated:
            episode = info["episode"]
            return TrackResult(
                track=track,
                episode_return=episode["r"],
                frames=episode["frames"],
                tiles=episode["tiles"],
                tiles_missed=episode["tiles_missed"],
                tiles_share=episode["tiles_share"],
                lap_finished=episode["lap_finished"],
            )


def score(
    driver: Driver, env: gym.Env, tracks: Iterable[int], is_stopped: Callable[[], bool] = lambda: False
) -> Score | None:
    """Drive each track once, one after the other; None if `is_stopped` called it off between two."""
    results = []
    for track in tracks:
        if is_stopped():
            return None
        results.append(drive(driver, env, track))
    return Score(results)
