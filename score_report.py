"""Scores for people to read and for files: intervals, paired differences, tables, JSON."""

import json
import math
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from checkpoint import Checkpoint
from output_file import replacing
from process import describe_run
from scoring import Actions, Score
from startup import plural
from tracks import SCORING_TRACKS

CONFIDENCE = 0.95
# Of fewer values no interval is told: it would be hardly more than their range.
MIN_FOR_INTERVAL = 5
N_WORST = 5


def confidence_interval(values: Sequence[float]) -> tuple[float, float] | None:
    """Bootstrap confidence interval of the mean (BCa: Efron, "Better Bootstrap Confidence Intervals", 1987).

    The resampling has a fixed seed, so the same values give the same interval. None for fewer than `MIN_FOR_INTERVAL`
    values, and where all are equal, or equal but for rounding.
    """
    if len(values) < MIN_FOR_INTERVAL or len(set(values)) < 2:
        return None
    from scipy.stats import bootstrap  # a second, which the workers of a scoring need not pay

    with warnings.catch_warnings(action="ignore"):
        interval = bootstrap(
            (values,), np.mean, confidence_level=CONFIDENCE, n_resamples=10_000, rng=np.random.default_rng(0)
        ).confidence_interval
    # Where values differ by rounding alone, BCa's correction divides by nothing.
    is_known = math.isfinite(interval.low) and math.isfinite(interval.high)
    return (float(interval.low), float(interval.high)) if is_known else None


def return_interval(score: Score) -> tuple[float, float] | None:
    """`confidence_interval` of the mean return."""
    return confidence_interval([result.episode_return for result in score.results])


@dataclass(frozen=True)
class Difference:
    """How much higher one score's returns are than another's, track by track.

    Attributes:
        mean: mean difference of the return.
        interval: its bootstrap confidence interval, or None.
        n_better: tracks on which the first return is higher.
    """

    mean: float
    interval: tuple[float, float] | None
    n_better: int

    @classmethod
    def between(cls, score: Score, other: Score) -> "Difference":
        """`score` minus `other`, on the same tracks.

        Raises:
            ValueError: if the tracks are not the same.
        """
        if [result.track for result in score.results] != [result.track for result in other.results]:
            raise ValueError("scores on different tracks cannot be compared track by track")
        pairs = zip(score.results, other.results, strict=True)
        differences = [mine.episode_return - theirs.episode_return for mine, theirs in pairs]
        interval = confidence_interval(differences)
        return cls(float(np.mean(differences)), interval, sum(difference > 0.0 for difference in differences))


def summary(score: Score) -> dict[str, Any]:
    """A score's statistics, under the names that they have in the JSON file."""
    return {
        "n_tracks": len(score.results),
        "mean_return": score.mean,
        "mean_return_interval_95": return_interval(score),
        "std_return": score.std,
        "median_return": score.median,
        "min_return": score.minimum,
        "max_return": score.maximum,
        "lap_finish_rate": score.lap_finish_rate,
        "frames_to_finish": score.frames_to_finish,
        "tiles_missed": score.tiles_missed,
    }


def text_report(loaded: Sequence[Checkpoint], scores: Sequence[Score]) -> str:
    """The scores of one or several checkpoints on the same tracks, for people to read."""
    return _single_report(loaded[0], scores[0]) if len(loaded) == 1 else _comparison(loaded, scores)


def write_json(path: Path, loaded: Sequence[Checkpoint], scores: Sequence[Score], actions: Actions | None) -> None:
    """Write all that is needed to check the scores or to make them again.

    Raises:
        OSError: if the file cannot be written.
    """
    entries = [_json_entry(one, score, scores[0], actions) for one, score in zip(loaded, scores, strict=True)]
    text = json.dumps({"scored_by": describe_run(), "checkpoints": entries}, indent=1) + "\n"
    with replacing(path) as new_path:
        new_path.write_text(text, encoding="utf-8")


def _json_entry(loaded: Checkpoint, score: Score, first: Score, actions: Actions | None) -> dict[str, Any]:
    return {
        "checkpoint": str(loaded.path),
        "state_sha256": loaded.state_sha256,
        "agent": loaded.meta.get("agent"),
        "steps": loaded.meta.get("steps"),
        "frames": loaded.meta.get("frames"),
        "config": loaded.meta.get("config"),
        "trained_by": {name: loaded.meta.get(name) for name in ("command", "commit", "machine", "versions")},
        "actions": actions,
        "summary": summary(score),
        "difference_to_the_first": None if score is first else asdict(Difference.between(score, first)),
        "tracks": [asdict(result) for result in score.results],
    }


def _single_report(loaded: Checkpoint, score: Score) -> str:
    spread = f"{score.mean:.1f} ± {score.std:.1f} (mean ± standard deviation)"
    frames, interval = score.frames_to_finish, return_interval(score)
    if interval is not None:
        spread += f", {CONFIDENCE:.0%} interval of the mean {interval_in_words(interval)}"
    lines = [
        f"{loaded.path} ({_training(loaded)}) on {tracks_in_words(score)} of CarRacing-v3",
        f"  return            {spread}",
        f"  median            {score.median:.1f}",
        f"  worst, best       {score.minimum:.1f}, {score.maximum:.1f}",
        f"  laps finished     {score.lap_finish_rate:.0%}",
        f"  frames to finish  {'no lap was finished' if frames is None else f'{frames:.0f} on average'}",
        f"  tiles missed      {score.tiles_missed:.1f} a track",
        f"  worst tracks      {_worst_tracks(score)}",
    ]
    return "\n".join(lines)


def _comparison(loaded: Sequence[Checkpoint], scores: Sequence[Score]) -> str:
    paths = [str(one.path) for one in loaded]
    width = max(map(len, paths))
    header = (
        f"{'':{width}}  {'return':>15}  {'95% interval':>15}  {'median':>6}  {'worst':>6}  {'best':>6}  {'laps':>4}  "
        f"{'frames':>6}  missed"
    )
    lines = [f"{tracks_in_words(scores[0])} of CarRacing-v3", header]
    lines += [f"{path:{width}}  {_table_row(score)}" for path, score in zip(paths, scores, strict=True)]
    lines.append("worst tracks")
    lines += [f"{path:{width}}  {_worst_tracks(score)}" for path, score in zip(paths, scores, strict=True)]
    lines.append(f"paired differences of the return to {paths[0]}")
    for path, score in zip(paths[1:], scores[1:], strict=True):
        difference = Difference.between(score, scores[0])
        interval = difference.interval
        shown = "" if interval is None else f" ({CONFIDENCE:.0%} interval {interval_in_words(interval)})"
        better = f"better on {difference.n_better} of {len(score.results)} tracks"
        lines.append(f"{path:{width}}  {difference.mean:+.1f}{shown}, {better}")
    return "\n".join(lines)


def _table_row(score: Score) -> str:
    spread, frames = f"{score.mean:.1f} ± {score.std:.1f}", score.frames_to_finish
    return (
        f"{spread:>15}  {interval_in_words(return_interval(score)):>15}  {score.median:6.1f}  {score.minimum:6.1f}  "
        f"{score.maximum:6.1f}  {score.lap_finish_rate:4.0%}  {'-' if frames is None else f'{frames:.0f}':>6}  "
        f"{score.tiles_missed:6.1f}"
    )


def tracks_in_words(score: Score) -> str:
    """Which tracks a score is over."""
    tracks = [result.track for result in score.results]
    if tracks == list(SCORING_TRACKS):
        return f"the {len(tracks)} scoring tracks (seeds {tracks[0]} to {tracks[-1]})"
    if tracks == list(SCORING_TRACKS[: len(tracks)]):
        return f"the first {len(tracks)} of the {len(SCORING_TRACKS)} scoring tracks"
    return plural(len(tracks), "chosen track")


def _training(loaded: Checkpoint) -> str:
    agent, steps, frames = (loaded.meta.get(name) for name in ("agent", "steps", "frames"))
    is_known = isinstance(steps, int) and isinstance(frames, int)
    return f"{agent}, {steps:,} steps, {frames:,} frames" if is_known else f"{agent}"


def _worst_tracks(score: Score) -> str:
    worst = sorted(score.results, key=lambda result: result.episode_return)[:N_WORST]
    return ", ".join(f"{result.track} ({result.episode_return:.0f}, {result.tiles_missed} missed)" for result in worst)


def interval_in_words(interval: tuple[float, float] | None) -> str:
    """An interval's ends, or a dash for none."""
    return "-" if interval is None else f"{interval[0]:.1f} to {interval[1]:.1f}"
