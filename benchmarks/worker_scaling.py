"""Whole PPO training by the number of processes that step environments, and what more cores would bring.

    python -m benchmarks.worker_scaling [--steps N] [--rounds N] [--n-envs 8 16]

Each training is a process of `train_ppo.py` of its own, with updates, and without Aim and evaluations. The numbers of
workers take turns for some rounds, and the median counts. The model is Amdahl's: stepping environments is divided among
the processes, and the rest (acting, updates) is not.
"""

import os
import statistics

from benchmarks.findings import Table, benchmark_parser, compared, count, tell
from benchmarks.short_training import steps_per_second
from ppo_config import PPOConfig

MODELLED = (4, 16, 64)


def main() -> None:
    parser = benchmark_parser(__doc__)
    parser.add_argument("--steps", type=count, default=24_576)
    parser.add_argument("--rounds", type=count, default=3)
    parser.add_argument("--n-envs", type=count, nargs="+", default=[8])
    options = parser.parse_args()
    repeat = PPOConfig().action_repeat
    n_cores = len(os.sched_getaffinity(0))
    tables: list[Table] = []
    for n_envs in options.n_envs:
        counts = sorted({n for n in (0, 1, 3, 7, 15, 31, 63, n_cores - 1) if n < min(n_cores, n_envs)})
        rates: dict[int, list[float]] = {n_workers: [] for n_workers in counts}
        for _ in range(options.rounds):
            for n_workers in counts:
                flags = {"--n-envs": n_envs, "--n-workers": n_workers}
                rates[n_workers].append(steps_per_second("train_ppo.py", options.steps, flags))
        labels = {n: f"{n + 1} process{'es' if n else ''}" for n in counts}
        found = {labels[n]: values for n, values in rates.items()}
        against = {label: [labels[0]] for n, label in labels.items() if n}
        note = ""
        if len(counts) > 1:
            most = counts[-1]
            note = model_in_words(n_envs, statistics.median(rates[0]), most, statistics.median(rates[most]))
        title = f"Decisions a second of a whole PPO training, {n_envs} environments, {repeat} frames a decision"
        tables.append(compared(title, "decisions/s", found, against, note))
    tell(tables, options.json)


def model_in_words(n_envs: int, alone: float, n_workers: int, together: float) -> str:
    """What Amdahl's law says of more processes, from the rates of one and of most."""
    # seconds a step = rest + stepping / processes
    stepping = (1.0 / alone - 1.0 / together) / (1.0 - 1.0 / (n_workers + 1))
    rest = max(1.0 / alone - stepping, 0.0)
    parts = [f"stepping environments takes {stepping * alone:.0%} of one process's time"]
    for n_processes in MODELLED:
        used = min(n_processes, n_envs)
        parts.append(f"{n_processes} cores: {1.0 / (alone * (rest + stepping / used)):.2f}x")
    if rest > 0.0:
        parts.append(f"at most {1.0 / (alone * rest):.2f}x, where acting and updates limit")
    return f"By Amdahl's law, {'; '.join(parts)}."


if __name__ == "__main__":
    main()
