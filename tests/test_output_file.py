"""Files that the user names: whole or not at all, and never through a link."""

import errno
import os
import signal
from pathlib import Path

import pytest

from output_file import check_output_file, replacing
from settings import SettingError


def write_half(target):
    with replacing(target) as new:
        new.write_text("half")
        raise OSError(errno.ENOSPC, "the disk is full")


def test_a_file_takes_its_place_only_when_it_is_whole(tmp_path):
    target = tmp_path / "new" / "score.json"
    with replacing(target) as new:
        new.write_text("first")
        assert not target.exists()
        assert new.suffix == ".json"
    assert target.read_text() == "first"
    with pytest.raises(OSError, match="full"):
        write_half(target)
    assert target.read_text() == "first"
    with replacing(target) as new:
        new.write_text("second")
    assert target.read_text() == "second"
    assert [path.name for path in target.parent.iterdir()] == ["score.json"]


def test_new_files_have_the_permissions_of_the_users_mask(tmp_path):
    (tmp_path / "plain").write_text("")
    with replacing(tmp_path / "ours") as new:
        new.write_text("")
    assert (tmp_path / "ours").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_no_link_is_followed(tmp_path, monkeypatch):
    """A link at the target is replaced; one at the new file's own name, could anyone guess it, is an error."""
    precious = tmp_path / "precious"
    precious.write_text("mine")
    target = tmp_path / "score.json"
    target.symlink_to(precious)
    with replacing(target) as new:
        new.write_text("theirs")
    assert not target.is_symlink()
    assert (precious.read_text(), target.read_text()) == ("mine", "theirs")

    monkeypatch.setattr("output_file.secrets.token_hex", lambda _: "guessed")
    (tmp_path / ".guessed.part.json").symlink_to(precious)
    with pytest.raises(FileExistsError), replacing(target):
        pass
    assert precious.read_text() == "mine"


def test_targets_are_checked_and_nothing_is_created(tmp_path):
    check_output_file(tmp_path / "new" / "12:30.json", "--json")
    (tmp_path / "file").write_text("")
    check_output_file(tmp_path / "file", "--json")
    for target, message in (
        ("/proc/score.json", "--json /proc: /proc cannot be written to"),
        ("/dev/null", "--json /dev/null is no regular file"),
        (tmp_path, "is no regular file"),
        (tmp_path / "file" / "x.json", "is a file, not a directory"),
        (tmp_path / ("x" * 300), "File name too long"),
        (tmp_path / ("x" * 300) / "y", "File name too long"),
    ):
        with pytest.raises(SettingError, match=message):
            check_output_file(Path(target), "--json")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_kill_while_a_file_is_written_leaves_the_older_one(tmp_path):
    target = tmp_path / "policy.zip"
    target.write_text("older")
    child = os.fork()
    if child == 0:
        with replacing(target) as new:
            new.write_text("half")
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    assert target.read_text() == "older"
    (left,) = set(tmp_path.iterdir()) - {target}
    assert left.name.startswith(".")
    assert left.read_text() == "half"


def test_a_name_as_long_as_the_system_takes_can_be_written(tmp_path):
    for name in ("x" * 255, "x." + "y" * 253, "x" * 250 + ".json"):
        with replacing(tmp_path / name) as new:
            new.write_text("whole")
        assert (tmp_path / name).read_text() == "whole"
