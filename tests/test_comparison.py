"""Statistics over seeds, against figures that were worked out by hand or by other means."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import mannwhitneyu

from comparison import Group, curve_of, effort_rows, mean_over_seeds, tables_of
from run_history import Evaluation, RunHistory
from scoring import Score, TrackResult


def run_of(returns=(), curve=(), name="run"):
    """A run with these returns on tracks 0, 1, ..., and validations (step, minutes, mean return)."""
    results = [TrackResult(track, value, 800, 280, 0, 1.0, value > 900) for track, value in enumerate(returns)]
    evaluations = [Evaluation(step, 4 * step, minutes, mean, 0.0, 0.5) for step, minutes, mean in curve]
    return RunHistory(name, tuple(evaluations), 8, Score(results) if results else None)


def group_of(*returns, label="A"):
    return Group(label, tuple(map(run_of, returns)))


def test_the_score_is_the_mean_of_the_seeds():
    group = group_of([900.0, 950.0], [800.0, 850.0], [910.0, 920.0])
    assert group.score.value == pytest.approx((925 + 825 + 915) / 3)
    assert group.lap_finish_rate.value == pytest.approx((0.5 + 0.0 + 1.0) / 3)


def test_the_interval_is_that_of_all_resamples():
    """Five seeds have 3,125 resamples, among which 2,000 random ones find nearly the same percentiles."""
    values = [825.0, 905.0, 915.0, 920.0, 925.0]
    means = [np.mean(resample) for resample in itertools.product(values, repeat=5)]
    assert mean_over_seeds(values).interval == pytest.approx(tuple(np.percentile(means, [2.5, 97.5])), abs=2.5)


def test_the_interval_of_three_seeds_is_their_range():
    """One resample in 27 is three times the lowest: more than 2.5%."""
    assert mean_over_seeds([825.0, 915.0, 925.0]).interval == (825.0, 925.0)


@pytest.mark.parametrize("values", [[910.0], [910.0, 910.0, 910.0]])
def test_seeds_that_do_not_differ_have_no_interval(values):
    assert mean_over_seeds(values).interval is None
    assert str(mean_over_seeds(values)) == "910.0"


def test_the_interquartile_mean_ignores_a_lost_track():
    """Eight returns: the two lowest and the two highest are left out."""
    group = group_of([-90.0, 901.0, 902.0, 903.0], [904.0, 905.0, 906.0, 950.0])
    assert group.interquartile_mean.value == pytest.approx(np.mean([902.0, 903.0, 904.0, 905.0]))


def test_the_probability_of_improvement_is_the_mann_whitney_statistic_of_each_track():
    rng = np.random.default_rng(3)
    mine, theirs = rng.integers(900, 910, (3, 20)).astype(float), rng.integers(898, 908, (4, 20)).astype(float)
    tracks = zip(mine.T, theirs.T, strict=True)
    expected = np.mean([mannwhitneyu(a, b).statistic / (len(a) * len(b)) for a, b in tracks])
    found = group_of(*mine).probability_of_improvement(group_of(*theirs))
    assert found.value == pytest.approx(expected)
    assert found.interval[0] < found.value < found.interval[1]


def test_one_seed_against_several_has_an_interval():
    better = group_of([900.0, 900.0]).probability_of_improvement(group_of([890.0, 910.0], [890.0, 890.0]))
    assert better.value == 0.75
    assert better.interval == (0.5, 1.0)


def test_a_setting_is_as_good_as_itself():
    group = group_of([900.0, 800.0], [850.0, 870.0])
    assert group.probability_of_improvement(group).value == 0.5


def test_seeds_on_different_tracks_have_no_common_score():
    group = group_of([900.0, 910.0], [900.0])
    assert group.score is None
    assert group.interquartile_mean is None
    assert group.probability_of_improvement(group_of([900.0, 910.0])) is None
    assert group_of([900.0, 910.0]).probability_of_improvement(group_of([900.0])) is None
    here = run_of([900.0, 910.0])
    elsewhere = replace(here, score=Score([replace(one, track=one.track + 5) for one in here.score.results]))
    assert Group("A", (here, elsewhere)).score is None, "as many tracks, but others"
    assert Group("A", (here,)).probability_of_improvement(Group("B", (elsewhere,))) is None


def test_a_group_with_a_seed_that_was_not_scored_has_no_score():
    assert Group("A", (run_of([900.0]), run_of())).score is None


def test_the_mean_curve_covers_what_all_seeds_cover():
    runs = run_of(curve=[(100, 1.0, 0.0), (300, 3.0, 200.0)]), run_of(curve=[(200, 2.0, 300.0), (400, 4.0, 500.0)])
    curve = curve_of(Group("A", runs), "frames", "mean_return")
    assert curve.x.tolist() == [800, 1200]
    assert curve.mean.tolist() == [200.0, 300.0]
    assert curve.low.tolist() == [100.0, 200.0]
    assert curve.high.tolist() == [300.0, 400.0]
    minutes = curve_of(Group("A", runs), "minutes", "mean_return")
    assert minutes.x.tolist() == [2.0, 3.0]
    assert curve_of(Group("A", runs), "frames", "lap_finish_rate").mean.tolist() == [0.5, 0.5]


def test_the_laps_of_the_best_validation_are_told_not_those_of_the_last():
    evaluations = tuple(
        Evaluation(step, step, 1.0, mean, 0.0, laps) for step, mean, laps in [(1, 9.0, 0.8), (2, 5.0, 0.3)]
    )
    assert Group("A", (RunHistory("run", evaluations, 8, None),)).validation_laps.value == 0.8


def test_the_effort_of_three_seeds_is_their_mean():
    runs = [run_of(curve=[(step, None, 810.0)]) for step in (1000, 2000, 6000)]
    _, row = effort_rows([Group("A", tuple(runs))])
    assert row[1] == "3,000 steps"


def test_an_interval_is_the_same_each_time():
    values = [825.0, 905.0, 915.0, 920.0, 925.0, 931.0]
    assert mean_over_seeds(values).interval == mean_over_seeds(values).interval


def test_there_is_no_curve_over_minutes_that_nobody_counted():
    group = Group("A", (run_of(curve=[(100, None, 0.0), (200, None, 1.0)]),))
    assert curve_of(group, "minutes", "mean_return") is None
    assert curve_of(group, "frames", "mean_return").mean.tolist() == [0.0, 1.0]


def test_seeds_that_share_no_part_of_the_axis_have_no_curve():
    runs = run_of(curve=[(100, 1.0, 0.0)]), run_of(curve=[(200, 2.0, 0.0)])
    assert curve_of(Group("A", runs), "frames", "mean_return") is None


def test_the_effort_counts_the_seeds_that_got_there():
    first = run_of(curve=[(1000, 1.0, 810.0), (2000, 2.0, 905.0), (3000, 3.0, 925.0)])
    second = run_of(curve=[(1000, 1.0, 700.0), (2000, 3.0, 850.0), (3000, None, 910.0)])
    header, row = effort_rows([Group("A", (first, second))])
    assert header == ["first validation of", "800", "900", "920"]
    assert row == ["A", "1,500 steps, 2.0 min", "2,500 steps", "3,000 steps, 3.0 min (1 of 2)"]


def test_tables_without_a_figure_are_left_out():
    scored, trained = group_of([900.0]), Group("B", (run_of(curve=[(100, 1.0, 30.0)]),))
    assert [rows[0][1] for rows in tables_of([scored])] == ["seeds", "score", "IQM of the returns"]
    (validations,) = tables_of([trained])
    assert validations[1] == ["B", "1", "30.0", "50%", "1.0"]


def test_a_seed_without_validation_leaves_the_group_without_one():
    run = run_of(curve=[(100, 1.0, 30.0)])
    assert Group("A", (run, replace(run, evaluations=()))).best_validation is None
