"""Checkpoints: a directory each, written whole or not at all, and safe to load from a stranger.

<run>/step_000204800/manifest.json    what it is: agent, settings, progress, versions, its files with their checksums
<run>/step_000204800/state-*.pt       tensors and plain values, loaded with weights_only: no code in it can run
<run>/step_000204800/<array>-*.npy    large arrays (the replay buffer's pictures), loaded without pickle
<run>/best/                           the same, for the best evaluation so far

The manifest is the last file to be written, and it is renamed into place: what it names is the checkpoint, and until it
is there, there is none, or still the one before. So a kill or a full disk at any byte costs the new checkpoint only.
"""

import contextlib
import errno
import hashlib
import io
import json
import re
import secrets
import stat
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from output_file import flush

FORMAT_VERSION = 2
MANIFEST = "manifest.json"
STATE = "state"
BEST = "best"
STEP_PREFIX = "step_"
KEPT = 3
STEP_NAME = re.compile(STEP_PREFIX + r"\d{9,}")
# A data file of some save, or a manifest that was not yet in place.
OWN_NAME = re.compile(r"\w+-[0-9a-f]{8}\.(pt|npy)|manifest\.json-[0-9a-f]{8}")


class CheckpointError(Exception):
    """A checkpoint that cannot be found, read or trusted; the message is one line."""


class OtherVersionError(CheckpointError):
    """A checkpoint of another format version: whole, as far as this program can tell, so it is never replaced."""


@dataclass(frozen=True)
class Checkpoint:
    """A loaded checkpoint.

    Attributes:
        path: its directory.
        meta: plain values: what `save` was given as `meta`.
        state: nested dicts and lists of tensors (on the CPU) and plain values.
        arrays: the large arrays, read from the disk as they are used; writing to them leaves the disk as it is.
        passed_over: why newer checkpoints of the run were not taken, a line each.
        state_sha256: the checksum of the state, which is the policy's too; empty for one that no file holds.
    """

    path: Path
    meta: dict[str, Any]
    state: dict[str, Any]
    arrays: dict[str, NDArray[Any]] = field(default_factory=dict)
    passed_over: tuple[str, ...] = ()
    state_sha256: str = ""


def save(
    run_directory: Path,
    name: str,
    meta: Mapping[str, Any],
    state: Mapping[str, Any],
    arrays: Mapping[str, NDArray[Any]] | None = None,
) -> Path:
    """Write checkpoint `name` of a run, replacing an older one of that name, and return its path.

    Raises:
        OSError: if the disk does not take it, or memory does not; nothing that was there before is lost then.
    """
    directory = run_directory / name
    if directory.is_symlink():
        raise OSError(f"{directory} is a link, which a checkpoint is never written through")
    if _is_of_other_version(directory):
        raise OSError(f"{directory} is of another format version, which is not replaced")
    is_new = not directory.exists()
    directory.mkdir(parents=True, exist_ok=True)
    token = secrets.token_hex(4)
    try:
        with _memory_as_disk():
            files = _write_data(directory, token, state, arrays or {})
        manifest = {
            "format_version": FORMAT_VERSION,
            "saved_at_ns": _later_than_all(run_directory),
            "files": {key: {"name": path.name, "sha256": _sha256_of_file(path)} for key, path in files.items()},
            "meta": dict(meta),
        }
        new_manifest = directory / f"{MANIFEST}-{token}"
        new_manifest.write_text(sealed(manifest))
        flush(new_manifest)
        new_manifest.replace(directory / MANIFEST)
    except BaseException:
        _remove_own_files(directory, keep=lambda name: token not in name)
        if is_new:
            with contextlib.suppress(OSError):
                directory.rmdir()
        raise
    # The checkpoint is in place, even on a file system that cannot flush a directory.
    with contextlib.suppress(OSError):
        flush(directory)
        flush(run_directory)
    _remove_own_files(directory, keep=lambda name: token in name)
    return directory


@contextlib.contextmanager
def _memory_as_disk() -> Iterator[None]:
    """Have memory that runs out raise what a full disk raises."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        # torch's writer, whose buffer could not grow, ends with a RuntimeError that hides the MemoryError.
        hidden = error.__context__
        if not isinstance(error, MemoryError) and not isinstance(hidden, MemoryError) and "memory" not in str(error):
            raise
        raise OSError(errno.ENOMEM, "not enough memory to write it") from None


def _write_data(
    directory: Path, token: str, state: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]
) -> dict[str, Path]:
    """Write and flush a checkpoint's data files under new names with `token` in them; their paths by what they hold."""
    # Through memory: torch's own writer answers a full disk with a RuntimeError.
    serialised = io.BytesIO()
    torch.save(dict(state), serialised)
    files = {STATE: directory / f"{STATE}-{token}.pt"}
    files[STATE].write_bytes(serialised.getbuffer())
    del serialised
    for name, array in arrays.items():
        files[name] = directory / f"{name}-{token}.npy"
        np.save(files[name], array, allow_pickle=False)
    for path in files.values():
        flush(path)
    return files


def save_step(
    run_directory: Path,
    step: int,
    meta: Mapping[str, Any],
    state: Mapping[str, Any],
    arrays: Mapping[str, NDArray[Any]] | None = None,
) -> Path:
    """Write the checkpoint of a time step and drop all but the newest `KEPT` of them."""
    path = save(run_directory, f"{STEP_PREFIX}{step:09d}", meta, state, arrays)
    kept = {path, *whole_steps(run_directory)[:KEPT]}
    for old in _step_directories(run_directory):
        if old not in kept and not _is_of_other_version(old):  # older, damaged, and what a kill has left of one
            remove(old)
    return path


def whole_steps(run_directory: Path) -> list[Path]:
    """The checkpoints of a run's steps whose manifests are whole, the one saved last in front."""
    return [path for path in _newest_first(run_directory) if _has_whole_manifest(path)]


def remove(path: Path) -> None:
    """Remove a checkpoint, but no file that is not its own. What cannot be removed stays."""
    with contextlib.suppress(OSError):
        (path / MANIFEST).unlink(missing_ok=True)  # first: what a kill leaves then is no checkpoint
        _remove_own_files(path, keep=lambda _: False)
        path.rmdir()


def read_meta(path: Path) -> dict[str, Any]:
    """What a checkpoint says of itself, from its manifest alone.

    Raises:
        CheckpointError: if that cannot be read.
    """
    meta = _read_manifest(path).get("meta")
    if not isinstance(meta, dict):
        raise CheckpointError(f"{path / MANIFEST} says nothing of the run")
    return meta


def find_run(path: Path) -> Path:
    """The run directory that a checkpoint, or a run directory itself, belongs to.

    Raises:
        CheckpointError: if there is neither.
    """
    try:
        if (path / MANIFEST).is_file():
            # The parent of "." is "." to pathlib.
            return path.parent if path.name not in ("", "..") else path.resolve().parent
        if not path.exists():
            raise CheckpointError(f"there is no checkpoint at {path}")
    except OSError as error:
        raise CheckpointError(f"{path} cannot be looked into ({error.strerror})") from None
    if not holds_run(path):
        raise CheckpointError(f"{path} holds no checkpoint ({MANIFEST} is missing)")
    return path


def holds_run(run_directory: Path) -> bool:
    """Whether a run has already saved checkpoints there."""
    return run_directory.is_dir() and bool(_newest_first(run_directory))


def load(path: Path, with_arrays: bool = True) -> Checkpoint:
    """Read a checkpoint, or the newest whole one of a run directory.

    Args:
        path: the checkpoint, or the run directory.
        with_arrays: whether the large arrays are wanted, too.

    A run may go on saving meanwhile: what is read is one whole checkpoint, the older or the newer one.

    Raises:
        OtherVersionError: if it is of another format version. Of a run, no older one is taken in its place.
        CheckpointError: if there is none, it is damaged, or it was changed after it was written.
    """
    find_run(path)
    if (path / MANIFEST).is_file():
        return _load_one(path, with_arrays)
    passed_over: list[str] = []
    for candidate in _newest_first(path):
        try:
            return replace(_load_one(candidate, with_arrays), passed_over=tuple(passed_over))
        except OtherVersionError:
            raise
        except CheckpointError as error:
            if not (candidate / MANIFEST).is_file():  # its run has gone on and dropped it
                return load(path, with_arrays)
            passed_over.append(str(error))
    raise CheckpointError(f"{path} holds no whole checkpoint: {'; '.join(passed_over)}")


def check_format_versions(run_directory: Path) -> None:
    """Check that a run may go on here: that it holds no checkpoint of another format version.

    Raises:
        OtherVersionError: for the first that it holds.
    """
    for path in (*_step_directories(run_directory), run_directory / BEST):
        try:
            _read_manifest(path)
        except OtherVersionError:
            raise
        except CheckpointError:
            continue


def sealed(manifest: Mapping[str, Any]) -> str:
    """A manifest's text: itself, and the checksum of the rest."""
    # Once through JSON, after which keys and sequences are what a reader will find.
    plain = json.loads(json.dumps(dict(manifest)))
    return json.dumps({**plain, "sha256": _checksum(plain)}, indent=1)


def _checksum(manifest: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()


def _load_one(path: Path, with_arrays: bool) -> Checkpoint:
    text = _manifest_text(path)
    while True:
        try:
            return _load_as_listed(path, _parsed_manifest(path, text), with_arrays)
        except CheckpointError:
            newer = _manifest_text(path)
            if newer == text:
                raise
            # It was replaced meanwhile, and the older one's files are gone.
            text = newer


def _load_as_listed(path: Path, manifest: Mapping[str, Any], with_arrays: bool) -> Checkpoint:
    try:
        meta = dict(manifest["meta"])
        files = {
            key: _Listed(path / Path(file["name"]).name, file["sha256"]) for key, file in manifest["files"].items()
        }
        state_file = files.pop(STATE)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path / MANIFEST} cannot be read ({error_line(error)})") from None
    state = _read_state(state_file)
    arrays = {key: _read_array(file) for key, file in files.items()} if with_arrays else {}
    return Checkpoint(path, meta, state, arrays, state_sha256=state_file.sha256)


def _read_manifest(path: Path) -> dict[str, Any]:
    return _parsed_manifest(path, _manifest_text(path))


def _manifest_text(path: Path) -> str:
    try:
        if (path / MANIFEST).exists() and not (path / MANIFEST).is_file():  # such as a pipe, whose end may never come
            raise OSError("it is no plain file")
        return (path / MANIFEST).read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path / MANIFEST} cannot be read ({error_line(error)})") from None


def _parsed_manifest(path: Path, text: str) -> dict[str, Any]:
    try:
        manifest: dict[str, Any] = json.loads(text)
        version, checksum = manifest["format_version"], manifest.pop("sha256", None)
        if type(version) is not int:
            raise TypeError("its format version is no number")
        # A damaged digit is no other version.
        if version != FORMAT_VERSION and checksum != _checksum({**manifest, "format_version": FORMAT_VERSION}):
            raise OtherVersionError(
                f"{path} has format version {version}; this program reads {FORMAT_VERSION}; use the version of this "
                "project that saved it"
            )
        is_whole = text == sealed(manifest)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{path / MANIFEST} cannot be read ({error_line(error)})") from None
    if not is_whole:
        raise CheckpointError(f"{path / MANIFEST} is damaged: its checksum is not its own")
    return manifest


def _has_whole_manifest(path: Path) -> bool:
    try:
        _read_manifest(path)
    except CheckpointError:
        return False
    return True


def _is_of_other_version(path: Path) -> bool:
    try:
        _read_manifest(path)
    except OtherVersionError:
        return True
    except CheckpointError:
        return False
    return False


@dataclass(frozen=True)
class _Listed:
    """A file as the manifest lists it."""

    path: Path
    sha256: str

    def check(self) -> None:
        try:
            if not stat.S_ISREG(self.path.lstat().st_mode):
                raise CheckpointError(f"{self.path} is no plain file")
            found = _sha256_of_file(self.path)
        except OSError as error:
            raise CheckpointError(f"{self.path} cannot be read ({error.strerror})") from None
        if found != self.sha256:
            raise CheckpointError(f"{self.path} is damaged: its checksum is not the manifest's")


def _read_state(file: _Listed) -> dict[str, Any]:
    file.check()
    if not zipfile.is_zipfile(file.path):  # what torch has written since 2020; its older formats are not for strangers
        raise CheckpointError(f"{file.path} is no plain state of tensors (not a file of torch's)")
    try:
        state = torch.load(file.path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises whatever a hostile or foreign file provokes
        raise CheckpointError(f"{file.path} is no plain state of tensors ({type(error).__name__})") from None
    if not isinstance(state, dict):
        raise CheckpointError(f"{file.path} is no plain state of tensors (but a {type(state).__name__})")
    return state


def _read_array(file: _Listed) -> NDArray[Any]:
    file.check()
    try:
        # Never unpickles: an array of objects cannot be mapped, and is refused.
        return np.lib.format.open_memmap(file.path, mode="c")
    except Exception as error:  # NumPy parses the header, and a hostile one provokes whatever a parser raises
        raise CheckpointError(f"{file.path} is no plain array ({error_line(error)})") from None


def _step_directories(run_directory: Path) -> list[Path]:
    paths = run_directory.glob(f"{STEP_PREFIX}*")
    return [path for path in paths if STEP_NAME.fullmatch(path.name) and not path.is_symlink()]


def _newest_first(run_directory: Path) -> list[Path]:
    """The run's step checkpoints, the one saved last in front.

    That need not be the one of the largest step: a run may have been resumed from an earlier one.
    """
    ages = {}
    for path in _step_directories(run_directory):
        with contextlib.suppress(OSError):  # gone, in a run that is being written
            if (path / MANIFEST).is_file():
                ages[path] = _saved_at_ns(path)
    return sorted(ages, key=lambda path: (ages[path], path.name), reverse=True)


def _saved_at_ns(path: Path) -> int:
    try:
        saved_at_ns = _read_manifest(path)["saved_at_ns"]
    except (CheckpointError, KeyError):
        saved_at_ns = None
    # Unreadable: sort it by its file's time, so that `load` still reaches and reports it.
    return saved_at_ns if isinstance(saved_at_ns, int) else (path / MANIFEST).stat().st_mtime_ns


def _later_than_all(run_directory: Path) -> int:
    """Now, or a moment after the newest checkpoint where the clock has gone back since."""
    whole = (path for path in _newest_first(run_directory) if _has_whole_manifest(path))
    newest = next(whole, None)
    return time.time_ns() if newest is None else max(time.time_ns(), _saved_at_ns(newest) + 1)


def _remove_own_files(directory: Path, keep: Callable[[str], bool]) -> None:
    """Remove the files of earlier or failed saves, by name, and nothing else that may lie there."""
    for path in directory.iterdir():
        if OWN_NAME.fullmatch(path.name) and not keep(path.name):
            with contextlib.suppress(OSError):
                path.unlink()


def _sha256_of_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_agent(loaded: Checkpoint, agent: str) -> None:
    """Check that a checkpoint is of this agent.

    Raises:
        CheckpointError: if it is of another one.
    """
    other = loaded.meta.get("agent", agent)
    if other != agent:
        raise CheckpointError(f"{loaded.path} holds a policy of the agent {other!r}; name one of {agent!r}")


def error_line(error: Exception) -> str:
    """An error's kind and the first line of what it says."""
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
