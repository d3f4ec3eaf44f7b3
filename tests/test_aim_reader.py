"""Runs read out of Aim's files, without an index and beside whoever writes them."""

import math
import os
from pathlib import Path

import aim
import pytest
from aim.sdk.index_manager import RepoIndexManager

from aim_reader import Metric, TrackedRun, read_runs
from aim_writer import AimTracker
from checkpoint import CheckpointError
from run_history import Evaluation


def track_evaluations(tracker, count=2):
    for n in range(1, count + 1):
        step = 100 * n
        for name, value in (("1_mean_return", 10.0 * n), ("3_min_return", -n), ("2_lap_finish_rate", 0.5)):
            tracker.track(value, name, step, context={"subset": "eval"})
        tracker.track(n / 2, "minutes", step, context={"subset": "time"})


def test_a_run_in_progress_is_read(tmp_path):
    params = {"hparams": {"action_repeat": 4}, "run": {"eval_tracks": 8}}
    with AimTracker(tmp_path, "sac", params) as tracker:
        track_evaluations(tracker)
        (run,) = read_runs(tmp_path)
    assert (run.name, run.run_hash, run.params["hparams"]) == ("sac", tracker_hash(tmp_path), {"action_repeat": 4})
    history = run.history()
    assert history.name == "sac"
    assert history.n_validation_tracks == 8
    assert history.evaluations == (
        Evaluation(100, 400, 0.5, 10.0, -1.0, 0.5),
        Evaluation(200, 800, 1.0, 20.0, -2.0, 0.5),
    )


def tracker_hash(repo):
    (run_hash,) = aim.Repo.from_path(str(repo)).list_all_runs()
    return run_hash


def test_reading_leaves_no_trace(tmp_path):
    """No index is made, and no file changes: an open page of Aim's goes on as before."""

    def files():
        return {path: path.stat().st_mtime_ns for path in (tmp_path / ".aim").rglob("*") if path.is_file()}

    for name in ("a", "b"):
        with AimTracker(tmp_path, name, {}) as tracker:
            track_evaluations(tracker)
    before = files()
    assert [run.name for run in read_runs(tmp_path)] in (["a", "b"], ["b", "a"])
    assert files() == before


def test_what_is_read_is_what_aim_itself_reads(tmp_path):
    with AimTracker(tmp_path, "a", {"x": {"y": [1, 2.5, "z"]}}) as tracker:
        track_evaluations(tracker, 5)
        tracker.track(7, "no_context", 3)
    (found,) = read_runs(tmp_path)
    repo = aim.Repo.from_path(str(tmp_path))
    RepoIndexManager.get_index_manager(repo).index(found.run_hash)
    repo.container_pool.clear()
    indexed = repo.get_run(found.run_hash)
    assert found.params["x"] == indexed["x"]
    theirs = {}
    for metric in indexed.metrics():
        if not metric.name.startswith("__system__"):
            steps, (values, _, _) = metric.data.items_list()
            theirs[metric.name, metric.context.to_dict().get("subset", "")] = dict(zip(steps, values, strict=True))
    assert {(metric.name, metric.subset): dict(metric.points) for metric in found.metrics} == theirs


def test_a_run_without_anything_is_a_run(tmp_path):
    with AimTracker(tmp_path, "bare", {}):
        pass
    (run,) = read_runs(tmp_path)
    assert run.metrics == ()
    assert run.history().evaluations == ()


def test_parameters_may_be_anybodys(tmp_path):
    for hparams in (7, {"action_repeat": "x"}, {}):
        with AimTracker(tmp_path, "a", {"hparams": hparams, "run": "x"}) as tracker:
            track_evaluations(tracker, 1)
    assert [run.history().evaluations[0].frames for run in read_runs(tmp_path)] == [100] * 3


def test_a_damaged_run_is_named_and_left_out(tmp_path, capfd):
    for name in ("whole", "damaged"):
        with AimTracker(tmp_path, name, {}) as tracker:
            track_evaluations(tracker)
            run_hash = tracker.run_hash
    for file in (tmp_path / ".aim" / "meta" / "chunks" / run_hash).glob("MANIFEST*"):
        file.write_bytes(os.urandom(100))
    assert [run.name for run in read_runs(tmp_path)] == ["whole"]
    assert f"the run {run_hash} in Aim cannot be read" in capfd.readouterr().err


def test_no_repository_has_no_runs(tmp_path):
    assert list(read_runs(tmp_path)) == []
    assert list(Path(tmp_path).iterdir()) == []


def test_a_run_of_an_earlier_version_that_was_resumed_has_both_names(tmp_path):
    with AimTracker(tmp_path, "old", {}) as tracker:
        for step, prefixes in ((100, ("", "", "")), (200, ("1_", "3_", "2_"))):
            for prefix, name in zip(prefixes, ("mean_return", "min_return", "lap_finish_rate"), strict=True):
                tracker.track(step, f"{prefix}{name}", step, context={"subset": "eval"})
        tracker.track(1000, "frames", 200, context={"subset": "time"})
    (run,) = read_runs(tmp_path)
    assert run.history().evaluations == (
        Evaluation(100, 100, None, 100.0, 100.0, 100.0),
        Evaluation(200, 1000, None, 200.0, 200.0, 200.0),
    )


def test_evaluations_are_in_order_though_a_resume_went_back():
    def metric(prefix, name, *steps):
        return Metric(f"{prefix}{name}", "eval", tuple((step, float(step)) for step in steps))

    old = [metric("", name, 100, 300) for name in ("mean_return", "min_return", "lap_finish_rate")]
    new = [metric(*name, 200) for name in (("1_", "mean_return"), ("3_", "min_return"), ("2_", "lap_finish_rate"))]
    run = TrackedRun("a", "b", {}, (*new, *old))
    assert [one.step for one in run.history().evaluations] == [100, 200, 300]


def test_numbers_of_other_writers_that_are_not_finite_are_left_out(tmp_path):
    run = aim.Run(repo=str(tmp_path), log_system_params=False, capture_terminal_logs=False)
    for step, value in enumerate((1.0, math.nan, math.inf, 2.0)):
        run.track(value, name="frames", step=step, context={"subset": "time"})
    run.close()
    (found,) = read_runs(tmp_path)
    assert found.points("frames", "time") == {0: 1.0, 3: 2.0}
    assert found.history().evaluations == ()


def test_a_damaged_repository_is_one_line(tmp_path):
    with AimTracker(tmp_path, "a", {}):
        pass
    (tmp_path / ".aim" / "VERSION").write_text("junk")
    with pytest.raises(CheckpointError, match=r"the Aim repository of .* cannot be read"):
        list(read_runs(tmp_path))
