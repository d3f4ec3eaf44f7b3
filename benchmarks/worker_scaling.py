"""Whole PPO training by the number of processes that step environments, and what more cores would bring.

    python -m benchmarks.worker_scaling [--steps N] [--rounds N] [--n-envs 8 16]

Each training is a process of `train_ppo.py` of its own, with updates, and without Aim and evaluations. The numbers of
workers take turns for some rounds, and the median counts. The model is Amdahl's: stepping environments is divided among
the processes, and the rest (acting, updates) is not.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import checkpoint
from ppo_config import PPOConfig

ROOT = Path(__file__).parent.parent
MODELLED = (4, 16, 64)


def steps_per_second(n_envs: int, n_workers: int, steps: int) -> float:
    """Steps a second of a training's third quarter: not of its start, nor of the evaluation at its end."""
    with tempfile.TemporaryDirectory() as directory:
        run = Path(directory) / "run"
        flags = {
            "--n-envs": n_envs,
            "--n-workers": n_workers,
            "--total-timesteps": steps,
            "--checkpoint-freq": steps // 4,
            # One evaluation, after the last step that counts.
            "--eval-freq": 10 * steps,
            "--eval-tracks": 1,
            "--checkpoint-dir": run,
        }
        words = [str(word) for pair in flags.items() for word in pair]
        command = [sys.executable, str(ROOT / "train_ppo.py"), *words, "--no-aim"]
        subprocess.run(command, cwd=directory, check=True, capture_output=True)
        metas = [checkpoint.read_meta(path) for path in checkpoint.whole_steps(run)]
    # The newest first; it was saved after the evaluation.
    _, last, first = metas
    return (last["steps"] - first["steps"]) / (60.0 * (last["minutes"] - first["minutes"]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=24_576)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--n-envs", type=int, nargs="+", default=[8])
    args = parser.parse_args()
    repeat = PPOConfig().action_repeat
    n_cores = len(os.sched_getaffinity(0))
    for n_envs in args.n_envs:
        counts = sorted({count for count in (0, 1, 3, 7, 15, 31, 63, n_cores - 1) if count < min(n_cores, n_envs)})
        rates: dict[int, list[float]] = {count: [] for count in counts}
        for _ in range(args.rounds):
            for count in counts:
                rates[count].append(steps_per_second(n_envs, count, args.steps))
        medians = {count: statistics.median(values) for count, values in rates.items()}
        for count, rate in medians.items():
            where = f"{n_envs} environments in {count + 1} process{'es' if count else ''}"
            ratio = f"{rate / medians[0]:.2f}x one process"
            print(f"{where}: {rate:,.0f} decisions/s, {repeat * rate:,.0f} frames/s, {ratio}", flush=True)
        if len(medians) > 1:
            print(model_in_words(n_envs, medians[0], max(medians), medians[max(medians)]), flush=True)


def model_in_words(n_envs: int, alone: float, n_workers: int, together: float) -> str:
    """What Amdahl's law says of more processes, from the rates of one and of most."""
    # seconds a step = rest + stepping / processes
    stepping = (1.0 / alone - 1.0 / together) / (1.0 - 1.0 / (n_workers + 1))
    rest = 1.0 / alone - stepping
    parts = [f"stepping environments takes {stepping * alone:.0%} of one process's time"]
    for n_processes in MODELLED:
        used = min(n_processes, n_envs)
        parts.append(f"{n_processes} cores: {1.0 / (alone * (rest + stepping / used)):.2f}x")
    parts.append(f"at most {1.0 / (alone * rest):.2f}x, where acting and updates limit")
    return f"model of {n_envs} environments: {'; '.join(parts)}"


if __name__ == "__main__":
    main()
