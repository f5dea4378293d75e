"""The guard: a process that ends the kernel's connection to a daemon that was killed.

The kernel does so itself once the last descriptor of /dev/fuse is closed. But a thread that waits in
the kernel for the lock of a file (``notes``) keeps it open, and the operation that has the lock waits
for the daemon: neither ends, nor does anybody's who uses the mount (5 of 10 daemons killed under
load, measured on Linux 6.18).

The guard may be killed, too. A daemon with threads cannot safely fork another, but the guard has
none: it keeps a spare, its child. When the guard dies the spare becomes the daemon's child, for that
is a subreaper (prctl(2)), takes over, and keeps a spare in its turn.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
from typing import TYPE_CHECKING, Final, NoReturn

from notifyfs.mounts import kernel
from notifyfs.system import identity, syscalls

if TYPE_CHECKING:
    from collections.abc import Iterator

log = logging.getLogger(__name__)

_PR_SET_PDEATHSIG: Final = 1
_PR_SET_NAME: Final = 15
_PR_SET_CHILD_SUBREAPER: Final = 36

_LOOK: Final = 10.0
_SOON: Final = 0.01


class Guard:
    """What the daemon knows of its guards: their process group, and a descriptor for *news* of them."""

    def __init__(self, group: int, news: int) -> None:
        self._group = group
        self._there = True
        self.news = news
        """Readable when the guard has died."""

    def look(self) -> bool:
        """Take note of the *news*: whether there is another guard now."""
        if os.read(self.news, 1):
            pid, _ = os.waitpid(-self._group, 0)
            log.warning("the guard (pid %d) was killed; its spare has taken over", pid)
            return True
        self._reap()
        self._there = False
        log.warning(
            "the guard was killed, and its spare; if this daemon is killed as well, whoever uses the mount may hang: "
            "`umount -f -c MOUNTPOINT` as root lets go of them"
        )
        return False

    def end(self) -> None:
        """End the guard and its spare."""
        if self._there:
            with contextlib.suppress(ProcessLookupError):  # it died before it was one
                os.killpg(self._group, signal.SIGKILL)
            self._reap()

    def _reap(self) -> None:
        with contextlib.suppress(ChildProcessError):  # those were all
            while True:
                os.waitpid(-self._group, 0)


@contextlib.contextmanager
def guarded(device: str) -> Iterator[Guard | None]:
    """Have the connection *device* (``0:45``) ended if this process is killed.

    Call it in the main thread, before there are others. Where fusectl cannot be had there is no guard.
    """
    try:
        abort = kernel.open_abort(device)
    except OSError as error:
        log.info("no guard: %s: %s", error.filename, error.strerror)
        yield None
        return
    guard = _start(abort)
    try:
        yield guard
    finally:
        guard.end()
        os.close(guard.news)


def _start(abort: int) -> Guard:
    syscalls.prctl(_PR_SET_CHILD_SUBREAPER, 1)
    # Opened here: without capabilities a guard may not be shown its daemon (proc(5), hidepid).
    state = os.open("/proc/self/stat", os.O_RDONLY | os.O_CLOEXEC)
    news, telling = os.pipe2(os.O_CLOEXEC)
    daemon = os.getpid()
    group = os.fork()
    if group == 0:
        _Process(daemon, abort, state, telling).run()
    for given in (abort, state, telling):
        os.close(given)
    os.read(news, 1)  # it guards now
    return Guard(group, news)


class _Process:
    """A guard, or its spare: it has one thread, three descriptors and no capability."""

    def __init__(self, daemon: int, abort: int, state: int, telling: int) -> None:
        self._daemon = daemon
        self._abort = abort
        self._state = state
        self._telling = telling
        self._guards = False
        self._spare = 0

    def run(self) -> NoReturn:
        """Wait until the daemon has died, and end its connection."""
        try:
            os.setsid()  # it does not hear what the terminal sends
            signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
            syscalls.prctl(_PR_SET_NAME, b"notifyfs-guard")
            self._close_others()
            identity.keep_capabilities(())
            self._wait()
            os.write(self._abort, b"1")
        finally:
            os._exit(0)

    def _close_others(self) -> None:
        lowest = 0
        for kept in sorted((self._abort, self._state, self._telling)):
            os.closerange(lowest, kept)
            lowest = kept + 1
        os.closerange(lowest, os.sysconf("SC_OPEN_MAX"))

    def _wait(self) -> None:
        patience = self._hear_of_parent()
        while self._daemon_lives():
            if os.getppid() == self._daemon and self._keep_spare():
                patience = self._hear_of_parent()
            told = signal.sigtimedwait({signal.SIGUSR1, signal.SIGCHLD}, patience)
            patience = _LOOK if told is None else _SOON  # the signal comes a moment before the zombie

    @staticmethod
    def _hear_of_parent() -> float:
        syscalls.prctl(_PR_SET_PDEATHSIG, signal.SIGUSR1)
        return _SOON  # it may have died before

    def _keep_spare(self) -> bool:
        """Fork a spare if there is none; whether that was done, in both processes."""
        if not self._guards:
            self._guards = True
            os.write(self._telling, b"!")
        if self._spare and not os.waitpid(self._spare, os.WNOHANG)[0]:
            return False
        self._spare = 0
        try:
            self._spare = os.fork()
        except OSError:
            return False  # no room for a process: try again later
        self._guards = self._spare != 0
        return True

    def _daemon_lives(self) -> bool:
        # While one of its threads hangs it stays our parent; but its first thread is a zombie.
        try:
            state = os.pread(self._state, 4096, 0).rpartition(b")")[2].split()[0]
        except OSError:
            return False
        return state not in b"ZX"
