"""The Aim writer, tested by reading the repository back."""

import io
import logging
import os
import re
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from fractions import Fraction
from functools import partial
from pathlib import Path
from threading import Thread, Timer
from unittest.mock import Mock

import aim
import gymnasium as gym
import matplotlib.figure
import ml_dtypes
import numpy as np
import pytest
import torch
from aim.storage.context import Context
from gymnasium import spaces
from gymnasium.vector import AsyncVectorEnv
from PIL import Image as PILImage
from sb3_contrib import TRPO
from stable_baselines3 import A2C, DQN, PPO, SAC, TD3, HerReplayBuffer
from stable_baselines3.common.logger import CSVOutputFormat, Figure, HParam, Image, Video, configure
from stable_baselines3.common.vec_env import DummyVecEnv

import aim_writer
from aim_writer import EPISODE_METRICS, AimEpisodeCallback, AimTracker, AimWriter, Picture, split_key
from beta_policy import BetaActorCriticPolicy
from car_racing import ViewConfig, make_env
from process import lock_directory
from tests.helpers import UPDATE_METRICS, read_closed, read_metrics

ROOT = Path(__file__).parent.parent
GOAL_KEYS = ("observation", "achieved_goal", "desired_goal")


@pytest.fixture(scope="module")
def repo(tmp_path_factory):
    """A repository that tests share, each with runs of its own: to make one takes seconds."""
    return tmp_path_factory.mktemp("repo")


@pytest.fixture
def tracker(repo):
    tracker = AimTracker(repo, "test", {})
    yield tracker
    tracker.close("finished")


def first_of(run, kind, name):
    """The first object of the sequence `name` of a kind (image, text, distribution) in the context m."""
    sequence = getattr(run, f"get_{kind}_sequence")(name, Context({"subset": "m"}))
    _, (values, _, _) = sequence.data.items_list()
    return values[0]


def test_a_run_is_found_by_its_tags(repo):
    """Also by those that another run has already, and that it has itself from before it was resumed."""
    hashes = []
    for _ in range(2):
        tracker = AimTracker(repo, "tagged", {}, tags=["lr", "baseline"])
        hashes.append(tracker.run_hash)
        tracker.close("finished")
    AimTracker(repo, "tagged", {}, hashes[0], tags=["lr", "later"]).close("finished")
    assert sorted(read_closed(repo, hashes[0]).tags) == ["baseline", "later", "lr"]
    assert sorted(read_closed(repo, hashes[1]).tags) == ["baseline", "lr"]


def test_keys_become_names_and_contexts():
    assert split_key("train/loss") == ("loss", {"subset": "train"})
    assert split_key("a/b/c") == ("b/c", {"subset": "a"})
    assert split_key("loss") == ("loss", {})
    for odd in ("", "/", "train/", "/loss", "//"):
        assert split_key(odd)[0], "an empty name breaks the whole run"


def test_scalars_of_every_kind_arrive_as_numbers(tracker):
    values = {
        "train/python": 1.5,
        "train/int_first": 2,
        "train/bool": True,
        "train/numpy": np.float32(3.5),
        "train/numpy_int": np.int64(4),
        "train/array_of_one": np.array([5.5]),
        "train/torch": torch.tensor(6.5, requires_grad=True),
        "train/bfloat16": torch.tensor(1.25, dtype=torch.bfloat16),
        "train/float8": torch.tensor([1.5]).to(torch.float8_e4m3fn),
        "train/float16": torch.tensor(0.5, dtype=torch.float16, requires_grad=True),
        "train/jax_bfloat16": ml_dtypes.bfloat16(2.25),
        "train/fraction": Fraction(1, 4),
        "train/long": 10**30,
        "plain": 7.0,
        "a/b/c": 8.0,
    }
    writer = AimWriter(tracker)
    writer.write(values, {}, step=np.int64(10))
    writer.write({"train/int_first": 2.5}, {}, step=11)
    assert read_metrics(tracker._run) == {
        ("python", "train"): {10: 1.5},
        ("int_first", "train"): {10: 2.0, 11: 2.5},
        ("bool", "train"): {10: 1.0},
        ("numpy", "train"): {10: 3.5},
        ("numpy_int", "train"): {10: 4.0},
        ("array_of_one", "train"): {10: 5.5},
        ("torch", "train"): {10: 6.5},
        ("bfloat16", "train"): {10: 1.25},
        ("float8", "train"): {10: 1.5},
        ("float16", "train"): {10: 0.5},
        ("jax_bfloat16", "train"): {10: 2.25},
        ("fraction", "train"): {10: 0.25},
        ("long", "train"): {10: 1e30},
        ("plain", None): {10: 7.0},
        ("b/c", "a"): {10: 8.0},
    }


def test_only_keys_excluded_from_aim_are_left_out(tracker):
    keys = {"a/none": None, "a/empty": ("",), "a/tensorboard": ("tensorboard",), "a/aim": ("stdout", "aim")}
    AimWriter(tracker).write(dict.fromkeys(keys, 1.0), keys, step=1)
    assert {name for name, _ in read_metrics(tracker._run)} == {"none", "empty", "tensorboard"}


def test_values_that_are_not_finite_are_seen(tracker):
    writer = AimWriter(tracker)
    for step, value in enumerate((1.0, float("nan"), np.inf, torch.tensor(-np.inf), 2.0)):
        writer.write({"train/loss": value}, {}, step)
    assert read_metrics(tracker._run) == {
        ("loss", "train"): {0: 1.0, 4: 2.0},
        ("loss_nonfinite", "train"): {1: 1.0, 2: 1.0, 3: 1.0},
    }


@pytest.mark.parametrize(
    "value",
    [
        1 + 2j,
        np.complex64(3),
        torch.tensor(2 - 1j).conj(),
        np.ma.masked,
        np.ma.array(4.0, mask=True),
        torch.tensor(float("nan"), dtype=torch.bfloat16),
        torch.tensor(float("nan")).to(torch.float8_e5m2),
    ],
    ids=["complex", "complex64", "complex tensor", "masked", "masked array", "bfloat16", "float8"],
)
def test_numbers_that_no_chart_can_show_are_left_out_like_nan(tracker, caplog, value):
    tracker.track(value, "loss", 1)
    assert read_metrics(tracker._run) == {("loss_nonfinite", None): {1: 1.0}}
    assert not caplog.records


@pytest.mark.parametrize("value", [np.datetime64("2020-01-01"), np.timedelta64(3), np.array("1.5"), b"1", [1, None]])
def test_what_is_no_number_is_not_tracked_as_one(tracker, caplog, value):
    tracker.track(value, "odd", 1)
    assert read_metrics(tracker._run) == {}
    assert "did not take 'odd'" in caplog.text


def test_pictures_texts_and_arrays_arrive_as_their_kinds(tracker):
    pixels = np.zeros((3, 10, 12), np.uint8)
    pixels[0] = 255
    figure = matplotlib.figure.Figure()
    figure.subplots().plot([1, 2])
    frames = torch.zeros((1, 5, 3, 8, 9), dtype=torch.uint8)
    frames[0, :, 0] = torch.arange(5).view(5, 1, 1) * 50
    values = {
        "m/text": "hello",
        "m/array": np.arange(100.0),
        "m/tensor": torch.tensor([1.0, float("nan"), 3.0]),
        "m/bfloat16": torch.ones(5, dtype=torch.bfloat16),
        "m/masked": np.ma.array([1, 2, 3, 4], mask=[0, 1, 1, 0]),
        "m/figure": Figure(figure, close=True),
        "m/chw": Image(pixels, "CHW"),
        "m/hwc": Image(pixels.transpose(1, 2, 0), "HWC"),
        "m/nchw_float": Image(torch.as_tensor(pixels[None] / 255.0), "NCHW"),
        "m/grey": Image(pixels[0], "HW"),
        "m/video": Video(frames, fps=10),
    }
    AimWriter(tracker).write(values, {}, step=3)
    run = tracker._run
    assert first_of(run, "text", "text").data == "hello"
    assert first_of(run, "distribution", "array").weights.sum() == 100
    assert first_of(run, "distribution", "tensor").weights.sum() == 2
    assert first_of(run, "distribution", "bfloat16").weights.sum() == 5
    assert first_of(run, "distribution", "masked").weights.sum() == 2
    assert read_metrics(run) == {("tensor_nonfinite", "m"): {3: 1.0}, ("masked_nonfinite", "m"): {3: 1.0}}
    for name in ("chw", "hwc", "nchw_float"):
        picture = np.asarray(first_of(run, "image", name).to_pil_image())
        np.testing.assert_array_equal(picture, pixels.transpose(1, 2, 0))
    assert np.asarray(first_of(run, "image", "grey").to_pil_image()).shape == (10, 12)
    assert first_of(run, "image", "figure").width > 100
    assert first_of(run, "image", "video").to_pil_image().n_frames == 5


def test_pictures_arrive_with_their_captions_several_for_one_step(tracker):
    shades = [PILImage.new("L", (8, 6), shade) for shade in (10, 200)]
    gif = io.BytesIO()
    shades[0].save(gif, "gif", save_all=True, append_images=shades[1:], duration=80, loop=0)
    tracker.track([Picture(shade, f"shade {i}") for i, shade in enumerate(shades)], "two", 3, context={"subset": "m"})
    tracker.track(Picture(gif.getvalue(), "both"), "moving", 3, context={"subset": "m"})
    two = first_of(tracker._run, "image", "two")
    assert [(image.caption, image.to_pil_image().getpixel((0, 0))) for image in two] == [
        ("shade 0", 10),
        ("shade 1", 200),
    ]
    moving = first_of(tracker._run, "image", "moving")
    assert (moving.caption, moving.to_pil_image().n_frames, moving.to_pil_image().info["duration"]) == ("both", 2, 80)


def test_hparams_of_sb3_join_the_runs(repo):
    with AimTracker(repo, "test", {"hparams": {"seed": 1}}) as tracker:
        AimWriter(tracker).write({"hparam": HParam({"lr": 0.1}, {"eval/score": 5.0})}, {}, step=2)
        assert tracker._run["hparams"] == {"seed": 1, "lr": 0.1}
        assert read_metrics(tracker._run) == {("score", "eval"): {2: 5.0}}


def test_parameters_of_any_type_are_stored_plainly(tmp_path):
    params = {
        "hparams": {"f": np.float32(0.5), "i": np.int64(3), "a": np.arange(3), "t": torch.tensor(2.0), 5: None},
        "odd": {"class": dict, "nan": float("nan"), "tuple": (1, "x"), "path": Path("a")},
    }
    tracker = AimTracker(str(tmp_path), "named", params)
    tracker.close("finished")
    run = read_closed(tmp_path, tracker_hash := next(iter(aim.Repo.from_path(str(tmp_path)).list_all_runs())))
    assert tracker_hash
    assert run["hparams"] == {"f": 0.5, "i": 3, "a": [0, 1, 2], "t": 2.0, "5": None}
    assert run["odd"] == {"class": "<class 'dict'>", "nan": "nan", "tuple": [1, "x"], "path": "a"}
    assert run.name == "named"
    assert run.experiment == "CarRacing-v3"


@pytest.mark.parametrize(("error", "status"), [(None, "finished"), (RuntimeError, "failed")])
def test_how_a_run_ended_is_on_it(repo, error, status):
    run_hash = None
    try:
        with AimTracker(str(repo), "test", {}) as tracker:
            run_hash = tracker.run_hash
            assert tracker._run["status"] == "running"
            if error:
                raise error
    except RuntimeError:
        pass
    run = read_closed(repo, run_hash)
    assert run["status"] == status
    assert run.end_time is not None


def test_what_is_tracked_after_closing_is_dropped(tracker, caplog):
    tracker.track(1.0, "x", 1)
    tracker.close("stopped")
    tracker.track(2.0, "x", 2)
    tracker.set_param("a", 1)
    tracker.close("finished")
    assert tracker.run_hash is None
    assert not caplog.records


def test_resumed_run_goes_on_in_the_same_series(tmp_path):
    with AimTracker(str(tmp_path), "test", {}) as first:
        run_hash = first.run_hash
        for step in range(5):
            first.track(float(step), "loss", step)
    with AimTracker(str(tmp_path), "test", {}, run_hash) as second:
        assert second.run_hash == run_hash
        for step in range(3, 8):  # the two points after the checkpoint are overwritten
            second.track(10.0 * step, "loss", step)
    series = read_metrics(read_closed(tmp_path, run_hash))["loss", None]
    assert series == {0: 0.0, 1: 1.0, 2: 2.0, 3: 30.0, 4: 40.0, 5: 50.0, 6: 60.0, 7: 70.0}
    assert len(list(aim.Repo.from_path(str(tmp_path)).list_all_runs())) == 1


def test_a_resumed_run_raises_no_alarm(repo, capfd, caplog):
    """Aim warns of other writers whenever a run is gone on with."""
    with AimTracker(repo, "test", {}) as tracker:
        run_hash = tracker.run_hash
    with AimTracker(repo, "test", {}, run_hash) as tracker:
        assert tracker.run_hash == run_hash
    assert not caplog.records
    assert capfd.readouterr().err == ""


def test_resuming_a_run_that_is_gone_begins_a_new_one_and_says_so(tmp_path, caplog):
    with AimTracker(str(tmp_path), "test", {}, "0123456789abcdef01234567") as tracker:
        assert tracker.run_hash not in (None, "0123456789abcdef01234567")
        tracker.track(1.0, "x", 1)
    assert [record.getMessage() for record in caplog.records] == [
        f"Aim: run 0123456789abcdef01234567 is not in {tmp_path}; tracking goes on in a new run there"
    ]


def test_without_a_repository_nothing_is_tracked(tmp_path, monkeypatch, caplog):
    monkeypatch.chdir(tmp_path)
    with AimTracker(None, "test", {"hparams": {}}) as tracker:
        tracker.track(1.0, "x", 1)
        assert tracker.run_hash is None
    assert not list(tmp_path.iterdir())
    assert not caplog.records


def test_a_value_that_cannot_be_tracked_is_named_once(tracker, caplog):
    for step in range(3):
        AimWriter(tracker).write({"bad": None, "worse": object(), "good": 1.0}, {}, step)
    assert len(caplog.records) == 1
    assert "'bad'" in caplog.records[0].getMessage()
    assert read_metrics(tracker._run) == {("good", None): {0: 1.0, 1: 1.0, 2: 1.0}}


def test_names_contexts_and_steps_that_aim_cannot_take_are_mended(tracker, caplog):
    tracker.track(1.0, "", np.int64(3), context={"index": np.int64(2)}, epoch=np.int64(7))
    metric = next(metric for metric in tracker._run.metrics() if metric.name == "unnamed")
    assert metric.context.to_dict() == {"index": 2}
    steps, (values, epochs, _) = metric.data.items_list()
    assert (steps, values, epochs) == ([3], [1.0], [7])
    assert not caplog.records


SECOND_PROCESS = (
    "import sys; sys.path.insert(0, sys.argv[1]); from aim_writer import AimTracker\n"
    "tracker = AimTracker(sys.argv[2], 'test', {}, sys.argv[3])\n"
    "tracker.track(9.0, 'x', 9); tracker.close('finished')"
)


def test_a_second_writer_leaves_a_live_run_alone(tracker, repo):
    """Aim itself would refuse the second one too, but only after it took away the first one's lock and progress."""

    def files_of_run():
        paths = [path for path in (repo / ".aim").rglob(f"*{tracker.run_hash}*") if path.is_file()]
        # The first one goes on reporting its progress, under a name that counts.
        return sorted(re.sub(r"-\d+-progress-.*", "-progress", str(path)) for path in paths)

    tracker.track(1.0, "x", 1)
    files = files_of_run()
    command = [sys.executable, "-c", SECOND_PROCESS, str(ROOT), str(repo), tracker.run_hash]
    second = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert "another process is writing run" in second.stderr
    assert files == files_of_run()
    tracker.track(2.0, "x", 2)
    assert read_metrics(tracker._run) == {("x", None): {1: 1.0, 2: 2.0}}


def test_a_run_whose_process_was_killed_can_be_resumed(repo):
    code = SECOND_PROCESS.split("\n")[0] + (
        "\nimport os, signal\n"
        "tracker = AimTracker(sys.argv[2], 'test', {}); tracker.track(1.0, 'x', 1)\n"
        "print(tracker.run_hash, flush=True); os.kill(os.getpid(), signal.SIGKILL)"
    )
    killed = subprocess.run(
        [sys.executable, "-c", code, str(ROOT), str(repo)], capture_output=True, text=True, timeout=120, check=False
    )
    run_hash = killed.stdout.strip()
    with AimTracker(str(repo), "test", {}, run_hash) as resumed:
        assert resumed.run_hash == run_hash
        resumed.track(2.0, "x", 2)
    run = read_closed(repo, run_hash)
    assert read_metrics(run) == {("x", None): {1: 1.0, 2: 2.0}}
    assert run["status"] == "finished"


def test_a_run_just_made_is_found_though_aims_list_of_runs_is_older(repo, caplog):
    with AimTracker(repo, "test", {}):
        pass
    aim.Repo.from_path(str(repo)).list_all_runs()
    with AimTracker(repo, "test", {}) as made:
        run_hash = made.run_hash
    with AimTracker(repo, "test", {}, run_hash) as resumed:
        assert resumed.run_hash == run_hash
    assert "tracking goes on in a new run" not in caplog.text


def test_a_process_forked_meanwhile_keeps_no_hold_on_the_run(repo, caplog):
    """Gymnasium's asynchronous environments are forks of this process."""
    tracker = AimTracker(repo, "test", {})
    run_hash = tracker.run_hash
    envs = AsyncVectorEnv([Corridor])
    try:
        tracker.close("stopped")
        with AimTracker(repo, "test", {}, run_hash) as resumed:
            assert resumed.run_hash == run_hash
            resumed.track(1.0, "x", 1)
            assert read_metrics(resumed._run) == {("x", None): {1: 1.0}}
    finally:
        envs.close()
    assert "another process" not in caplog.text


def runs_in(repo):
    """The hashes of the runs that have files in a repository, half-made ones too."""
    return {path.name for path in (repo / ".aim" / "meta" / "chunks").iterdir()}


@pytest.fixture
def locked_database(repo):
    """The repository's database, held as another process would hold it for a moment."""
    AimTracker(repo, "first", {}).close("finished")
    with closing(sqlite3.connect(repo / ".aim" / "run_metadata.sqlite", check_same_thread=False)) as database:
        database.execute("BEGIN EXCLUSIVE")
        yield database


def test_a_database_that_is_locked_at_the_start_is_waited_for(repo, locked_database, caplog):
    Timer(0.5, locked_database.rollback).start()
    with AimTracker(repo, "test", {}) as tracker:
        assert tracker.run_hash is not None
    assert not caplog.records


def test_a_database_that_is_locked_for_longer_is_tried_again_later(repo, locked_database, monkeypatch, caplog):
    monkeypatch.setattr(aim_writer, "DATABASE_WAIT_S", 0.1)
    monkeypatch.setattr(aim_writer, "DATABASE_WAIT_LATER_S", 0.1)
    monkeypatch.setattr(aim_writer, "RETRY_INTERVAL_S", 0.0)
    runs = runs_in(repo)
    tracker = AimTracker(repo, "patient", {"hparams": {"seed": 1}})
    tracker.track(1.0, "x", 1)
    assert tracker.run_hash is None
    tracker.set_param("later", 2)
    locked_database.rollback()
    tracker.track(2.0, "x", 2)
    run = tracker._run
    assert (run.name, run["hparams"], run["later"], run["status"]) == ("patient", {"seed": 1}, 2, "running")
    assert read_metrics(run) == {("x", None): {2: 2.0}}
    assert runs_in(repo) - runs == {tracker.run_hash}, "a try has left half a run"
    tracker.close("finished")
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 2
    assert "could not be opened (OperationalError: database is locked)" in said[0]
    assert "is open now" in said[1]


def test_between_two_tries_there_is_time(repo, locked_database, monkeypatch):
    monkeypatch.setattr(aim_writer, "DATABASE_WAIT_S", 0.1)
    tracker = AimTracker(repo, "test", {})
    locked_database.rollback()
    tracker.track(1.0, "x", 1)
    assert tracker.run_hash is None
    monkeypatch.setattr(tracker, "_next_try", time.monotonic())
    tracker.close("finished")
    tracker.track(1.0, "x", 1)
    assert tracker.run_hash is None, "a closed tracker opens nothing"


def test_a_run_that_cannot_be_locked_is_not_left_open(tmp_path, monkeypatch, caplog):
    with monkeypatch.context() as patch:
        patch.setattr(aim_writer, "_lock_run", Mock(side_effect=OSError("No space left on device")))
        tracker = AimTracker(tmp_path, "test", {})
    assert tracker.run_hash is None
    assert "No space left" in caplog.text
    (run_hash,) = aim.Repo.from_path(str(tmp_path)).list_all_runs()
    assert read_closed(tmp_path, run_hash).end_time is not None


def test_a_directory_that_a_training_has_locked_can_be_the_repository(tmp_path):
    """A training locks the directory of its checkpoints, which may be the repository's too."""
    with lock_directory(tmp_path):
        opened = []
        opening = Thread(target=lambda: opened.append(AimTracker(tmp_path, "test", {})), daemon=True)
        opening.start()
        opening.join(60.0)
    assert len(opened) == 1, "it hangs"
    assert opened[0].run_hash is not None
    opened[0].close("finished")


@pytest.mark.parametrize("address", ["http://localhost:53800", "s3://bucket", "AIM://localhost:53800", "", 5])
def test_an_address_of_another_kind_is_no_directory(tmp_path, monkeypatch, caplog, address):
    monkeypatch.chdir(tmp_path)
    tracker = AimTracker(address, "test", {})
    tracker.track(1.0, "x", 1)
    assert tracker.run_hash is None
    assert len(caplog.records) == 1
    assert "could not be opened" in caplog.text
    assert list(tmp_path.iterdir()) == []


def test_the_home_directory_is_known_by_its_short_name(repo, monkeypatch):
    monkeypatch.setenv("HOME", str(repo.parent))
    with AimTracker(f"~/{repo.name}", "test", {}) as tracker:
        assert tracker.run_hash in runs_in(repo)


def is_listening(port):
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_a_server_that_dies_neither_ends_nor_holds_up_a_training(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    aim_command = Path(sys.executable).with_name("aim")
    subprocess.run([aim_command, "init", "--repo", tmp_path], check=True, capture_output=True)
    server = subprocess.Popen(
        [aim_command, "server", "--host", "127.0.0.1", "--port", str(port), "--repo", tmp_path, "-y"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    code = (
        "import os, sys; sys.path.insert(0, sys.argv[1]); import aim_writer\n"
        "aim_writer.CLOSE_TIMEOUT_S = 2.0\n"
        "tracker = aim_writer.AimTracker(sys.argv[2], 'test', {}); tracker.track(1.0, 'x', 1)\n"
        "print(tracker.run_hash, flush=True); sys.stdin.readline()\n"
        "tracker.track(2.0, 'x', 2); tracker.close('finished'); print(tracker.has_failed, flush=True)\n"
        "os._exit(3) if tracker.has_failed else sys.exit(3)"
    )
    try:
        deadline = time.monotonic() + 60
        while not is_listening(port) and time.monotonic() < deadline:
            time.sleep(0.2)
        client = subprocess.Popen(
            [sys.executable, "-c", code, str(ROOT), f"aim://127.0.0.1:{port}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert len(client.stdout.readline().strip()) == 24, "no run on the server"
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()
    _, errors = client.communicate("\n", timeout=40)
    assert client.returncode == 3, errors


def test_close_that_hangs_is_left_behind(tracker, monkeypatch, caplog):
    monkeypatch.setattr(aim_writer, "CLOSE_TIMEOUT_S", 0.1)
    real_close = tracker._run.close
    monkeypatch.setattr(tracker._run, "close", lambda: time.sleep(2) or real_close())
    start = time.monotonic()
    tracker.close("finished")
    assert time.monotonic() - start < 1.5
    assert "did not close" in caplog.text


def test_processes_may_create_one_repository_together(tmp_path):
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); from aim_writer import AimTracker\n"
        "with AimTracker(sys.argv[2], 'test', {}) as tracker: tracker.track(1.0, 'x', 1)\n"
        "assert not tracker._has_warned"
    )
    racers = [
        subprocess.Popen([sys.executable, "-c", code, str(ROOT), str(tmp_path)], stderr=subprocess.PIPE)
        for _ in range(3)
    ]
    for racer in racers:
        _, errors = racer.communicate(timeout=120)
        assert racer.returncode == 0, errors.decode()
    assert len(list(aim.Repo.from_path(str(tmp_path)).list_all_runs())) == 3


class Corridor(gym.Env):
    """Episodes of three steps, the last of which reports as CarRacing's do."""

    observation_space = spaces.Box(-1.0, 1.0, (2,), np.float32)
    action_space = spaces.Box(-1.0, 1.0, (1,), np.float32)

    def reset(self, *, seed=None, options=None):
        self.steps = 0
        return np.zeros(2, np.float32), {}

    def step(self, action):
        self.steps += 1
        info = {}
        if self.steps == 3:
            info["episode"] = {
                "r": 3.5,
                "l": 3,
                "frames": 12,
                "tiles": 9,
                "tiles_fraction": 0.25,
                "lap_finished": False,
            }
        return np.zeros(2, np.float32), 1.0, self.steps == 3, False, info


def train_with(writer, n_updates=3, log_interval=1, **callback_kwargs):
    env = DummyVecEnv([Corridor, Corridor])
    model = PPO(BetaActorCriticPolicy, env, n_steps=6, batch_size=6, n_epochs=1, device="cpu")
    callback = AimEpisodeCallback(writer, **callback_kwargs)
    model.learn(12 * n_updates, callback=callback, log_interval=log_interval)
    return model, callback


def test_all_that_ppo_logs_arrives_and_the_last_update_too(tracker):
    train_with(AimWriter(tracker, {"train/policy_gradient_loss": "train/policy_loss"}))
    series = read_metrics(tracker._run)
    for name in UPDATE_METRICS:
        points = {**series.get((name, "train"), {}), **series.get((f"{name}_nonfinite", "train"), {})}
        assert sorted(points) == [24, 36, 37], f"{name}: SB3 logs an update with the next dump; the last has its own"
    for name in ("fps", "iterations", "time_elapsed", "total_timesteps"):
        assert sorted(series[name, "time"]) == [12, 24, 36]
    assert series["total_timesteps", "time"] == {12: 12, 24: 24, 36: 36}


def test_every_episode_arrives_though_two_end_at_once(tracker):
    _, callback = train_with(AimWriter(tracker), n_episodes=100)
    series = read_metrics(tracker._run)
    # Two environments, whose steps alternate; both finish an episode every third of their own steps.
    numbers = sorted([*range(5, 37, 6), *range(6, 37, 6)])
    assert callback.n_episodes == 112
    assert series["return", "episode"] == dict.fromkeys(numbers, 3.5)
    assert series["length_steps", "episode"] == dict.fromkeys(numbers, 3)
    assert series["length_frames", "episode"] == dict.fromkeys(numbers, 12)
    assert series["tiles_fraction", "episode"] == dict.fromkeys(numbers, 0.25)
    assert series["lap_finished", "episode"] == dict.fromkeys(numbers, 0)
    metric = next(metric for metric in tracker._run.metrics() if metric.name == "return")
    _, (_, epochs, _) = metric.data.items_list()
    assert epochs == list(range(101, 113)), "the episode's number is there as a second axis"


def test_the_writer_joins_the_other_outputs_and_replaces_an_older_one(tracker, tmp_path):
    env = DummyVecEnv([Corridor, Corridor])
    model = PPO(BetaActorCriticPolicy, env, n_steps=6, batch_size=6, n_epochs=1, device="cpu")
    model.set_logger(configure(str(tmp_path), ["csv"]))
    for _ in range(2):
        model.learn(12, callback=AimEpisodeCallback(AimWriter(tracker)))
    assert [type(output) for output in model.logger.output_formats] == [CSVOutputFormat, AimWriter]
    assert "train/loss" in (tmp_path / "progress.csv").read_text()
    model.logger.close()
    tracker.track(1.0, "still_open", 1)
    assert ("still_open", None) in read_metrics(tracker._run)


def test_the_flush_writes_nothing_twice(tracker):
    """A script that dumps after its updates has nothing left to flush."""

    class Dumped(AimEpisodeCallback):
        def _on_training_end(self):
            self.logger.dump(self.num_timesteps)
            super()._on_training_end()

    env = DummyVecEnv([Corridor])
    model = PPO(BetaActorCriticPolicy, env, n_steps=6, batch_size=6, n_epochs=1, device="cpu")
    model.learn(6, callback=Dumped(AimWriter(tracker)), log_interval=None)
    assert set(read_metrics(tracker._run)["n_updates", "train"]) == {6}


def test_a_failing_tracker_warns_once_and_training_goes_on(tracker, monkeypatch, caplog):
    def fail(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tracker._run, "track", fail)
    model, callback = train_with(AimWriter(tracker))
    assert model.num_timesteps == 36
    assert callback.n_episodes == 12
    warnings = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(warnings) == 1
    assert "No space left on device" in warnings[0].getMessage()


# Aim's own threads and finalisers complain that their files are gone.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_repository_deleted_during_training_does_not_end_it(tmp_path):
    tracker = AimTracker(str(tmp_path / "repo"), "test", {})
    tracker.track(1.0, "x", 1)
    shutil.rmtree(tmp_path / "repo")
    model, _ = train_with(AimWriter(tracker))
    tracker.close("finished")
    assert model.num_timesteps == 36


def test_a_repository_that_cannot_be_opened_does_not_end_it_either(tmp_path, caplog):
    (tmp_path / "file").write_text("")
    tracker = AimTracker(str(tmp_path / "file" / "repo"), "test", {"hparams": {}})
    model, _ = train_with(AimWriter(tracker))
    assert model.num_timesteps == 36
    assert tracker.run_hash is None
    assert len(caplog.records) == 1
    assert "could not be opened" in caplog.text


def test_an_episode_of_the_game_has_every_key_that_is_tracked():
    env = make_env(ViewConfig(action_repeat=500))
    env.reset(seed=0)
    for _ in range(2):
        *_, info = env.step(np.array([0.0, -1.0, 1.0], np.float32))
    assert set(EPISODE_METRICS) <= set(info["episode"])


SMALL_OFF_POLICY = {"learning_starts": 10, "batch_size": 8, "buffer_size": 100}


class Goals(Corridor):
    """The same, with a goal to reach, for hindsight experience replay."""

    observation_space = spaces.Dict(dict.fromkeys(GOAL_KEYS, Corridor.observation_space))

    def reset(self, *, seed=None, options=None):
        obs, info = super().reset()
        return dict.fromkeys(GOAL_KEYS, obs), info

    def step(self, action):
        obs, *rest = super().step(action)
        return dict.fromkeys(GOAL_KEYS, obs), *rest

    def compute_reward(self, achieved_goal, desired_goal, info):
        return np.zeros(len(achieved_goal))


class Discrete(Corridor):
    action_space = spaces.Discrete(2)


def hindsight_sac(env, **kwargs):
    return SAC("MultiInputPolicy", env, replay_buffer_class=HerReplayBuffer, **kwargs)


@pytest.mark.parametrize(
    ("make_model", "env", "losses"),
    [
        (partial(SAC, "MlpPolicy"), Corridor, {"actor_loss", "critic_loss", "ent_coef"}),
        (partial(TD3, "MlpPolicy"), Corridor, {"actor_loss", "critic_loss"}),
        (partial(DQN, "MlpPolicy"), Discrete, {"loss"}),
        (hindsight_sac, Goals, {"actor_loss", "critic_loss", "ent_coef"}),
        (partial(A2C, "MlpPolicy", n_steps=5), Corridor, {"policy_loss", "value_loss"}),
        (partial(TRPO, BetaActorCriticPolicy, n_steps=6, batch_size=6), Corridor, {"policy_objective", "value_loss"}),
    ],
    ids=["SAC", "TD3", "DQN", "HER", "A2C", "TRPO"],
)
def test_other_algorithms_write_through_it(tracker, caplog, make_model, env, losses):
    is_off_policy = losses & {"critic_loss", "loss"}
    model = make_model(DummyVecEnv([env, env]), device="cpu", **(SMALL_OFF_POLICY if is_off_policy else {}))
    callback = AimEpisodeCallback(AimWriter(tracker))
    model.learn(36, callback=callback, log_interval=1)
    series = read_metrics(tracker._run)
    assert list(series["return", "episode"].values()) == [3.5] * callback.n_episodes
    assert callback.n_episodes >= 12
    for name in losses:
        assert series[name, "train"], name
    assert max(series["n_updates", "train"]) > max(series["total_timesteps", "time"]), "the last update is missing"
    assert not caplog.records
