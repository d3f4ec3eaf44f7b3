"""What both training scripts have in common: train, stop, resume, start from; and every mistake a user can make."""

import dataclasses
import re
import shutil
import signal
import time

import numpy as np
import psutil
import pytest
import torch
from aim.storage.context import Context

import checkpoint
import ppo
import train
import train_ppo
import training_run
from aim_reader import read_runs
from car_racing.vec_env import CarRacingVecEnv
from checkpoint import CheckpointError
from policies import load_policy
from ppo_config import PPOConfig
from process import lock_directory
from run_history import from_directory
from run_settings import RunOptions
from sac_config import SACConfig
from sac_drq import SACAgent
from settings import SettingError
from tests.helpers import (
    PRETRAINED,
    TOTAL,
    UPDATE_METRICS,
    finish,
    read_closed,
    read_metrics,
    rewrite_manifest,
    start,
)
from tests.trainings import FLAGS, MODULES, SCRIPTS, exit_code_of, prepared, resume, spec_of, stop_in_step, train_small
from training_run import Evaluator

SAC_METRICS = ("critic_loss", "q1_mean", "q2_mean", "actor_loss", "alpha_loss", "entropy", "alpha", "replay_fill")


@dataclasses.dataclass(frozen=True)
class Expected:
    """What the whole run of a script leaves."""

    agent: str
    steps: int
    checkpoints: list[int]
    evaluations: list[int]
    updates: list[int]
    metrics: tuple[str, ...]


WHOLE = {
    "train.py": Expected("sac", 120, [50, 100, 120], [60, 120], [120], SAC_METRICS),
    "train_ppo.py": Expected("ppo", 96, [64, 96], [64, 96], [32, 64, 96], UPDATE_METRICS),
}


@pytest.fixture(params=SCRIPTS)
def script(request):
    return request.param


@pytest.fixture
def small(whole_run, script):
    """The directory of the shared run: only to be read."""
    return whole_run(script)[0] / "checkpoints" / "small"


@pytest.fixture
def copied(small, tmp_path, monkeypatch):
    """A place of its own, the current one, with a copy of the shared run in `run`."""
    shutil.copytree(small, tmp_path / "run")
    shutil.copytree(small.parent.parent / ".aim", tmp_path / ".aim")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


# A whole run.


def test_a_run_leaves_checkpoints_and_one_summary(whole_run, script, small):
    _, (_, stdout, stderr) = whole_run(script)
    expected = WHOLE[script]
    names = [f"step_{step:09d}" for step in expected.checkpoints]
    assert sorted(path.name for path in small.iterdir()) == ["best", "progress.json", *names]
    meta = checkpoint.load(small).meta
    found = (meta["agent"], meta["run_name"], meta["steps"], meta["frames"], meta["stage"], meta["recipe"])
    assert found == (expected.agent, "small", expected.steps, 10 * expected.steps, 0, None)
    assert meta["stages"] == [meta["config"]]
    assert meta["intervals"]["eval_tracks"] == meta["eval_tracks"] == 1
    assert meta["intervals"]["checkpoint_freq"] == expected.checkpoints[0]
    assert meta["best"]["step"] in expected.evaluations
    assert meta["evaluated_at"] == expected.steps
    evaluations = from_directory(small).evaluations
    assert [(one.step, one.frames) for one in evaluations] == [(step, 10 * step) for step in expected.evaluations]
    assert max(one.mean_return for one in evaluations) == meta["best"]["mean"]
    assert 0 < evaluations[0].minutes < evaluations[-1].minutes < meta["minutes"] < 10
    assert {"python", "torch", "gymnasium", "stable-baselines3"} <= set(meta["versions"])
    assert "not installed" not in meta["versions"].values()
    assert stdout.startswith(f"Trained at {expected.steps} steps ({10 * expected.steps:,} frames)")
    for words in (
        "Last evaluation:",
        "laps finished",
        "Best evaluation:",
        "checkpoints/small/best",
        "aim_page.py --repo .",
    ):
        assert words in stdout
    assert meta["aim_run"] in stdout
    assert "Go on:" not in stdout
    assert f"{10 * expected.steps:,} frames" in stderr, "the progress bar shows frames"
    assert "Traceback" not in stderr


def test_everything_is_in_aim(script, copied):
    expected, meta = WHOLE[script], checkpoint.load(copied / "run").meta
    run = read_closed(copied, meta["aim_run"])
    series = read_metrics(run)
    for name in (*expected.metrics, "n_updates"):
        assert sorted(series[name, "train"]) == expected.updates, name
    assert series["frames", "time"] == {step: 10 * step for step in expected.updates}
    assert sorted(series["fps", "time"]) == expected.updates
    for name in ("1_mean_return", "2_lap_finish_rate", "3_min_return", "std_return", "tiles_fraction"):
        assert sorted(series[name, "eval"]) == expected.evaluations, name
    for name in ("return", "length_steps", "length_frames", "tiles_fraction", "lap_finished"):
        assert len(series[name, "episode"]) == meta["episodes"], name
    assert 0 < min(series["return", "episode"]) <= max(series["return", "episode"]) <= expected.steps
    assert meta["episodes"] > 0
    assert (run.name, run["status"], run["agent"]) == ("small", "finished", expected.agent)
    assert run["hparams"] == meta["config"]
    (tracked,) = read_runs(copied)
    assert tracked.history().evaluations == from_directory(copied / "run").evaluations
    assert list(run["stages"]) == meta["stages"]
    assert run["command"].startswith(f"python {script} ")
    assert run["machine"]["cores"] >= 1
    assert re.fullmatch(r"unknown|[0-9a-f]{40}.*", run["commit"])


def test_every_evaluation_is_seen_in_aim(script, copied):
    run = read_closed(copied, checkpoint.load(copied / "run").meta["aim_run"])
    context = Context({"subset": "eval"})
    for name, images_at in (("driven_lines", lambda value: value), ("driving", lambda value: [value])):
        steps, (values, _, _) = run.get_image_sequence(name, context).data.items_list()
        assert steps == WHOLE[script].evaluations
        for value in values:
            (image,) = images_at(value)
            assert image.caption.startswith("track 1000: ")
            assert len(image.storage["data"]) < 600_000
    assert image.format.lower() == "gif"
    assert image.to_pil_image().n_frames > 1


def test_without_pictures_there_are_none(script, here):
    assert train_small(script, 64, "--no-pictures", "--checkpoint-dir", "run") == 0
    run = read_closed(here, checkpoint.load(here / "run").meta["aim_run"])
    assert ("1_mean_return", "eval") in read_metrics(run)
    for name in ("driven_lines", "driving"):
        assert run.get_image_sequence(name, Context({"subset": "eval"})) is None


def test_evaluate_scores_it(small, tmp_path):
    code, stdout, stderr = finish(start("evaluate.py", "--checkpoint", small, "--episodes", 1, cwd=tmp_path))
    assert code == 0, stderr
    assert re.search(r"the first 1 of the 100 scoring tracks of CarRacing-v3\n  return +-?\d", stdout)


# Ends that nobody wished for.


@pytest.mark.parametrize(
    ("script", "number", "code"), [("train.py", signal.SIGINT, 130), ("train_ppo.py", signal.SIGTERM, 143)]
)
def test_a_signal_saves_closes_and_leaves_no_worker(tmp_path, script, number, code):
    flags = [*FLAGS[script], "--checkpoint-freq", 32, "--checkpoint-dir", "run", TOTAL[script], 10**6]
    process = start(script, *flags, cwd=tmp_path)
    deadline = time.monotonic() + 120
    while not checkpoint.holds_run(tmp_path / "run") and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.05)
    family = process.children(recursive=True)
    process.send_signal(number)
    found, stdout, stderr = finish(process, timeout=120)
    assert found == code, stderr
    steps = int(re.match(r"Stopped at ([\d,]+) steps", stdout)[1].replace(",", ""))
    loaded = checkpoint.load(tmp_path / "run")
    assert loaded.meta["steps"] == steps
    assert f"{script} --resume run" in stdout
    assert "Traceback" not in stderr
    assert read_closed(tmp_path, loaded.meta["aim_run"])["status"] == "stopped"
    assert not psutil.wait_procs(family, timeout=10)[1]


def poison(script, monkeypatch):
    """Have an update after step 64 leave a parameter that is not a number."""
    calls = []
    if script == "train.py":
        real_update = SACAgent.update

        def update(self, replay):
            real_update(self, replay)
            if self.n_updates == 30:
                self.critic_target.q1[-1].bias.data.fill_(float("nan"))

        monkeypatch.setattr(SACAgent, "update", update)
    else:
        real_train = ppo.PPO.train

        def learn(self):
            real_train(self)
            calls.append(self)
            if len(calls) == 3:
                self.policy.value_net.bias.data.fill_(float("nan"))

        monkeypatch.setattr(ppo.PPO, "train", learn)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_is_taken_where_there_is_one(here, capsys, script):
    flags = [*FLAGS[script], "--device", "auto", TOTAL[script], 64, "--eval-tracks", 1, "--no-aim"]
    assert MODULES[script].train(prepared(script, *flags)) == 0
    assert "no GPU in use" not in capsys.readouterr().err


def test_numbers_that_are_no_longer_finite_end_the_run_before_they_are_saved(here, monkeypatch, capsys, script):
    poison(script, monkeypatch)
    flags = [*FLAGS[script], "--checkpoint-freq", 32, "--checkpoint-dir", "run", "--no-aim", TOTAL[script], 400]
    assert exit_code_of(script, monkeypatch, *flags) == 1
    message = capsys.readouterr().err.splitlines()[-1]
    assert re.match(rf"{script}: the \w+'s \w+ are no longer finite (at|after) step \d+; a smaller", message)
    assert message.endswith("go on with --resume run --device=cpu --no-aim")
    assert checkpoint.load(here / "run").meta["steps"] == 64
    load_policy(checkpoint.load(here / "run"))


def test_a_stop_before_the_last_evaluation_leaves_just_that_to_do(here, monkeypatch, script):
    def stopped(self, policy, step, stop, *_):
        stop.received = signal.SIGTERM

    with monkeypatch.context() as patch:
        patch.setattr(Evaluator, "evaluate", stopped)
        assert train_small(script, 64, "--checkpoint-dir", "run", "--no-aim") == 143
    assert checkpoint.load(here / "run").meta["evaluated_at"] == 0
    assert resume(script, "run", "--no-aim") == 0
    assert checkpoint.load(here / "run").meta["evaluated_at"] == 64
    assert checkpoint.load(here / "run" / "best").meta["best"]["step"] == 64
    with pytest.raises(SettingError, match="has done its 64 steps"):
        prepared(script, "--resume", "run")


# Mistakes in the flags.

COMMON_BAD_FLAGS = [
    (["--gamma", "1.5"], r"--gamma must be at most 1"),
    (["--learning-rate", "0"], r"--learning-rate must be above 0"),
    (["--learning-rate", "nan"], r"--learning-rate must be a finite number"),
    (["--lost-start-prob", "0.9", "--bend-start-prob", "0.6"], r"add up to 1\.\d"),
    (["--device", "toaster"], r"--device toaster is no device"),
    (["--device", "cuda:99"], r"--device cuda:99: this machine has \d+ CUDA devices"),
    (["--resume", "nowhere"], r"there is no checkpoint at nowhere"),
    (["--resume", "."], r"\. holds no checkpoint"),
    (["--resume", "x", "--recipe", "quick"], r"leave out --recipe"),
    (["--recipe", "nowhere"], r"--recipe nowhere: there is no such recipe"),
    (["--eval-tracks", "0"], r"--eval-tracks must be at least 1"),
    (["--eval-tracks", "1000"], r"--eval-tracks must be at most 100"),
    (["--checkpoint-dir", "/proc/run"], r"--checkpoint-dir /proc/run: /proc cannot be written to"),
    (["--aim-repo", "/proc/repo"], r"--aim-repo /proc/repo: /proc cannot be written to"),
    (["--checkpoint-dir", "a_file/run"], r"--checkpoint-dir a_file/run: .*a_file is a file"),
]
BAD_FLAGS = {
    "train.py": [
        (["--total-steps", "0"], r"--total-steps must be at least 1"),
        (["--tau", "2"], r"--tau must be at most 1"),
        (["--encoder", "huge"], r"--encoder must be one of drq, light"),
        (["--log-std-min", "3"], r"--log-std-min 3.0 must be below --log-std-max 2.0"),
        (["--n-step", "3", "--learning-starts", "2"], r"--n-step 3 must be at most --learning-starts 2"),
        (["--replay-size", "0"], r"--replay-size must be at least 1"),
        (["--pad", "-1"], r"--pad must be at least 0"),
        (["--recipe", "quick"], r"--recipe quick is for a 'ppo' agent, not for train.py"),
    ],
    "train_ppo.py": [
        (["--n-envs", "0"], r"--n-envs must be at least 1, not 0"),
        (["--batch-size", "1000"], r"--batch-size 1000 does not divide"),
        (["--total-timesteps", "-5"], r"--total-timesteps must be at least 1"),
        (["--deterministic-action", "median"], r"--deterministic-action must be one of mean, mode"),
        (["--recipe", "drq"], r"--recipe drq is for a 'sac' agent, not for train_ppo.py"),
    ],
}


@pytest.mark.parametrize(
    ("script", "argv", "message"),
    [(script, *row) for script in SCRIPTS for row in (*COMMON_BAD_FLAGS, *BAD_FLAGS[script])],
)
def test_bad_flags_are_named_before_anything_is_created(here, script, argv, message):
    (here / "a_file").write_text("")
    with pytest.raises((SettingError, CheckpointError), match=message) as error:
        prepared(script, *argv)
    assert "\n" not in str(error.value)
    assert [path.name for path in here.iterdir()] == ["a_file"]


@pytest.mark.parametrize(
    ("script", "argv", "line"),
    [
        ("train_ppo.py", ["--n-envs", "0"], "--n-envs must be at least 1, not 0"),
        ("train.py", ["--resume", "nowhere"], "there is no checkpoint at nowhere"),
        (
            "train.py",
            ["--sede", "3"],
            "unrecognized arguments: --sede 3; did you mean --seed? (--help lists the flags)",
        ),
    ],
)
def test_a_mistake_is_one_line_on_stderr_and_exit_code_2(tmp_path, script, argv, line):
    assert finish(start(script, *argv, cwd=tmp_path)) == (2, "", f"{script}: {line}\n")
    assert not list(tmp_path.iterdir())


def test_help_shows_every_flag_and_speaks_of_no_mixed_precision(script, capsys):
    with pytest.raises(SystemExit) as exit_:
        prepared(script, "--help")
    text = capsys.readouterr().out
    assert exit_.value.code == 0
    assert {"--seed", "--resume", "--recipe", TOTAL[script]} <= set(text.split())
    if script == "train.py":
        assert "amp" not in text.lower()  # that it offers no such flag is looked for like this
    else:
        assert any("beta" in line.lower() for line in text.splitlines() if "--use-gaussian" in line)


def test_every_boolean_has_both_flags(here, script):
    for config_class in (spec_of(script).config_class, RunOptions):
        names = [field.name for field in dataclasses.fields(config_class) if isinstance(field.default, bool)]
        assert names
        for name in names:
            flag = name.replace("_", "-")
            for argv, wanted in ((f"--{flag}", True), (f"--no-{flag}", False)):
                job = prepared(script, argv)
                holder = job.options if config_class is RunOptions else job.stages[0].config
                assert getattr(holder, name) is wanted


# Resuming.


def test_resume_goes_on_where_the_run_was(script, copied):
    expected = WHOLE[script]
    before = checkpoint.load(copied / "run")
    # An unbeatable best, which a resumed run must not replace. The step's own record knows nothing of it.
    best = copied / "run" / "best"
    rewrite_manifest(best, lambda manifest: manifest["meta"]["best"].update(mean=5000.0, step=64))
    best_before = (best / checkpoint.MANIFEST).read_text()
    total = expected.steps + 160
    assert resume(script, "run", TOTAL[script], total) == 0
    after = checkpoint.load(copied / "run")
    assert after.meta["steps"] == total
    assert after.meta["intervals"] == before.meta["intervals"], "what the run began with, though no flag says it"
    assert after.meta["aim_run"] == before.meta["aim_run"]
    assert after.meta["episodes"] > before.meta["episodes"]
    evaluations, n_before = after.meta["evaluations"], len(before.meta["evaluations"])
    assert evaluations[:n_before] == before.meta["evaluations"]
    assert evaluations[-1]["step"] == total
    assert evaluations[n_before]["minutes"] > before.meta["minutes"]
    assert after.meta["best"] == {"mean": 5000.0, "step": 64}
    assert (best / checkpoint.MANIFEST).read_text() == best_before
    run = read_closed(copied, after.meta["aim_run"])
    series = read_metrics(run)
    assert run["status"] == "finished"
    new_updates = [total] if script == "train.py" else range(expected.steps + 32, total + 1, 32)
    assert sorted(series["n_updates", "train"]) == [*expected.updates, *new_updates]
    # A SAC update a step after 40 random ones; two epochs of two minibatches make two of SB3's updates an iteration.
    n_updates = total - 40 if script == "train.py" else 2 * total // 32
    assert series["n_updates", "train"][total] == n_updates
    assert min(series["fps", "time"].values()) > 0, "the row of the step that was resumed from stays as it was"
    if script == "train.py":
        speeds = series["updates_per_second", "time"][total], series["fps", "time"][total]
        assert speeds[0] == pytest.approx(speeds[1]), "an update a step since it was resumed"
    assert len(series["return", "episode"]) == after.meta["episodes"]


def test_resuming_into_another_directory_finds_a_best_of_its_own(script, small, here):
    total = WHOLE[script].steps + 32
    argv = [small, "--checkpoint-dir", "moved", TOTAL[script], total, "--eval-freq", 1000, "--no-aim"]
    assert resume(script, *argv) == 0
    best = checkpoint.load(here / "moved" / "best")
    assert best.meta["steps"] == checkpoint.load(here / "moved").meta["steps"] == total
    assert best.meta["aim_run"] is not None, "a leg without Aim does not lose the run"


def test_a_best_is_a_policy_or_a_whole_training_as_the_script_says(script, small):
    argv = ["--resume", small / "best", TOTAL[script], 999]
    if script == "train.py":
        with pytest.raises(SettingError, match="holds a policy, not a whole training"):
            prepared(script, *argv)
    else:
        rest = prepared(script, *argv).resumed.state
        assert set(train_ppo.SPEC.needs) <= set(rest)


def test_another_agents_checkpoint_is_refused(script, small):
    (other,) = set(SCRIPTS) - {script}
    agent, name = WHOLE[script].agent, WHOLE[other].agent
    with pytest.raises(SettingError, match=f"holds a '{agent}' agent, not a {name} one"):
        prepared(other, "--resume", small)


def test_a_finished_run_asks_for_more_steps(script, small):
    for argv in ([], [TOTAL[script], 64]):
        with pytest.raises(SettingError, match=f"give a larger {TOTAL[script]}"):
            prepared(script, "--resume", small, *argv)


def test_flags_that_contradict_the_checkpoint_are_listed(script, small):
    argv = ["--resume", small, TOTAL[script], 999]
    with pytest.raises(
        SettingError, match=r"--gamma \(there: 0.9[89], here: 0.9\), --seed \(there: 3, here: 4\)"
    ) as error:
        prepared(script, *argv, "--gamma", "0.9", "--seed", "4")
    assert TOTAL[script] not in str(error.value)
    with pytest.raises(SettingError, match=r"--eval-tracks \(there: 1, here: 2\)"):
        prepared(script, *argv, "--eval-tracks", 2)
    job = prepared(script, *argv, "--eval-freq", 7, "--checkpoint-freq", 9)
    assert (job.options.eval_tracks, job.options.eval_freq, job.options.checkpoint_freq) == (1, 7, 9)


def test_a_directory_that_holds_a_run_is_refused_with_both_ways_on(script, small, here):
    with pytest.raises(SettingError, match=r"holds a run already; go on with it \(--resume .*\) or name another"):
        prepared(script, "--checkpoint-dir", small)
    shutil.copytree(small / "best", here / "run" / "best")
    with pytest.raises(SettingError, match="holds a run already"):
        prepared(script, "--checkpoint-dir", "run")


def test_two_trainings_cannot_share_a_directory(script, here):
    with lock_directory(here / "run"), pytest.raises(SettingError, match="in use by another training"):
        train_small(script, 32, "--checkpoint-dir", "run", "--no-aim")
    assert not list((here / "run").iterdir())


@pytest.mark.parametrize("name", ["step_000000120", "best"])
def test_a_run_that_a_newer_version_has_gone_on_with_is_left_alone(script, copied, name):
    path = max((copied / "run").glob("step_*")) if name.startswith("step") else copied / "run" / name
    rewrite_manifest(path, lambda manifest: manifest.update(format_version=99))
    before = sorted(str(file) for file in copied.rglob("*"))
    for given in ("run", min((copied / "run").glob("step_*"))):
        with pytest.raises(CheckpointError, match=f"{path.name} has format version 99; .* use the version"):
            prepared(script, "--resume", given, TOTAL[script], 999)
    assert sorted(str(file) for file in copied.rglob("*")) == before


# Hostile checkpoints.


META = {
    "no agent": lambda meta: meta.pop("agent"),
    "an agent that is a list": lambda meta: meta.update(agent=[]),
    "no config": lambda meta: meta.pop("config"),
    "no name": lambda meta: meta.pop("run_name"),
    "no steps": lambda meta: meta.pop("steps"),
    "steps in words": lambda meta: meta.update(steps="many"),
    "steps of no number": lambda meta: meta.update(steps=float("nan")),
    "steps between two": lambda meta: meta.update(steps=5.5),
    "evaluated at no step": lambda meta: meta.update(evaluated_at="x"),
    "a best of no number": lambda meta: meta.update(best={"mean": "high", "step": 1}),
    "a stage that is not there": lambda meta: meta.update(stage=5),
    "no stages": lambda meta: meta.update(stages=[]),
    "stages that are numbers": lambda meta: meta.update(stages=[1]),
    "intervals that are a list": lambda meta: meta.update(intervals=[1]),
    "an interval in words": lambda meta: meta["intervals"].update(eval_freq="often"),
    "a recipe that is a word": lambda meta: meta.update(recipe="quick"),
    "a setting of another type": lambda meta: meta["stages"][0].update(feature_dim="8"),
    "a seed between two": lambda meta: meta["stages"][0].update(seed=1.5),
    "a setting that nobody knows the older value of": lambda meta: meta["stages"][0].pop("road_contrast"),
    "a setting of the future": lambda meta: meta["stages"][0].update(from_the_future=1),
}


@pytest.mark.parametrize("damage", META.values(), ids=META)
def test_a_manifest_that_was_tampered_with_is_refused_in_one_line(script, small, tmp_path, damage):
    path = tmp_path / "run" / "step_000000064"
    shutil.copytree(checkpoint.load(small).path, path)
    rewrite_manifest(path, lambda manifest: damage(manifest["meta"]))
    with pytest.raises((CheckpointError, SettingError)) as error:
        prepared(script, "--resume", path, TOTAL[script], 9999)
    assert "\n" not in str(error.value)


def pending(stack=2, first=0, action=3, reward=0.0):
    return torch.full((stack,), first), torch.zeros(action), reward


def env_damages(env_of):
    """Damages to the state of an environment, which `env_of` finds in a checkpoint's."""
    return {
        "an episode that is a number": lambda state: env_of(state).update(episode=5),
        "no generator": lambda state: env_of(state).pop("rng"),
        "a generator in words": lambda state: env_of(state)["rng"].update(state="x"),
        "a track from no generator": lambda state: env_of(state)["episode"]["start"].update(track_seed=-1),
        "a start of no kind": lambda state: env_of(state)["episode"]["start"].update(kind="upside down"),
        "actions of two numbers": lambda state: env_of(state)["episode"].update(actions=[[0.0, 0.0]] * 3),
        "mistakes that are numbers": lambda state: env_of(state).update(mistakes=[3]),
        "tiles in words": lambda state: env_of(state).update(tiles_at_end="x"),
        "an older episode of no generator": lambda state: env_of(state).update(present={}),
    }


STATE = {
    "train.py": {
        "an optimizer that is a number": lambda state: state["agent"].update(critic_optimizer=5),
        "an agent that is a tensor": lambda state: state.update(agent=torch.zeros(3)),
        "updates in words": lambda state: state["agent"].update(n_updates="x"),
        "a replay position outside": lambda state: state["replay"].update(position=10**6),
        "a stack of three frames": lambda state: state["replay"].update(stack=torch.zeros(3, dtype=torch.int64)),
        "a count of frames in words": lambda state: state["replay"].update(n_frames="x"),
        "episodes in words": lambda state: state.update(episodes=["x"]),
        "a pending step too many": lambda state: state["replay"].update(pending=[pending()] * 3),
        "a pending reward in words": lambda state: state["replay"].update(pending=[pending(reward="x")]),
        "a pending action of two numbers": lambda state: state["replay"].update(pending=[pending(action=2)]),
        "a pending stack of three frames": lambda state: state["replay"].update(pending=[pending(stack=3)]),
        "a pending frame from before the first": lambda state: state["replay"].update(pending=[pending(first=-1)]),
        "transitions of frames to come": lambda state: state["replay"]["frame_ids"].add_(10**9),
        **env_damages(lambda state: state["env"]),
    },
    "train_ppo.py": {
        "an optimizer that is a number": lambda state: state.update(optimizer=5),
        "a policy that is a tensor": lambda state: state.update(policy=torch.zeros(3)),
        "an environment too few": lambda state: state["envs"].pop(),
        "environments that are a number": lambda state: state.update(envs=3),
        "a count of rewards that is nothing": lambda state: state["reward_statistics"].update(count=None),
        "returns in words": lambda state: state["reward_statistics"].update(returns="x"),
        "a return too many": lambda state: state["reward_statistics"].update(returns=[0.0] * 3),
        "a step in words": lambda state: state.update(num_timesteps="x"),
        "updates in words": lambda state: state.update(n_updates="x"),
        "updates between two": lambda state: state.update(n_updates=1.5),
        "a step that the manifest does not say": lambda state: state.update(num_timesteps=1),
        "episodes in words": lambda state: state.update(episodes=["x"]),
        "successes in words": lambda state: state.update(successes=["yes"]),
        "a start too few": lambda state: state.update(episode_starts=[True]),
        "no starts of episodes": lambda state: state.pop("episode_starts"),
        "no generators": lambda state: state.pop("generators"),
        "a generator of negative numbers": lambda state: state["generators"]["python"]["state"].neg_(),
        **env_damages(lambda state: state["envs"][1]),
    },
}


@pytest.mark.parametrize(
    ("script", "what"),
    [(script, what) for script in SCRIPTS for what in STATE[script]],
)
def test_a_hostile_state_is_refused_in_one_line(whole_run, here, monkeypatch, capsys, script, what):
    whole = checkpoint.load(whole_run(script)[0] / "checkpoints" / "small")
    STATE[script][what](whole.state)
    path = checkpoint.save_step(here / "run", whole.meta["steps"], whole.meta, whole.state, whole.arrays)
    code = exit_code_of(script, monkeypatch, "--resume", path, TOTAL[script], 10**4, "--no-aim")
    assert code == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith(f"{script}: ")


# Starting from trained networks.


def networks_of(script, loaded):
    """The parameters that a training begins with, by name."""
    if script == "train_ppo.py":
        return loaded.state["policy"]
    return {
        f"{name}.{key}": value for name in ("critic", "actor") for key, value in loaded.state["agent"][name].items()
    }


def test_a_training_starts_from_the_networks_of_another_game(script, small, here, monkeypatch):
    """Stopped in its first step, it still has them; its environments know the full penalty."""
    monkeypatch.setattr(SACAgent, "random_action", None)
    argv = ["--start-from", small / "best", "--checkpoint-dir", "run", "--no-aim", "--action-repeat", 5]
    with monkeypatch.context() as patch:
        stop_in_step(patch, 1)
        assert train_small(script, 64, *argv, "--gamma", "0.995", "--missed-tile-penalty", 30) == 143
    theirs = networks_of(script, checkpoint.load(small / "best"))
    begun = checkpoint.load(here / "run")
    assert begun.meta["config"]["start_from"] == str(small / "best")
    ours = networks_of(script, begun)
    assert theirs.keys() == ours.keys()
    assert all(torch.equal(ours[key], value) for key, value in theirs.items())
    # It is resumed as itself, whatever has become of what it began with, and it learns.
    monkeypatch.setattr(train, "initial_agent", None)
    monkeypatch.setattr(train_ppo, "initial_networks", None)
    assert resume(script, "run", "--no-aim") == 0
    learnt = networks_of(script, checkpoint.load(here / "run"))
    assert not all(torch.equal(learnt[key], value) for key, value in theirs.items())


@pytest.mark.parametrize("what", ["nothing", "another agent", "other networks"])
def test_networks_that_cannot_be_started_from_are_named_before_anything_is_created(
    script, small, here, monkeypatch, capsys, what
):
    other = {"train.py": "ppo_beta", "train_ppo.py": "sac_light"}[script]
    start_from, flags, words = {
        "nothing": ("nowhere", [], ["there is no checkpoint at nowhere"]),
        "another agent": (PRETRAINED / other, [], [other, "holds a policy of the agent"]),
        "other networks": (
            small / "best",
            ["--feature-dim", 9, "--no-road-contrast"],
            ["--feature-dim 8" if script == "train.py" else "--feature-dim 16", "--road-contrast True", "give the"],
        ),
    }[what]
    assert exit_code_of(script, monkeypatch, *FLAGS[script], *flags, "--start-from", start_from) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert all(word in line for word in words), line
    assert not list(here.iterdir())


# The settings at work.


UNUSUAL_GAME = {
    "max_idle_frames": 90,
    "max_backward_tiles": 15,
    "missed_tile_penalty": 30.0,
    "wheel_off_penalty": 0.5,
    "bootstrap_lap_end": False,
    "lost_start_prob": 0.2,
    "bend_start_prob": 0.3,
    "hairpin_start_prob": 0.15,
    "retry_start_prob": 0.1,
    "mirror_prob": 0.75,
    "action_repeat": 9,
    "frame_stack": 3,
    "road_contrast": False,
}


def test_training_has_the_settings_rules_and_scoring_its_view_alone(script, here, monkeypatch):
    flags = [
        word
        for name, value in UNUSUAL_GAME.items()
        for word in (
            [f"--{'' if value else 'no-'}{name.replace('_', '-')}"]
            if isinstance(value, bool)
            else [f"--{name.replace('_', '-')}", value]
        )
    ]
    config = {"train.py": SACConfig, "train_ppo.py": PPOConfig}[script](**UNUSUAL_GAME)
    made = {"training": [], "scoring": []}

    def recorded(module, name, purpose):
        real = getattr(module, name)

        def make(*args):
            made[purpose].append(args)
            return real(*args)

        monkeypatch.setattr(module, name, make)

    recorded(training_run, "make_env", "scoring")
    recorded(*((train, "make_env") if script == "train.py" else (ppo, "make_vec_env")), "training")
    assert train_small(script, 32, *flags, "--no-aim") == 0
    n_envs = () if script == "train.py" else (2,)
    n_workers = [] if script == "train.py" else [config.n_workers]
    assert made == {"training": [(*n_envs, config.view, config.rules, *n_workers)], "scoring": [(config.view,)]}


@pytest.mark.parametrize("is_from_scratch", [True, False])
def test_the_environments_are_told_how_far_the_training_is(script, whole_run, here, monkeypatch, is_from_scratch):
    told = []
    if script == "train.py":
        monkeypatch.setattr(
            "car_racing.episodes.TrainingEpisodes.set_progress", lambda self, progress: told.append(progress)
        )
    else:
        real = CarRacingVecEnv.env_method

        def env_method(self, name, *args, indices=None, **kwargs):
            if name == "set_progress":
                told.append(args[0])
                assert indices is None, "every environment is told"
            return real(self, name, *args, indices=indices, **kwargs)

        monkeypatch.setattr(CarRacingVecEnv, "env_method", env_method)
    best = whole_run(script)[0] / "checkpoints" / "small" / "best"
    argv = [] if is_from_scratch else ["--start-from", best]
    assert train_small(script, 64, "--no-aim", *argv) == 0
    done = np.arange(64) if script == "train.py" else np.array([0, 32])
    np.testing.assert_allclose(told, done / 64 if is_from_scratch else np.ones(len(done)))
