"""Paths, addresses and names as users give them: read in one way, and checked before anything is made.

A path may begin with `~` or `~user`, from the command line and from recipes alike. An address such as `s3://bucket` is
no path, and only `--aim-repo` takes one: `aim://host:port`.
"""

import os
import re
from pathlib import Path
from urllib.parse import urlsplit

from car_racing.settings import SettingError, is_control, shown

AIM_SERVER = "aim://"
ADDRESS = re.compile(r"\s*[A-Za-z][A-Za-z0-9+.-]*:/{2,}")
# What Linux takes. A run's files are written below its directory, under names shorter than the margin.
MAX_NAME_BYTES = 255
MAX_PATH_BYTES = 4095
MARGIN_BYTES = 200


def path_from(text: str, flag: str) -> Path:
    """The path that a user means, with `~` expanded.

    Raises:
        SettingError: if it is empty, an address, too long, holds a control character, or may not be looked at.
    """
    _check_text(text, flag, "name a path")
    if is_address(text):
        raise SettingError(f"{flag} {shown(text)} is an address; name a path on this machine")
    expanded = os.path.expanduser(text)  # noqa: PTH111, pathlib would expand ./~ too
    if text.startswith("~") and expanded == text:
        raise SettingError(f"{flag} {shown(text)}: there is no such user; write ./~ for a name with a ~")
    path = Path(expanded)
    try:
        absolute = path.absolute()
    except OSError as error:
        raise SettingError(f"{flag} {shown(text)}: the working directory is gone ({error.strerror})") from None
    _check_lengths(absolute, text, flag)
    try:
        path.stat()
    except PermissionError:
        raise SettingError(f"{flag} {shown(text)} is in a directory that may not be entered; name another") from None
    except OSError:
        pass  # nothing is there, which may be what the user means
    return path


def check_path(text: str, flag: str) -> None:
    """Check a path as `path_from` does.

    Raises:
        SettingError: as `path_from`.
    """
    path_from(text, flag)


def check_writable_directory(path: Path, flag: str) -> None:
    """Make sure, without creating anything, that files can be written in a directory that may not exist yet.

    Raises:
        SettingError: if they cannot.
    """
    existing = path.absolute()
    try:
        while not existing.exists():
            existing = existing.parent
    except OSError as error:
        raise SettingError(f"{flag} {path} cannot be used ({error.strerror}); name another place") from None
    if not existing.is_dir():
        raise SettingError(f"{flag} {path}: {existing} is a file, not a directory; name another place")
    # /proc and /sys let root pass every permission check and still take no directory.
    is_virtual = existing.is_relative_to("/proc") or existing.is_relative_to("/sys")
    if is_virtual or not os.access(existing, os.W_OK | os.X_OK):
        raise SettingError(f"{flag} {path}: {existing} cannot be written to; name another place")


def check_run_name(name: str, flag: str) -> None:
    """Check a run's name, which also names its directory below `checkpoints/`.

    Raises:
        SettingError: if it cannot, or if it would lead out of there.
    """
    _check_text(name, flag, "give a name")
    if is_address(name) or not {"", ".", ".."}.isdisjoint(name.split("/")):
        raise SettingError(f"{flag} {shown(name)} is no name; give one, and the place by --checkpoint-dir")
    _check_lengths(Path(name), name, flag)


def check_tag(text: str, flag: str) -> None:
    """Check a tag of a run.

    Raises:
        SettingError: if it is empty, too long, or holds a control character.
    """
    _check_text(text, flag, "give a word")
    _check_lengths(Path(text.replace("/", "-")), text, flag)


def is_address(text: str) -> bool:
    """Whether a text is an address (`scheme://...`) and no path."""
    return ADDRESS.match(text) is not None


def is_server(repo: str) -> bool:
    """Whether an Aim repository is a server's address and no directory."""
    return repo.startswith(AIM_SERVER)


def check_aim_repo(text: str, flag: str) -> None:
    """Check that a text is a path or an Aim server's `aim://host:port`.

    Raises:
        SettingError: if it is neither.
    """
    _check_text(text, flag, f"name a directory or {AIM_SERVER}host:port")
    if not is_address(text):
        check_path(text, flag)
        return
    try:
        parts = urlsplit(text)
        # urlsplit itself takes capitals, blanks and a user's name, with which Aim's client would go elsewhere.
        is_whole = bool(parts.hostname) and bool(parts.port) and parts.username is None and " " not in text
    except ValueError:  # a port that is no number below 65,536, or half of an IPv6 address
        is_whole = False
    if not is_whole or not is_server(text) or parts.query or parts.fragment:
        raise SettingError(f"{flag} {shown(text)} is no Aim server; give {AIM_SERVER}host:port, or a directory")


def _check_text(text: str, flag: str, mend: str) -> None:
    if not text.strip():
        raise SettingError(f"{flag} is empty; {mend}")
    if any(map(is_control, text)):
        raise SettingError(f"{flag} {shown(text)!r} holds a line break or another control character; {mend} without")
    try:
        os.fsencode(text)
    except UnicodeEncodeError:
        raise SettingError(
            f"{flag} {shown(text)!a} cannot be written in this system's encoding; name another"
        ) from None


def _check_lengths(path: Path, text: str, flag: str) -> None:
    longest = max((len(os.fsencode(part)) for part in path.parts), default=0)
    if longest > MAX_NAME_BYTES:
        raise SettingError(f"{flag} {shown(text)} has a name of {longest} bytes; {MAX_NAME_BYTES} is the most")
    size, most = len(os.fsencode(path)), MAX_PATH_BYTES - MARGIN_BYTES
    if size > most:
        raise SettingError(f"{flag} {shown(text)} is {size} bytes long; {most} is the most")
