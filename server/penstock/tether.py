"""Runs a program that dies with the process that started it: `tether.py PARENT PROGRAM ARGUMENT…`.

A script of its own, run before `exec`, because code between fork and exec (`preexec_fn`) may hang in a process that has
threads. Linux only has the means; elsewhere the program is run untethered.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def main(parent: int, program: list[str]) -> None:
    """Replaces this process by `program`; ends instead when `parent` is gone already."""
    if sys.platform == "linux":
        if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL) != 0:
            raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
        if os.getppid() != parent:  # it died before the signal was set up
            raise SystemExit(1)
    os.execv(program[0], program)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])
