"""Run a command that ends when the process that started it ends, also where that is killed.

Usage: python end_with_parent.py PARENT_PID COMMAND...

The command takes this process's place. It is sent SIGTERM once its parent is gone.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def main() -> None:
    parent, *command = sys.argv[1:]
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != int(parent):
        sys.exit(128 + signal.SIGTERM)  # It ended before the kernel was asked.
    os.execv(command[0], command)


if __name__ == "__main__":
    main()
