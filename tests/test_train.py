"""What is peculiar to the SAC script: when it acts, updates and stores, and what it reports."""

import gymnasium as gym
import numpy as np
import pytest

import checkpoint
import train
from replay_buffer import ReplayBuffer
from sac_drq import SACAgent
from tests.helpers import read_closed, read_metrics
from tests.trainings import train_small

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
    """The game, whose episodes end when the test wants: terminated at step 10 and 30, truncated at step 20."""

    n_steps = 0
    returns = (10.0, 20.0, 60.0)

    def step(self, action):
        obs, _, _, _, info = self.env.step(action)
        self.n_steps += 1
        info.pop("episode", None)
        if self.n_steps in (10, 20, 30):
            episode_return = self.returns[self.n_steps // 10 - 1]
            info["episode"] = {"r": episode_return, "l": 10, "frames": 100, "lap_finished": episode_return > 50}
        return obs, float(self.n_steps), self.n_steps in (10, 30), self.n_steps == 20, info


def test_transitions_and_episodes_are_stored_and_counted_as_they_were(here, monkeypatch):
    real_make, real_add, real_start = train.make_env, ReplayBuffer.add, ReplayBuffer.start_episode
    added, starts = [], []

    def add(self, action, reward, next_obs, terminated):
        added.append((reward, terminated))
        real_add(self, action, reward, next_obs, terminated)

    def start_episode(self, obs):
        starts.append(len(added))
        real_start(self, obs)

    monkeypatch.setattr(train, "make_env", lambda *args: Scripted(real_make(*args)))
    monkeypatch.setattr(ReplayBuffer, "add", add)
    monkeypatch.setattr(ReplayBuffer, "start_episode", start_episode)
    assert train_small(SCRIPT, 35, "--checkpoint-dir", "run") == 0
    assert [reward for reward, _ in added] == list(range(1, 36))
    assert [step for step, (_, terminated) in enumerate(added, 1) if terminated] == [10, 30], "a truncation is no end"
    assert starts == [0, 10, 20, 30]
    meta = checkpoint.load(here / "run").meta
    assert meta["episodes"] == 3
    series = read_metrics(read_closed(here, meta["aim_run"]))
    assert series["return", "episode"] == {1: 10.0, 2: 20.0, 3: 60.0}
    means = {name: series[name, "rollout"][35] for name in ("ep_rew_mean", "ep_len_mean", "success_rate")}
    assert means == pytest.approx({"ep_rew_mean": 30.0, "ep_len_mean": 10.0, "success_rate": 1 / 3})
    assert series["replay_fill", "train"][35] == pytest.approx(0.33)
