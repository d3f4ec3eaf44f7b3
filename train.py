"""Train SAC + DrQ on CarRacing-v3 from pixels, tracked in Aim.

    python train.py --total-steps 500000 --action-repeat 2 --run-name mine
    python train.py --recipe sac_cpu --seed 2 --score
    python train.py --resume checkpoints/mine

A step is one decision of the agent: --action-repeat frames of the game.
"""

import startup

if __name__ == "__main__":
    startup.begin()  # before the other imports, which open files and may fail

from run_settings import check_flags
from sac_config import SACConfig

if __name__ == "__main__":
    check_flags(__doc__ or "", SACConfig)  # before the imports below, which take seconds

import statistics
import time
from collections import deque
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

import checkpoint
from aim_writer import AimWriter
from car_racing import make_env
from car_racing.episode_statistics import summaries
from checkpoint import Checkpoint
from paths import path_from
from process import tell_passed_over
from run_options import AgentSpec, Job, Stage
from sac_drq import (
    AGENT,
    NETWORK_SETTINGS,
    TOTAL,
    SACAgent,
    initial_agent,
    make_replay,
    min_memory,
    policy_of,
    size_in_words,
)
from training_run import DivergedError, TrainingRun, evaluation_metrics, fitting_in_memory, run_script

SPEC = AgentSpec(
    AGENT,
    SACConfig,
    TOTAL,
    whole_steps=lambda config: config.total_steps,
    iteration_steps=lambda _: 1,
    label=lambda _: "sac_drq",
    size=size_in_words,
    script="train.py",
    needs=("agent", "replay", "env"),
    network_settings=NETWORK_SETTINGS,
    min_memory=min_memory,
    memory_mend="give a smaller --replay-size, --hidden-dim or --batch-size",
)

# Steps between two points of the update's metrics in Aim: often enough to see, seldom enough to cost nothing.
LOG_FREQ = 500
# Episodes that the rollout's means are taken over, as in Stable-Baselines3.
EPISODE_WINDOW = 100


class Training:
    """SAC's training loop through one stage, and all of it that a checkpoint must hold.

    Args:
        run: what the training has around it.
        stage: the stage in progress.
        predecessor: the agent whose networks to begin with; None for untrained ones.
        n_episodes: episodes of the run so far.

    Attributes:
        agent: the agent that learns.
        step: steps of the whole run so far.
        n_episodes: episodes of the run so far.
    """

    def __init__(self, run: TrainingRun, stage: Stage, predecessor: SACAgent | None, n_episodes: int) -> None:
        self.run = run
        self.stage = stage
        self.config: SACConfig = stage.config
        self.step = stage.first_step
        self.n_episodes = n_episodes
        self.episodes: deque[dict[str, Any]] = deque(maxlen=EPISODE_WINDOW)
        self.writer = AimWriter(run.tracker)
        with fitting_in_memory(SPEC.memory_mend):
            self.agent = SACAgent(replace(self.config, seed=stage.seed), run.device)
            self.replay = make_replay(self.config, run.device)
        if predecessor is not None:
            self.agent.start_from(predecessor)
        self.env = make_env(self.config.view, self.config.rules)
        self.obs, _ = self.env.reset(seed=stage.seed)
        if stage.steps <= self.config.learning_starts:
            few = f"{stage.steps:,} steps are no more than --learning-starts {self.config.learning_starts:,}"
            run.bar.say(f"Nothing is learnt: {few}")
        self.replay.start_episode(self.obs)
        run.resume(self._restore)
        self._is_measured = False
        self._logged_at = time.perf_counter()
        self._logged_step, self._logged_updates = self.step, self.agent.n_updates

    def learn(self) -> None:
        """Step, learn, evaluate and save until the stage is done or a signal asks for the end."""
        # An evaluation that a stop called off comes first, so that a resumed run evaluates the same agents.
        self._evaluate_and_save()
        while self.step < self.stage.end and self.run.stop.received is None:
            action = self._act()
            if self._is_learning() and self.step % self.config.train_freq == 0:
                self._update()
            self._drive(action)
            if self.step % LOG_FREQ == 0 or self.step == self.stage.end:
                self.writer.write(self._training_metrics(), {}, self.step)
            self._evaluate_and_save()
        evaluated_at = self.run.evaluator.latest_step
        if self.run.stop.received is not None and not self.run.is_saved(self.step, evaluated_at):
            self._save()

    def _is_learning(self) -> bool:
        return self.step - self.stage.first_step >= self.config.learning_starts

    def _act(self) -> NDArray[np.float32]:
        if self.stage.is_from_scratch and not self._is_learning():
            return self.agent.random_action()
        action = self.agent.act(self.obs)
        self._require(bool(np.isfinite(action).all()))
        return action

    def _update(self) -> None:
        if self.config.anneal_lr:
            self.agent.set_lr_scale(1.0 - self.stage.progress(self.step))
        if not self._is_measured:
            self.run.measure_speed(policy_of(self.agent))  # A random step is many times as fast.
            self._is_measured = True
        # On a GPU this only queues the updates, which run while the CPU steps the game.
        for _ in range(self.config.updates_per_step):
            self.agent.update(self.replay)

    def _drive(self, action: NDArray[np.float32]) -> None:
        self.env.get_wrapper_attr("set_progress")(self.stage.rules_progress(self.step))
        self.obs, reward, terminated, truncated, info = self.env.step(action)
        self.replay.add(action, float(reward), self.obs, terminated)
        self.step += 1
        if "episode" in info:
            self.n_episodes += 1
            self.episodes.append(info["episode"])
            self.run.tracker.track_episode(info["episode"], self.n_episodes, self.step)
        if terminated or truncated:
            self.obs, _ = self.env.reset()
            self.replay.start_episode(self.obs)
        self.run.bar.update(self.step, self.episodes[-1]["r"] if self.episodes else None)

    def _require(self, is_finite: bool) -> None:
        if not is_finite:
            raise DivergedError(
                f"the agent's numbers are no longer finite at step {self.step:,}; a smaller --learning-rate may help"
            )

    def _training_metrics(self) -> dict[str, float]:
        self._require(self.agent.is_finite())
        metrics = {f"train/{name}": value for name, value in self.agent.pop_metrics().items()}
        now, n_updates = time.perf_counter(), self.agent.n_updates
        seconds = now - self._logged_at
        metrics |= {
            "train/n_updates": n_updates,
            "train/replay_fill": self.replay.size / self.replay.capacity,
            "time/frames": self.run.job.frames_at(self.step),
            "time/fps": (self.step - self._logged_step) / seconds,
            "time/updates_per_second": (n_updates - self._logged_updates) / seconds,
        }
        self._logged_at, self._logged_step, self._logged_updates = now, self.step, n_updates
        if self.episodes:
            metrics |= {
                "rollout/ep_rew_mean": statistics.fmean(episode["r"] for episode in self.episodes),
                "rollout/ep_len_mean": statistics.fmean(episode["l"] for episode in self.episodes),
                "rollout/success_rate": statistics.fmean(episode["lap_finished"] for episode in self.episodes),
            }
        return metrics

    def _evaluate_and_save(self) -> None:
        if self.run.is_evaluation_due(self.step):
            self._require(self.agent.is_finite())
            result = self.run.evaluate(policy_of(self.agent), self.step)
            if result is not None:
                self.writer.write(evaluation_metrics(result), {}, self.step)
                if self.run.evaluator.is_best(result):
                    # Without the replay buffer: a policy to score, not a training to go on with.
                    state = {"agent": self.agent.state_dict()}
                    self.run.save_best(result, self.run.meta(self.step, self.n_episodes), state)
        if self.run.is_checkpoint_due(self.step):
            self._save()

    def _save(self) -> None:
        self._require(self.agent.is_finite())
        replay = self.replay.state_dict()
        frames = replay.pop("frames").cpu().numpy()
        # The agent's generator, in its state, is the only one that a training draws from.
        state = {
            "agent": self.agent.state_dict(),
            "replay": replay,
            "env": self.env.get_wrapper_attr("capture_episode")(),
            "episodes": list(self.episodes),
        }
        self.run.save_step(self.run.meta(self.step, self.n_episodes), state, {"replay_frames": frames})

    def _restore(self, resumed: Checkpoint) -> None:
        self.step, self.n_episodes = resumed.meta["steps"], resumed.meta["episodes"]
        self.agent.load_state_dict(resumed.state["agent"])
        frames = torch.from_numpy(resumed.arrays["replay_frames"])
        self.replay.load_state_dict({**resumed.state["replay"], "frames": frames})
        self.obs = self.env.get_wrapper_attr("restore_episode")(resumed.state["env"])
        if not np.array_equal(self.obs, self.replay.current_obs):
            # Episodes in flight of an older version cannot be played again; a new one begins in their place.
            self.replay.start_episode(self.obs)
        self.episodes.extend(summaries(resumed.state["episodes"], ("r", "l", "lap_finished")))


def train(job: Job) -> int:
    """Train to the end or to a stop signal, and return the exit code.

    Raises:
        SettingError: if the checkpoint directory cannot be had, or the networks to start from are of another kind.
        CheckpointError: if the checkpoint to resume or to start from is not whole.
        DivergedError: if the agent's numbers are no longer finite.
    """
    config: SACConfig = job.stages[0].config
    agent = None
    if config.start_from is not None and job.resumed is None:
        loaded = checkpoint.load(path_from(config.start_from, "--start-from"), with_arrays=False)
        tell_passed_over(loaded)
        agent = initial_agent(config, loaded)
    n_episodes = job.resumed_meta.get("episodes", 0)
    with TrainingRun.open(job) as run:
        if run.device.type == "cpu" and config.encoder == "drq":
            run.bar.say("On a CPU, the default settings, with a light encoder, learn many times as fast.")
        for stage in run.stages_to_go():
            agent, n_episodes = train_stage(run, stage, agent, n_episodes)
    return run.exit_code


def train_stage(run: TrainingRun, stage: Stage, agent: SACAgent | None, n_episodes: int) -> tuple[SACAgent, int]:
    """Train through one stage from the networks of `agent`; its own agent, and the episodes of the run so far."""
    training = Training(run, stage, agent, n_episodes)
    training.learn()
    return training.agent, training.n_episodes


def main() -> None:
    run_script(SPEC, __doc__ or "", train)


if __name__ == "__main__":
    main()
