"""A training in two stages: one run, which any stop and resume leaves as it is to the last bit."""

import copy
import dataclasses
import shutil

import pytest
import torch
from stable_baselines3 import PPO

import checkpoint
import train
from car_racing.vec_env import CarRacingVecEnv
from policies import load_policy
from ppo_config import PPOConfig
from sac_config import SACConfig
from tests.helpers import read_closed
from tests.soak.runs import Finished
from tests.trainings import (
    MODULES,
    SCRIPTS,
    ask_for_a_stop,
    prepared,
    resume,
    spec_of,
    stop_after_update,
    stop_in_step,
)

# Both stages have 64 steps: two iterations of PPO's.
END, TOTAL_STEPS = 64, 128
RECIPES = {
    "train.py": """agent = "sac"
encoder = "light"
hidden_dim = 16
feature_dim = 8
batch_size = 8
learning_starts = 20
replay_size = 50
ema_tau = 0.1
""",
    "train_ppo.py": """agent = "ppo"
n_envs = 2
n_steps = 16
batch_size = 16
n_epochs = 2
feature_dim = 16
""",
}
STAGES = """seed = 3
eval_freq = 64
eval_tracks = 1
checkpoint_freq = 1000
max_idle_frames = 30

[[stages]]
steps = 64
action_repeat = 10
learning_rate = 1e-3

[[stages]]
steps = 64
action_repeat = 5
learning_rate = 5e-4
"""


def train_in_stages(script, place, monkeypatch):
    """Train both stages, or up to a stop, in `place/run`; the exit code."""
    place.mkdir(exist_ok=True)
    monkeypatch.chdir(place)
    (place / "two.toml").write_text(RECIPES[script] + STAGES)
    return MODULES[script].train(prepared(script, "--recipe", "two.toml", "--checkpoint-dir", "run", "--device", "cpu"))


@pytest.fixture(scope="module", params=SCRIPTS)
def undisturbed(request, tmp_path_factory):
    """A whole run of both stages; no test writes to it."""
    place = tmp_path_factory.mktemp("undisturbed")
    with pytest.MonkeyPatch.context() as monkeypatch:
        assert train_in_stages(request.param, place, monkeypatch) == 0
    return request.param, place, Finished.read(place)


def test_stages_are_one_run_whose_steps_and_frames_go_on(undisturbed):
    script, place, finished = undisturbed
    assert [path.name for path in (place / "run").glob("step_*")] == [f"step_{TOTAL_STEPS:09d}"]
    assert finished.meta["steps"] == TOTAL_STEPS
    assert finished.meta["frames"] == 64 * 10 + 64 * 5
    assert sorted(finished.series["1_mean_return", "eval"]) == [END, TOTAL_STEPS]
    frames = finished.series["frames", "time"]
    assert (frames[END], frames[TOTAL_STEPS]) == (640, 960)
    meta = checkpoint.load(place / "run").meta
    assert (meta["stage"], meta["config"]) == (1, meta["stages"][1])
    assert [(stage["action_repeat"], stage["learning_rate"]) for stage in meta["stages"]] == [(10, 1e-3), (5, 5e-4)]
    assert [stage[spec_of(script).total] for stage in meta["stages"]] == [64, 64]
    assert meta["recipe"]["name"] == "two"
    tracked = read_closed(place, meta["aim_run"])
    assert (tracked["hparams"], list(tracked["stages"])) == (meta["stages"][0], meta["stages"])
    assert len(finished.series["return", "episode"]) == meta["episodes"]


# Where the stop comes, and the stage and step of the checkpoint that it leaves with each script.
STOPS = {
    "in the middle of stage 1": (stop_in_step, 40, {"train.py": (0, 40), "train_ppo.py": (0, 32)}),
    "at the end of stage 1": (stop_after_update, END, {"train.py": (0, END), "train_ppo.py": (0, END)}),
    "in the first steps of stage 2": (stop_in_step, 66, {"train.py": (1, 66), "train_ppo.py": (1, END)}),
    "in the middle of stage 2": (stop_in_step, 110, {"train.py": (1, 110), "train_ppo.py": (1, 96)}),
}


@pytest.mark.parametrize("where", STOPS)
def test_a_stop_and_a_resume_leave_the_run_as_it_is_to_the_last_bit(undisturbed, tmp_path, where):
    script, _, expected = undisturbed
    stop, step, saved_at = STOPS[where]
    with pytest.MonkeyPatch.context() as monkeypatch:
        stop(monkeypatch, step)
        assert train_in_stages(script, tmp_path, monkeypatch) == 143
        meta = checkpoint.load(tmp_path / "run").meta
        assert (meta["stage"], meta["steps"]) == saved_at[script]
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.chdir(tmp_path)
        assert resume(script, "run", "--device", "cpu") == 0
    assert not expected.differences(Finished.read(tmp_path))


def test_a_stop_between_two_stages_of_ppo_loses_nothing(tmp_path, monkeypatch):
    script, real = "train_ppo.py", CarRacingVecEnv.close

    def close(self):
        real(self)
        ask_for_a_stop()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(CarRacingVecEnv, "close", close)
        assert train_in_stages(script, tmp_path, patch) == 143
    meta = checkpoint.load(tmp_path / "run").meta
    assert (meta["stage"], meta["steps"]) == (0, END)
    monkeypatch.chdir(tmp_path)
    assert resume(script, "run", "--device", "cpu") == 0
    assert checkpoint.load(tmp_path / "run").meta["steps"] == TOTAL_STEPS


def watch_learning(script, monkeypatch):
    """A list that gets the parameters and the optimizer's state from before and after each stage's training."""
    seen = []
    owner = train.Training if script == "train.py" else PPO
    real = owner.learn

    def state_of(self):
        agent = self.agent if script == "train.py" else self.policy
        networks = (agent.critic, agent.actor) if script == "train.py" else (agent,)
        optimizer = agent.critic_optimizer if script == "train.py" else agent.optimizer
        return [copy.deepcopy(network.state_dict()) for network in networks], len(optimizer.state_dict()["state"])

    def learn(self, *args, **kwargs):
        seen.append(state_of(self))
        result = real(self, *args, **kwargs)
        seen.append(state_of(self))
        return result

    monkeypatch.setattr(owner, "learn", learn)
    return seen


@pytest.mark.parametrize("script", SCRIPTS)
def test_the_second_stage_begins_with_the_networks_and_not_the_optimizer_of_the_first(script, tmp_path, monkeypatch):
    seen = watch_learning(script, monkeypatch)
    stop_in_step(monkeypatch, END + 2)
    assert train_in_stages(script, tmp_path, monkeypatch) == 143
    untrained, (first_ends_with, n_moments), (second_begins_with, n_fresh_moments), _ = seen
    for ends, begins in zip(first_ends_with, second_begins_with, strict=True):
        assert all(torch.equal(begins[key], value) for key, value in ends.items())
    first_key = next(iter(second_begins_with[0]))
    assert not torch.equal(untrained[0][0][first_key], second_begins_with[0][first_key])
    assert n_moments > 0
    assert n_fresh_moments == 0


def test_a_best_of_the_first_stage_is_scored_with_that_stages_view(undisturbed, tmp_path, monkeypatch):
    script, _, _ = undisturbed
    stop_after_update(monkeypatch, 96)
    assert train_in_stages(script, tmp_path, monkeypatch) == 143
    best = checkpoint.load(tmp_path / "run" / checkpoint.BEST)
    assert (best.meta["stage"], best.meta["steps"]) == (0, END)
    _, view = load_policy(best)
    defaults = (PPOConfig if script == "train_ppo.py" else SACConfig)()
    assert view == dataclasses.replace(defaults.view, action_repeat=10)


def test_the_steps_of_stages_are_set(undisturbed, tmp_path):
    script, place, _ = undisturbed
    shutil.copytree(place / "run", tmp_path / "run")
    flag = f"--{spec_of(script).total.replace('_', '-')}"
    with pytest.raises(ValueError, match=f"has stages, whose steps are set; leave out {flag}"):
        prepared(script, "--resume", tmp_path / "run", flag, 999)
