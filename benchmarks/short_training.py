"""A short training by one of the scripts, in a process of its own, for the benchmarks that measure whole trainings."""

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import checkpoint

ROOT = Path(__file__).resolve().parent.parent
TOTAL_FLAGS = {"train.py": "--total-steps", "train_ppo.py": "--total-timesteps"}


def ending_with_this(command: Sequence[str]) -> list[str]:
    """A command that ends when this process ends, also where that is killed."""
    return [sys.executable, "-I", str(ROOT / "end_with_parent.py"), str(os.getpid()), *command]


def run_training(script: str, steps: int, flags: Mapping[str, object], directory: Path, tracks: bool = False) -> Path:
    """Train to the end.

    Args:
        script: the script's file.
        steps: how long.
        flags: its other flags.
        directory: where it is started.
        tracks: whether it is tracked in Aim, in that directory.

    Returns:
        The run's directory.

    Raises:
        RuntimeError: if it fails, with its last words.
    """
    given = {TOTAL_FLAGS[script]: steps, "--checkpoint-dir": "run", **flags}
    words = [str(word) for pair in given.items() for word in pair] + ([] if tracks else ["--no-aim"])
    command = ending_with_this([sys.executable, str(ROOT / script), *words])
    ended = subprocess.run(command, cwd=directory, check=False, capture_output=True, text=True)
    if ended.returncode:
        last = (ended.stderr.strip().splitlines() or [""])[-1]
        raise RuntimeError(f"{script} ended with exit code {ended.returncode}: {last}")
    return directory / "run"


def steps_per_second(script: str, steps: int, flags: Mapping[str, object], tracks: bool = False) -> float:
    """Steps a second of a training's third quarter and its checkpoint: not of its start, nor of its last evaluation."""
    quarters = {"--checkpoint-freq": steps // 4, "--eval-freq": 10 * steps, "--eval-tracks": 1}
    with TemporaryDirectory() as directory:
        run = run_training(script, steps, {**quarters, **flags}, Path(directory), tracks)
        metas = [checkpoint.read_meta(path) for path in checkpoint.whole_steps(run)]
    # The newest three are kept. The newest comes first; it was saved after the evaluation.
    _, last, first = metas
    return (last["steps"] - first["steps"]) / (60.0 * (last["minutes"] - first["minutes"]))
