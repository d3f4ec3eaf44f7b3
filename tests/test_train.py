"""What is peculiar to the SAC script: when it acts, updates and stores, and what it reports."""

import shutil

import gymnasium as gym
import numpy as np
import pytest

import checkpoint
import train
from car_racing import TrainingEpisodes
from replay_buffer import ReplayBuffer
from sac_drq import SACAgent
from tests.helpers import read_closed, read_metrics
from tests.trainings import prepared, resume, stop_in_step, train_small
from training_run import DivergedError

SCRIPT = "train.py"


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("is_annealed", [True, False])
def test_updates_come_at_their_rhythm_and_their_rates_anneal_unless_told_not_to(monkeypatch, is_annealed):
    real_update, real_random, rates, random_actions = SACAgent.update, SACAgent.random_action, [], []

    def update(self, replay):
        optimizers = (self.critic_optimizer, self.actor_optimizer, self.alpha_optimizer)
        rates.append([optimizer.param_groups[0]["lr"] for optimizer in optimizers])
        real_update(self, replay)

    def random_action(self):
        random_actions.append(len(rates))
        return real_random(self)

    monkeypatch.setattr(SACAgent, "update", update)
    monkeypatch.setattr(SACAgent, "random_action", random_action)
    flags = [
        "--train-freq",
        "5",
        "--updates-per-step",
        "2",
        "--learning-rate",
        "0.01",
        "--alpha-learning-rate",
        "0.1",
        "--no-aim",
    ]
    assert train_small(SCRIPT, 80, *flags, *([] if is_annealed else ["--no-anneal-lr"])) == 0
    assert random_actions == [0] * 40, "forty random actions, before the first update"
    # At step 40, 45, ..., 75 of 80, twice each.
    scales = np.repeat(1.0 - np.arange(40, 80, 5) / 80 if is_annealed else np.ones(8), 2)
    np.testing.assert_allclose(rates, scales[:, None] * [0.01, 0.01, 0.1])


class Scripted(gym.Wrapper):
    """The game, whose episodes end when the test wants: terminated at step 10 and 30, truncated at step 20.

    It keeps what it was told and given, and what it answered.
    """

    n_steps = 0
    returns = (10.0, 20.0, 60.0)

    def __init__(self, env):
        super().__init__(env)
        self.told, self.driven, self.begun = [], [], []

    def set_progress(self, progress):
        self.told.append((self.n_steps, progress))

    def reset(self, **kwargs):
        obs, info = self.env.reset(**kwargs)
        self.begun.append(obs)
        return obs, info

    def step(self, action):
        obs, _, _, _, info = self.env.step(action)
        self.driven.append((action, obs))
        self.n_steps += 1
        info.pop("episode", None)
        if self.n_steps in (10, 20, 30):
            episode_return = self.returns[self.n_steps // 10 - 1]
            info["episode"] = {"r": episode_return, "l": 10, "frames": 100, "lap_finished": episode_return > 50}
        return obs, float(self.n_steps), self.n_steps in (10, 30), self.n_steps == 20, info


def test_transitions_and_episodes_are_stored_and_counted_as_they_were(here, monkeypatch):
    real_make, real_add, real_start = train.make_env, ReplayBuffer.add, ReplayBuffer.start_episode
    added, starts, envs = [], [], []

    def add(self, action, reward, next_obs, terminated):
        added.append((reward, terminated))
        np.testing.assert_array_equal(action, envs[0].driven[-1][0])
        np.testing.assert_array_equal(next_obs, envs[0].driven[-1][1], "an episode's last picture is its own")
        real_add(self, action, reward, next_obs, terminated)

    def start_episode(self, obs):
        starts.append(len(added))
        np.testing.assert_array_equal(obs, envs[0].begun[-1])
        real_start(self, obs)

    def make(*args):
        envs.append(Scripted(real_make(*args)))
        return envs[-1]

    monkeypatch.setattr(train, "make_env", make)
    monkeypatch.setattr(ReplayBuffer, "add", add)
    monkeypatch.setattr(ReplayBuffer, "start_episode", start_episode)
    assert train_small(SCRIPT, 35, "--checkpoint-dir", "run") == 0
    assert [reward for reward, _ in added] == list(range(1, 36))
    assert [step for step, (_, terminated) in enumerate(added, 1) if terminated] == [10, 30], "a truncation is no end"
    assert starts == [0, 10, 20, 30]
    assert envs[0].told == [(step, pytest.approx(step / 35)) for step in range(35)], "before each step"
    meta = checkpoint.load(here / "run").meta
    assert meta["episodes"] == checkpoint.load(here / "run" / "best").meta["episodes"] == 3
    series = read_metrics(read_closed(here, meta["aim_run"]))
    assert series["return", "episode"] == {10: 10.0, 20: 20.0, 30: 60.0}
    means = {name: series[name, "rollout"][35] for name in ("ep_rew_mean", "ep_len_mean", "success_rate")}
    assert means == pytest.approx({"ep_rew_mean": 30.0, "ep_len_mean": 10.0, "success_rate": 1 / 3})
    assert series["replay_fill", "train"][35] == pytest.approx(0.33)


STAGES = """agent = "sac"
encoder = "light"
hidden_dim = 16
feature_dim = 8
batch_size = 8
learning_starts = 10
replay_size = 50
action_repeat = 10
eval_tracks = 1
seed = 3
[[stages]]
steps = 20
learning_rate = 0.01
[[stages]]
steps = 20
learning_rate = 0.02
"""


def test_each_stage_has_its_own_seed_and_rates_and_draws_its_actions_which_evaluations_do_not(here, monkeypatch):
    real_agent, real_make, real_act, real_update = SACAgent, train.make_env, SACAgent.act, SACAgent.update
    agent_seeds, env_seeds, acts, rates = [], [], [], []

    class Seeded(gym.Wrapper):
        def reset(self, *, seed=None, **kwargs):
            env_seeds.extend([] if seed is None else [seed])
            return self.env.reset(seed=seed, **kwargs)

    def make_agent(config, device):
        agent_seeds.append(config.seed)
        return real_agent(config, device)

    def act(self, obs, deterministic=False):
        acts.append(deterministic)
        return real_act(self, obs, deterministic)

    def update(self, replay):
        rates.append(self.critic_optimizer.param_groups[0]["lr"])
        real_update(self, replay)

    monkeypatch.setattr(train, "SACAgent", make_agent)
    monkeypatch.setattr(train, "make_env", lambda *args: Seeded(real_make(*args)))
    monkeypatch.setattr(SACAgent, "act", act)
    monkeypatch.setattr(SACAgent, "update", update)
    # It drives a track for the time that it takes, with actions that are not drawn either.
    monkeypatch.setattr(train.TrainingRun, "measure_speed", lambda *_: None)
    (here / "two.toml").write_text(STAGES)
    job = prepared(SCRIPT, "--recipe", "two.toml", "--no-aim", "--device", "cpu")
    assert train.train(job) == 0
    assert agent_seeds == env_seeds == [stage.seed for stage in job.stages]
    # Ten random actions and ten of the agent's, then twenty of the agent's; the evaluation comes at the end.
    assert acts[:30] == [False] * 30
    assert set(acts[30:]) == {True}
    # Each stage's updates begin after its first ten steps; its rate falls from its own start to nothing at its end.
    scales = 1.0 - np.arange(10, 20) / 20
    np.testing.assert_allclose(rates, [*(0.01 * scales), *(0.02 * scales)])


def test_an_episode_that_cannot_be_gone_on_with_begins_anew_for_the_replay_buffer_too(whole_run, here, monkeypatch):
    """As where an older version has saved it: the environment begins another one instead."""
    restored, begun, real_start = [], [], ReplayBuffer.start_episode

    def restore_episode(self, state):
        restored.append(self.reset(seed=1)[0])
        return restored[0]

    def start_episode(self, obs):
        begun.append(obs.copy())
        real_start(self, obs)

    shutil.copytree(whole_run(SCRIPT)[0] / "checkpoints" / "small", here / "run")
    monkeypatch.setattr(TrainingEpisodes, "restore_episode", restore_episode)
    monkeypatch.setattr(ReplayBuffer, "start_episode", start_episode)
    assert resume(SCRIPT, "run", "--total-steps", 121, "--no-aim") == 0
    assert any(np.array_equal(obs, restored[0]) for obs in begun)


@pytest.mark.parametrize(
    ("n_updates", "step"), [(10, 50), (30, 71), (56, 96)], ids=["it is evaluated", "it acts", "it is saved"]
)
def test_numbers_that_are_not_finite_are_found_before(here, monkeypatch, n_updates, step):
    """In the target critic first, they reach the critic with the next update and the action after that."""
    real_update = SACAgent.update

    def update(self, replay):
        real_update(self, replay)
        if self.n_updates == n_updates:
            self.critic_target.q1[-1].bias.data.fill_(float("nan"))

    monkeypatch.setattr(SACAgent, "update", update)
    with pytest.raises(DivergedError, match=f"no longer finite at step {step};"):
        train_small(SCRIPT, 120, "--eval-freq", 50, "--checkpoint-freq", 32, "--no-aim")


def test_a_stop_at_a_checkpoint_saves_it_once(here, monkeypatch):
    real_save, saved = checkpoint.save_step, []

    def save_step(directory, step, *args):
        saved.append(step)
        return real_save(directory, step, *args)

    monkeypatch.setattr(checkpoint, "save_step", save_step)
    stop_in_step(monkeypatch, 32)
    assert train_small(SCRIPT, 64, "--checkpoint-freq", 32, "--no-aim") == 143
    assert saved == [32]


def test_so_few_steps_that_none_is_learnt_from_are_said(capsys):
    assert train_small(SCRIPT, 20, "--no-aim", "--learning-starts", 20) == 0
    assert "Nothing is learnt: 20 steps are no more than --learning-starts 20" in capsys.readouterr().err
    assert train_small(SCRIPT, 21, "--no-aim", "--learning-starts", 20, "--run-name", "more") == 0
    assert "Nothing is learnt" not in capsys.readouterr().err
