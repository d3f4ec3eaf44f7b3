"""How a script starts: streams that never fail it, stop signals, and one line where it cannot start at all.

It needs the standard library alone, so that a script can call `begin` before it imports torch and Aim, which take
seconds, open files and need memory.
"""

import contextlib
import io
import os
import resource
import select
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import FrameType, TracebackType
from typing import NoReturn, TextIO

# Ctrl-C, a service manager's stop, a terminal that is closed, a cluster's warning before the time limit.
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)

# With less, OpenBLAS, OpenMP and Aim end the process from C: by a signal, or with lines that say nothing to a user.
# That is seen below 2 GB. A small training on two cores has 15 threads, with its worker's.
MIN_ADDRESS_SPACE = 2_500_000_000
MIN_THREADS = 24  # and one for each core


def begin() -> None:
    """Prepare the process, before a script's other imports.

    From here on no print fails, a stop signal leaves at once with exit code 128 + its number, and what keeps the
    imports from succeeding is one line on stderr.
    """
    _open_closed_streams()
    sys.stdout = _unfailing_text(1, sys.stdout)
    sys.stderr = _unfailing_text(2, sys.stderr)
    sys.excepthook = _report
    for number in heard_signals():
        signal.signal(number, _leave_at_once)
    try:
        Path.cwd()
    except OSError as error:
        complain(f"the working directory cannot be used ({error.strerror}); change to one that is there")
        raise SystemExit(2) from None
    _require_room()


def complain(message: str) -> None:
    """Say on stderr what is wrong, in one line that begins with the script's name."""
    print(f"{sys.argv[0].rpartition('/')[2]}: {one_line(message)}", file=sys.stderr)


def one_line(text: str) -> str:
    """`text` on a single line, without anything that a terminal would obey: paths may hold line breaks and escapes."""
    joined = " ".join(text.splitlines())
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in joined)


def plural(number: int, noun: str) -> str:
    """A number of things: "1 core", "2 cores", "1,000 cores"."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def heard_signals() -> list[signal.Signals]:
    """The stop signals to react to: all but a hang-up or a warning that was ignored from the start, as by `nohup`."""
    can_stay_ignored = (signal.SIGHUP, signal.SIGUSR1)
    return [
        number
        for number in STOP_SIGNALS
        if not (number in can_stay_ignored and signal.getsignal(number) == signal.SIG_IGN)
    ]


@contextlib.contextmanager
def unwinding_on_stop() -> Iterator[None]:
    """In the block, a stop signal raises SystemExit(128 + its number), so that what is half done is put away.

    Further ones are ignored until that is done: a Ctrl-C reaches a child twice whose parent hands it on.
    """

    def unwind(number: int, _: FrameType | None) -> NoReturn:
        for other in previous:
            signal.signal(other, signal.SIG_IGN)
        raise SystemExit(128 + number)

    previous = {number: signal.getsignal(number) for number in heard_signals()}
    try:
        for number in previous:
            signal.signal(number, unwind)
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def stdout_failure() -> OSError | None:
    """Why something that was printed has not reached stdout; None if all of it has, or if stdout is not ours."""
    with contextlib.suppress(AttributeError):
        sys.stdout.flush()
    raw = getattr(getattr(sys.stdout, "buffer", None), "raw", getattr(sys.stdout, "buffer", None))
    return raw.failure if isinstance(raw, UnfailingFile) else None


class UnfailingFile(io.FileIO):
    """A file to which every write succeeds, though its reader may be gone or its disk full.

    Attributes:
        failure: why the first write that failed did.
    """

    failure: OSError | None = None

    def write(self, data: "bytes | memoryview") -> int:  # type: ignore[override]
        try:
            written = super().write(data)
            while written is None:  # a pipe that does not block, and is full
                select.select([], [self], [])
                written = super().write(data)
        except OSError as error:
            self.failure = self.failure or error
            return len(data)
        return written


def _open_closed_streams() -> None:
    """Open /dev/null where stdin, stdout or stderr is closed, or the next file would get its number and its output."""
    for fd in (0, 1, 2):
        try:
            os.fstat(fd)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)  # the lowest number that is free, which is this one
            os.set_inheritable(opened, True)


def _unfailing_text(fd: int, old: TextIO | None) -> TextIO:
    """A standard stream in place of `old`, which is None where it was closed: any text can be printed, to any end."""
    raw = UnfailingFile(fd, "w", closefd=False)
    encoding = getattr(old, "encoding", None) or "utf-8"
    is_unbuffered = bool(getattr(old, "write_through", False))
    return io.TextIOWrapper(
        raw if is_unbuffered else io.BufferedWriter(raw),  # type: ignore[type-var]
        encoding,
        errors="backslashreplace",
        line_buffering=fd == 2 or raw.isatty(),
        write_through=is_unbuffered,
    )


def _require_room() -> None:
    """Leave with one line where the process's limits are too low to get through the imports."""
    address_space, _ = resource.getrlimit(resource.RLIMIT_AS)
    if address_space != resource.RLIM_INFINITY and address_space < MIN_ADDRESS_SPACE:
        complain(
            f"its address space is limited to {address_space / 1e9:.1f} GB (ulimit -v); "
            f"give it {MIN_ADDRESS_SPACE / 1e9:.1f} GB or more"
        )
        raise SystemExit(1)
    wanted = MIN_THREADS + len(os.sched_getaffinity(0))
    n_threads = _threads_to_have(wanted)
    if n_threads < wanted:
        complain(f"only {n_threads} more threads can be started; allow it {wanted} or more (ulimit -u)")
        raise SystemExit(1)


def _threads_to_have(wanted: int) -> int:
    """How many threads can be started at a time, up to `wanted`."""
    may_end, threads = threading.Event(), []
    try:
        for _ in range(wanted):
            thread = threading.Thread(target=may_end.wait, daemon=True)
            thread.start()
            threads.append(thread)
    except RuntimeError:
        pass
    finally:
        may_end.set()
    for thread in threads:
        thread.join()
    return len(threads)


def _leave_at_once(number: int, _: FrameType | None) -> NoReturn:
    os._exit(128 + number)


def _report(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """What `sys.excepthook` does: a lack of the machine's is one line, a mistake in the code a traceback."""
    # A script's `main` is the last that its module defines, so without it the imports are not done.
    is_starting = not hasattr(sys.modules["__main__"], "main")
    *_, root = _chain(error)
    if isinstance(root, ModuleNotFoundError) and is_starting:
        complain(f"it cannot start ({_said(root)}); `make setup` installs what it needs, into .venv")
    elif any(isinstance(each, MemoryError) for each in _chain(error)) or (is_starting and _is_lack(error)):
        what = "it cannot start" if is_starting else "there is too little memory"
        complain(f"{what} ({_said(root)}); give it more memory, processes and open files (ulimit -a shows the limits)")
    else:
        sys.__excepthook__(kind, error, trace)


def _is_lack(error: BaseException) -> bool:
    """Whether an import has failed for want of memory, threads or files. Some packages raise errors of their own."""
    return any(isinstance(each, ImportError | OSError) or "thread" in str(each) for each in _chain(error))


def _chain(error: BaseException) -> Iterator[BaseException]:
    following: BaseException | None = error
    while following is not None:
        yield following
        following = following.__cause__ or following.__context__


def _said(error: BaseException) -> str:
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}".removesuffix(": ")
