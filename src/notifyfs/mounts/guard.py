"""The guard: a process that ends the kernel's connection to a daemon that was killed.

The kernel does so itself once the last descriptor of /dev/fuse is closed. But a thread that waits in
the kernel for the lock of a file (``notes``) keeps it open, and the operation that has the lock waits
for the daemon: neither ends, nor does anybody's who uses the mount (5 of 10 daemons killed under
load, measured on Linux 6.18).
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
from typing import TYPE_CHECKING, Final, NoReturn

from notifyfs import syscalls
from notifyfs.mounts import kernel

if TYPE_CHECKING:
    from collections.abc import Iterator

log = logging.getLogger(__name__)

_PR_SET_PDEATHSIG: Final = 1
_PR_SET_NAME: Final = 15

_LOOK: Final = 10.0


@contextlib.contextmanager
def guarded(device: str) -> Iterator[None]:
    """Have the connection *device* (``0:45``) ended if this process is killed.

    Call it in the main thread, before there are others. Where fusectl cannot be had there is no guard.
    """
    try:
        abort = kernel.open_abort(device)
    except OSError as error:
        log.info("no guard: %s: %s", error.filename, error.strerror)
        yield
        return
    daemon = os.getpid()
    guard = os.fork()
    if guard == 0:
        _guard(daemon, abort)
    os.close(abort)
    try:
        yield
    finally:
        os.kill(guard, signal.SIGKILL)
        os.waitpid(guard, 0)


def _guard(daemon: int, abort: int) -> NoReturn:
    try:
        os.setsid()  # it does not hear what the terminal sends
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        syscalls.prctl(_PR_SET_NAME, b"notifyfs-guard")
        syscalls.prctl(_PR_SET_PDEATHSIG, signal.SIGUSR1)
        os.closerange(0, abort)
        os.closerange(abort + 1, os.sysconf("SC_OPEN_MAX"))
        while _lives(daemon):
            signal.sigtimedwait({signal.SIGUSR1}, _LOOK)  # the signal comes a moment before the zombie
        os.write(abort, b"1")
    finally:
        os._exit(0)


def _lives(daemon: int) -> bool:
    # While one of its threads hangs it stays our parent; but its first thread is a zombie.
    try:
        with open(f"/proc/{daemon}/stat", "rb") as file:
            state = file.read().rpartition(b")")[2].split()[0]
    except OSError:
        return False
    return os.getppid() == daemon and state not in b"ZX"
