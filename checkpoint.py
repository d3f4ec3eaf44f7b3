"""Checkpoints: a directory each, written whole or not at all, and safe to load from a stranger.

<run>/step_000204800/manifest.json   what it is: agent, settings, progress, versions, a checksum a file
<run>/step_000204800/state.pt        tensors and plain values, loaded with weights_only: no code in it can run
<run>/best/                          the same, for the best evaluation so far
"""

import hashlib
import io
import json
import os
import shutil
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

FORMAT_VERSION = 1
MANIFEST = "manifest.json"
STATE = "state.pt"
BEST = "best"
STEP_PREFIX = "step_"
KEPT = 3


class CheckpointError(Exception):
    """A checkpoint that cannot be found, read or trusted; the message is one line."""


@dataclass(frozen=True)
class Checkpoint:
    """A loaded checkpoint.

    Attributes:
        path: its directory.
        meta: plain values: what `save` was given as `meta`.
        state: nested dicts and lists of tensors (on the CPU) and plain values.
    """

    path: Path
    meta: dict[str, Any]
    state: dict[str, Any]


def save(run_directory: Path, name: str, meta: dict[str, Any], state: dict[str, Any]) -> Path:
    """Write checkpoint `name` of a run, replacing an older one of that name, and return its path.

    It is written beside, flushed to disk and renamed into place, so a reader finds a whole checkpoint or none.

    Raises:
        OSError: if the disk does not take it; nothing that was there before is lost then.
    """
    run_directory.mkdir(parents=True, exist_ok=True)
    final = run_directory / name
    temporary = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=run_directory))
    try:
        # Through memory: torch's own writer answers a full disk with a RuntimeError.
        serialised = io.BytesIO()
        torch.save(state, serialised)
        (temporary / STATE).write_bytes(serialised.getbuffer())
        manifest = {
            "format_version": FORMAT_VERSION,
            "saved_at_ns": time.time_ns(),
            "sha256": {STATE: _sha256(temporary / STATE)},
            **meta,
        }
        (temporary / MANIFEST).write_text(json.dumps(manifest, indent=1))
        for file in temporary.iterdir():
            _flush(file)
        temporary.chmod(0o755)
        _put_in_place(temporary, final)
        _flush(run_directory)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return final


def save_step(run_directory: Path, step: int, meta: dict[str, Any], state: dict[str, Any]) -> Path:
    """Write the checkpoint of a time step and drop all but the newest `KEPT` of them."""
    path = save(run_directory, f"{STEP_PREFIX}{step:09d}", meta, state)
    for old in _by_age(run_directory)[:-KEPT]:
        shutil.rmtree(old)
    return path


def find(path: Path) -> Path:
    """The checkpoint that `path` means: itself, or the newest of the run directory that it is.

    Raises:
        CheckpointError: if there is none.
    """
    try:
        if (path / MANIFEST).is_file():
            return path
        if not path.exists():
            raise CheckpointError(f"there is no checkpoint at {path}")
    except OSError as error:
        raise CheckpointError(f"{path} cannot be looked into ({error.strerror})") from None
    steps = _by_age(path) if path.is_dir() else []
    if not steps:
        raise CheckpointError(f"{path} holds no checkpoint ({MANIFEST} is missing)")
    return steps[-1]


def holds_run(run_directory: Path) -> bool:
    """Whether a run has already saved checkpoints there."""
    return run_directory.is_dir() and bool(_by_age(run_directory))


def load(path: Path) -> Checkpoint:
    """Read a checkpoint; `path` as for `find`.

    Raises:
        CheckpointError: if there is none, it is damaged, it was changed after it was written, or it is of another
            format version.
    """
    path = find(path)
    try:
        manifest = json.loads((path / MANIFEST).read_text())
        version = manifest.pop("format_version")
        manifest.pop("saved_at_ns", None)
        checksum = manifest.pop("sha256")[STATE]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path / MANIFEST} cannot be read ({error!r})") from None
    if version != FORMAT_VERSION:
        raise CheckpointError(f"{path} has format version {version}; this program reads {FORMAT_VERSION}")
    try:
        found = _sha256(path / STATE)
    except OSError as error:
        raise CheckpointError(f"{path / STATE} cannot be read ({error.strerror})") from None
    if found != checksum:
        raise CheckpointError(f"{path / STATE} is damaged: its checksum is not the manifest's")
    try:
        state = torch.load(path / STATE, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises whatever a hostile or foreign file provokes
        raise CheckpointError(f"{path / STATE} is no plain state of tensors ({type(error).__name__})") from None
    return Checkpoint(path, manifest, state)


def _by_age(run_directory: Path) -> list[Path]:
    """The run's step checkpoints, the one saved last at the end.

    That need not be the one of the largest step: a run may have been resumed from an earlier one.
    """
    ages = {}
    for path in run_directory.glob(f"{STEP_PREFIX}*"):
        if (path / MANIFEST).is_file():
            try:
                ages[path] = int(json.loads((path / MANIFEST).read_text())["saved_at_ns"])
            except (OSError, ValueError, KeyError, TypeError):
                ages[path] = 0  # damaged: `load` says so, if it comes to that
    return sorted(ages, key=lambda path: (ages[path], path.name))


def _put_in_place(new: Path, final: Path) -> None:
    if not final.exists():
        new.rename(final)
        return
    # A directory cannot be renamed onto a full one: the old one steps aside first, and comes back if need be.
    aside = Path(tempfile.mkdtemp(prefix=f".{final.name}-old-", dir=final.parent))
    try:
        final.rename(aside / final.name)
        try:
            new.rename(final)
        except OSError:
            (aside / final.name).rename(final)
            raise
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _flush(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
