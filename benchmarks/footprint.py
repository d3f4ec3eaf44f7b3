"""Memory of a whole training, the time of a reset, and what 2,000 resets leave behind.

python -m benchmarks.footprint
"""

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
from gymnasium.envs.box2d.car_racing import CarRacing

from car_racing import FastCarRacing

ROOT = Path(__file__).parent.parent
MEGABYTE = 2**20


def proportional_set_size(process: psutil.Process) -> int:
    """Bytes of memory of a process and all its children; a shared page counts in part for each user (Linux's PSS)."""
    total = 0
    for member in [process, *process.children(recursive=True)]:
        try:
            total += member.memory_full_info().pss
        except psutil.NoSuchProcess:
            continue
    return total


PPO_ARGS = "train_ppo.py --n-envs 8 --eval-freq 4096 --eval-tracks 2"
# Random steps fill the whole replay buffer; then come updates, an evaluation and a checkpoint.
SAC_ARGS = (
    "train.py --replay-size 30000 --learning-starts 30000 --total-steps 30030 --eval-freq 30010 --eval-tracks 2 "
    "--checkpoint-freq 30020"
)


def training_memory(command: str, seconds: float) -> tuple[int, int]:
    """The largest proportional set size of a training within `seconds`, and its process count."""
    largest = n_processes = 0
    script, *args = command.split()
    with tempfile.TemporaryDirectory() as directory:
        training = psutil.Popen(
            [sys.executable, str(ROOT / script), *args],
            cwd=directory,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            end = time.monotonic() + seconds
            while time.monotonic() < end and training.poll() is None:
                largest = max(largest, proportional_set_size(training))
                n_processes = max(n_processes, 1 + len(training.children(recursive=True)))
                time.sleep(0.2)
        finally:
            if training.poll() is None:
                training.terminate()
            training.wait()
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
    stock_ms, fast_ms = reset_times()
    print(f"reset: stock {stock_ms:.1f} ms, ours {fast_ms:.1f} ms ({fast_ms / stock_ms:.2f}x)")
    print(f"2,000 resets: {reset_growth():+.1f} MB")
    for command, seconds in ((PPO_ARGS, 60.0), (SAC_ARGS, 300.0)):
        largest, n_processes = training_memory(command, seconds)
        print(f"{command}: at most {largest / MEGABYTE:.0f} MB (PSS) in {n_processes} processes", flush=True)


if __name__ == "__main__":
    main()
