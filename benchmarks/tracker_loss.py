"""What Aim loses where a process dies: in a shared directory, and on an Aim server.

    python -m benchmarks.tracker_loss [--steps N]

Two trainings of this machine are tracked in one repository. In their middle, one of them is killed; or, where they are
tracked on a server, the server. What their newest checkpoints know of episodes is compared with what Aim has of them.
"""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import checkpoint
from aim_reader import read_runs
from benchmarks.findings import FRACTION, Figure, Table, benchmark_parser, count, tell
from benchmarks.short_training import ROOT, ending_with_this
from progress_file import read_progress
from settings import fail

NAMES = ("first", "second")
# A single environment, so that no two episodes end at one step.
FLAGS = ["--n-envs", "1", "--n-steps", "128", "--batch-size", "128", "--eval-tracks", "1"]
START_TIMEOUT_S = 300.0
AIM = Path(sys.executable).with_name("aim")


def begin(name: str, steps: int, repo: str, directory: Path) -> subprocess.Popen[bytes]:
    """Start a training that saves a checkpoint at each eighth of its steps."""
    every = ["--checkpoint-freq", str(steps // 8), "--eval-freq", str(steps)]
    named = ["--checkpoint-dir", name, "--run-name", name, "--aim-repo", repo]
    command = [sys.executable, str(ROOT / "train_ppo.py"), "--total-timesteps", str(steps), *FLAGS, *every, *named]
    nowhere = subprocess.DEVNULL
    return subprocess.Popen(ending_with_this(command), cwd=directory, stdout=nowhere, stderr=nowhere)


@contextlib.contextmanager
def aim_server(directory: Path) -> Iterator[tuple[str, Callable[[], None]]]:
    """An Aim server over a directory's repository: its address, and what kills it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    command = [str(AIM), "server", "--host", "127.0.0.1", "--port", port, "--repo", str(directory), "-y"]
    nowhere = subprocess.DEVNULL
    server = subprocess.Popen(ending_with_this(command), start_new_session=True, stdout=nowhere, stderr=nowhere)

    def kill() -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGKILL)

    try:
        wait_until(lambda: is_listening(int(port)), [server])
        yield f"aim://127.0.0.1:{port}", kill
    finally:
        kill()
        server.wait()


def is_listening(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def wait_until(is_so: Callable[[], bool], processes: Sequence[subprocess.Popen[bytes]]) -> None:
    """Wait for something that these processes do; ends the benchmark if it does not come."""
    deadline = time.monotonic() + START_TIMEOUT_S
    while not is_so():
        if time.monotonic() > deadline or any(one.poll() for one in processes):
            fail("the trainings or the server do not start; try `python train_ppo.py` and `aim server`")
        time.sleep(0.1)


def is_half_way(run: Path) -> bool:
    """Whether a training has saved half of its steps."""
    progress, saved = read_progress(run), checkpoint.whole_steps(run)
    return bool(progress and saved and checkpoint.read_meta(saved[0])["steps"] >= progress.total_steps // 2)


def fraction_in_aim(directory: Path, name: str) -> float:
    """Of the episodes that a training's newest checkpoint knows, those that Aim has."""
    meta = checkpoint.read_meta(checkpoint.whole_steps(directory / name)[0])
    tracked = [run.points("return", "episode") for run in read_runs(directory) if run.name == name]
    n_found = sum(step <= meta["steps"] for points in tracked for step in points)
    return n_found / meta["episodes"]


def lose(steps: int, on_server: bool) -> list[Figure]:
    """Track two trainings in one place, lose a machine in their middle, and see what is left."""
    with TemporaryDirectory() as path:
        directory = Path(path)
        subprocess.run([AIM, "init", "--repo", path], check=True, capture_output=True)
        place = aim_server(directory) if on_server else contextlib.nullcontext((path, None))
        with place as (repo, kill_server):
            trainings = [begin(name, steps, repo, directory) for name in NAMES]
            wait_until(lambda: all(is_half_way(directory / name) for name in NAMES), trainings)
            if kill_server is None:
                trainings[0].kill()
            else:
                kill_server()
            codes = [training.wait() for training in trainings]
        figures = [Figure("trainings that came to their end", [sum(code == 0 for code in codes)], "of 2")]
        for name, code in zip(NAMES, codes, strict=True):
            state = "came to its end" if code == 0 else "killed, up to its last checkpoint"
            label = f"episodes in Aim of the {name} ({state})"
            figures.append(Figure(label, [fraction_in_aim(directory, name)], FRACTION))
        return figures


def main() -> None:
    parser = benchmark_parser(__doc__)
    parser.add_argument("--steps", type=count, default=8_192, help="steps of each training")
    options = parser.parse_args()
    tables = [
        Table("A shared directory, one of two trainings killed", lose(options.steps, on_server=False)),
        Table("An Aim server, the server killed", lose(options.steps, on_server=True)),
    ]
    tell(tables, options.json)


if __name__ == "__main__":
    main()
