"""Checkpoints: whole or not at all, the newest found, damage and malice refused."""

import hashlib
import itertools
import json
import os
import pickle
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch

import checkpoint
from checkpoint import CheckpointError
from tests.helpers import rewrite_manifest

STATE = {"policy": {"w": torch.arange(5.0)}, "steps": 7, "nested": [1, {"x": None}]}
ARRAYS = {"pictures": np.arange(24, dtype=np.uint8).reshape(2, 3, 4)}
META = {"agent": "ppo", "config": {"seed": 1}}


def assert_state(found, expected=STATE):
    assert torch.equal(found["policy"]["w"], expected["policy"]["w"])
    assert found["steps"] == expected["steps"]
    assert found["nested"] == expected["nested"]


def test_what_was_saved_is_loaded(tmp_path):
    path = checkpoint.save(tmp_path / "run", "best", META, STATE, ARRAYS)
    loaded = checkpoint.load(path)
    np.testing.assert_array_equal(loaded.arrays["pictures"], ARRAYS["pictures"])
    loaded.arrays["pictures"][:] = 0
    np.testing.assert_array_equal(checkpoint.load(path).arrays["pictures"], ARRAYS["pictures"])
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


@pytest.mark.parametrize(
    ("module", "failing", "at_call"),
    [
        (os, "fsync", 1),
        (os, "fsync", 2),
        (os, "fsync", 3),
        (np, "save", 1),
        (Path, "replace", 1),
        (Path, "write_bytes", 1),
    ],
)
def test_a_save_that_fails_leaves_the_one_before(tmp_path, monkeypatch, module, failing, at_call):
    checkpoint.save(tmp_path, "best", META, STATE, ARRAYS)
    before = sorted(path.name for path in (tmp_path / "best").iterdir())
    real, calls = getattr(module, failing), []

    def fail(*args, **kwargs):
        calls.append(args)
        if len(calls) == at_call:
            raise OSError(28, "No space left on device")
        return real(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(module, failing, fail)
        with pytest.raises(OSError, match="No space left"):
            checkpoint.save(tmp_path, "best", {**META, "agent": "new"}, STATE, ARRAYS)
        calls.clear()
        with pytest.raises(OSError, match="No space left"):
            checkpoint.save_step(tmp_path, 7, META, STATE, ARRAYS)
    assert checkpoint.load(tmp_path / "best").meta == META
    assert sorted(path.name for path in (tmp_path / "best").iterdir()) == before
    assert [path.name for path in tmp_path.iterdir()] == ["best"]


def test_a_kill_at_any_moment_of_a_save_leaves_a_whole_checkpoint(tmp_path):
    """Whatever part of the new files is there, until the manifest is renamed the old checkpoint is the one."""
    checkpoint.save(tmp_path / "old", "best", META, STATE, ARRAYS)
    checkpoint.save(tmp_path / "new", "best", {**META, "agent": "new"}, STATE, ARRAYS)
    new_files = [path for path in (tmp_path / "new" / "best").iterdir() if path.name != "manifest.json"]
    for written in range(len(new_files)):
        for path in new_files[: written + 1]:
            half = path.read_bytes()[: path.stat().st_size // (1 + (path == new_files[written]))]
            (tmp_path / "old" / "best" / path.name).write_bytes(half)
        assert checkpoint.load(tmp_path / "old" / "best").meta == META
    checkpoint.save(tmp_path / "old", "best", {**META, "agent": "third"}, STATE)
    assert len(list((tmp_path / "old" / "best").iterdir())) == 2, "what a kill has left is cleared away"
    (tmp_path / "old" / "step_000000001").mkdir()
    (tmp_path / "old" / "step_000000001" / "state-00000001.pt").write_bytes(b"half")
    assert not checkpoint.holds_run(tmp_path / "old")
    checkpoint.save_step(tmp_path / "old", 2, META, STATE)
    assert sorted(path.name for path in (tmp_path / "old").iterdir()) == ["best", "step_000000002"]


def test_a_checkpoint_is_found_from_inside_it(tmp_path, monkeypatch):
    path = checkpoint.save_step(tmp_path / "run", 7, {"steps": 7}, {})
    monkeypatch.chdir(path)
    assert checkpoint.load(Path()).meta["steps"] == 7
    assert checkpoint.find_run(Path()) == tmp_path / "run"
    (path / "below").mkdir()
    monkeypatch.chdir(path / "below")
    assert checkpoint.find_run(Path("..")) == tmp_path / "run"
    monkeypatch.chdir(tmp_path / "run")
    assert checkpoint.load(Path()).meta["steps"] == 7


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


def file_of(path, key):
    return path / json.loads((path / "manifest.json").read_text())["files"][key]["name"]


def test_every_flipped_or_missing_byte_is_found(tmp_path):
    path = checkpoint.save(tmp_path, "best", META, STATE, ARRAYS)
    for file in (file_of(path, "state"), file_of(path, "pictures"), path / "manifest.json"):
        whole = file.read_bytes()
        damage = [whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :] for at in range(0, len(whole), 37)]
        damage += [whole[:length] for length in (0, 10, len(whole) - 1)]
        for damaged in damage:
            file.write_bytes(damaged)
            with pytest.raises(CheckpointError) as error:
                checkpoint.load(path)
            assert "\n" not in str(error.value)
            assert file.name in str(error.value) or "format version" in str(error.value)
        file.unlink()
        with pytest.raises(CheckpointError, match=r"cannot be read|holds no checkpoint"):
            checkpoint.load(path)
        file.write_bytes(whole)
    assert checkpoint.load(path).meta == META


def test_a_clock_that_went_back_loses_nothing(tmp_path, monkeypatch):
    for step in (1, 2, 3):
        checkpoint.save_step(tmp_path, step, META, {**STATE, "steps": step})
    real = checkpoint.time.time_ns
    monkeypatch.setattr(checkpoint.time, "time_ns", lambda: real() - 3600 * 10**9)
    for step in (4, 5):
        assert checkpoint.save_step(tmp_path, step, META, {**STATE, "steps": step}).is_dir()
        assert checkpoint.load(tmp_path).state["steps"] == step


def test_damaged_checkpoints_do_not_count_among_the_kept(tmp_path):
    for step in (1, 2, 3):
        path = checkpoint.save_step(tmp_path, step, META, {**STATE, "steps": step})
    (path / "manifest.json").write_text('{"saved_at_ns": 9e999}')
    checkpoint.save_step(tmp_path, 4, META, {**STATE, "steps": 4})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step_000000001", "step_000000002", "step_000000004"]


def test_saving_touches_nothing_that_is_not_its_own(tmp_path):
    mine = [
        tmp_path / "step_by_step" / "guide.txt",
        tmp_path / "best" / "thesis.txt",
        tmp_path / "step_000000001" / "x",
    ]
    for file in mine:
        file.parent.mkdir()
        file.write_text("mine")
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "state-00000000.pt").write_text("mine")
    (tmp_path / "step_000000003").symlink_to(outside)
    checkpoint.save(tmp_path, "best", META, STATE)
    checkpoint.save(tmp_path, "best", META, STATE)
    for step in (5, 6, 7, 8, 9):
        checkpoint.save_step(tmp_path, step, META, STATE)
    with pytest.raises(OSError, match="is a link"):
        checkpoint.save_step(tmp_path, 3, META, STATE)
    assert all(file.read_text() == "mine" for file in (*mine, outside / "state-00000000.pt"))


def test_what_is_no_plain_file_is_not_read(tmp_path):
    path = checkpoint.save(tmp_path, "best", META, STATE)
    state = file_of(path, "state")
    state.unlink()
    os.mkfifo(state)
    with pytest.raises(CheckpointError, match="is no plain file"):
        checkpoint.load(path)


@pytest.mark.parametrize("descr", ["(", "()", "-" * 4000 + "1", "'O'"])
def test_a_hostile_array_header_is_refused(tmp_path, descr):
    path = checkpoint.save(tmp_path, "best", META, STATE, ARRAYS)
    header = f"{{'descr': {descr}, 'fortran_order': False, 'shape': (2, 3, 4)}}".encode().ljust(8000) + b"\n"
    file_of(path, "pictures").write_bytes(b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + bytes(96))
    digest = hashlib.sha256(file_of(path, "pictures").read_bytes()).hexdigest()
    rewrite_manifest(path, lambda manifest: manifest["files"]["pictures"].update(sha256=digest))
    with pytest.raises(CheckpointError, match="no plain array"):
        checkpoint.load(path)


def test_a_run_falls_back_to_the_newest_whole_checkpoint_and_says_why(tmp_path):
    paths = [checkpoint.save_step(tmp_path, step, META, {**STATE, "steps": step}) for step in (10, 20, 30)]
    assert checkpoint.load(tmp_path).passed_over == ()
    file_of(paths[2], "state").write_bytes(b"")
    loaded = checkpoint.load(tmp_path)
    assert (loaded.path, loaded.state["steps"]) == (paths[1], 20)
    assert len(loaded.passed_over) == 1
    assert str(file_of(paths[2], "state")) in loaded.passed_over[0]
    (paths[1] / "manifest.json").write_text("{")
    loaded = checkpoint.load(tmp_path)
    assert loaded.state["steps"] == 10
    assert len(loaded.passed_over) == 2
    with pytest.raises(CheckpointError, match="is damaged"):
        checkpoint.load(paths[2])
    file_of(paths[0], "state").unlink()
    with pytest.raises(CheckpointError, match="holds no whole checkpoint"):
        checkpoint.load(tmp_path)


@pytest.mark.parametrize(
    "manifest",
    ["", "{", "[]", "null", "{}", '{"format_version": 2}', '{"format_version": 2, "sha256": {}}', "[" * 9999],
)
def test_a_manifest_that_is_none_is_refused(tmp_path, manifest):
    path = checkpoint.save(tmp_path, "best", META, STATE)
    (path / "manifest.json").write_text(manifest)
    with pytest.raises(CheckpointError, match=r"manifest\.json (cannot be read|is damaged)"):
        checkpoint.load(path)


@pytest.mark.parametrize(
    "change",
    [
        lambda manifest: manifest.pop("meta"),
        lambda manifest: manifest.pop("files"),
        lambda manifest: manifest["files"].pop("state"),
        lambda manifest: manifest.update(files=[]),
        lambda manifest: manifest.update(meta=3),
        lambda manifest: manifest["files"]["state"].pop("name"),
        lambda manifest: manifest["files"]["state"].update(name=None),
        lambda manifest: manifest["files"]["state"].update(name="../best"),
        lambda manifest: manifest["files"]["state"].update(name="/etc/passwd"),
        lambda manifest: manifest["files"]["state"].update(sha256=None),
    ],
)
def test_a_manifest_that_lacks_something_is_refused(tmp_path, change):
    path = checkpoint.save(tmp_path, "best", META, STATE)
    rewrite_manifest(path, change)
    with pytest.raises(CheckpointError):
        checkpoint.load(path)


@pytest.mark.parametrize("version", [1, 99])
def test_another_format_version_is_named(tmp_path, version):
    path = checkpoint.save(tmp_path, "best", META, STATE)
    rewrite_manifest(path, lambda manifest: manifest.update(format_version=version))
    with pytest.raises(CheckpointError, match=f"format version {version}"):
        checkpoint.load(path)


class Planted:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def save_object_array(planted, path):
    with path.open("wb") as file:
        np.save(file, np.array([planted], dtype=object), allow_pickle=True)


@pytest.mark.parametrize("key", ["state", "pictures"])
@pytest.mark.parametrize(
    "write",
    [torch.save, lambda planted, path: path.write_bytes(pickle.dumps(planted)), save_object_array],
    ids=["torch", "pickle", "numpy"],
)
def test_a_planted_pickle_is_refused_and_never_runs(tmp_path, key, write):
    path = checkpoint.save(tmp_path, "best", META, STATE, ARRAYS)
    write({"policy": Planted(tmp_path / "executed")}, file_of(path, key))
    digest = hashlib.sha256(file_of(path, key).read_bytes()).hexdigest()
    rewrite_manifest(path, lambda manifest: manifest["files"][key].update(sha256=digest))
    with pytest.raises(CheckpointError, match="no plain"):
        checkpoint.load(path)
    assert not (tmp_path / "executed").exists()
    # The manifest is JSON: a pickle in its place is no manifest.
    (path / "manifest.json").write_bytes(pickle.dumps(Planted(tmp_path / "executed")))
    with pytest.raises(CheckpointError, match=r"manifest\.json cannot be read"):
        checkpoint.load(path)
    assert not (tmp_path / "executed").exists()


def test_only_the_arrays_asked_for_are_read(tmp_path):
    path = checkpoint.save(tmp_path, "best", META, STATE, ARRAYS)
    file_of(path, "pictures").unlink()
    assert checkpoint.load(path, with_arrays=False).arrays == {}
    with pytest.raises(CheckpointError, match="cannot be read"):
        checkpoint.load(path)


def newer_version(path):
    """Make a whole checkpoint one of a version to come."""
    rewrite_manifest(path, lambda manifest: manifest.update(format_version=checkpoint.FORMAT_VERSION + 1))


def test_what_another_version_has_saved_is_named_and_stays(tmp_path):
    for step in (1, 2, 3, 4):
        path = checkpoint.save_step(tmp_path, step, META, STATE)
    best = checkpoint.save(tmp_path, checkpoint.BEST, META, STATE)
    checkpoint.check_format_versions(tmp_path)
    for newer in (best, path):
        newer_version(newer)
        with pytest.raises(CheckpointError, match=rf"{newer.name} has format version 3; this program reads 2; use the"):
            checkpoint.check_format_versions(tmp_path)
    with pytest.raises(CheckpointError, match="step_000000004 has format version 3"):
        checkpoint.load(tmp_path)
    before = (path / "manifest.json").read_bytes(), (best / "manifest.json").read_bytes()
    for step in (5, 6, 7, 8):
        checkpoint.save_step(tmp_path, step, META, STATE)
    for name in (best.name, path.name):
        with pytest.raises(OSError, match="is of another format version"):
            checkpoint.save(tmp_path, name, META, STATE)
    assert ((path / "manifest.json").read_bytes(), (best / "manifest.json").read_bytes()) == before
    assert len(list(path.iterdir())) == 2


def test_a_damaged_digit_is_no_other_version(tmp_path):
    older, path = (checkpoint.save_step(tmp_path, step, META, STATE) for step in (1, 2))
    manifest = path / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"format_version": 2', '"format_version": 3'))
    assert checkpoint.load(tmp_path).path == older


def test_a_checkpoint_that_is_replaced_while_it_is_read_is_read_again(tmp_path, monkeypatch):
    path = checkpoint.save(tmp_path, "best", META, STATE, ARRAYS)
    real, n_replaced = checkpoint._read_state, []

    def read_late(file):
        if len(n_replaced) < 3:
            n_replaced.append(1)
            checkpoint.save(tmp_path, "best", {**META, "agent": f"new {len(n_replaced)}"}, STATE, ARRAYS)
        return real(file)

    monkeypatch.setattr(checkpoint, "_read_state", read_late)
    loaded = checkpoint.load(path)
    assert loaded.meta["agent"] == "new 3"
    np.testing.assert_array_equal(loaded.arrays["pictures"], ARRAYS["pictures"])


def test_a_reader_beside_a_writer_sees_whole_checkpoints(tmp_path):
    """The newest of a run and its best, each with a state and arrays that belong together."""

    def save_both(number):
        meta, state = {**META, "number": number}, {"number": number}
        arrays = {"pictures": np.full((4, 5), number % 256, np.uint8)}
        checkpoint.save(tmp_path, "best", meta, state, arrays)
        checkpoint.save_step(tmp_path, number, meta, state, arrays)

    save_both(1)
    writer = os.fork()
    if writer == 0:
        for number in itertools.count(2):
            save_both(number)
    numbers = set()
    try:
        deadline = time.monotonic() + 1.5
        while time.monotonic() < deadline or len(numbers) < 5:
            for path in (tmp_path / "best", tmp_path):
                loaded = checkpoint.load(path)
                number = loaded.meta["number"]
                assert loaded.state["number"] == number
                assert (loaded.arrays["pictures"] == number % 256).all()
                assert loaded.passed_over == ()
                numbers.add(number)
    finally:
        os.kill(writer, signal.SIGKILL)
        os.waitpid(writer, 0)


def torch_without_memory(state, file):
    """What torch's writer does where its buffer cannot grow."""
    try:
        raise MemoryError
    except MemoryError:
        raise RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 80001024 vs 80000976")  # noqa: B904


def no_memory(*args, **kwargs):
    raise MemoryError


@pytest.mark.parametrize(
    ("module", "name", "fail"),
    [(torch, "save", torch_without_memory), (torch, "save", no_memory), (np, "save", no_memory)],
)
def test_memory_that_runs_out_is_as_a_full_disk(tmp_path, monkeypatch, module, name, fail):
    checkpoint.save(tmp_path, "best", META, STATE, ARRAYS)
    with monkeypatch.context() as patch:
        patch.setattr(module, name, fail)
        with pytest.raises(OSError, match="not enough memory"):
            checkpoint.save(tmp_path, "best", {**META, "agent": "new"}, STATE, ARRAYS)
    assert checkpoint.load(tmp_path / "best").meta == META
    assert len(list((tmp_path / "best").iterdir())) == 3


def test_other_errors_of_the_writer_are_no_lack_of_memory(tmp_path, monkeypatch):
    def fail(*args):
        raise RuntimeError("a mistake in the code")

    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(RuntimeError, match="a mistake"):
        checkpoint.save(tmp_path, "best", META, STATE)


def test_a_manifest_that_is_no_plain_file_holds_up_nothing(tmp_path):
    checkpoint.save_step(tmp_path, 1, META, STATE)
    for name in ("best", "step_000000002"):
        (tmp_path / name).mkdir()
        os.mkfifo(tmp_path / name / "manifest.json")
    checkpoint.check_format_versions(tmp_path)
    assert checkpoint.load(tmp_path).path.name == "step_000000001"
