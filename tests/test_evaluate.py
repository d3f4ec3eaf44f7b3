"""Scoring checkpoints: what is printed, written and filmed, and every mistake a user can make."""

import json
import signal
import time
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
import psutil
import pytest
import torch
from PIL import Image

import checkpoint
import evaluate
import ppo
import training_run
from benchmarks import soak
from car_racing import TRAINING_TRACK_SEEDS, make_env, make_stock_env
from drivers import load_driver
from evaluate import Difference, EvaluateOptions, confidence_interval
from sac_drq import SACAgent, SACConfig
from scoring import VALIDATION_TRACKS, Score, TrackResult, drive
from settings import SettingError

ROOT = Path(__file__).resolve().parent.parent
CONFIG = ppo.PPOConfig(features_dim=8, action_repeat=10)


def saved_driver(directory, name, steer):
    """A Beta policy that sees nothing: nearly full gas, and off the field within some 300 frames."""
    policy = ppo.make_policy(CONFIG)
    with torch.no_grad():
        policy.action_net.weight.zero_()
        policy.action_net.bias.copy_(torch.tensor([3.0 + steer, 20.0, -5.0, 3.0, -5.0, 20.0]))
    meta = {"agent": "ppo", "config": vars(CONFIG), "steps": 1234, "frames": 12340, "command": "python train_ppo.py"}
    return checkpoint.save(directory, name, meta, {"policy": policy.state_dict()})


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    directory = tmp_path_factory.mktemp("drivers")
    saved_driver(directory, "straight", 0.0)
    saved_driver(directory, "bent", 0.01)
    return directory


def run_evaluate(place, *args):
    return soak.finish(soak.start("evaluate.py", *args, cwd=place))


def test_one_checkpoint_scored_written_and_filmed_twice_the_same(place):
    args = ("--checkpoint", "straight", "--tracks", 31, 36)
    code, stdout, stderr = run_evaluate(
        place, *args, "--json", "out/a.json", "--video", "out/drive.mp4", "--gif", "out/drive.gif"
    )
    assert code == 0, stderr
    assert "straight (ppo, 1,234 steps, 12,340 frames) on 2 chosen tracks" in stdout
    again = run_evaluate(place, *args, "--json", "out/b.json")
    report, written = stdout.split("Written: ", 1)
    assert written == "out/a.json\nWritten: out/drive.mp4\nWritten: out/drive.gif\n"
    assert again[:2] == (0, f"{report}Written: out/b.json\n")
    first, second = (json.loads((place / "out" / name).read_text())["checkpoints"] for name in ("a.json", "b.json"))
    assert first == second
    tracks = first[0]["tracks"]
    assert [track["track"] for track in tracks] == [31, 36]
    assert first[0]["summary"]["mean_return"] == pytest.approx(np.mean([track["episode_return"] for track in tracks]))
    assert first[0]["trained_by"]["command"] == "python train_ppo.py"
    assert f"{first[0]['summary']['mean_return']:.1f} ± " in stdout

    # Both tracks, each from its reset on, in the window's size; the GIF a quarter of that.
    n_frames = sum(track["frames"] + 1 for track in tracks)
    film = cv2.VideoCapture(str(place / "out" / "drive.mp4"))
    size = tuple(film.get(which) for which in (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT))
    assert (size, film.get(cv2.CAP_PROP_FPS)) == ((1000.0, 800.0), 50.0)
    assert film.get(cv2.CAP_PROP_FRAME_COUNT) == n_frames
    _, picture = film.read()
    seen = []
    env = make_stock_env(CONFIG.view, seen.append)
    env.reset(seed=31)
    assert np.abs(picture[..., ::-1].astype(int) - seen[0]).mean() < 8.0
    with Image.open(place / "out" / "drive.gif") as gif:
        assert gif.size == (480, 384)
        assert gif.n_frames == pytest.approx(n_frames / 4, abs=3)
    assert sorted(path.name for path in (place / "out").iterdir()) == ["a.json", "b.json", "drive.gif", "drive.mp4"]


def test_several_checkpoints_are_compared_track_by_track(place):
    code, stdout, stderr = run_evaluate(
        place, "--checkpoint", "straight", "bent", "straight", "--tracks", 31, 36, "--json", "compared.json"
    )
    assert code == 0, stderr
    assert "2 chosen tracks of CarRacing-v3" in stdout
    assert "straight  +0.0 (95% interval -), better on 0 of 2 tracks\n" in stdout
    scored = json.loads((place / "compared.json").read_text())["checkpoints"]
    returns = [np.array([track["episode_return"] for track in one["tracks"]]) for one in scored]
    assert scored[1]["difference_to_the_first"]["mean"] == pytest.approx((returns[1] - returns[0]).mean())
    assert (returns[0] == returns[2]).all()
    assert (returns[0] != returns[1]).any()


@pytest.mark.parametrize(("name", "at_least"), [("ppo_beta", 850.0), ("sac_light", 850.0)])
def test_the_pretrained_drivers_drive(name, at_least):
    driver, view = load_driver(checkpoint.load(ROOT / "pretrained" / name))
    assert drive(driver, make_env(view), VALIDATION_TRACKS[0]).episode_return > at_least


def test_the_numbers_are_the_same_on_one_core(place, monkeypatch):
    loaded = [checkpoint.load(place / name) for name in ("straight", "bent")]
    on_all = evaluate.evaluate(loaded, (31,))
    monkeypatch.setattr(evaluate.os, "sched_getaffinity", lambda _: {0})
    assert evaluate.evaluate(loaded, (31,)) == on_all


@contextmanager
def scoring_for(place, core_seconds):
    """evaluate.py at many tracks, and the processes that drive for it, once these have used so much of a core."""
    process = soak.start("evaluate.py", "--checkpoint", "straight", "--json", "half.json", cwd=place)
    deadline = time.monotonic() + 90
    drivers = []
    while time.monotonic() < deadline:
        spawned = psutil.Process(process.pid).children()
        drivers = [child for child in spawned if "spawn_main" in " ".join(child.cmdline())]
        if drivers and all(sum(driver.cpu_times()[:2]) > core_seconds for driver in drivers):
            break
        time.sleep(0.1)
    assert drivers, "nothing drives"
    yield process, drivers
    for left in (*drivers, process):
        if left.is_running() if isinstance(left, psutil.Process) else left.poll() is None:
            left.kill()


@pytest.fixture
def scoring(place):
    """It drives by then; to start takes a slow machine five seconds."""
    with scoring_for(place, 10.0) as process_and_drivers:
        yield process_and_drivers


def assert_nothing_is_left(place, process, drivers, code):
    stopped_with, stdout, stderr = soak.finish(process)
    assert stopped_with == code
    assert "Traceback" not in stderr
    assert stdout == ""
    _, alive = psutil.wait_procs(drivers, timeout=10)
    assert alive == []
    assert not any("half" in path.name for path in place.iterdir())


@pytest.mark.parametrize(
    ("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -signal.SIGKILL)]
)
def test_whatever_ends_it_nothing_stays_behind(place, scoring, signum, code):
    process, drivers = scoring
    process.send_signal(signum)
    assert_nothing_is_left(place, process, drivers, code)


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stop_while_it_starts_to_drive_is_heard(place, signum, code):
    with scoring_for(place, 0.5) as (process, drivers):
        process.send_signal(signum)
        assert_nothing_is_left(place, process, drivers, code)


def test_a_killed_driver_is_named(scoring):
    process, drivers = scoring
    drivers[0].kill()
    code, _, stderr = soak.finish(process)
    assert code == 1
    assert "evaluate.py: a process that drives could not be started or is gone" in stderr.splitlines()[-1]
    assert "Traceback" not in stderr
    _, alive = psutil.wait_procs(drivers, timeout=10)
    assert alive == []


def test_a_damaged_newest_checkpoint_is_named(tmp_path, monkeypatch, capsys):
    for step in (10, 20):
        state = {"policy": ppo.make_policy(CONFIG).state_dict()}
        newest = checkpoint.save_step(tmp_path / "run", step, {"agent": "ppo", "config": vars(CONFIG)}, state)
    next(newest.glob("state-*")).write_bytes(b"")
    monkeypatch.setattr(evaluate, "evaluate", lambda *_: [scored(1.0, 2.0)])
    monkeypatch.setattr("sys.argv", ["evaluate.py", "--checkpoint", str(tmp_path / "run")])
    evaluate.main()
    said = capsys.readouterr()
    assert "step_000000020" in said.err
    assert "step_000000010 is taken instead" in said.err
    assert "step_000000010 (ppo)" in said.out


def test_actions_are_the_beta_policys_own(place):
    loaded = checkpoint.load(place / "straight", with_arrays=False)
    obs = np.zeros(CONFIG.view.obs_shape, np.uint8)
    torch.manual_seed(0)
    drivers = {actions: load_driver(loaded, actions)[0] for actions in ("mean", "mode", "sampled", None)}
    # Gas: alpha = 1 + softplus(20) = 21, beta = 1 + softplus(-5).
    beta = 1.0 + np.log1p(np.exp(-5.0))
    assert drivers["mean"](obs)[1] == pytest.approx(2.0 * 21.0 / (21.0 + beta) - 1.0, abs=1e-5)
    assert drivers["mode"](obs)[1] == pytest.approx(2.0 * 20.0 / (19.0 + beta) - 1.0, abs=1e-5)
    np.testing.assert_array_equal(drivers[None](obs), drivers["mean"](obs))
    assert (drivers["sampled"](obs) != drivers["sampled"](obs)).all()


def test_drawn_actions_are_the_same_for_a_track_each_time(place):
    driver, view = load_driver(checkpoint.load(place / "straight", with_arrays=False), "sampled")
    first = evaluate.drive_stock(driver, view, 31)
    assert evaluate.drive_stock(driver, view, 31) == first
    mean = evaluate.drive_stock(*load_driver(checkpoint.load(place / "straight", with_arrays=False)), 31)
    assert mean != first


def test_sac_has_a_mean_and_draws_but_no_mode(tmp_path):
    config = SACConfig(encoder="light", hidden_dim=8, feature_dim=8, replay_size=300)
    agent = SACAgent(config, torch.device("cpu"))
    state = {"agent": {name: network.state_dict() for name, network in agent.driving_networks.items()}}
    loaded = checkpoint.load(checkpoint.save(tmp_path, "sac", {"agent": "sac", "config": vars(config)}, state))
    obs = np.zeros(config.view.obs_shape, np.uint8)
    for actions, deterministic in (("mean", True), ("sampled", False)):
        driver, _ = load_driver(loaded, actions)
        draws = []
        for _ in range(2):
            torch.manual_seed(7)
            draws.append(driver(obs))
        np.testing.assert_array_equal(*draws)
        assert (driver(obs) == draws[0]).all() == deterministic
    with pytest.raises(SettingError, match="--actions mode is a Beta policy's"):
        load_driver(loaded, "mode")


def test_no_training_track_can_be_scored():
    with pytest.raises(SettingError, match="--tracks must be at most"):
        EvaluateOptions(checkpoint=("x",), tracks=(TRAINING_TRACK_SEEDS.start,))


def test_confidence_interval_holds_the_mean_as_often_as_it_says():
    rng = np.random.default_rng(0)
    n_held = 0
    for _ in range(60):
        low, high = confidence_interval(rng.normal(5.0, 2.0, 40).tolist())
        n_held += low < 5.0 < high
    assert 51 <= n_held <= 60  # expected 57; outside of this once in a thousand
    values = rng.normal(0.0, 1.0, 400)
    low, high = confidence_interval(values.tolist())
    assert (high - low) / 2 == pytest.approx(1.96 * values.std() / 20, rel=0.1)
    assert confidence_interval(values.tolist()) == (low, high)
    assert confidence_interval([3.0]) is None
    assert confidence_interval([3.0, 3.0]) is None


def scored(*returns):
    return Score([TrackResult(i, value, 800, 280, 20, 280 / 300, False) for i, value in enumerate(returns)])


def test_difference_is_paired():
    difference = Difference.between(scored(10.0, 20.0, 33.0), scored(9.0, 21.0, 30.0))
    assert difference.mean == pytest.approx(1.0)
    assert difference.n_better == 2
    low, high = difference.interval
    assert -1.0 <= low < 1.0 < high <= 3.0


def test_training_may_end_by_scoring(monkeypatch, tmp_path):
    commands = []

    class Scoring:
        def __init__(self, command):
            commands.append(command)

        def wait(self):
            return 3

    monkeypatch.setattr(training_run.subprocess, "Popen", Scoring)
    monkeypatch.setattr(training_run.signal, "signal", lambda *_: None)
    assert training_run._score_best(tmp_path) == 3
    parser = evaluate.OneLineParser("")
    evaluate.add_flags(parser, EvaluateOptions)
    options = EvaluateOptions(**evaluate.given(EvaluateOptions, parser.parse_args(commands[0][2:])))
    assert options.checkpoint == (str(tmp_path / "best"),)
    assert list(options.driven) == list(range(100))
    assert (options.json, options.video) == (str(tmp_path / "score.json"), str(tmp_path / "drive.mp4"))


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ("", "--checkpoint is missing"),
        ("--checkpoint nowhere", "there is no checkpoint at nowhere"),
        ("--checkpoint straight nowhere", "there is no checkpoint at nowhere"),
        ("--checkpoint straight --episodes 0", "--episodes must be at least 1"),
        ("--checkpoint straight --episodes 101", "--episodes must be at most 100"),
        ("--checkpoint straight --tracks 3 3", "--tracks names a track twice"),
        ("--checkpoint straight --tracks -1", "--tracks must be at least 0"),
        ("--checkpoint straight --actions best", "--actions must be one of mean, mode, sampled"),
        ("--checkpoint straight --video drive.avi", "--video must name a file that ends in .mp4"),
        ("--checkpoint straight --gif drive.mp4", "--gif must name a file that ends in .gif"),
        ("--checkpoint straight bent --video drive.mp4", "--video films one checkpoint"),
        ("--checkpoint straight --json /proc/score.json", "--json /proc"),
        ("--checkpoint straight --json .", "--json . is no regular file"),
        ("--checkpoint straight --json /dev/null", "--json /dev/null is no regular file"),
        ("--checkpoint straight --video .mp4", "--video must name a file that ends in .mp4"),
        ("--checkpoint straight --gif a.gif --tracks 1 2 3 4", "--gif shows at most 3 tracks, not 4"),
        ("--checkpoint straight --tracks 3 --episodes 2", "--episodes and --tracks both say"),
        ("--checkpoint straight --tracks 3 --tracks 3", "--tracks names a track twice"),
    ],
)
def test_mistakes_are_named(place, args, message, monkeypatch, capsys):
    monkeypatch.chdir(place)
    monkeypatch.setattr("sys.argv", ["evaluate.py", *args.split()])
    with pytest.raises(SystemExit) as left:
        evaluate.main()
    said = capsys.readouterr()
    assert left.value.code == 2
    assert said.err.startswith(f"evaluate.py: {message}")
    assert len(said.err.splitlines()) == 1
    assert said.out == ""


def test_a_full_disk_is_named(place, monkeypatch, capsys):
    monkeypatch.chdir(place)
    monkeypatch.setattr(evaluate, "evaluate", lambda *_: [scored(1.0, 2.0)])
    monkeypatch.setattr(
        "sys.argv", ["evaluate.py", "--checkpoint", "straight", "--tracks", "31", "--video", "/dev/full/x.mp4"]
    )
    with pytest.raises(SystemExit):
        evaluate.main()
    assert "/dev/full" in capsys.readouterr().err
    with soak.tmpfs(place / "small", "size=64k") as mounted:
        if not mounted:
            pytest.skip("no right to mount a tmpfs")
        monkeypatch.setattr(
            "sys.argv", ["evaluate.py", "--checkpoint", "straight", "--tracks", "31", "--video", "small/drive.mp4"]
        )
        with pytest.raises(SystemExit) as left:
            evaluate.main()
        assert left.value.code == 2
        assert "could not be written" in capsys.readouterr().err.splitlines()[-1]
        assert list((place / "small").iterdir()) == []
