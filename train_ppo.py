"""Train PPO on CarRacing-v3 from pixels, with a Beta policy by default, tracked in Aim."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback, CallbackList

import checkpoint
from aim_writer import AimEpisodeCallback, AimWriter
from checkpoint import Checkpoint
from ppo import (
    AGENT,
    PPOConfig,
    RisingCharge,
    ThreadsForUpdates,
    capture,
    driver_of,
    is_finite,
    make_model,
    make_training_env,
    restore,
    starting_networks,
)
from session import capture_generators, evaluation_metrics, restore_generators
from training_run import AgentKind, DivergedError, Job, TrainingRun, fitting_in_memory, run_script
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
    """The whole training between two updates.

    Attributes:
        meta: what its checkpoint will say of itself.
        state: what `ppo.restore` and `restore_generators` need.
    """

    meta: dict[str, Any]
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
        self._after_update()

    def _on_step(self) -> bool:
        returns = [info["episode"]["r"] for info in self.locals["infos"] if "episode" in info]
        self.run.bar.update(self.num_timesteps, returns[-1] if returns else None)
        return self.run.stop.received is None

    def _on_training_end(self) -> None:
        is_between_updates = self.ppo._n_updates != self._n_updates_seen or self.run.stop.received is None
        if is_between_updates:
            self._after_update()
        if self.run.stop.received is not None:
            self.save_snapshot()

    def save_snapshot(self) -> None:
        """Save the training as it was before the rollout in progress, unless that is saved already."""
        if self._snapshot is None:
            return
        meta = self._snapshot.meta
        if not self.run.is_saved(meta["steps"], meta["evaluated_at"]):
            self.run.save_step(meta, self._snapshot.state)

    def _after_update(self) -> None:
        """Evaluate, log and save what is due; without an update before it, that is what a stop has called off."""
        step, n_updates = self.num_timesteps, self.ppo._n_updates
        is_logged = n_updates == self._n_updates_seen
        self._n_updates_seen = n_updates
        if not is_finite(self.ppo):
            raise DivergedError(
                f"the policy's parameters are no longer finite after step {step:,}; a smaller --learning-rate may help"
            )
        result = None
        if self.run.is_evaluation_due(step):
            result = self.run.evaluate(driver_of(self.ppo.policy), step)
        for key, value in {} if result is None else evaluation_metrics(result).items():
            self.logger.record(key, value)
        if is_logged:
            self.logger.dump(step)
        else:
            self.logger.record("time/frames", step * self.config.action_repeat)
            self.ppo.dump_logs(n_updates // self.ppo.n_epochs)
        state = {**capture(self.ppo), "generators": capture_generators()}
        if result is not None and self.run.evaluator.is_best(result):
            self.run.save_best(result, self.run.meta(step, self.episodes.n_episodes), state)
        self._snapshot = Snapshot(self.run.meta(step, self.episodes.n_episodes), state)
        if self.run.is_checkpoint_due(step):
            self.save_snapshot()


def train(job: Job) -> int:
    """Train to the end or to a stop signal, and return the exit code.

    Raises:
        SettingError: if the checkpoint directory cannot be had, or the networks to start from are of another kind.
        CheckpointError: if the checkpoint to resume or to start from is not whole.
        WorkerDiedError: if an environment's worker is gone.
        DivergedError: if the policy's parameters are no longer finite.
    """
    config: PPOConfig = job.config
    networks = None
    if config.start_from is not None and job.resumed is None:
        networks = starting_networks(config, checkpoint.load(Path(config.start_from), with_arrays=False))
    with TrainingRun.open(job, config.n_updates * config.n_envs * config.n_steps) as run:
        env = make_training_env(config)
        loop = TrainingLoop(run)
        try:
            with fitting_in_memory("give a smaller --n-envs, --n-steps or --features-dim"):
                model = make_model(config, env, run.device)
            if networks is not None:
                model.policy.load_state_dict(networks)

            def go_on(resumed: Checkpoint) -> None:
                restore(model, resumed.state)
                restore_generators(resumed.state["generators"])

            run.resume(go_on)
            model.learn(
                config.total_timesteps - model.num_timesteps,
                callback=CallbackList([ThreadsForUpdates(), RisingCharge(config), loop, loop.episodes]),
                log_interval=None,  # type: ignore[arg-type]
                reset_num_timesteps=False,
            )
        except WorkerDiedError:
            loop.save_snapshot()
            if run.stop.received is None:
                raise
        except ValueError as error:
            # A Gaussian refuses parameters that are not finite in the middle of an update.
            if is_finite(model):
                raise
            raise DivergedError(f"the policy is no longer finite after step {run.bar.steps:,} ({error})") from None
        finally:
            env.close()
    return run.stop.exit_code


def main() -> None:
    run_script(KIND, __doc__ or "", train)


if __name__ == "__main__":
    main()
