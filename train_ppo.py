"""Train PPO on CarRacing-v3 from pixels, with a Beta policy by default, tracked in Aim."""

import os
import signal
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback, CallbackList

import checkpoint
from aim_writer import AimEpisodeCallback, AimTracker, AimWriter
from car_racing import make_env
from checkpoint import Checkpoint, CheckpointError
from ppo import AGENT, PPOConfig, capture, driver_of, is_finite, make_model, make_training_env, restore
from session import (
    BestScore,
    Evaluator,
    ProgressBar,
    RunOptions,
    StopSignal,
    check_writable_directory,
    choose_checkpoint_dir,
    default_run_name,
    describe_run,
    evaluation_metrics,
    lock_directory,
    python_command,
    resolve_device,
)
from settings import OneLineParser, SettingError, add_flags, fail, from_saved, given
from vec_env import WorkerDiedError

# SB3's name for PPO's clipped surrogate loss, and the name under which this project's agents report theirs.
RENAMES = {"train/policy_gradient_loss": "train/policy_loss"}


@dataclass(frozen=True)
class Job:
    """A training whose every input has been checked, and nothing of which has been created yet."""

    config: PPOConfig
    options: RunOptions
    run_name: str
    directory: Path
    resumed: Checkpoint | None
    provenance: dict[str, Any]


def prepare(argv: list[str]) -> Job:
    """Read and check the command line.

    Raises:
        SettingError, CheckpointError: for the first thing in it that cannot work.
    """
    parser = OneLineParser(__doc__ or "")
    add_flags(parser, PPOConfig)
    add_flags(parser, RunOptions)
    namespace = parser.parse_args(argv)
    wishes = given(PPOConfig, namespace)
    options = RunOptions(**given(RunOptions, namespace))
    resumed = None
    if options.resume is None:
        config = PPOConfig(**wishes)
        run_name = options.run_name or default_run_name(
            "ppo_gaussian" if config.use_gaussian else "ppo_beta", config.seed
        )
    else:
        resumed = checkpoint.load(Path(options.resume))
        if resumed.meta.get("agent") != AGENT:
            raise SettingError(
                f"--resume {options.resume} holds a {resumed.meta.get('agent')} agent, not a {AGENT} one"
            )
        try:
            config = from_saved(PPOConfig, resumed.meta["config"], wishes)
            run_name = options.run_name or resumed.meta["run_name"]
            steps_done = resumed.state["num_timesteps"]
        except (KeyError, TypeError) as error:
            raise CheckpointError(f"{resumed.path} is no whole PPO checkpoint ({error})") from None
        if steps_done >= config.total_timesteps:
            raise SettingError(
                f"--resume {options.resume} has done its {steps_done:,} steps; give a larger --total-timesteps"
            )
    resolve_device(options.device)
    directory = choose_checkpoint_dir(options, run_name)
    if options.aim and not options.aim_repo.startswith("aim://"):
        check_writable_directory(Path(options.aim_repo), "--aim-repo")
    return Job(config, options, run_name, directory, resumed, describe_run())


class DivergedError(RuntimeError):
    """Training has run into numbers that are not finite."""


class TrainingLoop(BaseCallback):
    """What happens around PPO's updates: progress at every step; evaluation, logging and checkpoints after an update.

    SB3 logs an iteration's rollout before its update, and so the update's losses one iteration late. Here the logger is
    dumped after the update instead (`learn(log_interval=None)`): one row holds both.
    """

    def __init__(self, job: Job, evaluator: Evaluator, tracker: AimTracker, stop: StopSignal, bar: ProgressBar) -> None:
        super().__init__()
        self.job = job
        self.evaluator = evaluator
        self.tracker = tracker
        self.stop = stop
        self.bar = bar
        self._resumed_meta = {} if job.resumed is None else job.resumed.meta
        self.episodes = AimEpisodeCallback(AimWriter(tracker, RENAMES), self._resumed_meta.get("episodes", 0))
        self.latest_checkpoint: Path | None = None
        self.ppo: PPO
        self._n_updates_seen = 0
        self._latest_save = 0

    def _on_training_start(self) -> None:
        assert isinstance(self.model, PPO)
        self.ppo = self.model
        self._n_updates_seen = self.ppo._n_updates
        self._latest_save = self.num_timesteps
        self.evaluator.latest_step = self.num_timesteps

    def _on_step(self) -> bool:
        returns = [info["episode"]["r"] for info in self.locals["infos"] if "episode" in info]
        self.bar.update(self.num_timesteps, returns[-1] if returns else None)
        return self.stop.received is None

    def _on_rollout_start(self) -> None:
        self._after_update(is_last=False)

    def _on_training_end(self) -> None:
        self._after_update(is_last=self.stop.received is None)
        self.save_if_ahead()

    def save_if_ahead(self) -> None:
        """Save a checkpoint, unless the latest one is of this very step."""
        if self._latest_save != self.num_timesteps:
            self._save_step()

    def _after_update(self, is_last: bool) -> None:
        if self.ppo._n_updates == self._n_updates_seen:
            return
        self._n_updates_seen = self.ppo._n_updates
        if not is_finite(self.ppo):
            raise DivergedError(
                f"the policy's parameters are no longer finite after step {self.num_timesteps:,}; "
                f"a smaller --learning-rate may help"
            )
        options = self.job.options
        if is_last or self._is_due(options.eval_freq, self.evaluator.latest_step):
            self._evaluate()
        self.logger.record("time/frames", self.num_timesteps * self.job.config.action_repeat)
        self.ppo.dump_logs(self.ppo._n_updates // self.ppo.n_epochs)
        if is_last or self._is_due(options.checkpoint_freq, self._latest_save):
            self._save_step()

    def _is_due(self, every: int, latest: int) -> bool:
        return self.num_timesteps // every > latest // every

    def _evaluate(self) -> None:
        evaluation = self.evaluator.evaluate(driver_of(self.ppo.policy), self.num_timesteps, self.stop)
        if evaluation is None:
            return
        result, is_best = evaluation
        for key, value in evaluation_metrics(result).items():
            self.logger.record(key, value)
        self.bar.say(f"step {self.num_timesteps:,}: {result}{' - the best so far' if is_best else ''}")
        if is_best:
            self._save(checkpoint.BEST)

    def _save_step(self) -> None:
        self._latest_save = self.num_timesteps
        self._save(None)

    def _save(self, name: str | None) -> None:
        meta = {
            "agent": AGENT,
            "run_name": self.job.run_name,
            "config": asdict(self.job.config),
            "steps": self.num_timesteps,
            "frames": self.num_timesteps * self.job.config.action_repeat,
            "episodes": self.episodes.n_episodes,
            **self.evaluator.state(),
            "aim_run": self.tracker.run_hash or self._resumed_meta.get("aim_run"),
            **self.job.provenance,
        }
        try:
            if name is None:
                path = checkpoint.save_step(self.job.directory, self.num_timesteps, meta, capture(self.ppo))
                self.latest_checkpoint = path
            else:
                checkpoint.save(self.job.directory, name, meta, capture(self.ppo))
        except OSError as error:
            self.bar.say(f"The checkpoint at step {self.num_timesteps:,} could not be saved ({error})")


def train(job: Job) -> int:
    """Train to the end or to a stop signal, and return the exit code.

    Raises:
        SettingError: if the checkpoint directory cannot be had.
        WorkerDiedError: if an environment's worker is gone; what was learnt until then is saved.
    """
    config, options, resumed = job.config, job.options, job.resumed
    device = resolve_device(options.device)
    lock_directory(job.directory)
    start = time.perf_counter()
    with StopSignal() as stop, _open_tracker(job, device) as tracker:
        env = make_training_env(config)
        model = make_model(config, env, device)
        evaluator = Evaluator(make_env(config.view), options.eval_tracks, best=None)
        if resumed is not None:
            try:
                restore(model, resumed.state, config.seed)
                evaluator.best = _best_in(job.directory)
            except (KeyError, TypeError, ValueError, RuntimeError) as error:
                env.close()
                raise CheckpointError(f"{resumed.path} is no whole PPO checkpoint ({error!r})") from None
        steps_in_all = config.n_updates * config.n_envs * config.n_steps
        with ProgressBar(steps_in_all, model.num_timesteps, config.action_repeat) as bar:
            loop = TrainingLoop(job, evaluator, tracker, stop, bar)
            try:
                model.learn(
                    config.total_timesteps - model.num_timesteps,
                    callback=CallbackList([loop, loop.episodes]),
                    log_interval=None,  # type: ignore[arg-type]
                    reset_num_timesteps=False,
                )
            except WorkerDiedError:
                loop.save_if_ahead()
                if stop.received is None:
                    raise
            finally:
                env.close()
        run_hash = tracker.run_hash
        tracker.close("finished" if stop.received is None else "stopped")
    print(_summary(job, loop, run_hash, minutes=(time.perf_counter() - start) / 60), flush=True)
    if tracker.is_hung:
        os._exit(stop.exit_code)
    return stop.exit_code


def _best_in(directory: Path) -> BestScore | None:
    """The best that a run directory holds. Its own record counts: a step's may be older, or of another directory."""
    if not (directory / checkpoint.BEST).is_dir():
        return None
    return BestScore(**checkpoint.load(directory / checkpoint.BEST).meta["best"])


def _open_tracker(job: Job, device: torch.device) -> AimTracker:
    params: dict[str, Any] = {
        "agent": AGENT,
        "hparams": asdict(job.config),
        "run": {**asdict(job.options), "checkpoint_dir": str(job.directory), "device": str(device)},
        **job.provenance,
    }
    run_hash = None if job.resumed is None else job.resumed.meta.get("aim_run")
    return AimTracker(job.options.aim_repo if job.options.aim else None, job.run_name, params, run_hash)


def _summary(job: Job, loop: TrainingLoop, run_hash: str | None, minutes: float) -> str:
    steps = loop.num_timesteps
    best = loop.evaluator.best
    repo = job.options.aim_repo
    best_path = job.directory / checkpoint.BEST
    lines = [
        f"{'Trained' if loop.stop.received is None else 'Stopped'} at {steps:,} steps "
        f"({steps * job.config.action_repeat:,} frames) after {minutes:.1f} minutes.",
        f"Last evaluation: {loop.evaluator.latest or 'none yet'}",
        "Best evaluation: none yet" if best is None else f"Best evaluation: {best.mean:.1f} at step {best.step:,}",
        f"Checkpoint:      {loop.latest_checkpoint or 'none yet'}" + ("" if best is None else f" (best: {best_path})"),
        f"Aim run:         {run_hash} in {repo}" if run_hash else "Aim run:         none",
    ]
    if best is not None or loop.latest_checkpoint is not None:
        to_score = loop.latest_checkpoint if best is None else best_path
        lines.append(f"Score it:        {python_command()} evaluate.py --checkpoint {to_score}")
    if run_hash and not repo.startswith("aim://"):
        lines.append("Watch it:        make ui" + ("" if repo == "." else f" REPO={repo}"))
    if steps < job.config.total_timesteps and checkpoint.holds_run(job.directory):
        lines.append(f"Go on:           {python_command()} train_ppo.py --resume {job.directory}")
    return "\n".join(lines)


def main() -> None:
    try:
        job = prepare(sys.argv[1:])
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)
    except (SettingError, CheckpointError) as error:
        fail(str(error))
    try:
        sys.exit(train(job))
    except (SettingError, CheckpointError) as error:
        fail(str(error))
    except (WorkerDiedError, DivergedError) as error:
        way_on = f"; go on with --resume {job.directory}" if checkpoint.holds_run(job.directory) else ""
        sys.exit(f"train_ppo.py: {error}{way_on}")


if __name__ == "__main__":
    main()
