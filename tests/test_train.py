"""The SAC script as its users run it: train, resume, score; what it tracks; and the mistakes a user can make."""

import copy
import re
import shlex
import shutil
import signal
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from benchmarks.soak import finish, start
from conftest import read_closed, read_metrics
from session import Evaluator

import checkpoint
import train
import training_run
from car_racing import TrainingOptions, TrainingRules
from sac_drq import NETWORKS, SACAgent, SACConfig, driver_of, load_driver
from settings import SettingError

PRETRAINED = Path(__file__).parent.parent / "pretrained"
SMALL = shlex.split(
    "--encoder light --hidden-dim 16 --feature-dim 8 --batch-size 8 --learning-starts 40 --replay-size 100 "
    "--action-repeat 10 --seed 3 --averaging-tau 0.1"
)
FREQS = shlex.split("--eval-freq 60 --eval-tracks 1 --checkpoint-freq 50")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A small whole run, as a user would start it: 120 steps, so that the replay buffer has wrapped around."""
    place = tmp_path_factory.mktemp("run")
    done = finish(start("train.py", *SMALL, *FREQS, "--total-steps", 120, "--run-name", "small", cwd=place))
    assert done[0] == 0, done
    return place, done


def test_a_run_leaves_checkpoints_and_one_summary(trained):
    place, (_, stdout, stderr) = trained
    run_dir = place / "checkpoints" / "small"
    assert sorted(path.name for path in run_dir.iterdir()) == [
        "best",
        "step_000000050",
        "step_000000100",
        "step_000000120",
    ]
    loaded = checkpoint.load(run_dir)
    meta = loaded.meta
    assert (meta["steps"], meta["frames"], meta["agent"], meta["run_name"]) == (120, 1200, "sac", "small")
    assert meta["config"]["hidden_dim"] == 16
    assert loaded.state["agent"]["n_updates"] == 80, "one a step after the random ones"
    assert loaded.state["replay"]["size"] == 100
    assert stdout.startswith("Trained at 120 steps (1,200 frames)")
    for word in ("Last evaluation:", "Best evaluation:", "checkpoints/small/best", meta["aim_run"], "make ui"):
        assert word in stdout
    assert "Go on:" not in stdout
    assert "1,200 frames" in stderr, "the progress bar shows frames"
    assert "Traceback" not in stderr


def test_everything_is_in_aim(trained):
    place, _ = trained
    meta = checkpoint.load(place / "checkpoints" / "small").meta
    run = read_closed(place, meta["aim_run"])
    series = read_metrics(run)
    names = ("critic_loss", "q1_mean", "q2_mean", "actor_loss", "alpha_loss", "entropy", "alpha")
    for name in (*names, "n_updates", "replay_fill"):
        assert sorted(series[name, "train"]) == [120], name
    assert series["replay_fill", "train"][120] == 1.0
    assert series["frames", "time"] == {120: 1200}
    assert sorted(series["fps", "time"]) == sorted(series["updates_per_second", "time"]) == [120]
    for name in ("mean_return", "std_return", "min_return", "lap_finish_rate", "tiles_share"):
        assert sorted(series[name, "eval"]) == [60, 120]
    assert sorted(series["return", "episode"]) == list(range(1, meta["episodes"] + 1))
    assert series["ep_rew_mean", "rollout"][120] == pytest.approx(np.mean(list(series["return", "episode"].values())))
    assert run["status"] == "finished"
    assert run["hparams"]["tau"] == 0.01
    assert run["command"].startswith("python ")


def test_evaluate_finds_out_which_agent_it_is(trained):
    place, _ = trained
    code, stdout, stderr = finish(start("evaluate.py", "--checkpoint", "checkpoints/small", "--episodes", 1, cwd=place))
    assert code == 0, stderr
    assert re.search(r"the first 1 of the 100 scoring tracks of CarRacing-v3\n  return +-?\d", stdout)


def test_a_loaded_driver_drives_as_the_agent_it_was_saved_from(trained):
    loaded = checkpoint.load(trained[0] / "checkpoints" / "small")
    agent = SACAgent(SACConfig(**loaded.meta["config"]), torch.device("cpu"))
    agent.load_state_dict(loaded.state["agent"])
    assert agent.average is not None, "the driver is the running mean"
    driver, view = load_driver(loaded, torch.device("cpu"))
    assert view.action_repeat == 10
    for obs in np.random.default_rng(0).integers(0, 256, (5, 4, 84, 84), np.uint8):
        np.testing.assert_array_equal(driver(obs), driver_of(agent)(obs))


def test_the_best_is_a_driver_and_no_training_to_resume(trained, monkeypatch):
    monkeypatch.chdir(trained[0])
    assert "replay" not in checkpoint.load(trained[0] / "checkpoints" / "small" / "best").state
    with pytest.raises(SettingError, match="holds a driver, not a whole training"):
        training_run.prepare(train.KIND, "", ["--resume", "checkpoints/small/best", "--total-steps", "999"])


def test_another_agents_checkpoint_is_refused(trained, monkeypatch):
    monkeypatch.chdir(trained[0])
    code, _, stderr = finish(start("train_ppo.py", "--resume", "checkpoints/small", cwd=trained[0]))
    assert code == 2
    assert stderr == "train_ppo.py: --resume checkpoints/small holds a 'sac' agent, not a ppo one\n"


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--total-steps", "0"], "--total-steps must be at least 1"),
        (["--tau", "2"], "--tau must be at most 1"),
        (["--encoder", "huge"], "--encoder must be one of drq, light"),
        (["--log-std-min", "3"], "--log-std-min 3.0 must be below --log-std-max 2.0"),
        (["--n-step", "3", "--learning-starts", "2"], "--n-step 3 must be at most --learning-starts 2"),
        (["--replay-size", "0"], "--replay-size must be at least 1"),
        (["--pad", "-1"], "--pad must be at least 0"),
        (["--resume", "nowhere"], "there is no checkpoint at nowhere"),
    ],
)
def test_bad_flags_are_named_before_anything_is_created(tmp_path, monkeypatch, argv, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises((SettingError, checkpoint.CheckpointError), match=re.escape(message)):
        training_run.prepare(train.KIND, "", argv)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("script", ["train.py", "train_ppo.py"])
def test_help_speaks_of_no_mixed_precision(tmp_path, script):
    code, stdout, _ = finish(start(script, "--help", cwd=tmp_path))
    assert code == 0
    assert "--seed" in stdout
    assert "amp" not in stdout.lower()


def test_the_defaults_that_users_rely_on():
    config = SACConfig()
    assert (config.replay_size, config.feature_dim, config.updates_per_step) == (30_000, 50, 1)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_saves_and_closes(tmp_path, number, code):
    process = start("train.py", *SMALL, *FREQS, "--total-steps", 10**6, "--checkpoint-dir", "run", cwd=tmp_path)
    deadline = time.monotonic() + 120
    while not checkpoint.holds_run(tmp_path / "run") and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(1)
    process.send_signal(number)
    found, stdout, stderr = finish(process, timeout=60)
    assert found == code, stderr
    steps = int(re.match(r"Stopped at ([\d,]+) steps", stdout)[1].replace(",", ""))
    loaded = checkpoint.load(tmp_path / "run")
    assert loaded.meta["steps"] == steps
    assert "train.py --resume run" in stdout
    assert read_closed(tmp_path, loaded.meta["aim_run"])["status"] == "stopped"


@pytest.mark.parametrize("network", ["critic", "critic_target"])
def test_numbers_that_are_no_longer_finite_end_the_run_before_they_are_saved(tmp_path, monkeypatch, capsys, network):
    monkeypatch.chdir(tmp_path)
    real_update = SACAgent.update

    def diverging(self, replay):
        real_update(self, replay)
        if self.n_updates == 70:
            getattr(self, network).encoder.linear.bias.data.fill_(float("nan"))

    monkeypatch.setattr(SACAgent, "update", diverging)
    args = [*SMALL, "--checkpoint-freq", "50", "--total-steps", "400", "--checkpoint-dir", "run", "--no-aim"]
    monkeypatch.setattr(sys, "argv", ["train.py", *args])
    with pytest.raises(SystemExit) as exit_:
        train.main()
    assert exit_.value.code == 1
    message = capsys.readouterr().err.splitlines()[-1]
    assert re.match(r"train\.py: the agent's numbers are no longer finite at step 1[1-5]\d;", message)
    assert message.endswith("go on with --resume run")
    assert checkpoint.load(tmp_path / "run").meta["steps"] == 100


def test_the_game_is_trained_on_under_its_rules_and_scored_without(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    real_step, rules_at = TrainingRules.step, []

    def watched(self, action):
        rules_at.append((self.missed_tile_charge, self.options))
        return real_step(self, action)

    monkeypatch.setattr(TrainingRules, "step", watched)
    flags = shlex.split(
        "--missed-tile-charge 30 --lost-starts 0.25 --bend-starts 0.5 --mirrored-tracks 0.75 --max-idle-frames 90 "
        "--max-tiles-back 15 --wheel-off-charge 0.5 --no-endless-road"
    )
    args = [*SMALL, *flags, "--total-steps", "60", "--eval-freq", "30", "--eval-tracks", "1", "--no-aim"]
    monkeypatch.setattr(sys, "argv", ["train.py", *args])
    with pytest.raises(SystemExit) as exit_:
        train.main()
    assert exit_.value.code == 0
    assert len(rules_at) == 60, "the evaluations drive the plain game"
    np.testing.assert_allclose([charge for charge, _ in rules_at], 30.0 * np.arange(60) / 60)
    expected = TrainingOptions(
        90, 15, wheel_off_charge=0.5, endless_road=False, lost_starts=0.25, bend_starts=0.5, mirrored_tracks=0.75
    )
    assert {options for _, options in rules_at} == {expected}


@pytest.mark.parametrize("is_falling", [True, False])
def test_updates_come_at_their_rhythm_and_their_rates_fall_unless_told_not_to(tmp_path, monkeypatch, is_falling):
    monkeypatch.chdir(tmp_path)
    real_update, rates = SACAgent.update, []

    def watched(self, replay):
        optimizers = (self.critic_optimizer, self.actor_optimizer, self.alpha_optimizer)
        rates.append([optimizer.param_groups[0]["lr"] for optimizer in optimizers])
        real_update(self, replay)

    monkeypatch.setattr(SACAgent, "update", watched)
    flags = shlex.split("--train-freq 5 --updates-per-step 2 --learning-rate 0.01 --alpha-learning-rate 0.1 --no-aim")
    constant = [] if is_falling else ["--no-falling-rates"]
    monkeypatch.setattr(
        sys, "argv", ["train.py", *SMALL, *flags, *constant, "--total-steps", "80", "--eval-tracks", "1"]
    )
    with pytest.raises(SystemExit) as exit_:
        train.main()
    assert exit_.value.code == 0
    # After 40 random steps: at step 40, 45, ..., 75 of 80, twice each.
    share = np.repeat(1.0 - np.arange(40, 80, 5) / 80 if is_falling else np.ones(8), 2)
    np.testing.assert_allclose(rates, share[:, None] * [0.01, 0.01, 0.1])


def test_a_training_starts_from_the_networks_of_another_game(trained, tmp_path, monkeypatch):
    place, _ = trained
    best = place / "checkpoints" / "small" / "best"
    monkeypatch.chdir(tmp_path)
    real_update, real_step, started, charges = SACAgent.update, TrainingRules.step, [], []

    def watched_update(self, replay):
        if not started:
            started.append({name: copy.deepcopy(getattr(self, name).state_dict()) for name in NETWORKS})
        real_update(self, replay)

    def watched_step(self, action):
        charges.append(self.missed_tile_charge)
        return real_step(self, action)

    monkeypatch.setattr(SACAgent, "update", watched_update)
    monkeypatch.setattr(SACAgent, "random_action", None)
    monkeypatch.setattr(TrainingRules, "step", watched_step)
    flags = shlex.split(
        "--action-repeat 5 --gamma 0.995 --missed-tile-charge 30 --total-steps 60 --eval-tracks 1 --no-aim"
    )
    argv = [*SMALL, *flags, "--run-name", "on", "--start-from", str(best)]
    assert train.train(training_run.prepare(train.KIND, "", argv)) == 0
    theirs = checkpoint.load(best).state["agent"]
    for ours, name in (("critic", "critic"), ("critic_target", "critic"), ("actor", "actor")):
        assert all(torch.equal(theirs[name][key], value) for key, value in started[0][ours].items())
    assert charges == [30.0] * 60, "a driver is no beginner"
    learnt = checkpoint.load(tmp_path / "checkpoints" / "on")
    assert learnt.meta["config"]["start_from"] == str(best)
    assert not torch.equal(theirs["actor"]["trunk.0.weight"], learnt.state["agent"]["actor"]["trunk.0.weight"])
    # It is resumed as itself, whatever has become of what it began with.
    monkeypatch.setattr(train, "starting_agent", None)
    argv = shlex.split("--resume checkpoints/on --total-steps 62 --no-aim")
    assert train.train(training_run.prepare(train.KIND, "", argv)) == 0
    assert checkpoint.load(tmp_path / "checkpoints" / "on").meta["steps"] == 62


@pytest.mark.parametrize(
    ("flags", "start_from", "words"),
    [
        ((), "nowhere", ("nowhere",)),
        ((), str(PRETRAINED / "ppo_beta"), ("ppo_beta", "does not hold a SAC agent")),
        (
            ("--hidden-dim", "17", "--no-road-contrast"),
            "{best}",
            ("hidden_dim 16", "road_contrast True", "give the flags"),
        ),
    ],
)
def test_networks_that_cannot_be_started_from_are_named_before_anything_is_created(
    trained, tmp_path, flags, start_from, words
):
    place, _ = trained
    start_from = start_from.format(best=place / "checkpoints" / "small" / "best")
    code, _, stderr = finish(start("train.py", *SMALL, *flags, "--start-from", start_from, cwd=tmp_path))
    assert code == 2
    assert len(stderr.strip().splitlines()) == 1
    for word in words:
        assert word in stderr
    assert not list(tmp_path.iterdir())


def test_lost_starts_are_followed_by_the_next_and_are_no_laps(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    real_reset, n_resets = TrainingRules.reset, []

    def watched(self, **options):
        n_resets.append(1)
        return real_reset(self, **options)

    monkeypatch.setattr(TrainingRules, "reset", watched)
    flags = shlex.split("--lost-starts 1 --max-idle-frames 20 --total-steps 40 --checkpoint-dir run --no-aim")
    monkeypatch.setattr(sys, "argv", ["train.py", *SMALL, *flags])
    with pytest.raises(SystemExit) as exit_:
        train.main()
    assert exit_.value.code == 0
    assert len(n_resets) > 2
    assert checkpoint.load(tmp_path / "run").meta["episodes"] == 0


def test_what_an_evaluation_is_may_not_change(trained, monkeypatch):
    """A best over eight tracks is no match for one over two."""
    monkeypatch.chdir(trained[0])
    argv = ["--resume", "checkpoints/small", "--total-steps", "999"]
    with pytest.raises(SettingError, match=r"--eval-tracks \(there: 1, here: 2\)"):
        training_run.prepare(train.KIND, "", [*argv, "--eval-tracks", "2"])
    job = training_run.prepare(train.KIND, "", [*argv, "--eval-freq", "7", "--checkpoint-freq", "9"])
    assert (job.options.eval_tracks, job.options.eval_freq, job.options.checkpoint_freq) == (1, 7, 9)


def test_the_best_of_another_run_is_not_adopted(trained, tmp_path):
    shutil.copytree(trained[0] / "checkpoints" / "small" / "best", tmp_path / "run" / "best")
    with pytest.raises(SettingError, match="holds a run already"):
        training_run.prepare(train.KIND, "", ["--checkpoint-dir", str(tmp_path / "run")])


def test_a_stop_before_the_last_evaluation_leaves_just_that_to_do(tmp_path, monkeypatch):
    """Stopped in the evaluation at the very end: the resumed run evaluates, saves, and is done."""

    def stopped(self, driver, step, stop):
        stop.received = signal.SIGTERM

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Evaluator, "evaluate", stopped)
    args = [*SMALL, "--eval-tracks", "1", "--total-steps", "60", "--checkpoint-dir", "run", "--no-aim"]
    monkeypatch.setattr(sys, "argv", ["train.py", *args])
    with pytest.raises(SystemExit) as exit_:
        train.main()
    assert exit_.value.code == 143
    assert checkpoint.load(tmp_path / "run").meta["evaluated_at"] == 0
    code, _, stderr = finish(start("train.py", "--resume", "run", "--no-aim", cwd=tmp_path))
    assert code == 0, stderr
    assert checkpoint.load(tmp_path / "run").meta["evaluated_at"] == 60
    assert checkpoint.load(tmp_path / "run" / "best").meta["best"]["step"] == 60
    code, _, stderr = finish(start("train.py", "--resume", "run", "--no-aim", cwd=tmp_path))
    assert code == 2
    assert "has done its 60 steps" in stderr


def pending(stack=4, first=0, action=3, reward=0.0):
    return torch.full((stack,), first), torch.zeros(action), reward


HOSTILE = {
    "steps of no number": lambda meta, state: meta.update(steps=float("nan")),
    "steps between two": lambda meta, state: meta.update(steps=5.5),
    "evaluated at no step": lambda meta, state: meta.update(evaluated_at="x"),
    "a best of no number": lambda meta, state: meta.update(best={"mean": "high", "step": 1}),
    "half a neuron": lambda meta, state: meta["config"].update(hidden_dim=8.5),
    "a seed between two": lambda meta, state: meta["config"].update(seed=1.5),
    "an agent that is a list": lambda meta, state: meta.update(agent=[]),
    "an optimiser that is a number": lambda meta, state: state["agent"].update(critic_optimizer=5),
    "an agent that is a tensor": lambda meta, state: state.update(agent=torch.zeros(3)),
    "a replay position outside": lambda meta, state: state["replay"].update(position=10**6),
    "a stack of two frames": lambda meta, state: state["replay"].update(stack=torch.zeros(2, dtype=torch.int64)),
    "a count of frames in words": lambda meta, state: state["replay"].update(n_frames="x"),
    "a pending step too many": lambda meta, state: state["replay"].update(pending=[pending()] * 3),
    "a pending reward in words": lambda meta, state: state["replay"].update(pending=[pending(reward="x")]),
    "a pending action of two numbers": lambda meta, state: state["replay"].update(pending=[pending(action=2)]),
    "a pending stack of two frames": lambda meta, state: state["replay"].update(pending=[pending(stack=2)]),
    "a pending frame from before the first": lambda meta, state: state["replay"].update(pending=[pending(first=-1)]),
    "transitions of frames to come": lambda meta, state: state["replay"]["numbers"].add_(10**9),
    "a track from no generator": lambda meta, state: state["env"]["present"]["tracks"]["state"].update(state=-1),
    "actions of two numbers": lambda meta, state: state["env"]["present"].update(actions=[[0.0, 0.0]] * 3),
    "a generator of negative numbers": lambda meta, state: state["generators"]["python"]["state"].neg_(),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_a_hostile_checkpoint_is_refused_in_one_line(trained, tmp_path, monkeypatch, capsys, what):
    whole = checkpoint.load(trained[0] / "checkpoints" / "small")
    HOSTILE[what](whole.meta, whole.state)
    path = checkpoint.save_step(tmp_path / "run", 120, whole.meta, whole.state, whole.arrays)
    monkeypatch.setattr(sys, "argv", ["train.py", "--resume", str(path), "--total-steps", "130", "--no-aim"])
    with pytest.raises(SystemExit) as exit_:
        train.main()
    assert exit_.value.code == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if "steps [" not in line and line.strip()]
    assert len(lines) == 1
    assert lines[0].startswith("train.py: ")
