"""What a run's directory and files of scores tell of it."""

import json
from dataclasses import asdict, replace

import pytest
import torch

import checkpoint
from checkpoint import CheckpointError
from run_history import Evaluation, RunHistory, evaluations_of, from_directory, from_score_file, known_score
from scoring import TrackResult

EVALUATIONS = (
    Evaluation(100, 400, 0.5, 810.0, -20.0, 0.0),
    Evaluation(200, 800, 1.0, 930.5, 900.0, 1.0),
    Evaluation(300, 1200, 1.5, 905.0, 700.0, 0.5),
)
TRACK = TrackResult(0, 921.5, 785, 280, 0, 1.0, True)


def save_run(directory, step=300, evaluations=EVALUATIONS, best_step=200):
    meta = {"evaluations": [asdict(one) for one in evaluations], "eval_tracks": 8}
    checkpoint.save_step(directory, step, {**meta, "steps": step}, {})
    checkpoint.save(directory, checkpoint.BEST, {**meta, "steps": best_step}, {})


def write_score(path, step=200, track=None):
    entry = {"steps": step, "tracks": [asdict(TRACK) if track is None else track]}
    path.write_text(json.dumps({"checkpoints": [entry]}))


def test_a_directory_remembers_every_evaluation(tmp_path):
    save_run(tmp_path)
    assert from_directory(tmp_path) == RunHistory(str(tmp_path), EVALUATIONS, 8, None, str(tmp_path))
    assert from_directory(tmp_path / "best") == from_directory(tmp_path)


def test_a_policy_alone_is_a_run_without_evaluations(tmp_path):
    path = checkpoint.save(tmp_path, "policy", {"agent": "ppo"}, {})
    assert from_directory(path).evaluations == ()


def test_a_run_in_aim_is_the_same_by_its_directory(tmp_path):
    checkpoint.save_step(tmp_path, 100, {"aim_run": "abc"}, {})
    assert from_directory(tmp_path).identity == "abc"
    checkpoint.save_step(tmp_path, 200, {"aim_run": [1]}, {})
    assert from_directory(tmp_path).identity == str(tmp_path)


def test_the_newest_checkpoint_counts(tmp_path):
    save_run(tmp_path, 200, EVALUATIONS[:2])
    save_run(tmp_path, 300)
    assert from_directory(tmp_path).evaluations == EVALUATIONS


def test_a_best_alone_is_a_run(tmp_path):
    meta = {"steps": 200, "evaluations": [asdict(EVALUATIONS[0])]}
    checkpoint.save(tmp_path, checkpoint.BEST, meta, {})
    assert from_directory(tmp_path).evaluations == EVALUATIONS[:1]


def test_an_earlier_version_remembers_none(tmp_path):
    checkpoint.save_step(tmp_path, 100, {"steps": 100}, {})
    assert from_directory(tmp_path).evaluations == ()


def test_best_and_first():
    run = RunHistory("x", EVALUATIONS, 8, None)
    assert run.best == EVALUATIONS[1]
    assert run.first_to_reach(800.0) == EVALUATIONS[0]
    assert run.first_to_reach(811.0) == EVALUATIONS[1]
    assert run.first_to_reach(931.0) is None
    assert RunHistory("x", (), 8, None).best is None


def test_a_score_belongs_to_the_best_that_it_was_made_of(tmp_path):
    save_run(tmp_path, best_step=200)
    write_score(tmp_path / "score.json", step=200)
    assert from_directory(tmp_path).score.mean == 921.5
    write_score(tmp_path / "score.json", step=100)
    assert from_directory(tmp_path).score is None


def test_a_score_of_other_weights_at_the_same_step_does_not_count(tmp_path):
    save_run(tmp_path, best_step=200)
    write_score(tmp_path / "score.json", step=200)
    plain = json.loads((tmp_path / "score.json").read_text())
    for sha256, counts in ((checkpoint.load(tmp_path / "best").state_sha256, True), ("0" * 64, False)):
        plain["checkpoints"][0]["state_sha256"] = sha256
        (tmp_path / "score.json").write_text(json.dumps(plain))
        assert (from_directory(tmp_path).score is not None) == counts


def test_a_file_of_scores_of_an_earlier_version(tmp_path):
    old = {key: value for key, value in asdict(TRACK).items() if key != "tiles_fraction"} | {"tiles_share": 1.0}
    write_score(tmp_path / "old.json", track=old)
    assert from_score_file(tmp_path / "old.json").score.results == [TRACK]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"checkpoints": []}',
        '{"checkpoints": [[]]}',
        '{"checkpoints": [{"tracks": []}]}',
        '{"checkpoints": [{"tracks": [7]}]}',
        json.dumps({"checkpoints": [{"tracks": [asdict(TRACK) | {"episode_return": "high"}]}]}),
        json.dumps({"checkpoints": [{"tracks": [asdict(TRACK) | {"episode_return": float("nan")}]}]}),
        json.dumps({"checkpoints": [{"tracks": [asdict(TRACK) | {"episode_return": 10**400}]}]}),
        "[" * 100_000,
    ],
    ids=range(11),
)
def test_what_is_no_file_of_scores_is_said(tmp_path, text):
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"x\.json is no file of scores"):
        from_score_file(tmp_path / "x.json")


@pytest.mark.parametrize(
    "plain", [7, [7], [{}], *([asdict(EVALUATIONS[0]) | {"mean_return": odd}] for odd in (None, 10**400, 1e308))]
)
def test_what_is_no_evaluation_is_said(tmp_path, plain):
    with pytest.raises(ValueError, match=r"evaluations|Evaluation|mean_return"):
        evaluations_of({"evaluations": plain})
    checkpoint.save_step(tmp_path, 100, {"evaluations": plain}, {})
    with pytest.raises(CheckpointError, match="no whole checkpoint"):
        from_directory(tmp_path)


OTHER_TRACK = replace(TRACK, track=5, episode_return=900.0)
MINE = {"versions": {"torch": "2"}, "commit": "a" * 40, "machine": {"processor": "P", "cores": 2}}


@pytest.fixture
def scored(tmp_path):
    """A checkpoint, and what the file of scores in its run's directory holds."""
    meta = {"agent": "ppo", "config": {"action_repeat": 4}}
    checkpoint.save(tmp_path, checkpoint.BEST, meta, {"x": torch.ones(3)})
    loaded = checkpoint.load(tmp_path / checkpoint.BEST)
    tracks = [asdict(TRACK), asdict(OTHER_TRACK)]
    entry = {"state_sha256": loaded.state_sha256, "actions": None, "tracks": tracks, "config": {"action_repeat": 4}}
    return loaded, {"scored_by": MINE | {"command": "python evaluate.py --json"}, "checkpoints": [entry]}


def known(scored, tracks=(5, 0), actions=None, **provenance):
    loaded, plain = scored
    (loaded.path.parent / "score.json").write_text(json.dumps(plain))
    return known_score(loaded, tracks, actions, MINE | provenance)


def test_a_known_score_is_that_of_the_same_policy_tracks_and_version(scored):
    assert known(scored).results == [OTHER_TRACK, TRACK]
    assert known(scored, tracks=(0,)).results == [TRACK]
    assert known(scored, tracks=(0, 1)) is None
    assert known(scored, actions="mode") is None
    assert known(scored, commit="b" * 40) is None
    assert known(scored, machine={"processor": "Q", "cores": 2}) is None
    assert known(scored, machine={"processor": "P", "cores": 1}) is not None
    assert known(scored, versions={"torch": "3"}) is None


def test_a_policy_that_has_changed_since_is_not_known(scored):
    loaded, plain = scored
    assert known(scored) is not None
    checkpoint.save(loaded.path.parent, checkpoint.BEST, loaded.meta, {"x": torch.zeros(3)})
    assert known((checkpoint.load(loaded.path), plain)) is None
    checkpoint.save(loaded.path.parent, checkpoint.BEST, {"config": {"action_repeat": 2}}, {"x": torch.ones(3)})
    assert known((checkpoint.load(loaded.path), plain)) is None, "the same weights see another game"


@pytest.mark.parametrize("commit", ["a" * 40 + " with uncommitted changes", "unknown"])
def test_nothing_is_known_where_the_code_is_not(scored, commit):
    scored[1]["scored_by"] = {**MINE, "commit": commit}
    assert known(scored, commit=commit) is None


@pytest.mark.parametrize("plain", [[], {}, {"scored_by": 7}, {"scored_by": MINE, "checkpoints": [7]}])
def test_a_file_of_something_else_is_no_known_score(scored, plain):
    assert known((scored[0], plain)) is None


def test_without_a_file_there_is_no_known_score(scored):
    assert known_score(scored[0], (0,), None, MINE) is None
