"""The comparison's command line: which runs it finds, what it writes, and what it says of mistakes."""

import json
import sys
from dataclasses import asdict
from pathlib import Path

import pytest

import checkpoint
import compare
import comparison_report
from aim_reader import Metric, TrackedRun
from run_history import Evaluation
from scoring import TrackResult

METRICS = tuple(
    Metric(name, subset, ((100, value),))
    for name, subset, value in (
        ("1_mean_return", "eval", 850.0),
        ("3_min_return", "eval", 3.0),
        ("2_lap_finish_rate", "eval", 0.25),
    )
)


def save_run(directory, mean, aim_run=None):
    evaluations = [asdict(Evaluation(100 * n, 400 * n, n / 2, mean + n, 0.0, 0.5)) for n in (1, 2)]
    checkpoint.save_step(directory, 200, {"evaluations": evaluations, "steps": 200, "aim_run": aim_run}, {})


def write_score(path, episode_return, tracks=(0, 1)):
    results = [asdict(TrackResult(track, episode_return, 800, 280, 0, 1.0, True)) for track in tracks]
    path.write_text(json.dumps({"checkpoints": [{"steps": 200, "tracks": results}]}))


@pytest.fixture
def here(tmp_path, monkeypatch):
    """Three runs on the disk; what Aim has is up to `in_aim`."""
    monkeypatch.chdir(tmp_path)
    for name, mean in (("sac_s1", 800.0), ("sac_s2", 810.0), ("ppo_s1", 700.0)):
        save_run(tmp_path / "checkpoints" / name, mean, f"hash_{name}")
    in_aim(monkeypatch)
    return tmp_path


def in_aim(monkeypatch, *runs):
    monkeypatch.setattr(compare.Finder, "tracked", list(runs))


@pytest.fixture
def said(here, monkeypatch, capsys):
    """What the script prints, and what it says on stderr, where it exits with 2."""

    def run_script(*argv):
        monkeypatch.setattr("sys.argv", ["compare.py", *argv])
        code = 0
        try:
            compare.main()
        except SystemExit as end:
            code = end.code
        found = capsys.readouterr()
        if found.err:
            assert found.err.startswith("compare.py: ")
            assert found.err.count("\n") == 1
        assert code == (2 if found.err else 0)
        return found.out + found.err

    return run_script


def rows_of(text):
    return [line.split() for line in text.splitlines() if line]


def test_a_pattern_with_a_label_is_a_setting(said):
    rows = rows_of(said("checkpoints/sac_*=SAC", "checkpoints/ppo_*=PPO"))
    assert rows[1] == ["SAC", "2", "807.0", "[802.0,", "812.0]", "50%", "1.0"]
    assert rows[2] == ["PPO", "1", "702.0", "50%", "1.0"]
    assert ["SAC", "100", "steps,", "0.5", "min", "-", "-"] in rows


def test_without_a_label_the_argument_is_the_label(said):
    rows = rows_of(said("checkpoints/sac_*", "checkpoints/ppo_s1"))
    assert [row[:2] for row in rows[1:3]] == [["checkpoints/sac_*", "2"], ["checkpoints/ppo_s1", "1"]]


def test_seeds_that_are_named_one_by_one_share_a_label(said):
    rows = rows_of(said("checkpoints/sac_s1=x y", "checkpoints/ppo_s1=PPO", "checkpoints/sac_s2=x y"))
    assert rows[1][:3] == ["x", "y", "2"]


def test_a_file_may_have_an_equals_sign(said, here):
    write_score(here / "a=b.json", 900.0)
    assert rows_of(said("a=b.json"))[1][:2] == ["a=b.json", "1"]


def test_files_of_scores_are_compared(said, here):
    for name, value in (("a", 910.0), ("b", 920.0), ("c", 930.0)):
        write_score(here / f"{name}.json", value)
    rows = rows_of(said("a.json=old", "[bc].json=new"))
    assert rows[:6] == [
        ["seeds", "best", "validation", "laps", "in", "it", "minutes"],
        ["old", "1", "-", "-", "-"],
        ["new", "2", "-", "-", "-"],
        ["score", "laps", "finished"],
        ["old", "910.0", "100%"],
        ["new", "925.0", "[920.0,", "930.0]", "100%"],
    ]
    assert rows[6:9] == [
        ["IQM", "of", "the", "returns", "P(better", "than", "old)"],
        ["old", "910.0", "-"],
        ["new", "925.0", "[920.0,", "930.0]", "1.00"],
    ]


def test_a_run_in_aim_is_found_by_name_pattern_or_hash(said, monkeypatch):
    in_aim(monkeypatch, TrackedRun("mine_1", "aaa", {}, METRICS), TrackedRun("mine_2", "bbb", {}, METRICS))
    assert rows_of(said("mine_1"))[1][:3] == ["mine_1", "1", "850.0"]
    assert rows_of(said("mine_*=M"))[1][:3] == ["M", "2", "850.0"]
    assert rows_of(said("bbb"))[1][:3] == ["bbb", "1", "850.0"]


def test_of_one_name_in_aim_the_most_evaluated_counts(said, monkeypatch):
    more = tuple(Metric(one.name, one.subset, (*one.points, (200, 0.5))) for one in METRICS)
    runs = [TrackedRun("mine", run_hash, {}, metrics) for run_hash, metrics in (("b", more), ("a", METRICS), ("c", ()))]
    in_aim(monkeypatch, *runs)
    assert rows_of(said("mine"))[1][:3] == ["mine", "1", "850.0"]


def test_two_runs_of_one_name_are_compared_by_their_hashes(said, monkeypatch):
    in_aim(monkeypatch, TrackedRun("mine", "aaa", {}, METRICS), TrackedRun("mine", "bbb", {}, METRICS))
    assert [row[:2] for row in rows_of(said("aaa=A", "bbb=B"))[1:3]] == [["A", "1"], ["B", "1"]]
    assert "is named twice" in said("aaa=A", "mine=B", "bbb=C")


def test_a_name_may_hold_what_a_pattern_means(said, monkeypatch):
    in_aim(monkeypatch, TrackedRun("a[1]", "aaa", {}, METRICS))
    assert rows_of(said("a[1]"))[1][:2] == ["a[1]", "1"]


def test_a_label_leaves_the_terminal_alone(said):
    assert "\x1b" not in said("checkpoints/ppo_s1=\x1b[31mred")


def test_validations_over_other_numbers_of_tracks_are_told_apart(said, monkeypatch):
    in_aim(monkeypatch, TrackedRun("mine", "aaa", {"run": {"eval_tracks": 16}}, METRICS))
    text = said("mine", "checkpoints/ppo_s1")
    assert "850.0 on 16 tracks" in text
    assert "702.0 on ? tracks" in text
    assert "on" not in said("checkpoints/ppo_s1").splitlines()[1]


def test_a_matplotlib_that_cannot_be_used_is_said_first(said, monkeypatch, here):
    monkeypatch.setitem(sys.modules, "comparison_charts", None)
    assert "--to: matplotlib cannot be used" in said("checkpoints/ppo_s1", "--to", "out")
    assert not (here / "out").exists()


def test_all_files_are_written(said, here):
    text = said("checkpoints/sac_*=SAC", "checkpoints/ppo_*=PPO", "--to", "out")
    assert text.endswith("Written: out/curves.png, out/curves.svg, out/curves.csv, out/table.md\n")
    assert sorted(path.name for path in (here / "out").iterdir()) == [
        "curves.csv",
        "curves.png",
        "curves.svg",
        "table.md",
    ]
    assert "| SAC | 2 | 807.0 [802.0, 812.0] | 50% | 1.0 |" in (here / "out" / "table.md").read_text()
    assert len((here / "out" / "curves.csv").read_text().splitlines()) == 7


@pytest.mark.parametrize("argument", ["checkpoints/ppo_s1", "ppo_*", "hash_ppo_s1"])
def test_a_run_is_exported_by_its_directory_name_or_hash(said, here, monkeypatch, argument):
    in_aim(monkeypatch, TrackedRun("ppo_s1", "hash_ppo_s1", {}, METRICS), TrackedRun("x", "y", {}, METRICS))
    assert said(argument, "--export", "csv", "--to", "out") == "Written: out/ppo_s1-hash_ppo.csv\n"
    assert [path.name for path in (here / "out").iterdir()] == ["ppo_s1-hash_ppo.csv"]


def test_a_name_in_aim_leads_nowhere_else(said, here, monkeypatch):
    name = "../../x\n" + "y" * 300
    in_aim(monkeypatch, TrackedRun(name, "abc", {}, METRICS))
    said("abc", "--export", "csv", "--to", "out")
    (path,) = (here / "out").iterdir()
    assert path.name == f".._.._x_{'y' * 52}-abc.csv"


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ((), "no run is named"),
        (("nothing",), "nothing is neither on the disk nor the name of a run in the Aim repository of ."),
        (("nothing*=N",), "nothing* is neither"),
        (("checkpoints",), "checkpoints holds no checkpoint"),
        (("checkpoints/sac_s1", "checkpoints/sac_*=x"), "sac_s1 is named twice"),
        (("broken.json",), "broken.json is no file of scores"),
        (("checkpoints/sac_s1", "--to", "broken.json"), "--to broken.json"),
        (("checkpoints/sac_s1", "--export", "csv"), "--export needs a directory to write to; add --to DIR"),
        (("checkpoints/sac_s1", "--export", "csv", "--to", "x"), "sac_s1 was not tracked in the Aim repository of ."),
        (("odd", "--export", "csv", "--to", "x"), "odd was not tracked"),
        (("checkpoints/sac_s1", "checkpoints/../checkpoints/sac_s1"), "is named twice"),
        (("x" * 300 + "=A",), "has a name of 30"),
        (("checkpoints/sac_s1", "--export", "xls", "--to", "x"), "--export"),
        (("s3://bucket/run",), "is an address"),
        (("a\0b",), "control character"),
    ],
)
def test_mistakes_are_said_in_one_line(said, here, argv, message):
    (here / "broken.json").write_text("{")
    checkpoint.save_step(here / "odd", 1, {"aim_run": [1]}, {})
    assert message in said(*argv)
    assert sorted(path.name for path in Path().iterdir()) == ["broken.json", "checkpoints", "odd"]


def test_a_file_that_cannot_be_written_is_said(said, monkeypatch):
    def fail(path):
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(comparison_report, "replacing", fail)
    assert "table.md could not be written" in said("checkpoints/sac_s1", "--to", "out")
