"""The picture and the points of a comparison. What is drawn is checked in the SVG, whose texts are text."""

import csv

import pytest
from PIL import Image

from comparison import Group
from comparison_charts import draw_curves, write_points
from run_history import Evaluation, RunHistory


def group_of(label, *returns, minutes=1.0):
    runs = [
        RunHistory(
            f"{label}{i}",
            tuple(Evaluation(n, 4 * n, minutes, mean, 0.0, 0.5) for n, mean in enumerate(one, start=1)),
            8,
            None,
        )
        for i, one in enumerate(returns)
    ]
    return Group(label, tuple(runs))


@pytest.fixture
def svg(tmp_path):
    def draw(*groups):
        draw_curves(groups, [tmp_path / "x.svg", tmp_path / "x.png"])
        return (tmp_path / "x.svg").read_text()

    return draw


def test_both_axes_and_all_quantities_are_drawn(svg, tmp_path):
    text = svg(group_of("SAC", [100.0, 900.0], [200.0, 910.0]), group_of("PPO", [300.0, 860.0]))
    for word, count in (("frames", 3), ("minutes of training", 3), ("near the top", 2), ("laps finished", 2)):
        assert text.count(f"{word}<") == count
    assert ">SAC (2 seeds)<" in text
    assert ">PPO<" in text
    with Image.open(tmp_path / "x.png") as picture:
        assert picture.width > picture.height > 800


def test_the_top_is_drawn_only_where_somebody_is(svg):
    assert "near the top" not in svg(group_of("SAC", [100.0, 849.0]))


def test_a_group_without_minutes_is_drawn_over_frames(svg):
    assert ">old<" in svg(group_of("old", [100.0, 200.0], minutes=None))


@pytest.mark.filterwarnings("error")
def test_a_label_is_no_formula_and_may_hold_any_letters(svg):
    text = svg(group_of("$a^2$ <b>", [100.0, 200.0]), group_of("日本", [1.0, 2.0]))
    assert "$a^2$ &lt;b&gt;" in text
    assert "日本" in text


def test_every_label_is_in_the_legend(svg):
    assert ">_mine (2 seeds)<" in svg(group_of("_mine", [100.0, 200.0], [1.0, 2.0]))


def test_a_group_with_a_seed_without_evaluations_shows_its_other_seeds(svg):
    whole = svg(group_of("A", [100.0, 200.0], [100.0, 200.0], [1.0, 2.0]))
    partial = svg(group_of("A", [100.0, 200.0], [], [1.0, 2.0]))
    assert 0 < partial.count("<path") < whole.count("<path")
    assert partial.count("<path") > svg(group_of("A", [])).count("<path")


def test_every_evaluation_is_a_line(tmp_path):
    write_points([group_of("a,b", [100.0, 900.0], [200.0]), group_of("PPO", [1.0], minutes=None)], tmp_path / "x.csv")
    with (tmp_path / "x.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["label"], row["run"], row["step"], row["mean_return"], row["minutes"]) for row in rows] == [
        ("a,b", "a,b0", "1", "100.0", "1.0"),
        ("a,b", "a,b0", "2", "900.0", "1.0"),
        ("a,b", "a,b1", "1", "200.0", "1.0"),
        ("PPO", "PPO0", "1", "1.0", ""),
    ]


def test_of_many_settings_some_are_drawn_and_the_rest_are_counted(svg):
    text = svg(*(group_of(f"a setting with a long name, number {number}", [900.0, 910.0]) for number in range(20)))
    assert text.count("a setting with a long name") == 7
    assert ">13 more, not drawn<" in text
