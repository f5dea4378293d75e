"""Into the background, as daemon(3), once the watches stand."""

from __future__ import annotations

import os
import signal


def begin() -> int:
    """Fork, and return in the child: what it connects to would not outlive a later fork. A descriptor for ``go_on``.

    The parent ends with 0 when the child goes on, and with the child's exit code if that ends before.
    """
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        os.close(reading)
        return writing
    os.close(writing)
    if os.read(reading, 1):
        os._exit(0)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if code < 0:
        signal.raise_signal(-code)
    os._exit(code)


def go_on(parent: int, output: int) -> None:
    """Let the *parent*, a descriptor from ``begin``, end; leave its terminal and directory. *output*: the new 1."""
    os.setsid()
    os.chdir("/")
    null = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(null if number != 1 else output, number)
    os.write(parent, b"\n")
    os.close(parent)
