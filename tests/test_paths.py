"""Paths, addresses and names: what a user may give, wherever one is taken."""

import dataclasses
import os
from pathlib import Path

import pytest

import paths
from compare_options import CompareOptions
from evaluate_options import EvaluateOptions
from export_options import ExportOptions
from page_options import PageOptions
from paths import check_aim_repo, check_run_name, check_writable_directory, path_from
from ppo_config import PPOConfig
from run_settings import RunOptions
from runs_options import RunsOptions
from sac_config import SACConfig
from settings import SettingError, flag_of
from sweep_options import SweepOptions

CONFIGS = (PPOConfig, SACConfig, RunOptions, EvaluateOptions, ExportOptions, PageOptions, RunsOptions, CompareOptions)
CONFIGS += (SweepOptions,)
# What makes the other options of a class whole.
NEEDED = {
    EvaluateOptions: {"checkpoint": ("x",)},
    ExportOptions: {"checkpoint": "x", "to": "y"},
    SweepOptions: {"name": "x"},
}
# Settings that are a text and no path, and have no choices.
NO_PATHS = {"device", "run_name", "tags", "grid", "only", "address"}
# Names of sweeps, which are below a directory that is a path.
NAMES = {(SweepOptions, "name"), (SweepOptions, "resume")}


def texts_of(config_class):
    """The fields of a class that take free text, without those that are no paths."""
    fields = dataclasses.fields(config_class)
    free = [field for field in fields if "str" in str(field.type) and not field.metadata["choices"]]
    return [field.name for field in free if field.name not in NO_PATHS and (config_class, field.name) not in NAMES]


PATH_SETTINGS = [(config_class, name) for config_class in CONFIGS for name in texts_of(config_class)]


def made(config_class, name, text):
    is_tuple = isinstance(getattr(config_class(**NEEDED.get(config_class, {})), name), tuple)
    return config_class(**{**NEEDED.get(config_class, {}), name: (text,) if is_tuple else text})


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    (tmp_path / ".aim").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_every_option_that_takes_a_path_is_found():
    names = {name for _, name in PATH_SETTINGS}
    assert names == {
        *("start_from", "recipe", "checkpoint_dir", "resume", "aim_repo"),
        *("checkpoint", "json", "video", "gif", "report", "to", "repo", "directory", "space"),
    }


@pytest.mark.parametrize("text", ["http://host/x", "s3://bucket/x", "file:///x", "HTTPS://x", " s3://x", "AIM://h:1"])
@pytest.mark.parametrize(("config_class", "name"), PATH_SETTINGS)
def test_an_address_is_taken_for_no_path(here, config_class, name, text):
    with pytest.raises(SettingError, match=f"{flag_of(name)} .*(is an address|is no Aim server)") as error:
        made(config_class, name, text)
    assert "\n" not in str(error.value)
    assert [path.name for path in here.iterdir()] == [".aim"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        (" ", "is empty"),
        ("a\nb", "line break"),
        ("a\0b", "control character"),
        ("a\u2028b", "line break"),
        ("\ud800", "encoding"),
        ("x" * 300, "has a name of 300 bytes; 255 is the most"),
        ("d/" * 3000, "bytes long"),
        ("~nobody-of-this-name/x", "no such user"),
    ],
)
@pytest.mark.parametrize(("config_class", "name"), PATH_SETTINGS)
def test_a_path_that_no_file_can_have_is_named(here, config_class, name, text, message):
    with pytest.raises(SettingError, match=f"{flag_of(name)} .*{message}") as error:
        made(config_class, name, text)
    assert len(str(error.value)) < 400
    assert len(str(error.value).splitlines()) == 1
    assert [path.name for path in here.iterdir()] == [".aim"]


def test_a_path_is_read_as_a_shell_would(here, monkeypatch):
    home = here / "ada"
    monkeypatch.setenv("HOME", str(home))
    assert path_from("~/runs/a", "--x") == home / "runs" / "a"
    assert path_from("~", "--x") == home
    for text in ("a b", "./~", "a~", "$(x)", "12:30.json", "http:", "C:/x", "ü", "\udcff", "-x"):
        assert path_from(text, "--x") == Path(text)


def test_a_working_directory_that_is_gone_is_said(here, monkeypatch):
    (here / "gone").mkdir()
    monkeypatch.chdir(here / "gone")
    (here / "gone").rmdir()
    with pytest.raises(SettingError, match="the working directory is gone"):
        path_from("x", "--x")
    monkeypatch.chdir(here)


def test_a_directory_that_may_not_be_entered_is_said(here, monkeypatch):
    def stat(self, **_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "stat", stat)
    with pytest.raises(SettingError, match="--x there/x is in a directory that may not be entered; name another"):
        path_from("there/x", "--x")


@pytest.mark.parametrize(
    ("text", "is_server"),
    [
        ("aim://127.0.0.1:53800", True),
        ("aim://[::1]:1", True),
        ("aim://host:65535/", True),
        ("aim", False),
        ("~/aim", False),
    ],
)
def test_a_server_and_a_directory_are_aim_repositories(text, is_server):
    check_aim_repo(text, "--aim-repo")
    assert paths.is_server(text) == is_server


@pytest.mark.parametrize(
    "text",
    [
        *("aim://", "aim://host", "aim://host:", "aim://host:0", "aim://host:65536", "aim://host:x", "aim://:53800"),
        *("aim://[::1:1", "aim://a@host:1", "aim://host:1?x", "aim:// host:1", "AIM://host:1", "http://host:1"),
    ],
)
def test_half_of_a_servers_address_is_refused(text):
    with pytest.raises(SettingError, match=r"is no Aim server; give aim://host:port, or a directory"):
        check_aim_repo(text, "--aim-repo")


@pytest.mark.parametrize("name", ["", " ", "a\nb", "../x", "/tmp/x", "a//b", ".", "s3://x", "x" * 256])
def test_a_name_that_is_no_directory_below_checkpoints_is_refused(name):
    with pytest.raises(SettingError, match="--run-name ") as error:
        RunOptions(run_name=name)
    assert "\n" not in str(error.value)
    check_run_name("group/my run (2)", "--run-name")


def test_lengths_are_those_of_bytes(here):
    path_from("ü" * 127, "--x")
    with pytest.raises(SettingError, match="256 bytes"):
        path_from("ü" * 128, "--x")
    os.mkdir("x" * 255)  # noqa: PTH102, what is refused is what the system refuses
    path_from("x" * 255, "--x")


def test_a_read_only_directory_is_refused(tmp_path, monkeypatch):
    check_writable_directory(tmp_path / "run", "--checkpoint-dir")
    assert not (tmp_path / "run").exists()
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root may write anywhere
    with pytest.raises(SettingError, match=r"--checkpoint-dir .* cannot be written to"):
        check_writable_directory(tmp_path / "run", "--checkpoint-dir")
