"""Checkpoints: whole or not at all, the newest found, damage and malice refused."""

import json
import os
import pickle

import pytest
import torch

import checkpoint
from checkpoint import CheckpointError

STATE = {"policy": {"w": torch.arange(5.0)}, "steps": 7, "nested": [1, {"x": None}]}
META = {"agent": "ppo", "config": {"seed": 1}}


def assert_state(found, expected=STATE):
    assert torch.equal(found["policy"]["w"], expected["policy"]["w"])
    assert found["steps"] == expected["steps"]
    assert found["nested"] == expected["nested"]


def test_what_was_saved_is_loaded(tmp_path):
    path = checkpoint.save(tmp_path / "run", "best", META, STATE)
    loaded = checkpoint.load(path)
    assert loaded.path == path
    assert loaded.meta == META
    assert_state(loaded.state)


def test_a_directory_means_what_was_saved_last_and_old_ones_go(tmp_path):
    assert not checkpoint.holds_run(tmp_path)
    checkpoint.save(tmp_path, checkpoint.BEST, META, STATE)
    for step in (5, 1_000, 900_000_000, 2_000_000_000):
        checkpoint.save_step(tmp_path, step, META, {**STATE, "steps": step})
    assert checkpoint.holds_run(tmp_path)
    assert checkpoint.load(tmp_path).state["steps"] == 2_000_000_000
    kept = sorted(path.name for path in tmp_path.iterdir())
    assert kept == ["best", "step_000001000", "step_2000000000", "step_900000000"]


def test_a_run_resumed_from_an_earlier_step_keeps_what_it_saves(tmp_path):
    for step in (100, 125, 150, 75):
        path = checkpoint.save_step(tmp_path, step, META, {**STATE, "steps": step})
        assert path.exists()
        assert checkpoint.load(tmp_path).state["steps"] == step


def test_saving_again_under_a_name_replaces_it(tmp_path):
    checkpoint.save(tmp_path, "best", META, STATE)
    checkpoint.save(tmp_path, "best", {**META, "agent": "new"}, STATE)
    assert checkpoint.load(tmp_path / "best").meta["agent"] == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["best"]


@pytest.mark.parametrize(("failing", "at_call"), [("fsync", 1), ("rename", 1), ("rename", 2)])
def test_a_save_that_fails_leaves_the_one_before(tmp_path, monkeypatch, failing, at_call):
    checkpoint.save(tmp_path, "best", META, STATE)
    real, calls = getattr(os, failing), []

    def fail(*args, **kwargs):
        calls.append(args)
        if len(calls) == at_call:
            raise OSError(28, "No space left on device")
        return real(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(os, failing, fail)
        with pytest.raises(OSError, match="No space left"):
            checkpoint.save(tmp_path, "best", {**META, "agent": "new"}, STATE)
    assert checkpoint.load(tmp_path / "best").meta == META
    assert [path.name for path in tmp_path.iterdir()] == ["best"]


def test_nothing_there_is_said_plainly(tmp_path):
    with pytest.raises(CheckpointError, match="there is no checkpoint at"):
        checkpoint.load(tmp_path / "absent")
    with pytest.raises(CheckpointError, match="holds no checkpoint"):
        checkpoint.load(tmp_path)
    (tmp_path / "file").write_text("x")
    with pytest.raises(CheckpointError, match="holds no checkpoint"):
        checkpoint.load(tmp_path / "file")
    (tmp_path / "step_abc").mkdir()
    with pytest.raises(CheckpointError, match="holds no checkpoint"):
        checkpoint.load(tmp_path)


def test_every_flipped_or_missing_byte_is_found(tmp_path):
    path = checkpoint.save(tmp_path, "best", META, STATE)
    whole = (path / "state.pt").read_bytes()
    for position in range(0, len(whole), 97):
        (path / "state.pt").write_bytes(whole[:position] + bytes([whole[position] ^ 1]) + whole[position + 1 :])
        with pytest.raises(CheckpointError, match=r"state\.pt is damaged"):
            checkpoint.load(path)
    for length in (0, 10, len(whole) - 1):
        (path / "state.pt").write_bytes(whole[:length])
        with pytest.raises(CheckpointError, match=r"state\.pt is damaged"):
            checkpoint.load(path)
    (path / "state.pt").unlink()
    with pytest.raises(CheckpointError, match=r"state\.pt cannot be read"):
        checkpoint.load(path)


@pytest.mark.parametrize(
    "manifest", ["", "{", "[]", "null", "{}", '{"format_version": 1}', '{"format_version": 1, "sha256": {}}']
)
def test_a_manifest_that_is_none_is_refused(tmp_path, manifest):
    path = checkpoint.save(tmp_path, "best", META, STATE)
    (path / "manifest.json").write_text(manifest)
    with pytest.raises(CheckpointError, match=r"manifest\.json cannot be read"):
        checkpoint.load(path)


def test_another_format_version_is_named(tmp_path):
    path = checkpoint.save(tmp_path, "best", META, STATE)
    manifest = json.loads((path / "manifest.json").read_text())
    (path / "manifest.json").write_text(json.dumps({**manifest, "format_version": 99}))
    with pytest.raises(CheckpointError, match="format version 99"):
        checkpoint.load(path)


class Planted:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("write", [torch.save, lambda state, path: path.write_bytes(pickle.dumps(state))])
def test_a_planted_pickle_is_refused_and_never_runs(tmp_path, write):
    path = checkpoint.save(tmp_path, "best", META, STATE)
    write({"policy": Planted(tmp_path / "executed")}, path / "state.pt")
    manifest = json.loads((path / "manifest.json").read_text())
    manifest["sha256"]["state.pt"] = checkpoint._sha256(path / "state.pt")  # a stranger can write any checksum
    (path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(CheckpointError, match="no plain state of tensors"):
        checkpoint.load(path)
    assert not (tmp_path / "executed").exists()
