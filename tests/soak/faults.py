"""Faults that befall a run: kills, damaged and forged checkpoints, full disks, lost helpers, a long life."""

import contextlib
import fcntl
import hashlib
import os
import pickle
import random
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch

import checkpoint
from car_racing.vec_env import WORKER_MODULE
from checkpoint import CheckpointError
from policies import load_policy
from tests.helpers import TOTAL, finish, rewrite_manifest, start
from tests.soak.runs import FLAGS, Finished, Outcome, begin, files_in, loads


def kill_and_resume(
    script: str,
    steps: int,
    place: Path,
    n_kills: int,
    rng: random.Random,
    number: signal.Signals = signal.SIGKILL,
    is_alone: bool = False,
) -> Outcome:
    """A run that is killed (or stopped) and resumed `n_kills` times, and the run that was not.

    Every fourth time falls anywhere from the start-up on, every other fourth while a checkpoint is being saved, the
    others after the leg's first own checkpoint. The last check is whether the two are equal: parameters, optimisers,
    replay buffer, random states, environments, scores, and every point in Aim that no clock has made.

    Args:
        number: SIGKILL, or a signal that asks for a clean stop.
        is_alone: let the run have one core only, so that it has no workers.
    """
    outcome = Outcome(f"{script}: {number.name}{', one process' if is_alone else ''}")
    cores = {min(os.sched_getaffinity(0))} if is_alone else os.sched_getaffinity(0)
    go = partial(begin, script, steps, preexec_fn=lambda: os.sched_setaffinity(0, cores))
    run = place / "disturbed" / "run"
    code, _, stderr = finish(go(place / "undisturbed"))
    assert code == 0, stderr
    is_finished = False
    for kill in range(n_kills):
        process = go(place / "disturbed")
        _wait_for_a_change(process, run, at_most=rng.uniform(0.0, 4.0) if kill % 4 == 1 else 300.0)
        time.sleep(rng.uniform(0.0, 0.3))
        if kill % 4 == 3:
            _wait_for_a_change(process, run, at_most=300.0)
        family = [process, *process.children(recursive=True)] if process.poll() is None else [process]
        had_one = checkpoint.holds_run(run)
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(number)
        code, _, stderr = finish(process)
        is_finished = code == 0
        if is_finished:
            break
        # In the start-up a stop is the system's own, before there is anything to save.
        is_early = kill % 4 == 1 and code == -number
        expected = -number if number == signal.SIGKILL else 128 + number
        _, orphans = psutil.wait_procs(family, timeout=10)
        is_well = (code == expected or is_early) and not orphans and (loads(run) or not had_one)
        outcome.check(is_well, f"kill {kill}: exit code {code}, {orphans} live on, {stderr[-200:]}")
        # Between its last checkpoint and its end there is nothing left to resume.
        is_finished = checkpoint.holds_run(run) and checkpoint.load(run).meta["steps"] >= steps
        if is_finished:
            break
    if not is_finished:
        code, _, stderr = finish(go(place / "disturbed"))
        outcome.problems += [] if code == 0 else [f"the last leg ended with {code}: {stderr[-300:]}"]
    outcome.problems += Finished.read(place / "undisturbed").differences(Finished.read(place / "disturbed"))[:5]
    return outcome


def _wait_for_a_change(process: psutil.Popen, run: Path, at_most: float) -> None:
    """Until a file comes or goes in a run's directory, the process ends, or so many seconds have passed."""
    before, deadline = files_in(run), time.monotonic() + at_most
    while process.poll() is None and time.monotonic() < deadline and files_in(run) == before:
        time.sleep(0.0005)


def damaged_files(script: str, place: Path, n_mutations: int, rng: random.Random) -> Outcome:
    """Files of the newest checkpoint flipped, cut short or blanked: the one before is found, and it is said."""
    outcome = Outcome(f"{script}: damaged checkpoint files")
    newest = checkpoint.load(place / "run").path
    for _ in range(n_mutations):
        damaged = Path(tempfile.mkdtemp(dir=place)) / "run"
        shutil.copytree(place / "run", damaged, copy_function=os.link)
        file = rng.choice(sorted((damaged / newest.name).iterdir()))
        mutated = mutate(file.read_bytes(), rng)
        file.unlink()  # the name only: the original has another
        file.write_bytes(mutated)
        try:
            loaded = checkpoint.load(damaged)
            is_well = loaded.path.name != newest.name and str(file) in loaded.passed_over[0]
            outcome.check(is_well, f"{file.name} was taken as whole")
        except Exception as error:
            outcome.check(False, f"{file.name}: {error!r}")
        shutil.rmtree(damaged.parent)
    return outcome


def forged_files(script: str, place: Path, n_mutations: int, rng: random.Random) -> Outcome:
    """The same with checksums that fit, as a stranger can write them: read, or refused in one line."""
    outcome = Outcome(f"{script}: damaged files with forged checksums")
    newest = checkpoint.load(place / "run").path
    for _ in range(n_mutations):
        forged = Path(tempfile.mkdtemp(dir=place)) / newest.name
        shutil.copytree(newest, forged)
        data_files = sorted(path for path in forged.iterdir() if path.name != checkpoint.MANIFEST)
        file = rng.choice(data_files)
        file.write_bytes(mutate(file.read_bytes(), rng))
        forge_checksums(forged)
        try:
            load_policy(checkpoint.load(forged))
            outcome.check(True, "")
        except CheckpointError as error:
            outcome.check("\n" not in str(error), f"{file.name}: more than a line: {error}")
        except Exception as error:
            outcome.check(False, f"{file.name}: {error!r}")
        shutil.rmtree(forged.parent)
    return outcome


def mutate(data: bytes, rng: random.Random) -> bytes:
    """Some damage that a disk or a transfer does; never none."""
    at = rng.randrange(len(data))
    length = rng.randint(1, 512)
    mutated = rng.choice(
        [
            data[:at] + bytes([data[at] ^ 1 << rng.randrange(8)]) + data[at + 1 :],
            data[:at],
            data[:at] + bytes(len(data[at : at + length])) + data[at + length :],
            data[:at] + rng.randbytes(length) + data[at + length :],
            data[:at] + data[at + length :],
            data + data[at : at + length],
        ]
    )
    return mutated if mutated != data else data[:-1]


def forge_checksums(directory: Path) -> None:
    """Make the manifest of a checkpoint fit its changed files again."""

    def change(manifest: dict[str, Any]) -> None:
        for listed in manifest["files"].values():
            listed["sha256"] = hashlib.sha256((directory / listed["name"]).read_bytes()).hexdigest()

    rewrite_manifest(directory, change)


class Planted:
    """A pickle that makes a directory where it is loaded."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Callable[..., None], tuple[str]]:
        return os.mkdir, (str(self.mark),)


# How a stranger may have pickled what is planted.
WRITERS: tuple[Callable[..., None], ...] = (pickle.dump, torch.save)


def planted_pickles(script: str, steps: int, place: Path, writers: Sequence[Callable[..., None]] = WRITERS) -> Outcome:
    """A pickle that runs code in the place of each file of a checkpoint, given to every script that reads one."""
    outcome = Outcome(f"{script}: planted pickles in every script")
    newest = checkpoint.load(place / "run").path
    names = sorted(path.name for path in newest.iterdir())
    for name in names:
        for write in writers:
            planted = Path(tempfile.mkdtemp(dir=place)) / newest.name
            shutil.copytree(newest, planted)
            mark = planted.parent / "executed"
            with (planted / name).open("wb") as file:
                write({"policy": Planted(mark)}, file)
            if name != checkpoint.MANIFEST:
                forge_checksums(planted)
            for process in (
                start(script, "--resume", planted, TOTAL[script], 10 * steps, "--no-aim", cwd=place),
                start("evaluate.py", "--checkpoint", planted, "--episodes", 1, cwd=place),
                start("export.py", "--checkpoint", planted, "--to", "policy.zip", cwd=place),
            ):
                code, _, stderr = finish(process)
                # The evaluation does not touch the replay buffer's pictures, so it may well drive.
                is_refused = code == 2 and len(stderr.splitlines()) == 1
                is_unread = code == 0 and name.startswith("replay") and process.args[1].endswith("evaluate.py")
                outcome.check((is_refused or is_unread) and not mark.exists(), f"{name}: {code}: {stderr[-300:]}")
    return outcome


def full_disk(script: str, steps: int, place: Path) -> Outcome:
    """The disk fills up under a run's checkpoints: it goes on, says so, and the last one that fitted is whole."""
    outcome = Outcome(f"{script}: disk full")
    with tmpfs(place / "small", "size=24m") as mounted:
        if not mounted:
            outcome.not_tried = "no right to mount a tmpfs"
            return outcome
        process = begin(script, steps, place / "small", "--aim-repo", place / "aim")
        while process.poll() is None and not checkpoint.holds_run(place / "small" / "run"):
            time.sleep(0.01)
        process.suspend()
        with contextlib.suppress(OSError), (place / "small" / "filler").open("wb") as filler:
            while True:
                filler.write(bytes(4096))
                filler.flush()
        process.resume()
        code, _, stderr = finish(process)
        outcome.check(
            code == 1
            and "could not be saved" in stderr
            and "Traceback" not in stderr
            and loads(place / "small" / "run"),
            f"exit code {code}: {stderr[-500:]}",
        )
        (place / "small" / "filler").unlink()
        code, _, stderr = finish(begin(script, 2 * steps, place / "small", "--aim-repo", place / "aim"))
        outcome.check(code == 0, f"resuming after it: exit code {code}: {stderr[-500:]}")
    return outcome


def read_only_directory(script: str, steps: int, place: Path) -> Outcome:
    """The checkpoints' directory turns read-only under a run, and another is so before one starts."""
    outcome = Outcome(f"{script}: read-only directory")
    process = begin(script, steps, place)
    run, other = place / "run", place / "other"
    other.mkdir(exist_ok=True)
    while process.poll() is None and not checkpoint.holds_run(run):
        time.sleep(0.01)
    with immutable(run) as is_so:
        code, _, stderr = finish(process)
        if not is_so:
            outcome.not_tried = "no right to make a directory immutable"
            return outcome
        is_well = code == 1 and "could not be saved" in stderr and "Traceback" not in stderr
        outcome.check(is_well and loads(run), f"exit code {code}: {stderr[-500:]}")
    with immutable(other):
        args = [*FLAGS[script], "--checkpoint-dir", other / "run", "--no-aim"]
        code, _, stderr = finish(start(script, *args, cwd=place))
        outcome.check(code == 2 and len(stderr.splitlines()) == 1, f"starting there: {code}: {stderr[-300:]}")
    return outcome


@contextlib.contextmanager
def immutable(directory: Path) -> Iterator[bool]:
    """A directory in which nothing can be made or removed, by root neither; False where this user may not do that."""
    is_so = shutil.which("chattr") is not None
    is_so = is_so and subprocess.run(["chattr", "+i", directory], capture_output=True).returncode == 0
    try:
        yield is_so
    finally:
        if is_so:
            subprocess.run(["chattr", "-i", directory], check=True)


@contextlib.contextmanager
def tmpfs(directory: Path, options: str) -> Iterator[bool]:
    """A small file system of its own; False where this user may not mount one."""
    directory.mkdir(parents=True)
    mount = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(directory)]
    is_mounted = shutil.which("mount") is not None and subprocess.run(mount, capture_output=True).returncode == 0
    try:
        yield is_mounted
    finally:
        if is_mounted:
            subprocess.run(["umount", "-l", directory], check=True)


def killed_worker(steps: int, place: Path) -> Outcome:
    """An environment's worker is killed: one line says which, and the run goes on as the one that lost none."""
    outcome = Outcome("train_ppo.py: worker killed")
    code, _, stderr = finish(begin("train_ppo.py", steps, place / "undisturbed"))
    assert code == 0, stderr
    process = begin("train_ppo.py", steps, place / "worker_lost")
    while process.poll() is None and not checkpoint.holds_run(place / "worker_lost" / "run"):
        time.sleep(0.01)
    children = [] if process.poll() is not None else process.children()
    workers = [child for child in children if WORKER_MODULE in child.cmdline()]
    if process.poll() is not None:
        outcome.check(False, "the run was through before its worker could be killed")
        return outcome
    if not workers:
        process.kill()
        finish(process)
        outcome.not_tried = "one core, so no workers"
        return outcome
    workers[0].kill()
    code, _, stderr = finish(process)
    said = [line for line in stderr.splitlines() if "worker of environments" in line]
    is_well = code == 1 and len(said) == 1 and "--resume run" in said[0] and "Traceback" not in stderr
    outcome.check(is_well, f"exit code {code}: {stderr[-500:]}")
    code, _, stderr = finish(begin("train_ppo.py", steps, place / "worker_lost"))
    differences = Finished.read(place / "undisturbed").differences(Finished.read(place / "worker_lost"))
    outcome.check(code == 0 and not differences, f"resumed: {code}: {differences[:3]} {stderr[-300:]}")
    return outcome


def lost_aim(script: str, steps: int, place: Path) -> Outcome:
    """Aim's repository locked by another process, deleted under the run, or full: said once, and training goes on."""
    outcome = Outcome(f"{script}: Aim repository locked, deleted, full")

    def is_well(code: int, stderr: str) -> bool:
        return code == 0 and sum("Aim" in line for line in stderr.splitlines()) == 1 and "Traceback" not in stderr

    code, _, stderr = finish(begin(script, steps, place / "locked"))
    held = place / "locked" / ".aim" / f"writer-{checkpoint.load(place / 'locked' / 'run').meta['aim_run']}.flock"
    with held.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        code, _, stderr = finish(begin(script, 2 * steps, place / "locked"))
    outcome.check(is_well(code, stderr), f"locked: exit code {code}: {stderr[-500:]}")

    process = begin(script, steps, place / "deleted")
    while process.poll() is None and not checkpoint.holds_run(place / "deleted" / "run"):
        time.sleep(0.01)
    shutil.rmtree(place / "deleted" / ".aim", ignore_errors=True)
    code, _, stderr = finish(process)
    outcome.check(is_well(code, stderr) or (code == 0 and "Aim" not in stderr), f"deleted: {code}: {stderr[-500:]}")

    with tmpfs(place / "small", "size=600k") as mounted:
        if mounted:
            process = begin(script, steps, place / "full", "--aim-repo", place / "small")
            code, _, stderr = finish(process)
            outcome.check(is_well(code, stderr), f"full: exit code {code}: {stderr[-500:]}")
    return outcome


def long_life(script: str, place: Path, minutes: float) -> Outcome:
    """A small training that evaluates and saves all the time: memory, file handles and processes stay as they are."""
    outcome = Outcome(f"{script}: {minutes:g} minutes of life")
    process = begin(script, 10**8, place)
    drain = threading.Thread(target=process.communicate, daemon=True)
    drain.start()
    samples: list[tuple[float, float, int, int]] = []
    end = time.monotonic() + 60.0 * minutes
    while time.monotonic() < end and process.poll() is None:
        time.sleep(1.0)
        family = [process, *process.children(recursive=True)]
        with contextlib.suppress(psutil.Error):
            memory = sum(member.memory_full_info().pss for member in family) / 2**20
            samples.append((time.monotonic(), memory, sum(member.num_fds() for member in family), len(family)))
    process.send_signal(signal.SIGTERM)
    drain.join()
    steps = checkpoint.load(place / "run").meta["steps"]
    # Memory goes up and down with every evaluation and save, so quarters are compared by their medians. The first half,
    # in which caches fill, does not count.
    third, fourth = (np.median(quarter, axis=0) for quarter in np.array_split(np.array(samples), 4)[2:])
    seconds, memory_mb, n_handles, n_processes = fourth - third
    outcome.fault += (
        f": {third[1]:.0f} MB in the third quarter, {memory_mb:+.1f} MB in the fourth "
        f"({3600.0 * memory_mb / seconds:+.0f} MB an hour), {fourth[2]:.0f} file handles ({n_handles:+.0f}), "
        f"{fourth[3]:.0f} processes ({n_processes:+.0f}), {steps:,} steps"
    )
    # Aim's database opens a file more now and then, and merges them later.
    is_flat = memory_mb < 0.05 * third[1] and n_handles <= 4 and n_processes <= 0
    outcome.check(process.returncode == 143 and is_flat, f"grows, or ended with {process.returncode}")
    return outcome
