"""Train PPO on CarRacing-v3 from pixels, with a Beta policy by default, tracked in Aim."""

from dataclasses import dataclass
from typing import Any

from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback, CallbackList

from aim_writer import AimEpisodeCallback, AimWriter
from checkpoint import Checkpoint
from ppo import AGENT, PPOConfig, capture, driver_of, is_finite, make_model, make_training_env, restore
from session import capture_generators, evaluation_metrics, restore_generators
from training_run import AgentKind, DivergedError, Job, TrainingRun, run_script
from vec_env import WorkerDiedError

KIND = AgentKind(
    AGENT,
    PPOConfig,
    total="total_timesteps",
    label=lambda config: "ppo_gaussian" if config.use_gaussian else "ppo_beta",
    script="train_ppo.py",
    needs=("policy", "optimizer", "envs"),
)

# SB3's name for PPO's clipped surrogate loss, and the name under which this project's agents report theirs.
RENAMES = {"train/policy_gradient_loss": "train/policy_loss"}


@dataclass(frozen=True)
class Snapshot:
    """The whole training between two updates, apart from what it goes on to do.

    Attributes:
        step: steps collected until then.
        n_episodes: episodes ended until then.
        state: what `ppo.restore` and `restore_generators` need.
    """

    step: int
    n_episodes: int
    state: dict[str, Any]


class TrainingLoop(BaseCallback):
    """What happens around PPO's updates: progress at every step; evaluation, logging and checkpoints after an update.

    SB3 logs an iteration's rollout before its update, and so the update's losses one iteration late. Here the logger is
    dumped after the update instead (`learn(log_interval=None)`): one row holds both.

    Every checkpoint stands between two updates, also the one of a stop in the middle of a rollout, or of a worker's
    death: it is the snapshot from before that rollout. A resumed run collects the same steps again.
    """

    def __init__(self, run: TrainingRun) -> None:
        super().__init__()
        self.run = run
        self.config: PPOConfig = run.job.config
        n_episodes = run.job.resumed_meta.get("episodes", 0)
        self.episodes = AimEpisodeCallback(AimWriter(run.tracker, RENAMES), n_episodes)
        self.ppo: PPO
        self._n_updates_seen = 0
        self._snapshot: Snapshot | None = None

    def _on_training_start(self) -> None:
        assert isinstance(self.model, PPO)
        self.ppo = self.model
        self._n_updates_seen = self.ppo._n_updates

    def _on_rollout_start(self) -> None:
        self._after_update(is_last=False)

    def _on_step(self) -> bool:
        returns = [info["episode"]["r"] for info in self.locals["infos"] if "episode" in info]
        self.run.bar.update(self.num_timesteps, returns[-1] if returns else None)
        return self.run.stop.received is None

    def _on_training_end(self) -> None:
        if self.run.stop.received is None:
            self._after_update(is_last=True)
        else:
            self.save_snapshot()

    def save_snapshot(self) -> None:
        """Save the training as it was before the rollout in progress, unless that is saved already."""
        if self._snapshot is not None and self._snapshot.step != self.run.saved_at:
            self.run.save_step(self._snapshot.step, self._snapshot.n_episodes, self._snapshot.state)

    def _after_update(self, is_last: bool) -> None:
        is_best = False
        if self.ppo._n_updates != self._n_updates_seen:
            self._n_updates_seen = self.ppo._n_updates
            if not is_finite(self.ppo):
                raise DivergedError(
                    f"the policy's parameters are no longer finite after step {self.num_timesteps:,}; "
                    f"a smaller --learning-rate may help"
                )
            if is_last or self.run.is_evaluation_due(self.num_timesteps):
                is_best = self._evaluate()
            self.logger.record("time/frames", self.num_timesteps * self.config.action_repeat)
            self.ppo.dump_logs(self.ppo._n_updates // self.ppo.n_epochs)
        state = {**capture(self.ppo), "generators": capture_generators()}
        self._snapshot = Snapshot(self.num_timesteps, self.episodes.n_episodes, state)
        if is_best:
            self.run.save_best(self.num_timesteps, self.episodes.n_episodes, state)
        if is_last or self.run.is_checkpoint_due(self.num_timesteps):
            self.save_snapshot()

    def _evaluate(self) -> bool:
        """Score the policy and log it; whether it is the best so far."""
        evaluation = self.run.evaluate(driver_of(self.ppo.policy), self.num_timesteps)
        if evaluation is None:
            return False
        result, is_best = evaluation
        for key, value in evaluation_metrics(result).items():
            self.logger.record(key, value)
        return is_best


def train(job: Job) -> int:
    """Train to the end or to a stop signal, and return the exit code.

    Raises:
        SettingError: if the checkpoint directory cannot be had.
        CheckpointError: if the checkpoint to resume is not whole.
        WorkerDiedError: if an environment's worker is gone.
        DivergedError: if the policy's parameters are no longer finite.
    """
    config: PPOConfig = job.config
    with TrainingRun.open(job, config.n_updates * config.n_envs * config.n_steps) as run:
        env = make_training_env(config)
        loop = TrainingLoop(run)
        try:
            model = make_model(config, env, run.device)

            def go_on(resumed: Checkpoint) -> None:
                restore(model, resumed.state)
                restore_generators(resumed.state["generators"])

            run.resume(go_on)
            model.learn(
                config.total_timesteps - model.num_timesteps,
                callback=CallbackList([loop, loop.episodes]),
                log_interval=None,  # type: ignore[arg-type]
                reset_num_timesteps=False,
            )
        except WorkerDiedError:
            loop.save_snapshot()
            if run.stop.received is None:
                raise
        finally:
            env.close()
    return run.stop.exit_code


def main() -> None:
    run_script(KIND, __doc__ or "", train)


if __name__ == "__main__":
    main()
