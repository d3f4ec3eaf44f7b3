"""Faults of what surrounds a run: streams, encodings, limits, links, locks, versions, signals, readers beside writers.

Every case ends well in one of two ways: the run goes on as if nothing were, and is equal to the undisturbed one to the
last bit, or it is refused in one line, with nothing lost. A traceback or a hang never ends well.
"""

import contextlib
import os
import resource
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import psutil

import checkpoint
from checkpoint import CheckpointError
from tests.helpers import ROOT, TOTAL, finish, rewrite_manifest, start
from tests.soak.runs import FLAGS, INTERVALS, Finished, Outcome, begin, files_in, loads

# A training of seconds that takes longer than this hangs.
PATIENCE_S = 300.0


def undisturbed(script: str, steps: int, place: Path) -> Finished:
    """The run that nothing disturbs, which the others are compared with."""
    code, _, stderr = finish(begin(script, steps, place))
    assert code == 0, stderr
    return Finished.read(place)


def is_refusal(code: int, stderr: str) -> bool:
    """Whether a script has said in one line what is wrong, and that it was the user's to mend."""
    return code == 2 and len(stderr.splitlines()) == 1


def odd_streams(script: str, steps: int, place: Path) -> Outcome:
    """Streams that are closed, full or without a reader, and encodings without what is printed: it trains."""
    outcome = Outcome(f"{script}: streams and encodings")
    reference = undisturbed(script, steps, place / "undisturbed")
    for number, (words, env) in enumerate(
        (
            ("1>&-", {}),
            ("2>&-", {}),
            ("0<&- 1>&- 2>&-", {}),
            (">/dev/full 2>/dev/full", {}),
            ("2>&1 | true", {}),
            ("| cat", {"PYTHONIOENCODING": "ascii"}),
            ("| cat", {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}),
        )
    ):
        # Aim cannot make a repository under a name that the locale cannot write.
        disturbed = place / (f"case {number}" if "LC_ALL" in env else f"case ü{number}")
        disturbed.mkdir()
        flags = [*FLAGS[script], "--checkpoint-dir", "run", *INTERVALS[script].split(), TOTAL[script], str(steps)]
        command = shlex.join([sys.executable, str(ROOT / script), *flags])
        shell = ["bash", "-c", f"set -o pipefail; {command} {words}"]
        done = subprocess.run(
            shell, cwd=disturbed, env={**os.environ, **env}, capture_output=True, text=True, timeout=PATIENCE_S
        )
        is_well = done.returncode == 0 and "Traceback" not in done.stderr + done.stdout
        differences = Finished.read(disturbed).differences(reference) if is_well else []
        outcome.check(
            is_well and not differences, f"{words} {env}: {done.returncode} {differences[:2]} {done.stderr[-200:]}"
        )
    return outcome


def limits(script: str, steps: int, place: Path) -> Outcome:
    """Few processes, small files, little memory, few file handles: a whole run, or one line that says what is short."""
    outcome = Outcome(f"{script}: limits of the machine")
    gigabyte = 2**30
    for number, (name, which, value) in enumerate(
        (
            ("processes", resource.RLIMIT_NPROC, 1),
            ("file size", resource.RLIMIT_FSIZE, 20_000),
            ("file size", resource.RLIMIT_FSIZE, 2_000_000),
            ("memory", resource.RLIMIT_AS, gigabyte // 2),
            ("memory", resource.RLIMIT_AS, 3 * gigabyte),
            ("file handles", resource.RLIMIT_NOFILE, 16),
            ("file handles", resource.RLIMIT_NOFILE, 96),
        )
    ):
        limited = place / str(number)

        def limit(which: int = which, value: int = value) -> None:
            resource.setrlimit(which, (value, value))

        # At a file's limit Aim's database library prints a traceback of its own.
        more = ["--no-aim"] if which == resource.RLIMIT_FSIZE else []
        code, _, stderr = finish(begin(script, steps, limited, *more, preexec_fn=limit), PATIENCE_S)
        is_well = code in (0, 1, 2) and "Traceback" not in stderr and bool(code == 0 or stderr.strip())
        is_whole = loads(limited / "run") or not checkpoint.holds_run(limited / "run")
        outcome.check(is_well and is_whole, f"{name} {value:,}: {code}: {stderr[-300:]}")
    return outcome


def planted_links(script: str, place: Path) -> Outcome:
    """Links where a script writes, as a stranger's archive may hold them: what they point to stays as it was."""
    outcome = Outcome(f"{script}: links where it writes")
    newest, victim, gift = checkpoint.load(place / "run").path, place / "victim", place / "gift"
    victim.write_text("precious")
    gift.mkdir()
    targets = ("score.json", "drive.mp4", "policy.zip", "settings.toml", "policy")
    for name in (*targets, *(f".{target}.part" for target in targets), *(f"{target}.tmp" for target in targets)):
        (gift / name).symlink_to(victim)
    evaluate = ("evaluate.py", "--checkpoint", newest, "--tracks", 100)
    export = ("export.py", "--checkpoint", newest, "--to")
    for command in (
        (*evaluate, "--json", gift / "score.json", "--video", gift / "drive.mp4"),
        *((*export, gift / target) for target in targets[2:]),
    ):
        code, _, stderr = finish(start(*command, cwd=place), PATIENCE_S)
        is_well = (code == 0 or is_refusal(code, stderr)) and victim.read_text() == "precious"
        outcome.check(is_well, f"{command[-1]}: {code}: {stderr[-200:]}")
    return outcome


def shared_directories(script: str, steps: int, place: Path) -> Outcome:
    """Checkpoints and Aim in one directory, and two trainings in one: it works, or the second is refused."""
    outcome = Outcome(f"{script}: locks")
    for number, flags in enumerate((("run", "run"), (".", "."), ("run", "run/.."))):
        one = place / str(number)
        one.mkdir(parents=True)
        directory, repo = flags
        args = [*FLAGS[script], *INTERVALS[script].split(), TOTAL[script], steps]
        process = start(script, *args, "--checkpoint-dir", directory, "--aim-repo", repo, cwd=one)
        with contextlib.suppress(subprocess.TimeoutExpired):
            code, _, stderr = finish(process, PATIENCE_S)
            outcome.check(code == 0 and loads(one / directory), f"{flags}: {code}: {stderr[-300:]}")
            continue
        process.kill()
        outcome.check(False, f"{flags}: hangs")
    first = begin(script, 100 * steps, place / "twice")
    while first.poll() is None and not checkpoint.holds_run(place / "twice" / "run"):
        time.sleep(0.01)
    code, _, stderr = finish(begin(script, 200 * steps, place / "twice"), PATIENCE_S)
    outcome.check(is_refusal(code, stderr) and "in use" in stderr, f"two at once: {code}: {stderr[-300:]}")
    first.send_signal(signal.SIGTERM)
    code, _, stderr = finish(first, PATIENCE_S)
    outcome.check(
        code == 128 + signal.SIGTERM and loads(place / "twice" / "run"), f"the first: {code}: {stderr[-300:]}"
    )
    return outcome


def other_versions(script: str, steps: int, place: Path) -> Outcome:
    """Checkpoints of a newer format, with unknown settings, or of other libraries: refused or said, nothing deleted."""
    outcome = Outcome(f"{script}: other versions")

    def set_format(manifest: dict[str, Any]) -> None:
        manifest["format_version"] += 1

    def add_setting(manifest: dict[str, Any]) -> None:
        for config in (manifest["meta"]["config"], *manifest["meta"]["stages"]):
            config["later_setting"] = 1

    def set_library(manifest: dict[str, Any]) -> None:
        manifest["meta"]["versions"]["torch"] = "1.0.0"

    for name, change, is_refused in (
        ("newer format", set_format, True),
        ("unknown setting", add_setting, True),
        ("older torch", set_library, False),
    ):
        other = place / name
        shutil.copytree(place / "run", other / "run")
        for path in (checkpoint.load(other / "run").path, other / "run" / checkpoint.BEST):
            rewrite_manifest(path, change)
        before = files_in(other / "run")
        code, _, stderr = finish(begin(script, steps, other, "--no-aim"), PATIENCE_S)
        is_well = is_refusal(code, stderr) if is_refused else code == 0 and "torch" in stderr
        outcome.check(
            is_well and (not is_refused or files_in(other / "run") == before), f"{name}: {code}: {stderr[-300:]}"
        )
    return outcome


def readers_beside(script: str, steps: int, place: Path) -> Outcome:
    """A run's checkpoints are loaded all the time while it saves: each load sees a whole one."""
    outcome = Outcome(f"{script}: readers beside a writer")
    process = begin(script, steps, place, "--checkpoint-freq", 20, "--eval-freq", 100)
    drain = threading.Thread(target=process.communicate, daemon=True)
    drain.start()
    run = place / "run"
    while process.poll() is None:
        for path in (run, run / checkpoint.BEST):
            if checkpoint.holds_run(run) and (path / checkpoint.MANIFEST if path != run else run).exists():
                try:
                    checkpoint.load(path)
                    outcome.check(True, "")
                except CheckpointError as error:
                    outcome.check(False, str(error))
        time.sleep(0.002)
    drain.join()
    outcome.check(process.returncode == 0, f"the run ended with {process.returncode}")
    return outcome


def lost_place(script: str, place: Path) -> Outcome:
    """The working directory is gone before the start: one line from every script."""
    outcome = Outcome(f"{script}: working directory gone")
    for name in (script, "evaluate.py", "export.py"):
        gone = place / "gone"
        gone.mkdir(parents=True)
        command = f"rmdir {shlex.quote(str(gone))}; exec {shlex.join([sys.executable, str(ROOT / name)])}"
        done = subprocess.run(["bash", "-c", command], cwd=gone, capture_output=True, text=True, timeout=PATIENCE_S)
        outcome.check(is_refusal(done.returncode, done.stderr), f"{name}: {done.returncode}: {done.stderr[-300:]}")
    return outcome


def killed_parent(script: str, steps: int, place: Path) -> Outcome:
    """SIGKILL of a training while its workers drive, or while it scores: none of its processes lives on."""
    outcome = Outcome(f"{script}: children of a killed parent")
    phases = {"scores": _is_scoring} if script == "train.py" else {"trains": _has_workers, "scores": _is_scoring}
    for phase, has_come in phases.items():
        process = begin(script, steps, place / phase, *(["--score"] if phase == "scores" else []))
        deadline = time.monotonic() + PATIENCE_S
        while process.poll() is None and time.monotonic() < deadline and not has_come(process):
            time.sleep(0.02)
        family = process.children(recursive=True) if process.poll() is None else []
        with contextlib.suppress(psutil.NoSuchProcess):  # it has ended by itself, and `family` is empty
            process.kill()
        _, alive = psutil.wait_procs(family, timeout=5)
        outcome.check(bool(family) and not alive, f"{phase}: {len(family)} children, of which {alive} live on")
        for child in alive:
            child.kill()
        finish(process)
    return outcome


def _has_workers(process: psutil.Popen) -> bool:
    # At its start the script has other children for a moment: git tells it the commit.
    with contextlib.suppress(psutil.Error):
        return any("car_racing.worker" in child.cmdline() for child in process.children())
    return False


def _is_scoring(process: psutil.Popen) -> bool:
    # On a single core, evaluate.py drives without worker processes.
    is_alone = len(os.sched_getaffinity(0)) == 1
    with contextlib.suppress(psutil.Error):
        scoring = [child for child in process.children() if "evaluate.py" in " ".join(child.cmdline())]
        return any(is_alone or child.children() for child in scoring)
    return False
