"""What several tests need: the scripts started as users start them, small trainings, what Aim and manifests hold."""

import json
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aim
import psutil
import torch
from aim.sdk.index_manager import RepoIndexManager

import checkpoint
import ppo
from ppo_config import PPOConfig
from sac_config import SACConfig
from sac_drq import SACAgent

ROOT = Path(__file__).resolve().parent.parent
PRETRAINED = ROOT / "pretrained"

# What SB3's PPO logs of every update, under the names that this project gives them.
UPDATE_METRICS = (
    "policy_loss",
    "value_loss",
    "entropy_loss",
    "clip_fraction",
    "explained_variance",
    "approx_kl",
    "learning_rate",
    "n_updates",
    "loss",
)

# The flags of a training of each script that takes seconds, with everything in it that a large one has.
SMALL = {
    "train.py": shlex.split(
        "--encoder light --hidden-dim 16 --feature-dim 8 --batch-size 8 --learning-starts 40 --replay-size 100 "
        "--ema-tau 0.1"
    ),
    "train_ppo.py": shlex.split("--n-envs 2 --n-steps 16 --batch-size 16 --n-epochs 2 --feature-dim 16"),
}
# The flag of each script that says how many steps to train for.
TOTAL = {"train.py": "--total-steps", "train_ppo.py": "--total-timesteps"}

# The same for tests that need no script.
SMALL_SAC = SACConfig(encoder="light", hidden_dim=8, feature_dim=8, replay_size=300)
SMALL_PPO = PPOConfig(n_envs=2, n_steps=8, batch_size=8, n_epochs=1, feature_dim=8, action_repeat=10)

Series = dict[tuple[str, str | None], dict[int, float]]


def start(script: str, *args: object, cwd: Path, **kwargs: Any) -> psutil.Popen:
    """Start one of the project's scripts with its output piped."""
    command = [sys.executable, str(ROOT / script), *map(str, args)]
    return psutil.Popen(command, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **kwargs)


def finish(process: psutil.Popen, timeout: float = 1800.0) -> tuple[int, str, str]:
    """Wait for a script's end, and return its exit code, stdout and stderr."""
    stdout, stderr = process.communicate(timeout=timeout)
    return process.returncode, stdout, stderr


def read_closed(repo_path: Path | str, run_hash: str) -> aim.Run:
    """A closed run read from the files alone, as Aim's page reads it."""
    repo = aim.Repo.from_path(str(repo_path))
    RepoIndexManager.get_index_manager(repo).index(run_hash)
    repo.container_pool.clear()
    run = repo.get_run(run_hash)
    assert run is not None, "the run cannot be found in its repository"
    return run


def read_metrics(run: aim.Run) -> Series:
    """{(name, subset): {step: value}} of a run, without Aim's own system metrics."""
    series: Series = {}
    for metric in run.metrics():
        if not metric.name.startswith("__system__"):
            steps, (values, _, _) = metric.data.items_list()
            context: Any = metric.context.to_dict()
            series[metric.name, context.get("subset")] = dict(zip(steps, values, strict=True))
    return series


def rewrite_manifest(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change a checkpoint's manifest as a stranger could: with a checksum that fits."""
    manifest = json.loads((path / checkpoint.MANIFEST).read_text())
    manifest.pop("sha256")
    change(manifest)
    (path / checkpoint.MANIFEST).write_text(checkpoint.sealed(manifest))


def save_ppo(directory: Path, name: str, config: PPOConfig = SMALL_PPO, seed: int = 5) -> Path:
    """Save a checkpoint of an untrained PPO policy, and return its path."""
    torch.manual_seed(seed)
    meta = {"agent": ppo.AGENT, "run_name": name, "config": vars(config)}
    return checkpoint.save(directory, name, meta, {"policy": ppo.make_networks(config).state_dict()})


def save_sac(directory: Path, name: str, config: SACConfig = SMALL_SAC) -> Path:
    """Save a checkpoint of an untrained SAC agent without its replay buffer, and return its path."""
    agent = SACAgent(config, torch.device("cpu"))
    # As in a training, the latest actor is ahead of the running mean that is scored.
    with torch.no_grad():
        agent.actor.trunk[-1].bias += 0.5  # type: ignore[operator]
    meta = {"agent": "sac", "run_name": name, "config": vars(config), "aim_run": "abc", "steps": 7}
    return checkpoint.save(directory, name, meta, {"agent": agent.state_dict()})
