"""Train SAC + DrQ on CarRacing-v3 from pixels, tracked in Aim."""

import statistics
import time
from collections import deque
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

import checkpoint
from aim_writer import AimWriter
from car_racing import make_env
from checkpoint import Checkpoint
from sac_drq import AGENT, SACAgent, SACConfig, driver_of, make_replay, starting_agent
from session import capture_generators, evaluation_metrics, restore_generators, seed_generators
from training_run import AgentKind, DivergedError, Job, TrainingRun, fitting_in_memory, run_script

KIND = AgentKind(
    AGENT,
    SACConfig,
    total="total_steps",
    label=lambda _: "sac_drq",
    script="train.py",
    needs=("agent", "replay", "env"),
)

# Steps between two points of the update's metrics in Aim: often enough to see, seldom enough to cost nothing.
LOG_FREQ = 500
# Episodes that the rollout's means are taken over, as in Stable-Baselines3.
EPISODE_WINDOW = 100


class Training:
    """SAC's training loop, and what must be kept of it to go on as if nothing had happened."""

    def __init__(self, run: TrainingRun, driver: SACAgent | None) -> None:
        self.run = run
        self.config: SACConfig = run.job.config
        self.step = 0
        self.n_episodes = 0
        self.episodes: deque[dict[str, Any]] = deque(maxlen=EPISODE_WINDOW)
        self.writer = AimWriter(run.tracker)
        seed_generators(self.config.seed)
        with fitting_in_memory("give a smaller --replay-size, --hidden-dim or --batch-size"):
            self.agent = SACAgent(self.config, run.device)
            self.replay = make_replay(self.config, run.device)
        if driver is not None:
            self.agent.start_from(driver)
        self.env = make_env(self.config.view, self.config.training)
        if run.job.resumed is None:
            self.obs, _ = self.env.reset(seed=self.config.seed)
            self.replay.start_episode(self.obs)
        else:
            run.resume(self._restore)
        self._logged_at = time.perf_counter()
        self._logged_step, self._logged_updates = self.step, self.agent.n_updates

    def learn(self) -> None:
        """Step, learn, evaluate and save until the steps are done or a signal asks for the end."""
        # What a stop has called off comes first: a resumed run is to evaluate the agents that it would have.
        self._evaluate_and_save()
        while self.step < self.config.total_steps and self.run.stop.received is None:
            action = self._act()
            if self.step >= self.config.learning_starts and self.step % self.config.train_freq == 0:
                self._update()
            self._play(action)
            if self.step % LOG_FREQ == 0 or self.step == self.config.total_steps:
                self.writer.write(self._training_metrics(), {}, self.step)
            self._evaluate_and_save()
        evaluated_at = self.run.evaluator.latest_step
        if self.run.stop.received is not None and not self.run.is_saved(self.step, evaluated_at):
            self._save()

    def _act(self) -> NDArray[np.float32]:
        if self.step < self.config.learning_starts and self.config.start_from is None:
            return self.agent.random_action()
        action = self.agent.act(self.obs)
        self._require(bool(np.isfinite(action).all()))
        return action

    def _update(self) -> None:
        if self.config.falling_rates:
            self.agent.set_rates(1.0 - self.step / self.config.total_steps)
        # On a GPU the updates are only queued here: it works on them while the game is played on the CPU.
        for _ in range(self.config.updates_per_step):
            self.agent.update(self.replay)

    def _play(self, action: NDArray[np.float32]) -> None:
        # Dear from the start, missed tiles would keep a beginner, who misses most, from coming back to the road at all.
        share = self.step / self.config.total_steps if self.config.start_from is None else 1.0
        self.env.set_wrapper_attr("missed_tile_charge", self.config.missed_tile_charge * share)
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
            "time/frames": self.step * self.config.action_repeat,
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
            result = self.run.evaluate(driver_of(self.agent), self.step)
            if result is not None:
                self.writer.write(evaluation_metrics(result), {}, self.step)
                if self.run.evaluator.is_best(result):
                    # Without the replay buffer: a driver to score, not a training to go on with.
                    state = {"agent": self.agent.state_dict()}
                    self.run.save_best(result, self.run.meta(self.step, self.n_episodes), state)
        if self.run.is_checkpoint_due(self.step):
            self._save()

    def _save(self) -> None:
        self._require(self.agent.is_finite())
        replay = self.replay.state_dict()
        frames = replay.pop("frames").cpu().numpy()
        state = {
            "agent": self.agent.state_dict(),
            "replay": replay,
            "env": self.env.get_wrapper_attr("capture_episode")(),
            "episodes": list(self.episodes),
            "generators": capture_generators(),
        }
        self.run.save_step(self.run.meta(self.step, self.n_episodes), state, {"replay_frames": frames})

    def _restore(self, resumed: Checkpoint) -> None:
        self.step, self.n_episodes = resumed.meta["steps"], resumed.meta["episodes"]
        self.agent.load_state_dict(resumed.state["agent"])
        frames = torch.from_numpy(resumed.arrays["replay_frames"])
        self.replay.load_state_dict({**resumed.state["replay"], "frames": frames})
        self.obs = self.env.get_wrapper_attr("restore_episode")(resumed.state["env"])
        self.episodes.extend(resumed.state["episodes"])
        restore_generators(resumed.state["generators"])


def train(job: Job) -> int:
    """Train to the end or to a stop signal, and return the exit code.

    Raises:
        SettingError: if the checkpoint directory cannot be had, or the networks to start from are of another kind.
        CheckpointError: if the checkpoint to resume or to start from is not whole.
        DivergedError: if the agent's numbers are no longer finite.
    """
    config: SACConfig = job.config
    driver = None
    if config.start_from is not None and job.resumed is None:
        driver = starting_agent(config, checkpoint.load(Path(config.start_from), with_arrays=False))
    with TrainingRun.open(job, job.total_steps) as run:
        if run.device.type == "cpu" and config.encoder == "drq":
            run.bar.say("On a CPU, the command (S3) of the README, with a light encoder, learns many times as fast.")
        Training(run, driver).learn()
    return run.stop.exit_code


def main() -> None:
    run_script(KIND, __doc__ or "", train)


if __name__ == "__main__":
    main()
