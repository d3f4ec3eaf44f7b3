"""Scoring checkpoints: what is printed, written and filmed, and every mistake a user can make."""

import errno
import json
import os
import re
import signal
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import psutil
import pytest
import torch
from aim.storage.context import Context
from PIL import Image

import checkpoint
import evaluate
import film
import ppo
import score_report
import scoring_pool
import training_run
import watch
from aim_writer import AimTracker
from car_racing import TRAINING_TRACK_SEEDS, make_env, make_stock_env
from evaluate_options import EvaluateOptions
from policies import load_policy
from process import describe_run
from run_settings import RunOptions
from scoring import Score, TrackResult, drive_stock
from settings import OneLineParser, SettingError, add_flags, explicit_flags
from startup import STOP_SIGNALS, _unfailing_text
from tests.helpers import SMALL_PPO, finish, read_closed, read_metrics, start
from tests.soak.faults import tmpfs
from tracks import SCORING_TRACKS


def save_blind(directory, name, steer):
    """A Beta policy that sees nothing: full gas, and off the playfield within some 200 frames."""
    policy = ppo.make_networks(SMALL_PPO)
    with torch.no_grad():
        policy.action_net.weight.zero_()
        policy.action_net.bias.copy_(torch.tensor([3.0 + steer, 200.0, -5.0, 3.0, -5.0, 200.0]))
    meta = {"agent": "ppo", "config": vars(SMALL_PPO), "steps": 1234, "frames": 12340, "command": "python train_ppo.py"}
    return checkpoint.save(directory, name, meta, {"policy": policy.state_dict()})


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Two checkpoints, `straight` and `bent`, in a directory of their own."""
    directory = tmp_path_factory.mktemp("policies")
    save_blind(directory, "straight", 0.0)
    save_blind(directory, "bent", 0.01)
    return directory


def run_evaluate(place, *args, **kwargs):
    return finish(start("evaluate.py", *args, cwd=place, **kwargs))


def use_arguments(monkeypatch, *args):
    monkeypatch.setattr("sys.argv", ["evaluate.py", *map(str, args)])


@pytest.fixture
def scored_at_once(monkeypatch):
    """Without the scoring, which takes its time: some score is taken for the policy's."""
    score = Score([TrackResult(i, 1.0 + i, 800, 280, 20, 280 / 300, False) for i in range(2)])
    monkeypatch.setattr(evaluate, "score_checkpoints", lambda loaded, *_: [score] * len(loaded))


def test_one_checkpoint_scored_written_and_filmed_twice_the_same(place):
    args = ("--checkpoint", "straight", "--tracks", 31, 36)
    code, stdout, stderr = run_evaluate(
        place,
        *args,
        "--json",
        "out/a.json",
        "--video",
        "out/drive.mp4",
        "--gif",
        "out/drive.gif",
        "--report",
        "out/page",
    )
    assert code == 0, stderr
    assert "straight (ppo, 1,234 steps, 12,340 frames) on 2 chosen tracks" in stdout
    again = run_evaluate(place, *args, "--json", "out/b.json")
    report, written = stdout.split("Written: ", 1)
    assert written == "out/a.json\nWritten: out/drive.mp4\nWritten: out/drive.gif\nWritten: out/page/index.html\n"
    assert again[:2] == (0, f"{report}Written: out/b.json\n")
    first, second = (json.loads((place / "out" / name).read_text())["checkpoints"] for name in ("a.json", "b.json"))
    assert first == second
    tracks = first[0]["tracks"]
    assert [track["track"] for track in tracks] == [31, 36]
    assert first[0]["summary"]["mean_return"] == pytest.approx(np.mean([track["episode_return"] for track in tracks]))
    assert first[0]["trained_by"]["command"] == "python train_ppo.py"
    assert f"{first[0]['summary']['mean_return']:.1f} ± " in stdout

    # Both tracks, each from its reset on, with the outcome for a second; the GIF shows a quarter of the frames.
    n_frames = sum(track["frames"] + 1 + 50 for track in tracks)
    film = cv2.VideoCapture(str(place / "out" / "drive.mp4"))
    size = tuple(film.get(which) for which in (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT))
    assert (size, film.get(cv2.CAP_PROP_FPS)) == ((1280.0, 800.0), 50.0)
    assert film.get(cv2.CAP_PROP_FRAME_COUNT) == n_frames
    _, picture = film.read()
    seen = []
    env = make_stock_env(SMALL_PPO.view, seen.append)
    env.reset(seed=31)
    assert np.abs(picture[:, :1000, ::-1].astype(int) - seen[0]).mean() < 8.0
    with Image.open(place / "out" / "drive.gif") as gif:
        assert gif.size == (560, 350)
        assert gif.n_frames == pytest.approx(n_frames / 4, abs=3)
    assert sorted(path.name for path in (place / "out").iterdir()) == [
        "a.json",
        "b.json",
        "drive.gif",
        "drive.mp4",
        "page",
    ]
    page = (place / "out" / "page" / "index.html").read_text(encoding="utf-8")
    assert (page.count("data:image/png;"), page.count("data:video/mp4;")) == (2, 2)
    for track in tracks:
        assert f"track {track['track']}: {track['episode_return']:.1f}, no lap" in page, "the same drive was filmed"


def test_several_checkpoints_are_compared_track_by_track(place):
    code, stdout, stderr = run_evaluate(
        place, "straight", "--tracks", 31, 36, "--json", "compared.json", "bent", "straight"
    )
    assert code == 0, stderr
    assert "2 chosen tracks of CarRacing-v3" in stdout
    assert "straight  +0.0, better on 0 of 2 tracks\n" in stdout
    scored = json.loads((place / "compared.json").read_text())["checkpoints"]
    returns = [np.array([track["episode_return"] for track in one["tracks"]]) for one in scored]
    assert scored[1]["difference_to_the_first"]["mean"] == pytest.approx((returns[1] - returns[0]).mean())
    assert (returns[0] == returns[2]).all()
    assert (returns[0] != returns[1]).any()


def test_the_numbers_are_the_same_on_one_core(place, monkeypatch):
    loaded = [checkpoint.load(place / name) for name in ("straight", "bent")]
    on_all = scoring_pool.score_checkpoints(loaded, (31,))
    monkeypatch.setattr(scoring_pool.os, "sched_getaffinity", lambda _: {0})
    assert scoring_pool.score_checkpoints(loaded, (31,)) == on_all
    assert on_all == [Score([drive_stock(*load_policy(one), 31)]) for one in loaded]


def is_scoring_worker(child):
    with suppress(psutil.Error):  # it may end while it is looked at
        return "spawn_main" in " ".join(child.cmdline())
    return False


# Of a core, after which a worker process drives: to start takes it five on a slow machine.
DRIVES_AFTER_S = 6.0


@contextmanager
def scoring_for(place, core_seconds):
    """evaluate.py at many tracks, and its worker processes, once each of these has used so much of a core."""
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("on a single core, evaluate.py drives without worker processes")
    process = start("evaluate.py", "--checkpoint", "straight", "--json", "half.json", cwd=place)
    deadline = time.monotonic() + 240  # each process imports torch, on a machine that may be busy
    workers = []
    while time.monotonic() < deadline:
        workers = [child for child in process.children() if is_scoring_worker(child)]
        if workers and all(sum(worker.cpu_times()[:2]) > core_seconds for worker in workers):
            break
        time.sleep(0.1)
    try:
        assert workers, "no worker process was started"
        yield process, workers
    finally:
        for left in (*workers, process):
            if left.is_running():
                left.kill()


@pytest.mark.parametrize(
    ("number", "code", "core_seconds"),
    [
        (signal.SIGTERM, 143, DRIVES_AFTER_S),
        (signal.SIGKILL, -signal.SIGKILL, DRIVES_AFTER_S),
        (signal.SIGINT, 130, 0.5),
        (signal.SIGHUP, 129, 0.5),
    ],
)
def test_whatever_ends_it_nothing_stays_behind(place, number, code, core_seconds):
    with scoring_for(place, core_seconds) as (process, workers):
        process.send_signal(number)
        exit_code, stdout, stderr = finish(process)
        assert exit_code == code
        assert "Traceback" not in stderr
        assert stdout == ""
        _, alive = psutil.wait_procs(workers, timeout=10)
        assert alive == []
        assert [path.name for path in place.iterdir() if path.name.startswith((".", "half"))] == []


@pytest.mark.parametrize("core_seconds", [0.1, DRIVES_AFTER_S])
def test_a_killed_worker_is_named(place, core_seconds):
    with scoring_for(place, core_seconds) as (process, workers):
        workers[0].kill()
        code, _, stderr = finish(process)
        assert code == 1
        assert "evaluate.py: a worker process could not be started or has died" in stderr.splitlines()[-1]
        assert "Traceback" not in stderr
        _, alive = psutil.wait_procs(workers, timeout=10)
        assert alive == []


def test_a_damaged_newest_checkpoint_is_named(tmp_path, monkeypatch, capsys, scored_at_once):
    for step in (10, 20):
        state = {"policy": ppo.make_networks(SMALL_PPO).state_dict()}
        newest = checkpoint.save_step(tmp_path / "run", step, {"agent": "ppo", "config": vars(SMALL_PPO)}, state)
    next(newest.glob("state-*")).write_bytes(b"")
    use_arguments(monkeypatch, "--checkpoint", tmp_path / "run")
    evaluate.main()
    said = capsys.readouterr()
    assert "step_000000020" in said.err
    assert "step_000000010 is taken instead" in said.err
    assert "step_000000010 (ppo)" in said.out


def test_sampled_actions_are_the_same_for_a_track_each_time(place, monkeypatch):
    """In the fast game, which is the stock one's in all but the time that it takes."""
    monkeypatch.setattr("scoring.make_stock_env", lambda view, _: make_env(view))
    loaded = checkpoint.load(place / "straight", with_arrays=False)
    policy, view = load_policy(loaded, "sampled")
    first = drive_stock(policy, view, 31)
    assert drive_stock(policy, view, 31) == first


def test_scores_are_printed_where_not_every_character_can_be(place):
    args = ("--checkpoint", "straight", "--tracks", 31)
    code, stdout, stderr = run_evaluate(place, *args, env={**os.environ, "PYTHONIOENCODING": "ascii"})
    assert code == 0, stderr
    assert r" \xb1 0.0 (mean \xb1 standard deviation)" in stdout


def save_tracked(directory, run_hash):
    """A copy of `straight` that says of which run in Aim it is."""
    meta = {"agent": "ppo", "config": vars(SMALL_PPO), "steps": 1234, "frames": 12340, "aim_run": run_hash}
    return checkpoint.save(directory, "tracked", meta, {"policy": ppo.make_networks(SMALL_PPO).state_dict()})


def test_a_score_is_added_to_the_run_in_aim(tmp_path, monkeypatch, capsys, scored_at_once):
    with AimTracker(tmp_path, "mine", {"agent": "ppo"}) as tracker:
        run_hash = tracker.run_hash
    tracked = save_tracked(tmp_path, run_hash)
    for flags in ((), ("--tracks", 31, 36), ("--no-aim",)):
        use_arguments(monkeypatch, tracked, "--aim-repo", tmp_path, *flags)
        evaluate.main()
        assert ("In Aim:" in capsys.readouterr().out) == (flags == ())
    run = read_closed(tmp_path, run_hash)
    assert (run.name, run["status"], run["agent"]) == ("mine", "finished", "ppo")
    assert run["score"]["mean_return"] == 1.5
    assert run["score"]["n_tracks"] == 2
    assert run["score"]["at_step"] == 1234
    series = {name: points for (name, subset), points in read_metrics(run).items() if subset == "score"}
    assert series == {
        "1_mean_return": {1234: 1.5},
        "2_lap_finish_rate": {1234: 0.0},
        "3_min_return": {1234: 1.0},
        "median_return": {1234: 1.5},
    }


def test_watching_plays_the_policy_and_scores_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    played = []

    def play(self, track):
        played.append(track)
        self._wish = watch.Wish.END

    monkeypatch.setattr(watch.Watcher, "_play", play)
    use_arguments(monkeypatch, save_tracked(tmp_path, None), "--watch", "--tracks", 44)
    evaluate.main()
    said = capsys.readouterr()
    assert played == [44]
    assert "Space: pause" in said.out
    assert "return" not in said.out


def test_watching_without_a_display_is_said_in_one_line(tmp_path, monkeypatch, capsys):
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "SDL_VIDEODRIVER"):
        monkeypatch.delenv(name, raising=False)
    use_arguments(monkeypatch, save_tracked(tmp_path, None), "--watch")
    with pytest.raises(SystemExit) as end:
        evaluate.main()
    assert end.value.code == 2
    assert "there is no display here" in capsys.readouterr().err


def test_a_report_takes_a_score_that_is_known(tmp_path, monkeypatch, capsys, scored_at_once):
    """The score that --json left in the run's directory; what is driven is only the three laps that are shown."""
    provenance = {**describe_run(), "commit": "0" * 40}  # also where this checkout has uncommitted changes
    for module in (evaluate, score_report):
        monkeypatch.setattr(module, "describe_run", lambda: provenance)
    path = save_tracked(tmp_path, None)
    use_arguments(monkeypatch, path, "--json", tmp_path / "score.json", "--episodes", 2)
    evaluate.main()

    def refuse(*_):
        raise AssertionError("it was driven again")

    reports = []
    monkeypatch.setattr(evaluate, "score_checkpoints", refuse)
    monkeypatch.setattr(evaluate, "make_report", lambda path, options, loaded, scores: reports.append(scores[0].mean))
    capsys.readouterr()
    use_arguments(monkeypatch, path, "--report", tmp_path / "out", "--episodes", 2)
    evaluate.main()
    assert reports == [1.5]
    assert f"Taken:   the score of {path} from score.json beside it" in capsys.readouterr().out
    use_arguments(monkeypatch, path, "--episodes", 2)
    with pytest.raises(AssertionError, match="driven again"):
        evaluate.main()


def test_the_film_of_a_score_is_added_to_the_run_in_aim(tmp_path, monkeypatch, capsys, scored_at_once):
    def film_little(policy, density, view, track, add_frame, drive_track):
        for level in (0, 100, 200, 250):
            for _ in range(10):
                add_frame(np.full((film.FILM_H, film.FILM_W, 3), level, np.uint8))

    monkeypatch.setattr(evaluate, "drive_filmed", film_little)
    with AimTracker(tmp_path / "# odd", "mine", {}) as tracker:
        odd_hash = tracker.run_hash
    with AimTracker(tmp_path / "a b", "mine", {}) as tracker:
        run_hash = tracker.run_hash
    video = tmp_path / "drive.mp4"
    use_arguments(monkeypatch, save_tracked(tmp_path, run_hash), "--aim-repo", tmp_path / "a b", "--video", video)
    evaluate.main()
    run = read_closed(tmp_path / "a b", run_hash)
    kept = Path(run.artifacts["drive.mp4"].uri.removeprefix("file://"))
    assert kept.read_bytes() == video.read_bytes()
    assert kept.is_relative_to(tmp_path / "a b" / ".aim")
    pictures = run.get_image_sequence("driving", Context({"subset": "score"}))
    steps, (images, _, _) = pictures.data.items_list()
    assert (list(steps), images[0].caption) == ([1234], "drive.mp4")
    shown = images[0].to_pil_image()
    assert (shown.size, shown.format) == ((320, 200), "GIF")

    capsys.readouterr()
    use_arguments(monkeypatch, save_tracked(tmp_path, odd_hash), "--aim-repo", tmp_path / "# odd", "--video", video)
    monkeypatch.setattr(evaluate, "leave", lambda code: None)
    evaluate.main()
    assert f"Written: {video}" in capsys.readouterr().out, "the film is made, though Aim cannot keep it"


@pytest.mark.parametrize("run_hash", ["0123456789abcdef01234567", "../../precious", "", 5, None])
def test_a_run_that_is_not_there_gets_no_score(tmp_path, monkeypatch, capsys, scored_at_once, run_hash):
    use_arguments(monkeypatch, save_tracked(tmp_path / "ckpt", run_hash), "--aim-repo", tmp_path / "repo")
    evaluate.main()
    said = capsys.readouterr()
    assert "In Aim:" not in said.out
    assert said.err == ""
    assert not (tmp_path / "repo").exists()


def test_a_run_in_progress_is_left_alone(tmp_path, monkeypatch, capsys, caplog, scored_at_once):
    codes = []
    monkeypatch.setattr(evaluate, "leave", codes.append)
    with AimTracker(tmp_path, "mine", {}) as tracker:
        use_arguments(monkeypatch, save_tracked(tmp_path, tracker.run_hash), "--aim-repo", tmp_path)
        evaluate.main()
        assert "In Aim:" not in capsys.readouterr().out
        (record,) = caplog.records
        assert "another process is writing" in record.getMessage()
        assert "nothing is added to it" in record.getMessage()
        assert codes == [0]
        tracker.track(1.0, "x", 1)
        run_hash = tracker.run_hash
    run = read_closed(tmp_path, run_hash)
    assert run["status"] == "finished"
    assert read_metrics(run) == {("x", None): {1: 1.0}}


def test_no_link_is_written_through(place, tmp_path, monkeypatch, scored_at_once):
    """Links that a stranger laid where the report goes, and where an earlier version put its unfinished one."""
    precious = tmp_path / "precious"
    precious.write_text("mine")
    for name in ("score.json", ".score.json.part"):
        (tmp_path / name).symlink_to(precious)
    use_arguments(monkeypatch, "--checkpoint", place / "straight", "--json", tmp_path / "score.json")
    evaluate.main()
    assert precious.read_text() == "mine"
    assert json.loads((tmp_path / "score.json").read_text())["checkpoints"]


def test_a_home_directory_is_found(place, monkeypatch, scored_at_once):
    monkeypatch.setenv("HOME", str(place))
    monkeypatch.chdir(place)
    use_arguments(monkeypatch, "--checkpoint=~/straight", "--json=~/home.json")
    evaluate.main()
    assert (place / "home.json").is_file()
    assert not (place / "~").exists()


def test_where_aim_has_failed_the_process_is_left_past_its_threads(place, monkeypatch, capsys, scored_at_once):
    codes = []
    monkeypatch.setattr(evaluate, "leave", codes.append)
    use_arguments(monkeypatch, place / "straight")
    evaluate.main()
    assert codes == []
    monkeypatch.setattr(AimTracker, "has_failed", True)
    evaluate.main()
    use_arguments(monkeypatch, place / "nowhere")
    evaluate.main()
    assert codes == [0, 2]


def test_a_report_that_cannot_be_drawn_is_refused_before_the_driving(place):
    args = ("straight", "--tracks", 31, "--report", "page")
    code, stdout, stderr = run_evaluate(place, *args, env={**os.environ, "MPLBACKEND": "nonsense"})
    assert (code, stdout, stderr.count("\n")) == (2, "", 1)
    assert "--report: matplotlib cannot be used" in stderr
    assert not (place / "page").exists()


def job_in(directory, **options):
    return SimpleNamespace(directory=directory, options=RunOptions(**options))


@pytest.mark.parametrize(
    ("options", "tracking"),
    [
        ({"aim_repo": "-runs"}, (True, "-runs")),
        ({"aim": False}, (False, ".")),
        ({"aim_repo": "aim://a:1"}, (False, ".")),
    ],
)
def test_a_training_that_ends_by_scoring_gives_options_that_exist(monkeypatch, tmp_path, options, tracking):
    commands = []

    class Scoring:
        def __init__(self, command):
            commands.append(command[4:])  # after what ties it to the training

        def wait(self):
            return 3

    monkeypatch.setattr(training_run, "subprocess", SimpleNamespace(Popen=Scoring))
    monkeypatch.setattr(training_run.signal, "signal", lambda *_: None)
    assert training_run._score_best(job_in(tmp_path, **options)) == 3
    parser = OneLineParser("")
    add_flags(parser, EvaluateOptions)
    options = EvaluateOptions(**explicit_flags(EvaluateOptions, parser.parse_args(commands[0][2:])))
    assert options.checkpoint == (str(tmp_path / "best"),)
    assert options.tracks_to_score == SCORING_TRACKS
    assert (options.json, options.video) == (str(tmp_path / "score.json"), str(tmp_path / "drive.mp4"))
    assert (options.aim, options.aim_repo) == tracking


def test_a_stop_is_handed_on_to_the_scoring(monkeypatch, tmp_path):
    received = []

    class Scoring:
        def __init__(self, command):
            pass

        def send_signal(self, number):
            received.append(number)

        def wait(self):
            for number in STOP_SIGNALS:
                os.kill(os.getpid(), number)
            return -signal.SIGINT

    before = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    monkeypatch.setattr(training_run, "subprocess", SimpleNamespace(Popen=Scoring))
    try:
        assert training_run._score_best(job_in(tmp_path)) == 130
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    assert received == list(STOP_SIGNALS)


def test_scores_that_cannot_be_printed_are_still_written(place, tmp_path, monkeypatch, capsys, scored_at_once):
    with Path("/dev/full").open("w") as full:
        monkeypatch.setattr("sys.stdout", _unfailing_text(full.fileno(), None))
        use_arguments(monkeypatch, "--checkpoint", place / "straight", "--json", tmp_path / "score.json")
        evaluate.main()
        assert (tmp_path / "score.json").is_file()
        use_arguments(monkeypatch, "--checkpoint", place / "straight")
        with pytest.raises(SystemExit, match="1"):
            evaluate.main()
        assert re.search(r"could not be printed \(.*No space left.*\); name a file", capsys.readouterr().err)


def test_without_worker_processes_it_drives_itself(place, monkeypatch, capsys):
    def no_semaphores(*_):
        raise OSError(errno.EROFS, "Read-only file system")

    loaded = [checkpoint.load(place / "straight")]
    monkeypatch.setattr(scoring_pool.os, "sched_getaffinity", lambda _: {0, 1})
    monkeypatch.setattr(scoring_pool, "ProcessPoolExecutor", no_semaphores)
    assert scoring_pool.score_checkpoints(loaded, (31, 36)) == [
        Score([drive_stock(*load_policy(loaded[0]), track) for track in (31, 36)])
    ]
    said = capsys.readouterr().err
    assert "no worker processes can be started (OSError: [Errno 30] Read-only file system); this process" in said


def test_a_film_that_cannot_be_made_is_heard_of_before_the_driving(place, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", str(tmp_path / "no_ffmpeg"))
    film.check_ffmpeg.cache_clear()
    monkeypatch.setattr(evaluate, "score_checkpoints", None)
    use_arguments(monkeypatch, "--checkpoint", place / "straight", "--video", tmp_path / "drive.mp4")
    with pytest.raises(SystemExit, match="2"):
        evaluate.main()
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("evaluate.py: --video: ffmpeg cannot be used (")
    film.check_ffmpeg.cache_clear()


def test_no_training_track_can_be_scored():
    with pytest.raises(SettingError, match="--tracks must be at most"):
        EvaluateOptions(checkpoint=("x",), tracks=(TRAINING_TRACK_SEEDS.start,))


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ("straight --checkpoint bent", "checkpoints are named with --checkpoint and without it"),
        ("straight --json fresh/index.html --report fresh", "--json and --report name one file, fresh/index.html"),
        ("straight --json fresh --report fresh", "--json and --report name one file, fresh"),
        ("", "no checkpoint is named; name one or a run's directory"),
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
        ("--checkpoint straight bent --watch", "--watch plays one checkpoint"),
        ("--checkpoint straight --watch --json a.json", "--watch scores nothing, so there is nothing for --json"),
        ("--checkpoint straight --watch --video a.mp4", "--watch scores nothing, so there is nothing for --video"),
        ("--checkpoint straight --watch --gif a.gif", "--watch scores nothing, so there is nothing for --gif"),
        ("--checkpoint straight --watch --report a", "--watch scores nothing, so there is nothing for --report"),
        ("--checkpoint straight --json a.mp4 --video a.mp4", "--json and --video name one file, a.mp4"),
        ("--checkpoint straight --json /proc/score.json", "--json /proc"),
        ("--checkpoint straight --json .", "--json . is no regular file"),
        (f"--checkpoint straight --json {'x' * 300}", f"--json {'x' * 60}...{'x' * 30} has a name of 300 bytes"),
        ("--checkpoint straight --json /dev/null", "--json /dev/null is no regular file"),
        ("--checkpoint straight --video .mp4", "--video must name a file that ends in .mp4"),
        ("--checkpoint straight --gif a.gif --tracks 1 2 3 4", "--gif shows at most 3 tracks, not 4"),
        ("--checkpoint straight --tracks 3 --episodes 2", "--episodes and --tracks both say"),
        ("--checkpoint straight --tracks 3 --tracks 3", "--tracks names a track twice"),
    ],
)
def test_mistakes_are_named(place, args, message, monkeypatch, capsys):
    monkeypatch.chdir(place)
    use_arguments(monkeypatch, *args.split())
    with pytest.raises(SystemExit) as exit_:
        evaluate.main()
    said = capsys.readouterr()
    assert exit_.value.code == 2
    assert said.err.startswith(f"evaluate.py: {message}")
    assert len(said.err.splitlines()) == 1
    assert said.out == ""


def test_a_full_disk_is_named(place, monkeypatch, capsys, scored_at_once):
    monkeypatch.chdir(place)
    with tmpfs(place / "small", "size=64k") as mounted:
        if not mounted:
            pytest.skip("no right to mount a tmpfs")
        use_arguments(monkeypatch, "--checkpoint", "straight", "--tracks", 31, "--video", "small/drive.mp4")
        with pytest.raises(SystemExit) as exit_:
            evaluate.main()
        assert exit_.value.code == 2
        assert "could not be written" in capsys.readouterr().err.splitlines()[-1]
        assert list((place / "small").iterdir()) == []
