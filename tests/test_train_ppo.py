"""The PPO script as its users run it: train, stop, resume, score; and every mistake a user can make."""

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from conftest import UPDATE_METRICS, read_closed, read_metrics, rewrite_manifest
from session import Evaluator, StopSignal, lock_directory
from stable_baselines3 import PPO
from stable_baselines3.common.policies import ActorCriticPolicy
from vec_env import MAX_WORKERS, CarRacingVecEnv, WorkerDiedError

import checkpoint
import ppo
import train_ppo
import training_run
from car_racing import make_env
from checkpoint import CheckpointError
from ppo import PPOConfig
from settings import SettingError

ROOT = Path(__file__).parent.parent
SMALL = shlex.split(
    "--n-envs 2 --n-steps 16 --batch-size 16 --n-epochs 2 --action-repeat 10 --features-dim 16 --seed 3"
)
prepare = partial(training_run.prepare, train_ppo.KIND, "")
FREQS = ["--eval-freq", "64", "--eval-tracks", "1", "--checkpoint-freq", "64"]


def run_script(script, *args, cwd, **kwargs):
    return subprocess.run(
        [sys.executable, str(ROOT / script), *map(str, args)],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=300,
        **kwargs,
    )


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A small whole run: 96 steps, as a user would start it."""
    place = tmp_path_factory.mktemp("run")
    done = run_script("train_ppo.py", *SMALL, *FREQS, "--total-timesteps", 96, "--run-name", "small", cwd=place)
    assert done.returncode == 0, done.stderr
    return place, done


def test_a_run_leaves_checkpoints_and_one_summary(trained):
    place, done = trained
    run_dir = place / "checkpoints" / "small"
    assert sorted(path.name for path in run_dir.iterdir()) == ["best", "step_000000064", "step_000000096"]
    meta = checkpoint.load(run_dir).meta
    assert (meta["steps"], meta["frames"], meta["agent"], meta["run_name"]) == (96, 960, "ppo", "small")
    assert meta["config"]["n_envs"] == 2
    assert meta["versions"]["gymnasium"] == "1.4.0"
    assert meta["best"]["step"] in (64, 96)
    assert done.stdout.startswith("Trained at 96 steps (960 frames)")
    for word in (
        "Last evaluation:",
        "laps finished",
        "Best evaluation:",
        "checkpoints/small/best",
        meta["aim_run"],
        "make ui",
    ):
        assert word in done.stdout
    assert "960 frames" in done.stderr, "the progress bar shows frames"
    assert "Traceback" not in done.stderr


def test_everything_is_in_aim(trained):
    place, _ = trained
    meta = checkpoint.load(place / "checkpoints" / "small").meta
    run = read_closed(place, meta["aim_run"])
    series = read_metrics(run)
    for name in UPDATE_METRICS:
        assert sorted(series[name, "train"]) == [32, 64, 96], f"{name} belongs to the step it was made at"
    assert series["frames", "time"] == {32: 320, 64: 640, 96: 960}
    assert sorted(series["fps", "time"]) == [32, 64, 96]
    for name in ["mean_return", "std_return", "min_return", "lap_finish_rate", "tiles_share"]:
        assert sorted(series[name, "eval"]) == [64, 96]
    assert run["status"] == "finished"
    assert run["hparams"]["batch_size"] == 16
    assert run["versions"]["stable-baselines3"] == "2.9.2"
    assert run["command"].startswith("python ")
    assert run["machine"]["cores"] >= 1
    assert re.fullmatch(r"unknown|[0-9a-f]{40}.*", run["commit"])
    assert run.name == "small"


def test_resume_goes_on_where_the_run_was(trained):
    place, _ = trained
    before = checkpoint.load(place / "checkpoints" / "small")
    # An unbeatable best, which a resumed run must not replace. The step's own record knows nothing of it.
    best_manifest = place / "checkpoints" / "small" / "best" / "manifest.json"
    rewrite_manifest(best_manifest.parent, lambda manifest: manifest["meta"]["best"].update(mean=5000.0, step=64))
    best_before = best_manifest.read_text()

    done = run_script("train_ppo.py", "--resume", "checkpoints/small", "--total-timesteps", 160, *FREQS, cwd=place)
    assert done.returncode == 0, done.stderr
    after = checkpoint.load(place / "checkpoints" / "small")
    assert after.meta["steps"] == 160
    assert after.meta["aim_run"] == before.meta["aim_run"]
    assert after.meta["episodes"] >= before.meta["episodes"]
    assert after.meta["best"] == {"mean": 5000.0, "step": 64}
    assert best_manifest.read_text() == best_before
    assert "Best evaluation: 5000.0 at step 64" in done.stdout
    # 2 environments x 16 steps in 4 minibatches, for 2 epochs: Adam counts on from where it was.
    adam_steps = [entry["step"].item() for entry in after.state["optimizer"]["state"].values()]
    assert set(adam_steps) == {5 * 2 * 2}
    assert after.state["n_updates"] == 5 * 2
    assert after.state["reward_statistics"]["count"] > before.state["reward_statistics"]["count"]
    run = read_closed(place, after.meta["aim_run"])
    series = read_metrics(run)
    assert sorted(series["value_loss", "train"]) == [32, 64, 96, 128, 160]
    assert series["n_updates", "train"] == {32: 2, 64: 4, 96: 6, 128: 8, 160: 10}
    # The schedule runs over the new total: of its five updates these are the fourth and the last.
    assert series["learning_rate", "train"][128] == pytest.approx(PPOConfig().learning_rate * 2 / 5)
    assert series["learning_rate", "train"][160] == pytest.approx(PPOConfig().learning_rate / 5)
    assert run["status"] == "finished"


def test_restore_brings_back_all_that_capture_took():
    config = PPOConfig(n_envs=2, n_steps=8, batch_size=8, n_epochs=1, features_dim=8, action_repeat=10)
    models = []
    for _ in range(2):
        env = ppo.make_training_env(config)
        models.append(ppo.make_model(config, env, torch.device("cpu")))
    trained, fresh = models
    trained.learn(32)
    ppo.restore(fresh, ppo.capture(trained))
    obs = np.random.default_rng(0).integers(0, 256, (5, *config.view.obs_shape), np.uint8)
    np.testing.assert_array_equal(
        trained.predict(obs, deterministic=True)[0], fresh.predict(obs, deterministic=True)[0]
    )
    assert fresh.num_timesteps == 32
    assert fresh._n_updates == trained._n_updates
    assert fresh.get_vec_normalize_env().ret_rms.var == trained.get_vec_normalize_env().ret_rms.var
    state, expected = fresh.policy.optimizer.state_dict()["state"], trained.policy.optimizer.state_dict()["state"]
    for index in expected:
        assert torch.equal(state[index]["exp_avg_sq"], expected[index]["exp_avg_sq"])
    for model in models:
        model.env.close()


def test_gaussian_trains_with_the_same_script(tmp_path):
    args = (*SMALL, *FREQS, "--total-timesteps", 32, "--use-gaussian", "--no-aim", "--checkpoint-dir", "gauss")
    done = run_script("train_ppo.py", *args, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / ".aim").exists()
    assert "Aim run:         none" in done.stdout
    loaded = checkpoint.load(tmp_path / "gauss")
    assert "log_std" in loaded.state["policy"]
    driver, view = ppo.load_driver(loaded, torch.device("cpu"))
    assert view.action_repeat == 10
    assert driver(np.zeros(view.obs_shape, np.uint8)).shape == (3,)


def test_evaluate_scores_the_checkpoint(trained):
    place, _ = trained
    done = run_script("evaluate.py", "--checkpoint", "checkpoints/small/best", "--episodes", 2, cwd=place)
    assert done.returncode == 0, done.stderr
    assert "the first 2 of the 100 scoring tracks of CarRacing-v3" in done.stdout
    for word in ("return", "worst", "laps finished", "frames to finish", "tiles missed"):
        assert word in done.stdout


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_saves_closes_and_leaves_no_worker(tmp_path, number, code):
    command = [sys.executable, str(ROOT / "train_ppo.py"), *SMALL, "--n-envs", "4", "--total-timesteps", "100000"]
    process = subprocess.Popen(
        [*command, "--checkpoint-dir", "run"], cwd=tmp_path, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    n_workers = min(4, len(os.sched_getaffinity(0)), MAX_WORKERS + 1) - 1
    deadline = time.monotonic() + 120
    while len(psutil.Process(process.pid).children()) < n_workers and time.monotonic() < deadline:
        time.sleep(0.1)
    time.sleep(6)  # into the training
    workers = psutil.Process(process.pid).children()
    process.send_signal(number)
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == code, stderr
    assert stdout.startswith("Stopped at ")
    assert "train_ppo.py --resume run" in stdout
    assert "Traceback" not in stderr
    meta = checkpoint.load(tmp_path / "run").meta
    assert read_closed(tmp_path, meta["aim_run"])["status"] == "stopped"
    psutil.wait_procs(workers, timeout=10)
    assert not any(worker.is_running() for worker in workers)


def test_the_second_signal_leaves_at_once():
    code = (
        "import sys, os, signal, time; sys.path.insert(0, sys.argv[1])\n"
        "from session import StopSignal\n"
        "with StopSignal() as stop:\n"
        "    os.kill(os.getpid(), signal.SIGINT); assert stop.received == signal.SIGINT and stop.exit_code == 130\n"
        "    os.kill(os.getpid(), signal.SIGINT); time.sleep(60)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(ROOT)], timeout=60, stderr=subprocess.PIPE, check=False)
    assert done.returncode == 130


def test_handlers_are_given_back():
    before = signal.getsignal(signal.SIGINT)
    with StopSignal():
        assert signal.getsignal(signal.SIGINT) != before
    assert signal.getsignal(signal.SIGINT) == before


def test_workers_end_with_a_killed_parent(tmp_path):
    code = (
        "import sys, time; sys.path.insert(0, sys.argv[1])\n"
        "from vec_env import make_vec_env\n"
        "env = make_vec_env(3, n_workers=2); env.reset(); print('ready', flush=True); time.sleep(60)"
    )
    parent = subprocess.Popen([sys.executable, "-c", code, str(ROOT)], stdout=subprocess.PIPE, text=True)
    assert parent.stdout.readline() == "ready\n"
    workers = psutil.Process(parent.pid).children()
    assert len(workers) == 2
    parent.kill()
    parent.wait()
    parent.stdout.close()
    _, alive = psutil.wait_procs(workers, timeout=10)
    assert not alive


BAD_FLAGS = [
    (["--n-envs", "0"], r"--n-envs must be at least 1, not 0"),
    (["--batch-size", "1000"], r"--batch-size 1000 does not divide"),
    (["--total-timesteps", "-5"], r"--total-timesteps must be at least 1"),
    (["--gamma", "1.5"], r"--gamma must be at most 1"),
    (["--learning-rate", "0"], r"--learning-rate must be above 0"),
    (["--learning-rate", "nan"], r"--learning-rate must be a finite number"),
    (["--deterministic-action", "median"], r"--deterministic-action must be one of mean, mode"),
    (["--device", "toaster"], r"--device toaster is no device"),
    (["--device", "cuda:99"], r"--device cuda:99: this machine has \d+ CUDA devices"),
    (["--resume", "nowhere"], r"there is no checkpoint at nowhere"),
    (["--resume", "."], r"\. holds no checkpoint"),
    (["--eval-tracks", "0"], r"--eval-tracks must be at least 1"),
    (["--eval-tracks", "1000"], r"--eval-tracks must be at most 100"),
    (["--checkpoint-dir", "/proc/run"], r"--checkpoint-dir /proc/run: /proc cannot be written to"),
    (["--aim-repo", "/proc/repo"], r"--aim-repo /proc/repo: /proc cannot be written to"),
    (["--checkpoint-dir", "a_file/run"], r"--checkpoint-dir a_file/run: .*a_file is a file"),
]


@pytest.mark.parametrize(("argv", "message"), BAD_FLAGS)
def test_bad_flags_are_named_before_anything_is_created(tmp_path, monkeypatch, argv, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a_file").write_text("")
    with pytest.raises((SettingError, CheckpointError), match=message) as error:
        prepare(argv)
    assert "\n" not in str(error.value)
    assert [path.name for path in tmp_path.iterdir()] == ["a_file"]


NO_GPU = pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")


@pytest.mark.parametrize(
    ("argv", "line"),
    [
        (["--n-envs", "0"], "--n-envs must be at least 1, not 0"),
        (
            ["--batch-size", "1000"],
            "--batch-size 1000 does not divide --n-envs 16 x --n-steps 128 = 2048; give one that does",
        ),
        (["--resume", "nowhere"], "there is no checkpoint at nowhere"),
        (
            ["--checkpoint-dir", "/proc/run"],
            "--checkpoint-dir /proc/run: /proc cannot be written to; name another place",
        ),
        pytest.param(
            ["--device", "cuda"],
            "--device cuda: this machine has 0 CUDA devices that torch can use; give --device cpu or auto",
            marks=NO_GPU,
        ),
    ],
)
def test_a_mistake_is_one_line_on_stderr_and_exit_code_2(tmp_path, argv, line):
    done = run_script("train_ppo.py", *argv, cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (2, "", f"train_ppo.py: {line}\n")
    assert not list(tmp_path.iterdir())


def test_two_trainings_cannot_share_a_directory(tmp_path):
    in_use = pytest.raises(SettingError, match="in use by another training")
    with lock_directory(tmp_path), in_use, lock_directory(tmp_path):
        pass
    with lock_directory(tmp_path):
        pass


def run_with_a_worker_that_dies(monkeypatch, place, die):
    """`train_ppo.py` in this process, whose 40th step ends in `die`; returns what it exits with."""
    monkeypatch.chdir(place)
    real_step_wait, calls = CarRacingVecEnv.step_wait, []

    def step_wait(self):
        calls.append(self)
        if len(calls) == 40:
            die()
        return real_step_wait(self)

    monkeypatch.setattr(CarRacingVecEnv, "step_wait", step_wait)
    monkeypatch.setattr(sys, "argv", ["train_ppo.py", *SMALL, "--total-timesteps", "999", "--checkpoint-dir", "run"])
    with pytest.raises(SystemExit) as exit_:
        train_ppo.main()
    return exit_.value.code


def test_a_dead_worker_ends_the_run_in_one_line_with_what_was_learnt_saved(tmp_path, monkeypatch, capsys):
    def die():
        raise WorkerDiedError("the worker of environments 1 to 1 (process 7) died with exit code -9")

    assert run_with_a_worker_that_dies(monkeypatch, tmp_path, die) == 1
    message = capsys.readouterr().err.splitlines()[-1]
    assert message.endswith("died with exit code -9; go on with --resume run")
    meta = checkpoint.load(tmp_path / "run").meta
    assert meta["steps"] == 64, "the last moment at which every environment was whole"
    assert read_closed(tmp_path, meta["aim_run"])["status"] == "failed"


def test_a_stop_that_also_kills_the_workers_is_a_stop(tmp_path, monkeypatch):
    """As `timeout` or a service manager stops a run: the signal goes to every process at once."""

    def die():
        os.kill(os.getpid(), signal.SIGTERM)
        raise WorkerDiedError("gone")

    assert run_with_a_worker_that_dies(monkeypatch, tmp_path, die) == 143
    assert read_closed(tmp_path, checkpoint.load(tmp_path / "run").meta["aim_run"])["status"] == "stopped"


def run_that_diverges(monkeypatch, place, capsys, *args):
    """`train_ppo.py` in this process: the exit code and the last line on stderr."""
    monkeypatch.chdir(place)
    args = [*SMALL, "--checkpoint-freq", "32", "--total-timesteps", "999", "--checkpoint-dir", "run", "--no-aim", *args]
    monkeypatch.setattr(sys, "argv", ["train_ppo.py", *args])
    with pytest.raises(SystemExit) as exit_:
        train_ppo.main()
    return exit_.value.code, capsys.readouterr().err.splitlines()[-1]


def test_a_diverged_policy_ends_the_run_before_it_is_saved(tmp_path, monkeypatch, capsys):
    real_train, calls = PPO.train, []

    def diverging(self):
        real_train(self)
        calls.append(self)
        if len(calls) == 2:
            self.policy.value_net.bias.data.fill_(float("nan"))

    monkeypatch.setattr(PPO, "train", diverging)
    code, message = run_that_diverges(monkeypatch, tmp_path, capsys)
    assert code == 1
    assert message.startswith("train_ppo.py: the policy's parameters are no longer finite after step 64")
    assert checkpoint.load(tmp_path / "run").meta["steps"] == 32


def test_a_gaussian_that_diverges_in_the_middle_of_an_update_is_no_traceback(tmp_path, monkeypatch, capsys):
    real_evaluate, calls = ActorCriticPolicy.evaluate_actions, []

    def diverging(self, obs, actions):
        calls.append(self)
        if len(calls) == 6:  # in the second update, whose minibatches are four
            self.action_net.bias.data.fill_(float("nan"))
        return real_evaluate(self, obs, actions)

    monkeypatch.setattr(ActorCriticPolicy, "evaluate_actions", diverging)
    code, message = run_that_diverges(monkeypatch, tmp_path, capsys, "--use-gaussian")
    assert code == 1
    # torch's distributions refuse it at once where their checks are on, else it is found after the update.
    assert re.match(r"train_ppo\.py: the policy.* no longer finite after step 64", message)
    assert checkpoint.load(tmp_path / "run").meta["steps"] == 32


def test_ctrl_c_during_an_evaluation_does_not_wait_for_its_end():
    class Received:
        received = signal.SIGINT

    evaluator = Evaluator(make_env(), 100, None)
    assert evaluator.evaluate(lambda obs: 1 / 0, 5, Received()) is None


@pytest.mark.parametrize(
    "damage",
    [
        lambda meta: meta.pop("agent"),
        lambda meta: meta.pop("config"),
        lambda meta: meta.pop("run_name"),
        lambda meta: meta.pop("steps"),
        lambda meta: meta.update(steps="many"),
        lambda meta: meta["config"].update(n_envs="8"),
        lambda meta: meta["config"].pop("road_contrast"),
    ],
)
def test_a_checkpoint_that_was_tampered_with_is_refused_in_one_line(trained, tmp_path, damage):
    path = tmp_path / "step_000000064"
    shutil.copytree(checkpoint.load(trained[0] / "checkpoints" / "small").path, path)
    rewrite_manifest(path, lambda manifest: damage(manifest["meta"]))
    with pytest.raises((CheckpointError, SettingError)) as error:
        prepare(["--resume", str(path), "--total-timesteps", "9999"])
    assert "\n" not in str(error.value)


def test_the_learning_rate_falls_to_nothing_after_the_last_update():
    config = PPOConfig(total_timesteps=4 * 2048)
    rate = ppo.FallingRate(1.0, 1 / config.n_updates)
    assert [rate(1 - done / 4) for done in (1, 2, 3, 4)] == [1.0, 0.75, 0.5, 0.25]
    assert PPOConfig(total_timesteps=1).n_updates == 1


def test_resuming_into_another_directory_finds_a_best_of_its_own(trained, tmp_path):
    place, _ = trained
    args = ("--resume", place / "checkpoints" / "small", "--checkpoint-dir", "moved", "--total-timesteps", 10**6)
    job_args = [*map(str, args)]
    job = prepare([*job_args[:-1], str(checkpoint.load(place / "checkpoints" / "small").meta["steps"] + 32)])
    assert job.directory == Path("moved")
    done = run_script("train_ppo.py", *job_args[:-1], job.config.total_timesteps, *FREQS, "--no-aim", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    loaded = checkpoint.load(tmp_path / "moved" / "best")
    assert loaded.meta["steps"] == job.config.total_timesteps
    assert loaded.meta["aim_run"] is not None, "a leg without Aim does not lose the run"


def test_a_read_only_directory_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root may write anywhere
    with pytest.raises(SettingError, match="cannot be written to"):
        prepare(["--checkpoint-dir", str(tmp_path / "run")])


def test_a_directory_that_holds_a_run_is_refused_with_both_ways_on(trained, monkeypatch):
    monkeypatch.chdir(trained[0])
    with pytest.raises(SettingError, match=r"holds a run already; go on with it \(--resume .*\) or name another"):
        prepare(["--checkpoint-dir", "checkpoints/small"])


def test_flags_that_contradict_the_checkpoint_are_listed(trained, monkeypatch):
    monkeypatch.chdir(trained[0])
    with pytest.raises(SettingError, match=r"--n-envs \(there: 2, here: 4\), --gamma \(there: 0.99, here: 0.9\)"):
        prepare(["--resume", "checkpoints/small", "--n-envs", "4", "--gamma", "0.9", "--total-timesteps", "999"])


def test_a_finished_run_asks_for_more_steps(trained, monkeypatch):
    monkeypatch.chdir(trained[0])
    with pytest.raises(SettingError, match="give a larger --total-timesteps"):
        prepare(["--resume", "checkpoints/small", "--total-timesteps", "64"])


def test_a_training_starts_from_the_networks_of_another_game(trained, tmp_path, monkeypatch):
    place, _ = trained
    best = place / "checkpoints" / "small" / "best"
    monkeypatch.chdir(tmp_path)
    started = []

    class Started(PPO):
        def learn(self, *args, **kwargs):
            started.append({name: value.clone() for name, value in self.policy.state_dict().items()})
            return super().learn(*args, **kwargs)

    monkeypatch.setattr(ppo, "PPO", Started)
    argv = [*SMALL, "--action-repeat", "5", "--gamma", "0.995", "--total-timesteps", "32", "--no-aim"]
    assert train_ppo.train(prepare([*argv, "--eval-tracks", "1", "--run-name", "on", "--start-from", str(best)])) == 0
    theirs = checkpoint.load(best).state["policy"]
    assert all(torch.equal(theirs[name], value) for name, value in started[0].items())
    learnt = checkpoint.load(Path("checkpoints/on"))
    assert learnt.meta["config"]["start_from"] == str(best)
    assert learnt.meta["steps"] == 32
    assert not all(torch.equal(theirs[name], value) for name, value in learnt.state["policy"].items())
    # It is resumed as itself, whatever has become of what it began with.
    shutil.copytree("checkpoints/on", "checkpoints/resumed")
    monkeypatch.setattr(ppo, "starting_networks", None)
    assert train_ppo.train(prepare(["--resume", "checkpoints/resumed", "--total-timesteps", "64", "--no-aim"])) == 0
    assert len(started) == 2
    assert all(torch.equal(learnt.state["policy"][name], value) for name, value in started[1].items())


@pytest.mark.parametrize(
    ("flags", "start", "words"),
    [
        ((), "nowhere", ("nowhere",)),
        ((), str(ROOT / "pretrained" / "sac_light"), ("sac_light", "does not hold a PPO policy")),
        (
            ("--frame-stack", "3", "--no-road-contrast"),
            "{best}",
            ("--start-from", "frame_stack 2", "road_contrast True", "give the flags"),
        ),
    ],
)
def test_networks_that_cannot_be_started_from_are_named_before_anything_is_created(
    trained, tmp_path, flags, start, words
):
    place, _ = trained
    start = start.format(best=place / "checkpoints" / "small" / "best")
    done = run_script("train_ppo.py", *SMALL, *flags, "--start-from", start, cwd=tmp_path)
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 1
    for word in words:
        assert word in done.stderr
    assert not list(tmp_path.iterdir())


def test_help_shows_that_beta_is_the_default(tmp_path):
    done = run_script("train_ppo.py", "--help", cwd=tmp_path)
    assert done.returncode == 0
    assert any("--use-gaussian" in line for line in done.stdout.splitlines() if "beta" in line.lower())


def test_threads_are_for_updates():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        threads = ppo.ThreadsForUpdates()
        threads.on_rollout_start()
        assert torch.get_num_threads() == 1
        threads.on_rollout_end()
        assert torch.get_num_threads() == 2
        threads.on_rollout_start()
        threads.on_training_end()
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_the_charge_rises_with_the_steps_in_every_environment():
    config = PPOConfig(n_envs=3, n_steps=8, batch_size=8, features_dim=8, total_timesteps=480, missed_tile_charge=30.0)
    env = ppo.make_training_env(config)
    try:
        model = ppo.make_model(config, env, torch.device("cpu"))
        model.learn(48, ppo.RisingCharge(config))
        assert env.get_attr("missed_tile_charge") == [30.0 * 24 / 480] * 3
        model.learn(48, ppo.RisingCharge(config), reset_num_timesteps=False)
        assert env.get_attr("missed_tile_charge") == [30.0 * 72 / 480] * 3
    finally:
        env.close()
