"""Several runs of several settings against each other: what their seeds have in common, and how sure it is.

Intervals are percentile bootstraps over the seeds (Efron, "Bootstrap Methods", 1979). A seed is one training, and all
its tracks go with it. The interquartile mean and the probability of improvement are those of Agarwal et al., "Deep
Reinforcement Learning at the Edge of the Statistical Precipice", 2021.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from run_history import Evaluation, RunHistory

CONFIDENCE = 0.95
N_RESAMPLES = 2_000
THRESHOLDS = (800, 900, 920)

Axis = Literal["frames", "minutes"]
Quantity = Literal["mean_return", "lap_finish_rate"]


@dataclass(frozen=True)
class Estimate:
    """A figure and its interval.

    Attributes:
        value: the figure, over all seeds.
        interval: its bootstrap confidence interval; None for one seed, and where all resamples agree.
    """

    value: float
    interval: tuple[float, float] | None

    def __str__(self) -> str:
        return self.shown(lambda value: f"{value:.1f}")

    def shown(self, number: Callable[[float], str]) -> str:
        """The figure and its interval, each number as `number` writes it."""
        if self.interval is None:
            return number(self.value)
        return f"{number(self.value)} [{number(self.interval[0])}, {number(self.interval[1])}]"


@dataclass(frozen=True)
class Group:
    """The seeds of one setting.

    Attributes:
        label: what the setting is called.
        runs: its runs, at least one.
    """

    label: str
    runs: tuple[RunHistory, ...]

    @property
    def best_validation(self) -> Estimate | None:
        """Mean over the seeds of the best validation; None where a seed has none."""
        best = [run.best for run in self.runs]
        return mean_over_seeds([one.mean_return for one in best if one is not None]) if None not in best else None

    @property
    def validation_laps(self) -> Estimate | None:
        """Mean over the seeds of the laps finished in their best validations, in [0, 1]; None where a seed has none."""
        best = [run.best for run in self.runs]
        return mean_over_seeds([one.lap_finish_rate for one in best if one is not None]) if None not in best else None

    @property
    def minutes(self) -> Estimate | None:
        """Mean over the seeds of the minutes up to their last validation; None where nobody counted those of a seed."""
        minutes = [run.evaluations[-1].minutes if run.evaluations else None for run in self.runs]
        return mean_over_seeds([one for one in minutes if one is not None]) if None not in minutes else None

    @property
    def returns(self) -> NDArray[np.float64] | None:
        """float64 (n_seeds, n_tracks), returns on the scored tracks; None unless all seeds drove the same ones."""
        scores = [run.score for run in self.runs if run.score is not None]
        tracks = {tuple(result.track for result in score.results) for score in scores}
        if len(scores) < len(self.runs) or len(tracks) > 1:
            return None
        return np.array([[result.episode_return for result in score.results] for score in scores])

    @property
    def tracks(self) -> tuple[int, ...]:
        """The tracks of `returns`."""
        score = self.runs[0].score
        return () if score is None or self.returns is None else tuple(result.track for result in score.results)

    @property
    def score(self) -> Estimate | None:
        """Mean over the seeds of the mean return on the scored tracks."""
        returns = self.returns
        return None if returns is None else mean_over_seeds(list(returns.mean(axis=1)))

    @property
    def interquartile_mean(self) -> Estimate | None:
        """Mean of the middle half of the returns of all seeds on all scored tracks."""
        returns = self.returns
        if returns is None:
            return None
        from scipy.stats import trim_mean  # see _bootstrapped

        return over_seeds(lambda seeds: trim_mean(returns[seeds].ravel(), 0.25), len(returns))

    @property
    def lap_finish_rate(self) -> Estimate | None:
        """Mean over the seeds of the laps finished on the scored tracks, in [0, 1]."""
        if self.returns is None:
            return None
        return mean_over_seeds([run.score.lap_finish_rate for run in self.runs if run.score is not None])

    def probability_of_improvement(self, other: "Group") -> Estimate | None:
        """How probably a seed of this group is better than one of `other` on a track; a draw counts half.

        None unless both were scored on the same tracks.
        """
        mine, theirs = self.returns, other.returns
        if mine is None or theirs is None or self.tracks != other.tracks:
            return None
        # (seeds, other seeds): over the tracks, the Mann-Whitney statistic of each pair.
        pairs = mine[:, None, :], theirs[None, :, :]
        wins = np.mean((pairs[0] > pairs[1]) + 0.5 * (pairs[0] == pairs[1]), axis=2)
        return over_seeds(lambda seeds, others: float(wins[np.ix_(seeds, others)].mean()), *wins.shape)

    def first_to_reach(self, mean_return: float) -> list[Evaluation]:
        """The first validation of at least this return, of each seed that made one."""
        return [found for run in self.runs if (found := run.first_to_reach(mean_return)) is not None]


def mean_over_seeds(values: Sequence[float]) -> Estimate:
    """The mean of one value from each seed."""
    array = np.asarray(values, np.float64)
    return over_seeds(lambda seeds: float(array[seeds].mean()), len(array))


def over_seeds(statistic: Callable[..., float], *n_seeds: int) -> Estimate:
    """A statistic of the seeds, with its bootstrap interval.

    Args:
        statistic: from arrays of seeds' numbers, one array for each of `n_seeds`.
        n_seeds: how many seeds there are, for each group that the statistic is over.
    """
    seeds = tuple(np.arange(n) for n in n_seeds)
    value = float(statistic(*seeds))
    if max(n_seeds) < 2:
        return Estimate(value, None)
    # A group of one seed cannot be resampled, and stays as it is.
    fixed = {place: group for place, group in enumerate(seeds) if len(group) == 1}
    varied = [group for group in seeds if len(group) > 1]

    def of_resample(*resampled: NDArray[np.intp]) -> float:
        rest = iter(resampled)
        return statistic(*(fixed[place] if place in fixed else next(rest) for place in range(len(seeds))))

    low, high = _bootstrapped(varied, of_resample, vectorized=False)
    interval = float(low), float(high)
    return Estimate(value, interval if interval[0] < interval[1] else None)


@dataclass(frozen=True)
class Curve:
    """The learning curve of a group.

    Attributes:
        x: float64 (n,), frames or minutes.
        mean: float64 (n,), mean over the seeds.
        low: float64 (n,), lower end of the interval of the mean; equal to `mean` for one seed.
        high: float64 (n,), upper end.
    """

    x: NDArray[np.float64]
    mean: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]


def points_of(run: RunHistory, axis: Axis, quantity: Quantity) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """A run's own curve: x and y, both float64 (n,). Evaluations whose minutes nobody counted are left out."""
    found = [(getattr(one, axis), getattr(one, quantity)) for one in run.evaluations]
    known = np.array([(x, y) for x, y in found if x is not None], np.float64).reshape(-1, 2)
    return known[:, 0], known[:, 1]


def curve_of(group: Group, axis: Axis, quantity: Quantity) -> Curve | None:
    """The mean curve over a group's seeds, over the part of the axis that all of them cover; None where there is none.

    Seeds are not evaluated at the same minutes, nor always at the same frames. Between two evaluations a seed's curve
    is a straight line.
    """
    points = [points_of(run, axis, quantity) for run in group.runs]
    if any(len(x) == 0 for x, _ in points):
        return None
    first, last = max(x[0] for x, _ in points), min(x[-1] for x, _ in points)
    every_x = np.unique(np.concatenate([x for x, _ in points]))
    grid = every_x[(every_x >= first) & (every_x <= last)]
    if len(grid) == 0:
        return None
    values = np.array([np.interp(grid, x, y) for x, y in points])
    low, high = _interval_of_means(values)
    return Curve(grid, values.mean(axis=0), low, high)


def _interval_of_means(values: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The interval of the mean over the first axis, at each place of the second."""
    if len(values) < 2:
        return values[0], values[0]
    low, high = _bootstrapped((values,), np.mean, axis=0)
    return np.asarray(low), np.asarray(high)


def _bootstrapped(data: Sequence[NDArray[Any]], statistic: Callable[..., Any], **options: Any) -> tuple[Any, Any]:
    """The two ends of SciPy's percentile interval; the same data give the same one."""
    from scipy.stats import bootstrap  # a second, which a sweep's start need not pay

    rng = np.random.default_rng(0)
    settings = {"method": "percentile", "confidence_level": CONFIDENCE, "n_resamples": N_RESAMPLES}
    interval = bootstrap(data, statistic, rng=rng, **settings, **options).confidence_interval
    return interval.low, interval.high


def validation_rows(groups: Sequence[Group]) -> list[list[str]]:
    """The table of the best validations, its header first."""
    counts = {run.n_validation_tracks for group in groups for run in group.runs if run.evaluations}
    rows = [["", "seeds", "best validation", "laps in it", "minutes"]]
    for group in groups:
        validation = _validation(group, says_tracks=len(counts) > 1)
        minutes = "-" if group.minutes is None else f"{group.minutes.value:.1f}"
        rows.append([group.label, str(len(group.runs)), validation, _in_percent(group.validation_laps), minutes])
    return rows


def score_rows(groups: Sequence[Group]) -> list[list[str]]:
    """The table of the scores, its header first."""
    rows = [["", "score", "laps finished"]]
    rows += [[group.label, _or_dash(group.score), _in_percent(group.lap_finish_rate)] for group in groups]
    return rows


def _in_percent(rate: Estimate | None) -> str:
    return "-" if rate is None else rate.shown(lambda value: f"{value:.0%}")


def _validation(group: Group, says_tracks: bool) -> str:
    """The best validation, and over how many tracks, where that is to be said."""
    if group.best_validation is None or not says_tracks:
        return _or_dash(group.best_validation)
    counts = sorted({str(run.n_validation_tracks or "?") for run in group.runs})
    return f"{group.best_validation} on {' and '.join(counts)} tracks"


def robust_rows(groups: Sequence[Group]) -> list[list[str]]:
    """The table of what few bad tracks or seeds hardly move, its header first."""
    first = groups[0]
    rows = [["", "IQM of the returns", f"P(better than {first.label})"]]
    for group in groups:
        better = None if group is first else group.probability_of_improvement(first)
        chance = "-" if better is None else better.shown(lambda value: f"{value:.2f}")
        rows.append([group.label, _or_dash(group.interquartile_mean), chance])
    return rows


def effort_rows(groups: Sequence[Group]) -> list[list[str]]:
    """The table of what it took to reach the thresholds on the validation tracks, its header first."""
    rows = [["first validation of", *(f"{threshold}" for threshold in THRESHOLDS)]]
    for group in groups:
        rows.append([group.label, *(_effort(group, threshold) for threshold in THRESHOLDS)])
    return rows


def _effort(group: Group, threshold: float) -> str:
    """Mean steps and minutes of the seeds that reached a return, and how many did where not all."""
    found = group.first_to_reach(threshold)
    if not found:
        return "-"
    text = f"{np.mean([one.step for one in found]):,.0f} steps"
    minutes = [one.minutes for one in found if one.minutes is not None]
    if len(minutes) == len(found):
        text += f", {np.mean(minutes):.1f} min"
    return text if len(found) == len(group.runs) else f"{text} ({len(found)} of {len(group.runs)})"


def _or_dash(estimate: Estimate | None) -> str:
    return "-" if estimate is None else str(estimate)


def tables_of(groups: Sequence[Group]) -> list[list[list[str]]]:
    """What there is to say of a comparison: tables of a header and a row for each setting, without empty ones."""
    first = validation_rows(groups)
    tables = (score_rows(groups), robust_rows(groups), effort_rows(groups))
    return [first, *(rows for rows in tables if any(cell != "-" for row in rows[1:] for cell in row[1:]))]
