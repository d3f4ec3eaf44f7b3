"""Cores that one process has for itself, beside others of the same user that ask in the same way."""

import contextlib
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

RETRY_INTERVAL_S = 0.3


@contextlib.contextmanager
def leased_cores(n_cores: int, wait_s: float) -> Iterator[tuple[int, ...]]:
    """`n_cores` of this process's cores, all if it has fewer. Nobody else who leases has them meanwhile.

    Where too few are free for `wait_s` seconds, the others are taken nevertheless: slow is better than never.
    """
    cores = sorted(os.sched_getaffinity(0))
    n_wanted = min(n_cores, len(cores))
    place = Path(tempfile.gettempdir()) / f"car-racing-cores-{os.getuid()}"
    place.mkdir(mode=0o700, exist_ok=True)
    deadline = time.monotonic() + wait_s
    with contextlib.ExitStack() as held:
        leased: list[int] = []
        while True:
            for core in cores:
                if len(leased) < n_wanted and core not in leased:
                    with contextlib.suppress(Timeout):
                        held.enter_context(FileLock(place / str(core), blocking=False))
                        leased.append(core)
            if len(leased) == n_wanted or time.monotonic() >= deadline:
                break
            time.sleep(RETRY_INTERVAL_S)
        others = [core for core in cores if core not in leased]
        yield tuple(sorted([*leased, *others[: n_wanted - len(leased)]]))
