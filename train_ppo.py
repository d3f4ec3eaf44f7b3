"""Train PPO with a Beta policy on CarRacing-v3 from pixels, tracked in Aim.

    python train_ppo.py --recipe quick --score
    python train_ppo.py --total-timesteps 1000000 --seed 42 --run-name mine
    python train_ppo.py --resume checkpoints/mine

A step is one decision of the agent: --action-repeat frames of the game.
"""

import startup

if __name__ == "__main__":
    startup.begin()  # before the other imports, which open files and may fail

from ppo_config import PPOConfig
from run_settings import check_flags

if __name__ == "__main__":
    check_flags(__doc__ or "", PPOConfig)  # before the imports below, which take seconds

from dataclasses import dataclass
from typing import Any

import torch
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback, CallbackList

import checkpoint
from aim_writer import AimEpisodeCallback, AimWriter
from car_racing.vec_env import WorkerDiedError
from checkpoint import Checkpoint
from paths import path_from
from ppo import (
    AGENT,
    NETWORK_SETTINGS,
    TOTAL,
    capture,
    initial_networks,
    is_finite,
    make_model,
    make_training_env,
    min_memory,
    policy_of,
    restore,
    size_in_words,
)
from process import capture_generators, restore_generators, tell_passed_over
from run_options import AgentSpec, Job, Stage
from training_run import DivergedError, TrainingRun, evaluation_metrics, fitting_in_memory, run_script

SPEC = AgentSpec(
    AGENT,
    PPOConfig,
    TOTAL,
    whole_steps=lambda config: config.whole_timesteps,
    iteration_steps=lambda config: config.rollout_size,
    label=lambda config: "ppo_gaussian" if config.use_gaussian else "ppo_beta",
    size=size_in_words,
    script="train_ppo.py",
    needs=("policy", "optimizer", "envs"),
    network_settings=NETWORK_SETTINGS,
    min_memory=min_memory,
    memory_mend="give a smaller --n-envs, --n-steps, --frame-stack or --feature-dim",
)

# SB3's names in Aim. Its clipped surrogate loss is called there what this project's agents call theirs. What is a
# straight line stays out: a parameter of the run, the x axis itself, and a clock that starts again at every resume.
RENAMES = {
    "train/policy_gradient_loss": "train/policy_loss",
    "train/clip_range": None,
    "time/iterations": None,
    "time/time_elapsed": None,
    "time/total_timesteps": None,
}


def train(job: Job) -> int:
    """Train to the end or to a stop signal, and return the exit code.

    Raises:
        SettingError: if the checkpoint directory cannot be had, or the networks to start from are of another kind.
        CheckpointError: if the checkpoint to resume or to start from is not whole.
        WorkerDiedError: if a worker process of the environments is gone.
        DivergedError: if the policy's parameters are no longer finite.
    """
    config: PPOConfig = job.stages[0].config
    networks = None
    if config.start_from is not None and job.resumed is None:
        start_from = path_from(config.start_from, "--start-from")
        loaded = checkpoint.load(start_from, with_arrays=False)
        tell_passed_over(loaded)
        networks = initial_networks(config, loaded)
    n_episodes = job.resumed_meta.get("episodes", 0)
    with TrainingRun.open(job) as run:
        for stage in run.stages_to_go():
            networks, n_episodes = train_stage(run, stage, networks, n_episodes)
    return run.exit_code


def train_stage(
    run: TrainingRun, stage: Stage, networks: dict[str, torch.Tensor] | None, n_episodes: int
) -> tuple[dict[str, torch.Tensor], int]:
    """Train through one stage, from its beginning or from where the resumed run is in it.

    Args:
        run: what the training has around it.
        stage: the stage in progress.
        networks: the parameters to begin with; None for untrained ones.
        n_episodes: episodes of the run so far.

    Returns:
        The parameters that the stage ends with, and the episodes of the run so far.
    """
    config: PPOConfig = stage.config
    with fitting_in_memory(SPEC.memory_mend):
        env = make_training_env(config)
    loop = TrainingLoop(run, stage, n_episodes)
    try:
        with fitting_in_memory(SPEC.memory_mend):
            model = make_model(config, env, run.device, stage.seed, stage.first_step)
        if networks is not None:
            model.policy.load_state_dict(networks)
        _learn(run, stage, model, loop)
    finally:
        env.close()
    if run.stop.received is not None:
        loop.save_snapshot()  # of a stop that came while the environments were closed
    return model.policy.state_dict(), loop.episodes.n_episodes


def _learn(run: TrainingRun, stage: Stage, model: PPO, loop: "TrainingLoop") -> None:
    """Have a model learn through a stage, restored first where the run is resumed."""

    def restore_all(resumed: Checkpoint) -> None:
        restore(model, resumed.state)
        if model.num_timesteps != resumed.meta["steps"]:
            raise ValueError(f"its state is of step {model.num_timesteps}, its manifest of {resumed.meta['steps']}")
        restore_generators(resumed.state["generators"])

    try:
        run.resume(restore_all)
        model.learn(
            stage.first_step + stage.config.total_timesteps - model.num_timesteps,
            callback=CallbackList([ThreadsForUpdates(), ReportProgress(stage), loop, loop.episodes]),
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


class ThreadsForUpdates(BaseCallback):
    """Lets torch use all cores for the updates, and one core while steps are collected.

    Inference on a few observations gains nothing from threads, and torch's idle threads spin on the cores that the
    environment workers need.
    """

    def __init__(self) -> None:
        super().__init__()
        self._n_threads = torch.get_num_threads()

    def _on_training_start(self) -> None:
        torch.set_num_threads(1)

    def _on_rollout_start(self) -> None:
        torch.set_num_threads(1)

    def _on_rollout_end(self) -> None:
        torch.set_num_threads(self._n_threads)

    def _on_training_end(self) -> None:
        torch.set_num_threads(self._n_threads)

    def _on_step(self) -> bool:
        return True


class ReportProgress(BaseCallback):
    """Tells the environments before each rollout how far the training is; their rules anneal the penalty by it."""

    def __init__(self, stage: Stage) -> None:
        super().__init__()
        self._stage = stage

    def _on_rollout_start(self) -> None:
        self.training_env.env_method("set_progress", self._stage.rules_progress(self.num_timesteps))

    def _on_step(self) -> bool:
        return True


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

    Args:
        run: what the training has around it.
        stage: the stage in progress.
        n_episodes: episodes of the run before this stage, or before the resumed checkpoint.
    """

    def __init__(self, run: TrainingRun, stage: Stage, n_episodes: int) -> None:
        super().__init__()
        self.run = run
        self.stage = stage
        self.episodes = AimEpisodeCallback(AimWriter(run.tracker, RENAMES), n_episodes)
        self.ppo: PPO
        self._n_updates_seen = 0
        self._snapshot: Snapshot | None = None

    def _on_training_start(self) -> None:
        assert isinstance(self.model, PPO)
        self.ppo = self.model
        self._n_updates_seen = self.ppo._n_updates
        self.run.measure_speed(policy_of(self.ppo.policy))

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
        has_learnt = n_updates != self._n_updates_seen
        self._n_updates_seen = n_updates
        if not is_finite(self.ppo):
            raise DivergedError(
                f"the policy's parameters are no longer finite after step {step:,}; a smaller --learning-rate may help"
            )
        result = None
        if self.run.is_evaluation_due(step):
            result = self.run.evaluate(policy_of(self.ppo.policy), step)
        for key, value in {} if result is None else evaluation_metrics(result).items():
            self.logger.record(key, value)
        if has_learnt:
            self.logger.record("time/frames", self.run.job.frames_at(step))
            self.ppo.dump_logs(n_updates // self.ppo.n_epochs)
        else:  # the losses of the latest update are logged already
            self.logger.dump(step)
        state = {**capture(self.ppo), "generators": capture_generators()}
        if result is not None and self.run.evaluator.is_best(result):
            self.run.save_best(result, self.run.meta(step, self.episodes.n_episodes), state)
        self._snapshot = Snapshot(self.run.meta(step, self.episodes.n_episodes), state)
        if self.run.is_checkpoint_due(step):
            self.save_snapshot()


def main() -> None:
    run_script(SPEC, __doc__ or "", train)


if __name__ == "__main__":
    main()
