"""Files that the user names for output: checked before the work, then written whole or not at all.

A file is written under a new, random name in its directory, flushed to the disk and renamed. So an older file of that
name stays as it is until the new one is whole, and no link that lies there is followed.
"""

import importlib
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from paths import check_writable_directory
from settings import SettingError
from startup import one_line

MAX_SUFFIX = 10


def check_output_file(path: Path, flag: str) -> None:
    """Check, without creating anything, that a file can be written at `path`, whose directory may not exist yet.

    Raises:
        SettingError: if it cannot.
    """
    check_writable_directory(path.parent, flag)
    try:
        is_taken = path.exists() and not path.is_file()
    except OSError as error:
        raise SettingError(f"{flag} {path} cannot be used ({error.strerror}); name another file") from None
    if is_taken or not path.name:
        raise SettingError(f"{flag} {path} is no regular file; name another")


def check_charts(module: str, flag: str, mend: str | None = None) -> None:
    """Import a module that draws charts, which few need, and which a user's settings of matplotlib can break.

    Args:
        module: the module.
        flag: what needs it.
        mend: what to do where it cannot be used; None for leaving out the flag.

    Raises:
        SettingError: if it cannot be used.
    """
    try:
        importlib.import_module(module)
    except (ImportError, ValueError, OSError) as error:
        why = f"{type(error).__name__}: {one_line(str(error))}"
        raise SettingError(f"{flag}: matplotlib cannot be used ({why}); {mend or f'leave {flag} out'}") from None


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield the absolute path of a new, empty file that replaces `path` once the block ends without an error.

    The new file is in the same directory, which is made if it is missing, and has the same suffix. After an error it is
    removed, and `path` is as it was. If `path` is a link, the link is replaced, not what it points to.

    Raises:
        OSError: if the file cannot be created, flushed or renamed.
    """
    path = path.absolute()
    path.parent.mkdir(parents=True, exist_ok=True)
    # The suffix tells some writers what to write. One that is longer than any format's could make the name too long.
    suffix = path.suffix if len(path.suffix) <= MAX_SUFFIX else ""
    new = path.with_name(f".{secrets.token_hex(8)}.part{suffix}")
    os.close(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o666))
    try:
        yield new
        flush(new)
        new.rename(path)
    finally:
        new.unlink(missing_ok=True)
    # The file is in place; not every file system can flush a directory.
    with suppress(OSError):
        flush(path.parent)


def flush(path: Path) -> None:
    """Have the system write a file, or a directory's entries, to the disk."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
