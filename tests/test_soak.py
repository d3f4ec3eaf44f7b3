"""A short form of the fault campaign of `make soak`: the real scripts, killed, robbed and deceived."""

import random
import signal

import pytest

from tests.helpers import finish
from tests.soak import faults
from tests.soak.runs import Finished, Outcome, begin, table


def assert_survived(outcome: Outcome, show):
    show(table([outcome]).splitlines()[1])
    if outcome.not_tried:
        pytest.skip(outcome.not_tried)
    assert outcome.tried
    assert not outcome.problems, "\n".join(outcome.problems)


@pytest.fixture(scope="module", params=["train.py", "train_ppo.py"])
def finished(request, tmp_path_factory):
    """A finished run of each script."""
    place = tmp_path_factory.mktemp("finished")
    code, _, stderr = finish(begin(request.param, 200, place))
    assert code == 0, stderr
    return request.param, place


@pytest.mark.parametrize(
    ("script", "number", "is_alone"),
    [("train.py", signal.SIGKILL, False), ("train_ppo.py", signal.SIGTERM, True)],
)
def test_a_killed_and_resumed_run_is_the_run_that_nothing_disturbed(tmp_path, show, script, number, is_alone):
    assert_survived(faults.kill_and_resume(script, 480, tmp_path, 2, random.Random(script), number, is_alone), show)


def test_two_runs_that_differ_are_told_apart(finished, tmp_path):
    """The comparison that exactness rests on finds a difference where there is one."""
    script, place = finished
    other = begin(script, 200, tmp_path)
    assert finish(other)[0] == 0
    reference, same = Finished.read(place), Finished.read(tmp_path)
    assert not reference.differences(same)
    points = same.series["1_mean_return", "eval"]
    points[max(points)] += 1e-9
    assert len(reference.differences(same)) == 1
    same.meta["steps"] += 1
    generator = same.state["generators"]["torch"] if script == "train_ppo.py" else same.state["agent"]["generator"]
    generator[0] ^= 1
    assert len(reference.differences(same)) == 3


def test_damaged_files_cost_one_checkpoint_at_most(finished, show):
    script, place = finished
    assert_survived(faults.damaged_files(script, place, 40, random.Random(1)), show)


def test_forged_files_are_read_or_refused_in_one_line(finished, show):
    script, place = finished
    assert_survived(faults.forged_files(script, place, 30, random.Random(1)), show)


def test_planted_pickles_never_run(finished, show):
    script, place = finished
    if script != "train.py":
        pytest.skip("`make soak` has it for both; `train.py`'s checkpoints have every kind of file")
    assert_survived(faults.planted_pickles(script, 200, place, writers=faults.WRITERS[:1]), show)


def test_a_full_disk_costs_no_checkpoint(tmp_path, show):
    assert_survived(faults.full_disk("train.py", 300, tmp_path), show)


def test_a_directory_that_turns_read_only_costs_no_run(tmp_path, show):
    assert_survived(faults.read_only_directory("train_ppo.py", 300, tmp_path), show)
