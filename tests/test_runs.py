"""The list of runs, and the checkpoints that --prune removes and leaves."""

import dataclasses
import json
import sys
from types import SimpleNamespace

import pytest
import torch

import checkpoint
import runs
from process import lock_directory
from runs import find_runs
from runs_options import RunsOptions
from scoring import TrackResult


def save_run(directory, steps, best=910.25, agent="sac"):
    meta = {"agent": agent, "best": {"mean": best, "step": steps[0]}}
    state = {"weights": torch.zeros(250_000)}
    for step in steps:
        checkpoint.save_step(directory, step, {**meta, "steps": step}, state)
    checkpoint.save(directory, checkpoint.BEST, {**meta, "steps": steps[0]}, state)


def write_score(directory, steps):
    tracks = [TrackResult(0, 926.04, 740, 280, 0, 1.0, True), TrackResult(1, 910.04, 900, 280, 0, 1.0, False)]
    entry = {"steps": steps, "tracks": [dataclasses.asdict(track) for track in tracks]}
    (directory / "score.json").write_text(json.dumps({"checkpoints": [entry]}))


@pytest.fixture
def here(tmp_path, monkeypatch):
    """Two runs, one of which has been scored, a policy that is no run, and a file of the user's."""
    monkeypatch.chdir(tmp_path)
    save_run(tmp_path / "checkpoints" / "a", [1000, 2000, 3000])
    save_run(tmp_path / "checkpoints" / "deep" / "b", [64], agent="ppo")
    write_score(tmp_path / "checkpoints" / "a", steps=1000)
    checkpoint.save(tmp_path / "checkpoints", "policy", {"agent": "ppo"}, {})
    (tmp_path / "checkpoints" / "a" / "step_000001000" / "notes.txt").write_text("mine")
    return tmp_path


def run_script(monkeypatch, *flags, answer=None):
    """The script in this process, at a terminal where there is an answer."""

    def ask(question):
        print(question)
        return answer

    monkeypatch.setattr("sys.argv", ["runs.py", *flags])
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(isatty=lambda: answer is not None))
    monkeypatch.setattr("builtins.input", ask)
    runs.main()


def test_ctrl_d_at_the_question_removes_nothing(here, monkeypatch, capsys):
    def ask(question):
        raise EOFError

    monkeypatch.setattr("sys.argv", ["runs.py", "--prune", "--keep", "1"])
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(isatty=lambda: True))
    monkeypatch.setattr("builtins.input", ask)
    runs.main()
    assert "Nothing was removed." in capsys.readouterr().out
    assert len(steps_in(here / "checkpoints" / "a")) == 3


def test_what_a_training_removes_meanwhile_does_not_count(tmp_path, monkeypatch):
    (tmp_path / "stays").write_bytes(b"12345")
    (tmp_path / "goes").mkdir()
    (tmp_path / "goes" / "file").write_bytes(b"123")
    real = runs.os.walk

    def walk(path):
        for found in real(path):
            if found[0].endswith("goes"):
                (tmp_path / "goes" / "file").unlink()
            yield found

    monkeypatch.setattr(runs.os, "walk", walk)
    assert runs.size_of(tmp_path) == 5


def steps_in(directory):
    return sorted(path.name for path in directory.iterdir() if path.name.startswith("step_"))


def test_every_run_is_a_line(here, monkeypatch, capsys):
    run_script(monkeypatch)
    header, first, second = capsys.readouterr().out.splitlines()
    assert header.split() == ["run", "agent", "steps", "best", "score", "laps", "checkpoints", "size"]
    assert first.split() == ["checkpoints/a", "sac", "3,000", "910.2", "918.0", "50%", "3", "4", "MB"]
    assert second.split() == ["checkpoints/deep/b", "ppo", "64", "910.2", "-", "-", "1", "2", "MB"]


def test_the_score_of_an_earlier_best_is_not_shown(here):
    run, _ = runs.find_runs(here)
    write_score(run.path, steps=500)
    assert runs.row_of(run)[4:6] == ("-", "-")


@pytest.mark.parametrize(
    ("flags", "answer", "left"),
    [
        (["--prune"], "y", ["step_000001000", "step_000003000"]),
        (["--prune", "--keep", "2"], "yes", ["step_000001000", "step_000002000", "step_000003000"]),
        (["--prune", "--yes"], None, ["step_000001000", "step_000003000"]),
        (["--prune"], "n", ["step_000001000", "step_000002000", "step_000003000"]),
        (["--prune"], "", ["step_000001000", "step_000002000", "step_000003000"]),
    ],
)
def test_the_best_and_the_newest_stay(here, monkeypatch, capsys, flags, answer, left):
    run_script(monkeypatch, *flags, answer=answer)
    said = capsys.readouterr().out
    run = here / "checkpoints" / "a"
    # The oldest one's directory stays, for the file in it that is the user's.
    assert steps_in(run) == left
    assert (run / "step_000001000" / "notes.txt").read_text() == "mine"
    assert checkpoint.load(run).meta["steps"] == 3000
    assert checkpoint.load(run / checkpoint.BEST).meta["steps"] == 1000
    assert checkpoint.load(here / "checkpoints" / "deep" / "b").meta["steps"] == 64
    is_removed = answer in ("y", "yes") or "--yes" in flags
    n_old = 1 if "--keep" in flags else 2
    assert ("? The best and the newest" in said) == ("--yes" not in flags)
    assert ("Nothing was removed." in said) != is_removed
    assert (len(checkpoint.whole_steps(run)) == 3 - n_old) == is_removed


def test_a_run_in_training_is_left_alone(here, monkeypatch, capsys):
    run = here / "checkpoints" / "a"
    with lock_directory(run):
        run_script(monkeypatch, "--prune", "--yes")
    assert len(checkpoint.whole_steps(run)) == 3
    said = capsys.readouterr()
    assert "checkpoints/a is in training; it was left alone" in said.err
    assert "Removed 0 checkpoints." in said.out


def test_a_damaged_run_is_named_and_the_others_are_listed(here, monkeypatch, capsys):
    for manifest in (here / "checkpoints" / "deep" / "b").rglob(checkpoint.MANIFEST):
        manifest.write_text("{")
    run_script(monkeypatch)
    said = capsys.readouterr()
    assert len(said.out.splitlines()) == 2
    assert said.err.count("\n") == 1
    assert "manifest.json cannot be read" in said.err


@pytest.mark.parametrize(
    ("flags", "why"),
    [
        (["--directory", "nowhere"], "--directory nowhere is no directory"),
        (["--prune"], "--prune asks first, and there is no terminal to answer in; add --yes"),
        (["--yes"], "--yes answers what --prune asks"),
        (["--keep", "0"], "--keep must be at least 1"),
    ],
)
def test_mistakes_are_one_line(here, monkeypatch, capsys, flags, why):
    with pytest.raises(SystemExit) as exit_:
        run_script(monkeypatch, *flags)
    said = capsys.readouterr()
    assert (exit_.value.code, said.err.count("\n"), said.out) == (2, 1, "")
    assert why in said.err
    assert len(checkpoint.whole_steps(here / "checkpoints" / "a")) == 3


def test_without_runs_it_says_so(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "checkpoints").mkdir()
    run_script(monkeypatch)
    assert capsys.readouterr().out == "No runs below checkpoints.\n"
    assert find_runs(tmp_path) == []
    assert RunsOptions().keep == 1
