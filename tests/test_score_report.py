"""What is said of scores: intervals, paired differences, tables."""

from pathlib import Path

import numpy as np
import pytest

from checkpoint import Checkpoint
from score_report import Difference, confidence_interval, summary, text_report
from scoring import Score, TrackResult


def score_of(*returns, first_track=0):
    return Score(
        [TrackResult(first_track + i, value, 800, 280, 20, 280 / 300, False) for i, value in enumerate(returns)]
    )


def loaded(name, **meta):
    return Checkpoint(Path(name), {"agent": "ppo", **meta}, {})


def test_a_confidence_interval_holds_the_mean_as_often_as_it_says():
    rng = np.random.default_rng(0)
    n_held = 0
    for _ in range(60):
        low, high = confidence_interval(rng.normal(5.0, 2.0, 40).tolist())
        n_held += low < 5.0 < high
    assert 51 <= n_held <= 60  # expected 57; outside of this once in a thousand
    values = rng.normal(0.0, 1.0, 400)
    low, high = confidence_interval(values.tolist())
    assert (high - low) / 2 == pytest.approx(1.96 * values.std() / 20, rel=0.1)
    assert confidence_interval(values.tolist()) == (low, high)


@pytest.mark.parametrize("values", [[3.0], [3.0] * 8, [1.0, 2.0, 3.0, 4.0]])
def test_few_values_and_equal_ones_have_no_interval(values):
    assert confidence_interval(values) is None
    assert "interval" not in text_report([loaded("x")], [score_of(*values)])


def test_values_that_differ_by_rounding_alone_have_no_interval(recwarn):
    assert confidence_interval([900.0, 900.0000000000001, *[900.0] * 8]) is None
    assert not recwarn.list


def test_a_difference_is_paired():
    difference = Difference.between(score_of(10.0, 20.0, 33.0, 6.0, 7.0), score_of(9.0, 21.0, 30.0, 5.0, 6.0))
    assert difference.mean == pytest.approx(1.0)
    assert difference.n_better == 4
    low, high = difference.interval
    assert -1.0 <= low < 1.0 < high <= 3.0
    with pytest.raises(ValueError, match="different tracks"):
        Difference.between(score_of(1.0), score_of(1.0, first_track=5))


def test_the_report_of_one_checkpoint():
    score = score_of(900.0, 700.0, 806.0, 810.0, 810.0, first_track=7)
    text = text_report([loaded("run/best", steps=1234, frames=12340)], [score])
    assert text.startswith("run/best (ppo, 1,234 steps, 12,340 frames) on 5 chosen tracks of CarRacing-v3\n")
    low, high = summary(score)["mean_return_interval_95"]
    assert f"805.2 ± 63.4 (mean ± standard deviation), 95% interval of the mean {low:.1f} to {high:.1f}" in text
    assert "no lap was finished" in text
    assert text.endswith(
        "8 (700, 20 missed), 9 (806, 20 missed), 10 (810, 20 missed), 11 (810, 20 missed), 7 (900, 20 missed)"
    )
    assert "(ppo) on the first 3 of the 100 scoring tracks" in text_report([loaded("x")], [score_of(1.0, 2.0, 3.0)])
    assert "on the 100 scoring tracks (seeds 0 to 99)" in text_report([loaded("x")], [score_of(*range(100))])


def test_several_checkpoints_are_compared_with_the_first():
    text = text_report([loaded("a"), loaded("long")], [score_of(800.0, 900.0), score_of(810.0, 890.0)])
    lines = text.splitlines()
    assert lines[0] == "the first 2 of the 100 scoring tracks of CarRacing-v3"
    assert [line.split()[:3] for line in lines[2:4]] == [["a", "850.0", "±"], ["long", "850.0", "±"]]
    assert lines[-2] == "paired differences of the return to a"
    assert lines[-1] == "long  +0.0, better on 1 of 2 tracks"
