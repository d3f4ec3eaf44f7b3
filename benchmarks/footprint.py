"""Memory of each recipe's training, the time of a reset, and what 2,000 resets leave behind.

python -m benchmarks.footprint [--recipes NAME ...]

A recipe trains as it is, with a validation and a checkpoint early on. SAC's replay buffer is filled first, by random
steps. The memory is that of all processes of the training; a page that several of them share counts once.
"""

import statistics
import subprocess
import sys
import tempfile
import time

import psutil
from gymnasium.envs.box2d.car_racing import CarRacing

from benchmarks.findings import Figure, Table, benchmark_parser, tell
from benchmarks.short_training import ROOT, ending_with_this
from car_racing import FastCarRacing
from ppo_config import PPOConfig
from recipe import RECIPES, Recipe, read
from sac_config import SACConfig

MEGABYTE = 1e6
# No training takes longer, unless something is wrong.
TIMEOUT_S = 900.0


def proportional_set_size(process: psutil.Process) -> int:
    """Bytes of memory of a process and all its children; a shared page counts in part for each user (Linux's PSS)."""
    total = 0
    for member in [process, *process.children(recursive=True)]:
        try:
            total += member.memory_full_info().pss
        except psutil.NoSuchProcess:
            continue
    return total


def names() -> list[str]:
    """The recipes that there are."""
    return sorted(path.stem for path in RECIPES.glob("*.toml"))


def command_of(recipe: Recipe) -> list[str]:
    """A training by a recipe up to its first evaluation and checkpoint, SAC's with a full replay buffer."""
    if recipe.agent == "ppo":
        n_envs = recipe.settings.get("n_envs", PPOConfig().n_envs)
        rollout = n_envs * recipe.settings.get("n_steps", PPOConfig().n_steps)
        script, total = "train_ppo.py", 4 * rollout
        flags = {"--total-timesteps": total, "--eval-freq": rollout, "--checkpoint-freq": rollout}
    else:
        full = recipe.settings.get("replay_size", SACConfig().replay_size)
        script, total = "train.py", full + 30
        # Frames of the game need no memory: steps of one frame fill the buffer soonest.
        flags = {"--total-steps": total, "--learning-starts": full, "--eval-freq": full + 10, "--action-repeat": 1}
        flags["--checkpoint-freq"] = full + 20
    words = [str(word) for pair in {**flags, "--eval-tracks": 2}.items() for word in pair]
    return [script, "--recipe", recipe.name, *words]


def training_memory(command: list[str]) -> tuple[int, int]:
    """The largest proportional set size of a training, and its process count.

    Raises:
        RuntimeError: if the training fails or does not come to its end.
    """
    largest = n_processes = 0
    script, *args = command
    with tempfile.TemporaryDirectory() as directory:
        training = psutil.Popen(
            ending_with_this([sys.executable, str(ROOT / script), *args]),
            cwd=directory,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            end = time.monotonic() + TIMEOUT_S
            while time.monotonic() < end and training.poll() is None:
                largest = max(largest, proportional_set_size(training))
                n_processes = max(n_processes, 1 + len(training.children(recursive=True)))
                time.sleep(0.2)
        finally:
            if training.poll() is None:
                training.terminate()
            code = training.wait()
    if code:
        raise RuntimeError(f"{' '.join(command)} ended with exit code {code}")
    return largest, n_processes


def reset_times(n: int = 40) -> tuple[float, float]:
    """Median milliseconds of a reset with its first picture, of the same tracks in turn: stock, ours."""
    stock, fast = CarRacing(), FastCarRacing()
    times: dict[type, list[float]] = {CarRacing: [], FastCarRacing: []}
    for seed in range(n):
        for env in (stock, fast):
            start = time.perf_counter()
            env.reset(seed=seed)
            times[type(env)].append(1e3 * (time.perf_counter() - start))
    return statistics.median(times[CarRacing]), statistics.median(times[FastCarRacing])


def reset_growth(n: int = 2_000, warm_up: int = 200) -> float:
    """Megabytes by which the process grows over `n` resets, after some to fill its caches."""
    process = psutil.Process()
    env = FastCarRacing()
    for seed in range(warm_up):
        env.reset(seed=seed)
    before = process.memory_info().rss
    for seed in range(warm_up, warm_up + n):
        env.reset(seed=seed)
    return (process.memory_info().rss - before) / MEGABYTE


def main() -> None:
    parser = benchmark_parser(__doc__)
    parser.add_argument("--recipes", nargs="*", default=names(), choices=names(), help="whose memory to measure [all]")
    options = parser.parse_args()
    stock_ms, fast_ms = reset_times()
    resets = [
        Figure("stock Gymnasium", [stock_ms], "ms"),
        Figure("ours", [fast_ms], "ms", {"stock Gymnasium": fast_ms / stock_ms}),
        Figure("growth of the process over 2,000 resets", [reset_growth()], "MB"),
    ]
    memory = []
    for name in options.recipes:
        largest, n_processes = training_memory(command_of(read(name)))
        label = f"{name}, {n_processes} process{'es' if n_processes > 1 else ''}"
        memory.append(Figure(label, [largest / MEGABYTE], "MB"))
    tell([Table("A reset", resets), Table("Memory of a training by each recipe, at most", memory)], options.json)


if __name__ == "__main__":
    main()
