"""What is peculiar to the PPO script: its iterations, its workers, its threads, its Gaussian."""

import os
import re
import shutil
import signal

import numpy as np
import pytest
import torch
from stable_baselines3.common.policies import ActorCriticPolicy

import checkpoint
import ppo
import train_ppo
from car_racing.vec_env import CarRacingVecEnv, WorkerDiedError
from policies import load_policy
from ppo_config import PPOConfig
from tests.helpers import read_closed, read_metrics
from tests.trainings import FLAGS, exit_code_of, prepared, train_small

SCRIPT = "train_ppo.py"


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_learning_rate_anneals_with_each_iteration(whole_run, tmp_path):
    place, _ = whole_run(SCRIPT)
    shutil.copytree(place / ".aim", tmp_path / ".aim")
    meta = checkpoint.load(place / "checkpoints" / "small").meta
    series = read_metrics(read_closed(tmp_path, meta["aim_run"]))
    start = PPOConfig().learning_rate
    assert series["learning_rate", "train"] == pytest.approx({32: start, 64: start * 2 / 3, 96: start / 3})
    straight_lines = {"clip_range", "iterations", "time_elapsed", "total_timesteps"}
    assert not straight_lines & {name for name, _ in series}


def test_every_episode_is_counted_and_averaged(whole_run, tmp_path):
    place, _ = whole_run(SCRIPT)
    shutil.copytree(place / ".aim", tmp_path / ".aim")
    loaded = checkpoint.load(place / "checkpoints" / "small")
    series = read_metrics(read_closed(tmp_path, loaded.meta["aim_run"]))
    returns = list(series["return", "episode"].values())
    assert len(returns) == loaded.meta["episodes"] == len(loaded.state["episodes"])
    assert series["ep_rew_mean", "rollout"][96] == pytest.approx(np.mean(returns))


def test_a_best_says_as_much_of_itself_as_the_checkpoint_of_its_step(whole_run):
    small = whole_run(SCRIPT)[0] / "checkpoints" / "small"
    best = checkpoint.load(small / "best")
    same = checkpoint.load(small / f"step_{best.meta['steps']:09d}")
    assert best.meta == {**same.meta, "best": best.meta["best"], "minutes": best.meta["minutes"]}
    assert best.meta["minutes"] == pytest.approx(same.meta["minutes"], abs=1.0)
    assert best.state.keys() == same.state.keys()
    assert best.state["num_timesteps"] == best.meta["steps"]


STAGES = """agent = "ppo"
n_envs = 2
n_steps = 16
batch_size = 16
feature_dim = 16
eval_tracks = 1
action_repeat = 50
seed = 3
[[stages]]
steps = 40
learning_rate = 0.01
[[stages]]
steps = 64
learning_rate = 0.02
"""


def test_each_stage_has_its_own_seed_and_rates(here, monkeypatch):
    """The rates fall over the steps that a stage was asked to take, not over those of its last whole iteration."""
    seeds, rates = [], []

    def learn_nothing(self):
        seeds.append(self.seed)
        self._update_learning_rate(self.policy.optimizer)
        rates.append(self.policy.optimizer.param_groups[0]["lr"])
        self._n_updates += self.n_epochs

    monkeypatch.setattr(ppo.PPO, "train", learn_nothing)
    (here / "two.toml").write_text(STAGES)
    job = prepared(SCRIPT, "--recipe", "two.toml", "--no-aim", "--device", "cpu")
    assert train_ppo.train(job) == 0
    assert seeds == [stage.seed for stage in job.stages for _ in range(2)]
    assert rates == pytest.approx([0.01, 0.01 * (1 - 32 / 40), 0.02, 0.02 * (1 - 32 / 64)])


def test_gaussian_trains_with_the_same_script(here):
    assert train_small(SCRIPT, 32, "--use-gaussian", "--no-aim", "--checkpoint-dir", "gauss") == 0
    assert not (here / ".aim").exists()
    loaded = checkpoint.load(here / "gauss")
    assert "log_std" in loaded.state["policy"]
    policy, view = load_policy(loaded)
    assert policy(np.zeros(view.obs_shape, np.uint8)).shape == (3,)


def with_a_worker_that_dies(monkeypatch, die):
    """The script, whose 40th step ends in `die`; what it exits with."""
    real_step_wait, calls = CarRacingVecEnv.step_wait, []

    def step_wait(self):
        calls.append(self)
        if len(calls) == 40:
            die()
        return real_step_wait(self)

    monkeypatch.setattr(CarRacingVecEnv, "step_wait", step_wait)
    return exit_code_of(SCRIPT, monkeypatch, *FLAGS[SCRIPT], "--total-timesteps", 999, "--checkpoint-dir", "run")


def test_a_dead_worker_ends_the_run_in_one_line_with_what_was_learnt_saved(here, monkeypatch, capsys):
    def die():
        raise WorkerDiedError("the worker of environments 1 to 1 (process 7) died with exit code -9")

    assert with_a_worker_that_dies(monkeypatch, die) == 1
    message = capsys.readouterr().err.splitlines()[-1]
    assert message.endswith("died with exit code -9; go on with --resume run --device=cpu")
    meta = checkpoint.load(here / "run").meta
    assert meta["steps"] == 64, "the last moment at which every environment was whole"
    assert read_closed(here, meta["aim_run"])["status"] == "failed"


def test_a_stop_that_also_kills_the_workers_is_a_stop(here, monkeypatch):
    """As `timeout` or a service manager stops a run: the signal goes to every process at once."""

    def die():
        os.kill(os.getpid(), signal.SIGTERM)
        raise WorkerDiedError("gone")

    assert with_a_worker_that_dies(monkeypatch, die) == 143
    assert read_closed(here, checkpoint.load(here / "run").meta["aim_run"])["status"] == "stopped"


def test_a_gaussian_that_diverges_in_the_middle_of_an_update_is_no_traceback(here, monkeypatch, capsys):
    real_evaluate, calls = ActorCriticPolicy.evaluate_actions, []

    def diverging(self, obs, actions):
        calls.append(self)
        if len(calls) == 6:  # in the second update, whose minibatches are four
            self.action_net.bias.data.fill_(float("nan"))
        return real_evaluate(self, obs, actions)

    monkeypatch.setattr(ActorCriticPolicy, "evaluate_actions", diverging)
    flags = [*FLAGS[SCRIPT], "--use-gaussian", "--checkpoint-freq", 32, "--total-timesteps", 999, "--no-aim"]
    assert exit_code_of(SCRIPT, monkeypatch, *flags, "--checkpoint-dir", "run") == 1
    # torch's distributions refuse it at once where their checks are on, else it is found after the update.
    message = capsys.readouterr().err.splitlines()[-1]
    assert re.match(r"train_ppo\.py: the policy.* no longer finite after step 64", message)
    assert checkpoint.load(here / "run").meta["steps"] == 32


def test_threads_are_for_updates():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        threads = train_ppo.ThreadsForUpdates()
        threads.on_rollout_start()
        assert torch.get_num_threads() == 1
        threads.on_rollout_end()
        assert torch.get_num_threads() == 2
        threads.on_rollout_start()
        threads.on_training_end()
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
